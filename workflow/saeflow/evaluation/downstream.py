"""What replacing a site's activations does to the subject's predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from saeflow.subjects.head import logits
from saeflow.subjects.load import Subject

_BLOCK_ENTRIES = 2**21
ZERO = "zero"
Run = str | int


class Downstream:
    """Streaming loss and divergence of altered runs of a subject against its clean run.

    A run is known by its name: `ZERO`, or the seed of the SAE that was spliced in.
    """

    def __init__(self, subject: Subject, runs: Iterable[Run], *, bfloat16: bool = False) -> None:
        self.subject, self.bfloat16 = subject, bfloat16
        self.n = 0
        self.ce_clean = 0.0
        self.ce: dict[Run, float] = dict.fromkeys(runs, 0.0)
        self.kl: dict[Run, float] = dict.fromkeys(self.ce, 0.0)

    @torch.no_grad()
    def update(self, clean_nd: Tensor, altered: Mapping[Run, Tensor], targets_n: Tensor) -> None:
        """Add n predictions, each from a final state (n, d) of every run, of tokens (n,)."""
        block = max(1, _BLOCK_ENTRIES // self.subject.config.vocab_size)
        for start in range(0, len(targets_n), block):
            rows = slice(start, start + block)
            states = {run: states_nd[rows] for run, states_nd in altered.items()}
            self._update(clean_nd[rows], states, targets_n[rows])

    def _update(self, clean_nd: Tensor, altered: Mapping[Run, Tensor], targets_n: Tensor) -> None:
        clean_nv = self._logits(clean_nd)
        clean_logsum_n = clean_nv.logsumexp(-1)
        clean_p_nv = (clean_nv - clean_logsum_n[:, None]).exp_()
        self.n += len(targets_n)
        self.ce_clean += _loss(clean_nv, clean_logsum_n, targets_n)
        for run, states_nd in altered.items():
            new_nv = self._logits(states_nd)
            new_logsum_n = new_nv.logsumexp(-1)
            self.ce[run] += _loss(new_nv, new_logsum_n, targets_n)
            # sum_v p (log p - log q) with log p = z - logsum: only the difference of logits is
            # weighted, so that a run which changes nothing has a divergence of exactly zero.
            kl_n = torch.linalg.vecdot(clean_p_nv, clean_nv - new_nv)
            self.kl[run] += float((kl_n + new_logsum_n - clean_logsum_n).double().sum())

    def _logits(self, states_nd: Tensor) -> Tensor:
        with torch.autocast(states_nd.device.type, torch.bfloat16, enabled=self.bfloat16):
            return logits(self.subject, states_nd[None])[0].float()

    def metrics(self, run: Run) -> dict[str, float]:
        """Return the metrics of a run, in nats a prediction, and its scores against ablation.

        - ce_clean, ce_sae, ce_zero: cross entropy of the clean, the spliced and the ablated run
        - ce_loss_score: (ce_zero - ce_sae) / (ce_zero - ce_clean)
        - kl_sae, kl_zero: KL(P_clean || P_new), as SAEBench computes it
        - kl_score: (kl_zero - kl_sae) / kl_zero

        Raises ValueError where zero ablation does not hurt the subject: there are no scores then.
        """
        clean, zero, new = (s / self.n for s in (self.ce_clean, self.ce[ZERO], self.ce[run]))
        kl_zero, kl_new = self.kl[ZERO] / self.n, self.kl[run] / self.n
        if zero <= clean or kl_zero <= 0:
            raise ValueError(
                f"zero ablation does not hurt {self.subject.name}: cross entropy {clean:.6g} "
                f"clean, {zero:.6g} ablated, KL {kl_zero:.3g}; CE-loss and KL scores are "
                "undefined at this site"
            )
        return {
            "ce_clean": clean,
            "ce_zero": zero,
            "ce_sae": new,
            "ce_loss_score": (zero - new) / (zero - clean),
            "kl_zero": kl_zero,
            "kl_sae": kl_new,
            "kl_score": (kl_zero - kl_new) / kl_zero,
        }


def _loss(logits_nv: Tensor, logsum_n: Tensor, targets_n: Tensor) -> float:
    own_n = logits_nv.gather(-1, targets_n[:, None])[:, 0]
    return float((logsum_n - own_n).double().sum())
