"""Where the latents of several SAEs are active in a text, from one pass of the subject."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from saeflow.activations.exclusion import Exclusion
from saeflow.activations.windows import Window, group_by_length, pad
from saeflow.artifacts import ArtifactError
from saeflow.debias.slicing import encoder_of
from saeflow.evaluation.held_out import first_windows
from saeflow.evaluation.site_rows import check_width
from saeflow.progress import Progress
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import run_to_sites

_CHUNK_ENTRIES = 2**22
Name = TypeVar("Name")
"""What tells one SAE from another."""


class Text(NamedTuple):
    """Text cut into contexts of one length."""

    windows: list[Window]
    tokens_ct: np.ndarray
    """Token ids (contexts, tokens) int32."""
    document_c: np.ndarray
    """Document of each context."""
    first_w: np.ndarray
    """First context of each window; one more entry than windows."""
    offset_w: np.ndarray
    """Position in the window where its first context begins: behind leading special tokens."""
    number: dict[tuple[int, int], int]
    """Place in `windows` by document and start."""


class Firing(NamedTuple):
    """One entry for each token on which a latent is active, in no particular order."""

    context_n: np.ndarray
    position_n: np.ndarray
    latent_n: np.ndarray
    activation_n: np.ndarray


def read_text(
    tokens: Path, split: str, budget: int, example_tokens: int, special_ids: frozenset[int]
) -> Text:
    """Return the first `budget` tokens of a split, in whole windows, cut into contexts.

    A split with fewer tokens is read entirely, with a line that says so. Raises ArtifactError for
    unfinished or damaged tokens, and where no window is as long as a context.
    """
    windows = first_windows(tokens, split, budget)
    offsets = [_leading(window.tokens, special_ids) for window in windows]
    pieces = [_pieces(w.tokens[o:], example_tokens) for w, o in zip(windows, offsets, strict=True)]
    counts = [len(piece_ct) for piece_ct in pieces]
    if not sum(counts):
        raise ArtifactError(
            f"{tokens / split}.parquet has no window with {example_tokens} tokens of text: lower "
            "example_tokens"
        )
    return Text(
        windows=windows,
        tokens_ct=np.concatenate(pieces),
        document_c=np.repeat([window.document for window in windows], counts),
        first_w=np.concatenate([[0], np.cumsum(counts)]),
        offset_w=np.array(offsets),
        number={(window.document, window.start): i for i, window in enumerate(windows)},
    )


def _leading(tokens_t: np.ndarray, special_ids: frozenset[int]) -> int:
    """Return how many special tokens a window begins with."""
    return next((i for i, t in enumerate(tokens_t) if int(t) not in special_ids), len(tokens_t))


def _pieces(tokens_t: np.ndarray, length: int) -> np.ndarray:
    whole = len(tokens_t) // length
    return tokens_t[: whole * length].reshape(whole, length)


def fire(
    subject: Subject,
    saes: Mapping[Name, SAE | Boosted],
    candidates: Mapping[Name, np.ndarray],
    text: Text,
    site: str,
    rule: Exclusion,
    batch_tokens: int,
) -> dict[Name, Firing]:
    """Return where the latents `candidates[name]` of each SAE are active in `text`.

    Tokens that the activation cache leaves out (`rule`) count as silent. Raises ValueError for an
    SAE that does not fit the site.
    """
    found: dict[Name, list[Firing]] = {name: [] for name in saes}
    encoders = {name: _encoder(saes[name], latents) for name, latents in candidates.items()}
    batches = group_by_length(text.windows, batch_tokens, np.random.default_rng(0))
    total = sum(len(window.tokens) for window in text.windows)
    with Progress(total=total, unit="tok", what="reading activations") as progress:
        for batch in batches:
            x_nd, context_n, position_n = _rows(subject, text, batch, site, rule)
            for name, sae in saes.items():
                check_width(subject, site, x_nd.shape[1], sae.W_dec.shape[1])
                found[name].append(_active(encoders[name], x_nd, context_n, position_n))
            progress.update(sum(len(window.tokens) for window in batch))
    return {
        name: Firing(*(np.concatenate(parts) for parts in zip(*firings, strict=True)))
        for name, firings in found.items()
    }


class _Encoder(NamedTuple):
    """Computes some latents of an SAE."""

    encode: Callable[[Tensor], Tensor]
    latent_f: Tensor
    """The latent of each column that it returns."""
    width: int
    """Latents that it may compute to that end."""


def _encoder(sae: SAE | Boosted, latents: np.ndarray) -> _Encoder:
    sae = sae.residual if isinstance(sae, Boosted) else sae
    latent_f = torch.from_numpy(np.sort(latents)).to(sae.W_dec.device)
    all_of_them = len(latent_f) == sae.d_sae
    encode = sae.encode if all_of_them else encoder_of(sae, latent_f)
    return _Encoder(encode, latent_f, sae.d_sae)


@torch.no_grad()
def _rows(
    subject: Subject, text: Text, batch: list[Window], site: str, rule: Exclusion
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return the activations (n, d) of kept tokens, with each one's context and place in it."""
    tokens_bt, lengths_b = pad(batch)
    tokens_bt = tokens_bt.to(subject.device)
    acts = run_to_sites(subject, tokens_bt, sorted({site, *rule.thresholds}))
    kept_bt = rule.kept(tokens_bt, lengths_b, acts)
    length = text.tokens_ct.shape[1]
    numbers_b = np.array([text.number[window.document, window.start] for window in batch])
    counts_b = np.diff(text.first_w)[numbers_b]
    place_bt = np.arange(tokens_bt.shape[1])[None, :] - text.offset_w[numbers_b][:, None]
    inside_bt = (place_bt >= 0) & (place_bt < (counts_b * length)[:, None])
    rows_bt = kept_bt & torch.from_numpy(inside_bt).to(kept_bt.device)
    context_bt = text.first_w[numbers_b][:, None] + place_bt // length
    here_bt = rows_bt.cpu().numpy()
    return acts[site][rows_bt].float(), context_bt[here_bt], (place_bt % length)[here_bt]


@torch.no_grad()
def _active(
    encoder: _Encoder, x_nd: Tensor, context_n: np.ndarray, position_n: np.ndarray
) -> Firing:
    """Return where latents are active on the rows; in chunks, so that a wide dictionary fits."""
    parts, first = [], 0
    for part_nd in x_nd.split(max(1, _CHUNK_ENTRIES // encoder.width)):
        acts_nf = encoder.encode(part_nd)
        row_k, column_k = (acts_nf > 0).nonzero(as_tuple=True)
        latent_k = encoder.latent_f[column_k]
        rows = row_k.cpu().numpy() + first
        parts.append(
            Firing(
                context_n[rows].astype(np.int32),
                position_n[rows].astype(np.int32),
                latent_k.cpu().numpy().astype(np.int32),
                acts_nf[row_k, column_k].cpu().numpy(),
            )
        )
        first += len(part_nd)
    return Firing(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
