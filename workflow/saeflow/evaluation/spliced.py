"""Several SAEs of one site on the same text: reconstruction, and the loss with each spliced in.

The subject runs up to the site once, and from there once for each SAE, for the ablation and for
the clean run. Definitions are in `core`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from saeflow.activations.exclusion import Exclusion
from saeflow.evaluation.decoder import max_decoder_cosine, random_decoder
from saeflow.evaluation.downstream import ZERO, Downstream, Run
from saeflow.evaluation.moments import Moments
from saeflow.evaluation.origin import Key
from saeflow.evaluation.reconstruction import Reconstruction
from saeflow.evaluation.rows import Point, Row, make_row
from saeflow.evaluation.site_rows import check_width, read_site
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE
from saeflow.sae.parts import Part
from saeflow.subjects.load import Subject
from saeflow.subjects.splice import run_from_site


class DecoderGeometry(NamedTuple):
    """How close an SAE's decoder vectors are to one another."""

    nearest_f: Tensor
    """Each latent's largest cosine to another decoder vector."""
    random: float
    """Mean of the same for random vectors of that shape."""


@torch.no_grad()
def decoder_geometry(saes: Mapping[Key, SAE | Boosted]) -> dict[Key, DecoderGeometry]:
    """Return the geometry of each SAE; random vectors are drawn by its seed."""
    random: dict[int, float] = {}
    found = {}
    for key, sae in saes.items():
        if key.seed not in random:
            d_sae, d_in = sae.W_dec.shape
            drawn_fd = random_decoder(d_sae, d_in, key.seed, str(sae.W_dec.device))
            random[key.seed] = float(max_decoder_cosine(drawn_fd).mean())
        found[key] = DecoderGeometry(max_decoder_cosine(sae.W_dec), random[key.seed])
    return found


class Spliced:
    """What accumulates over the batches of one split; `context` is the subject's arithmetic.

    `added` are the latents that SAEs add to those of a base, their last ones, part after part.
    """

    def __init__(
        self,
        subject: Subject,
        saes: Mapping[Key, SAE | Boosted],
        added: Mapping[Key, Sequence[Part]],
        site: str,
        rule: Exclusion,
        context: torch.autocast,
    ) -> None:
        self.subject, self.site, self.rule, self.context = subject, site, rule, context
        d_in = next(iter(saes.values())).W_dec.shape[1]
        self.inputs = Moments(d_in, subject.device)
        self.added = added
        first = {key: parts[0].start for key, parts in added.items()}
        self.saes = {key: Reconstruction(sae, first.get(key)) for key, sae in saes.items()}
        self.downstream = Downstream(subject, [ZERO, *saes], context)

    @torch.no_grad()
    def update(self, batch: tuple[Tensor, Tensor]) -> None:
        """Add a batch: tokens (b, t) padded on the right, and lengths (b,).

        Raises ValueError where the site is not as wide as the SAEs read.
        """
        rows = read_site(self.subject, self.site, self.rule, batch, self.context)
        check_width(self.subject, self.site, rows.acts_btd.shape[-1], self.inputs.mean_d.shape[0])
        if not rows.kept_bt.any():
            return
        x_nd = rows.x_nd
        self.inputs.update(x_nd)

        def final_states(run_btd: Tensor) -> Tensor:
            with self.context:
                states_btd = run_from_site(self.subject, rows.tokens_bt, self.site, run_btd)
            return states_btd[rows.predicting_bt]

        def replaced(new_nd: Tensor) -> Tensor:
            run_btd = rows.acts_btd.clone()
            run_btd[rows.kept_bt] = new_nd.to(run_btd.dtype)
            return run_btd

        altered: dict[Run, Tensor] = {ZERO: final_states(replaced(torch.zeros_like(x_nd)))}
        for key, sae in self.saes.items():
            altered[key] = final_states(replaced(sae.update(x_nd)))
        targets_n = rows.tokens_bt.roll(-1, dims=1)[rows.predicting_bt]
        self.downstream.update(final_states(rows.acts_btd), altered, targets_n)

    def rows(self, key: Key, decoder: DecoderGeometry, point: Point, split: str) -> Iterator[Row]:
        """Yield the rows of one SAE, at the L0 target of its key.

        Raises ValueError for text without variance, of which nothing can be explained.
        """
        inputs, downstream = self.inputs, self.downstream
        if inputs.n < 2 or inputs.variance() == 0:
            raise ValueError(
                f"split {split}: {inputs.n} rows at {point.site} without variance; explained "
                "variance is undefined"
            )
        geometry = {
            "mean_decoder_cosine": float(decoder.nearest_f.double().mean()),
            "mean_decoder_cosine_random": decoder.random,
        }
        at = point._replace(l0_target=key.l0_target)
        for metrics, n in (
            (self.saes[key].metrics(inputs), inputs.n),
            (downstream.metrics(key), downstream.n),
            (geometry, point.d_sae),
        ):
            for metric, value in metrics.items():
                yield make_row(at, split=split, seed=key.seed, metric=metric, value=value, n=n)

    def silent(self) -> Iterator[tuple[Key, Part]]:
        """Yield what was added to a base and never fires."""
        for key, parts in self.added.items():
            for part in parts:
                if not self.saes[key].fired_f[part.start : part.stop].any():
                    yield key, part

    def latents(self, key: Key, decoder: DecoderGeometry, point: Point, split: str) -> pa.Table:
        """Return a row a latent; `mean_activation` is over the rows where it fires, or null."""
        sae, d_sae = self.saes[key], point.d_sae
        fired_f, total_f = sae.fired_f.cpu().numpy(), sae.activation_f.cpu().numpy()
        with np.errstate(invalid="ignore"):
            mean_f = total_f / fired_f
        return pa.table(
            {
                "split": [split] * d_sae,
                "variant": [point.variant] * d_sae,
                "d_sae": pa.array([d_sae] * d_sae, pa.int64()),
                "l0_target": pa.array([key.l0_target] * d_sae, pa.int64()),
                "seed": pa.array([key.seed] * d_sae, pa.int64()),
                "latent": pa.array(range(d_sae), pa.int64()),
                "max_decoder_cosine": decoder.nearest_f.double().cpu().numpy(),
                "firing_rate": fired_f / self.inputs.n,
                "mean_activation": pa.array(mean_f, mask=fired_f == 0),
            }
        )
