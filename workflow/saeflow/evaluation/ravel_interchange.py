"""Interchange interventions at one token: what is taken, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from saeflow.evaluation.pooled import Site
from saeflow.evaluation.ravel_pairs import Ready
from saeflow.evaluation.ravel_prompts import Known, gives
from saeflow.evaluation.ravel_settings import RavelSettings
from saeflow.evaluation.site_rows import arithmetic
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE
from saeflow.subjects.head import logits
from saeflow.subjects.splice import run_from_site

Interchange = Callable[[Tensor, Tensor], Tensor]
"""Makes of base and source activations (n, d_in) what stands in place of the base's."""


class Effects(NamedTuple):
    """What an interchange does to answers."""

    cause: float
    """Share of cause pairs whose answer becomes the source's."""
    isolation: float
    """Share of isolation pairs whose answer stays the base's."""
    cause_pairs: int
    isolation_pairs: int

    @property
    def disentanglement(self) -> float:
        """The mean of both."""
        return (self.cause + self.isolation) / 2


def of_latents(sae: SAE | Boosted, mask_f: Tensor, keep_error: bool) -> Interchange:
    """Return the interchange of latents by a mask (d_sae,) from 0, the base's, to 1."""

    def interchange(base_nd: Tensor, source_nd: Tensor) -> Tensor:
        with torch.no_grad():
            base_nf = sae.encode(base_nd)
            change_nf = sae.encode(source_nd) - base_nf
            error_nd = base_nd - sae.decode(base_nf, base_nd) if keep_error else 0
        return sae.decode(base_nf + mask_f * change_nf, base_nd) + error_nd

    return interchange


def of_everything(base_nd: Tensor, source_nd: Tensor) -> Tensor:
    """Interchange the whole activation."""
    return source_nd


@torch.no_grad()
def of_subspace(known: Known) -> Interchange:
    """Return the interchange of the space that the means of an attribute's values span.

    The means are over all known prompts.
    """
    values = sorted({prompt.value for prompt in known.prompts})
    of_value_n = torch.tensor([values.index(prompt.value) for prompt in known.prompts])
    means_vd = torch.stack(
        [known.x_nd[(of_value_n == v).to(known.x_nd.device)].mean(0) for v in range(len(values))]
    )
    _, sizes, axes_rd = torch.linalg.svd(means_vd - means_vd.mean(0), full_matrices=False)
    axes_rd = axes_rd[sizes > 1e-4 * sizes[0]]
    return lambda base_nd, source_nd: base_nd + (source_nd - base_nd) @ axes_rd.T @ axes_rd


def learn_mask(settings: RavelSettings, site: Site, pairs: Ready, sae: SAE | Boosted) -> Tensor:
    """Return the latents (d_sae,), a bool mask, that change one attribute and no other.

    MDBM as in SAEBench: each latent has a weight m, at first 0, and sigmoid(m / T) of it is taken
    from the source; T falls to `final_temperature`. Adam lowers the cross entropy of the target's
    first token, which is the source's in cause pairs and the base's in isolation pairs. The latents
    with m > 0 are returned.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    mask_f = torch.zeros(len(sae.W_dec), device=sae.W_dec.device, requires_grad=True)
    optimiser = torch.optim.Adam([mask_f], lr=settings.learning_rate)
    steps = settings.epochs * -(-len(pairs.lengths) // settings.batch_pairs)
    for step, rows in enumerate(_batches(settings, len(pairs.lengths), generator)):
        temperature = settings.final_temperature ** (step / max(1, steps - 1))
        interchange = of_latents(sae, torch.sigmoid(mask_f / temperature), settings.keep_error)
        states_btd = _patched(site, pairs, rows, interchange, answers=False)
        last = [pairs.lengths[row] - 1 for row in rows]
        with arithmetic(site.subject, site.precision):
            told_bv = logits(site.subject, states_btd[range(len(rows)), last][:, None])[:, 0]
        first_b = torch.tensor([pairs.targets[row][0] for row in rows], device=told_bv.device)
        optimiser.zero_grad()
        cross_entropy(told_bv.float(), first_b).backward()
        optimiser.step()
    return mask_f.detach() > 0


@torch.no_grad()
def effects(site: Site, pairs: Ready, interchange: Interchange) -> Effects:
    """Return what an interchange does to the answers of pairs."""
    right: dict[int, bool] = {}
    for rows in _by_length(pairs, site.batch_tokens):
        states_btd = _patched(site, pairs, rows, interchange, answers=True)
        with arithmetic(site.subject, site.precision):
            answered = gives(
                site.subject,
                states_btd,
                [pairs.lengths[row] for row in rows],
                [pairs.targets[row] for row in rows],
            )
        right |= zip(rows, answered, strict=True)
    of = {
        kind: [right[i] for i, k in enumerate(pairs.is_cause) if k is kind]
        for kind in (True, False)
    }
    return Effects(
        sum(of[True]) / len(of[True]),
        sum(of[False]) / len(of[False]),
        len(of[True]),
        len(of[False]),
    )


@torch.no_grad()
def unexplained(sae: SAE | Boosted, x_nd: Tensor) -> float:
    """Return the fraction of the variance of activations (n, d_in) that is not reconstructed."""
    error = (x_nd - sae(x_nd)).square().sum()
    return float(error / (x_nd - x_nd.mean(0)).square().sum())


def _patched(
    site: Site, pairs: Ready, rows: Sequence[int], interchange: Interchange, *, answers: bool
) -> Tensor:
    """Return final states (b, t, d) of base prompts after an interchange, with targets or not."""
    length = max(_length(pairs, row) if answers else pairs.lengths[row] for row in rows)
    new_bd = interchange(pairs.base_nd[rows], pairs.source_nd[rows])
    acts_btd = pairs.acts_ntd[rows, :length].clone()
    acts_btd[range(len(rows)), pairs.at_n[rows]] = new_bd.to(acts_btd.dtype)
    with arithmetic(site.subject, site.precision):
        return run_from_site(site.subject, pairs.tokens_nt[rows, :length], site.name, acts_btd)


def _length(pairs: Ready, row: int) -> int:
    return pairs.lengths[row] + len(pairs.targets[row]) - 1


def _batches(
    settings: RavelSettings, pairs: int, generator: torch.Generator
) -> Iterator[list[int]]:
    for _ in range(settings.epochs):
        order = torch.randperm(pairs, generator=generator).tolist()
        for start in range(0, pairs, settings.batch_pairs):
            yield order[start : start + settings.batch_pairs]


def _by_length(pairs: Ready, batch_tokens: int) -> Iterator[list[int]]:
    """Yield all pairs in batches of at most so many padded tokens, or of one pair."""
    batch: list[int] = []
    for row in sorted(range(len(pairs.lengths)), key=lambda row: _length(pairs, row)):
        if batch and (len(batch) + 1) * _length(pairs, row) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    yield batch
