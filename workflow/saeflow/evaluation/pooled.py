"""Documents as means over their tokens: of a site's activations, and of SAEs' latents there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from torch import Tensor

from saeflow.activations.exclusion import Exclusion
from saeflow.activations.windows import Window, group_by_length, pad
from saeflow.evaluation.origin import Key
from saeflow.evaluation.site_rows import arithmetic, check_width, read_site
from saeflow.progress import Progress
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE, standardised
from saeflow.sae.preactivations import chunk_rows
from saeflow.subjects.load import Subject

_ENTRY_BYTES = 8
"""A float32 and its column, of a latent that is active in a document."""
_GROUP_BYTES = 2 << 30


class Site(NamedTuple):
    """Where a subject is read, and how."""

    subject: Subject
    name: str
    rule: Exclusion
    """Which tokens count."""
    batch_tokens: int = 4096
    precision: Literal["auto", "float32", "bfloat16"] = "float32"


class Pooled(NamedTuple):
    """Means over the tokens of each document that count."""

    x_nd: Tensor
    """Activations of the site (documents, d_in), float32 on the CPU."""
    latents: dict[Key, csr_array]
    """Of each SAE (documents, d_sae): most latents are silent in a document."""


def groups_of(saes: Mapping[Key, SAE | Boosted], tokens: int) -> Iterator[dict[Key, SAE | Boosted]]:
    """Yield the SAEs in groups whose latents, pooled from so many tokens, fit into memory at once.

    Reckoned as if no latent were active twice in a document. The subject reads the text again for
    each group; at desk scale there is one.
    """
    group: dict[Key, SAE | Boosted] = {}
    used = 0
    for key, sae in saes.items():
        needed = _ENTRY_BYTES * key.l0_target * tokens
        if group and used + needed > _GROUP_BYTES:
            yield group
            group, used = {}, 0
        group[key] = sae
        used += needed
    if group:
        yield group


@torch.no_grad()
def pool(
    site: Site,
    documents: Sequence[Sequence[int]],
    saes: Mapping[Key, SAE | Boosted],
    *,
    written: bool = False,
) -> Pooled:
    """Return the means of documents (token ids as fed to the subject), in their order.

    In one pass of the subject for all SAEs. A latent's activation is what `encode` says, or, if
    `written`, what its decoder vector is multiplied by in the reconstruction, which is larger by
    the token's deviation where the SAE standardises its input. Raises ValueError for SAEs of
    another width than the site and for a document without a token that counts.
    """
    windows = [Window(i, 0, np.asarray(tokens)) for i, tokens in enumerate(documents)]
    context = arithmetic(site.subject, site.precision)
    order: list[int] = []
    x: list[Tensor] = []
    latents: dict[Key, list[csr_array]] = {key: [] for key in saes}
    with Progress(len(windows), "documents", f"reading {site.name}") as progress:
        for batch in group_by_length(windows, site.batch_tokens, np.random.default_rng(0)):
            rows = read_site(site.subject, site.name, site.rule, pad(batch), context)
            x_td, counts_b = rows.x_nd, rows.kept_bt.sum(1)
            _check_counts(counts_b, batch)
            x.append(_means(x_td, counts_b).cpu())
            for key, sae in saes.items():
                check_width(site.subject, site.name, x_td.shape[1], sae.W_dec.shape[1])
                latents[key].append(_pooled_latents(sae, x_td, counts_b, written=written))
            order.extend(window.document for window in batch)
            progress.update(len(batch))
    back = np.argsort(order)
    return Pooled(
        torch.cat(x)[torch.from_numpy(back)],
        {key: csr_array(vstack(parts, format="csr"))[back] for key, parts in latents.items()},
    )


def latent_activations(sae: SAE | Boosted, x_td: Tensor, *, written: bool) -> Tensor:
    """Return latents (tokens, d_sae) of activations (tokens, d_in); see `pool` for `written`."""
    acts_tf = sae.encode(x_td)
    own = sae.residual if isinstance(sae, Boosted) else sae
    return acts_tf * standardised(x_td).deviation_b1 if written and own.standardise else acts_tf


def mean_difference(latents_nf: csr_array, label_n: NDArray) -> NDArray[np.float64]:
    """Return each latent's mean over documents with label 1 less that over those with 0."""
    positive_n = label_n > 0
    weight_n = np.where(positive_n, 1 / positive_n.sum(), -1 / (~positive_n).sum())
    return weight_n @ latents_nf


def _pooled_latents(
    sae: SAE | Boosted, x_td: Tensor, counts_b: Tensor, *, written: bool
) -> csr_array:
    d_sae = sae.W_dec.shape[0]
    sums_bf = x_td.new_zeros(len(counts_b), d_sae)
    document_t = torch.arange(len(counts_b), device=x_td.device).repeat_interleave(counts_b)
    size = chunk_rows(len(x_td), d_sae, x_td.is_cuda)
    for part_td, to_t in zip(x_td.split(size), document_t.split(size), strict=True):
        sums_bf.index_add_(0, to_t, latent_activations(sae, part_td, written=written))
    return csr_array((sums_bf / counts_b[:, None]).cpu().numpy())


def _means(x_td: Tensor, counts_b: Tensor) -> Tensor:
    """Return the mean (b, d) of each document's rows, which stand one document after another."""
    document_t = torch.arange(len(counts_b), device=x_td.device).repeat_interleave(counts_b)
    sums_bd = x_td.new_zeros(len(counts_b), x_td.shape[1]).index_add_(0, document_t, x_td)
    return sums_bd / counts_b[:, None]


def _check_counts(counts_b: Tensor, batch: Sequence[Window]) -> None:
    if not counts_b.all():
        shortest = min(len(w.tokens) for w, n in zip(batch, counts_b, strict=True) if not n)
        raise ValueError(
            f"a document of {shortest} tokens has none that counts: all are special, first "
            "positions or attention sinks; give the corpus a larger min_chars"
        )
