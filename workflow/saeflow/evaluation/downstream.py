"""What replacing a site's activations does to the subject's predictions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from saeflow.progress import say
from saeflow.subjects.head import logit_blocks, logits
from saeflow.subjects.load import Subject

ZERO = "zero"
Run = Hashable


class Downstream:
    """Streaming loss and divergence of altered runs of a subject against its clean run.

    A run is known by its name: `ZERO`, or the key of the SAE that was spliced in. `context` is the
    subject's arithmetic, which its head shares; none is that of its weights.
    """

    def __init__(
        self, subject: Subject, runs: Iterable[Run], context: AbstractContextManager | None = None
    ) -> None:
        self.subject, self.context = subject, context or nullcontext()
        self.n = 0
        self.ce_clean = 0.0
        self.ce: dict[Run, float] = dict.fromkeys(runs, 0.0)
        self.kl: dict[Run, float] = dict.fromkeys(self.ce, 0.0)

    @torch.no_grad()
    def update(self, clean_nd: Tensor, altered: Mapping[Run, Tensor], targets_n: Tensor) -> None:
        """Add n predictions, each from a final state (n, d) of every run, of tokens (n,)."""
        vocab_size = self.subject.config.get_text_config().vocab_size
        for rows in logit_blocks(len(targets_n), vocab_size):
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
        with self.context:
            return logits(self.subject, states_nd[None])[0].float()

    def metrics(self, run: Run) -> dict[str, float]:
        """Return the metrics of a run, in nats a prediction, and its scores against ablation.

        - ce_clean, ce_sae, ce_zero: cross entropy of the clean, the spliced and the ablated run
        - ce_loss_score: (ce_zero - ce_sae) / (ce_zero - ce_clean)
        - perplexity_clean, perplexity_sae: exp of the cross entropy of the clean and spliced run
        - kl_sae, kl_zero: KL(P_clean || P_new), as SAEBench computes it
        - kl_score: (kl_zero - kl_sae) / kl_zero

        A score without a positive denominator is left out, with a line that says why: where zero
        ablation does not hurt the subject there is nothing to recover.
        """
        clean, zero, new = (s / self.n for s in (self.ce_clean, self.ce[ZERO], self.ce[run]))
        kl_zero, kl_new = self.kl[ZERO] / self.n, self.kl[run] / self.n
        found = {
            "ce_clean": clean,
            "ce_zero": zero,
            "ce_sae": new,
            "perplexity_clean": math.exp(clean),
            "perplexity_sae": math.exp(new),
            "kl_zero": kl_zero,
            "kl_sae": kl_new,
        }
        if zero > clean:
            found["ce_loss_score"] = (zero - new) / (zero - clean)
        else:
            self._say_undefined("ce_loss_score", run, f"cross entropy {clean:.6g} -> {zero:.6g}")
        if kl_zero > 0:
            found["kl_score"] = (kl_zero - kl_new) / kl_zero
        else:
            self._say_undefined("kl_score", run, f"KL divergence {kl_zero:.3g}")
        return found

    def _say_undefined(self, score: str, run: Run, why: str) -> None:
        say(
            f"{self.subject.name}, {run}: zero ablation of the site does no harm ({why}), so "
            f"that {score} is undefined and has no row"
        )


def _loss(logits_nv: Tensor, logsum_n: Tensor, targets_n: Tensor) -> float:
    own_n = logits_nv.gather(-1, targets_n[:, None])[:, 0]
    return float((logsum_n - own_n).double().sum())
