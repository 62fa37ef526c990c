"""Pooled activations of biographies, with latents or neurons ablated at any of the sites.

A site's activation is its SAE's reconstruction plus an error that stays: x = f W_dec + b_dec + e.
With the latents S at zero it is x - f_S W_dec_S, so that only their columns are ever computed; in
one pass every site sees what the ablations before it left (Marks et al. 2024, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saeflow.debias.biographies import Examples
from saeflow.debias.passes import text_mask
from saeflow.debias.slicing import encoder_of
from saeflow.evaluation.site_rows import arithmetic
from saeflow.progress import Progress
from saeflow.sae.model import SAE, standardised
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import SiteError, first, module_at, run_body
from saeflow.subjects.splice import spliced

Edit = Callable[[Tensor], Tensor]
"""From activations (n, d) of a site to what stands in their place."""


def without_latents(sae: SAE, latents: Sequence[int]) -> Edit:
    """Return the edit that takes `latents` to zero and leaves everything else, the error too."""
    index = torch.tensor(sorted(latents), dtype=torch.long, device=sae.W_dec.device)
    encode, rows = encoder_of(sae, index), sae.W_dec.detach()[index]

    def edit(x_nd: Tensor) -> Tensor:
        x = x_nd.to(rows.dtype)
        written_nd = encode(x) @ rows
        if sae.standardise:
            written_nd = written_nd * standardised(x).deviation_b1
        return x_nd - written_nd.to(x_nd.dtype)

    return edit


def with_means(neurons: Sequence[int], means_d: Tensor) -> Edit:
    """Return the edit that puts `neurons` to their means over a sample."""
    index = torch.tensor(sorted(neurons), dtype=torch.long, device=means_d.device)

    def edit(x_nd: Tensor) -> Tensor:
        return x_nd.index_copy(
            1, index, means_d[index].to(x_nd.dtype).expand(len(x_nd), len(index))
        )

    return edit


class _Reached(Exception):
    """Leaves a forward pass of which nothing more is needed."""


def states_at(subject: Subject, tokens_bt: Tensor, site: str) -> Tensor:
    """Return the output (b, t, d) of `site` as active hooks leave it; gradients flow if asked for.

    The pass ends there. Raises SiteError where the subject has no such module or never runs it.
    """
    found: list[Tensor] = []

    def read(module: nn.Module, args: Any, output: Any) -> None:
        found.append(first(output))
        raise _Reached

    handle = module_at(subject, site).register_forward_hook(read)
    try:
        run_body(subject, tokens_bt)
    except _Reached:
        return found[0]
    finally:
        handle.remove()
    raise SiteError(f"{subject.name}: the forward pass never runs {site}")


def pool(states_btd: Tensor, text_bt: Tensor) -> Tensor:
    """Return the mean (b, d) over the positions where `text_bt` says that there is text."""
    summed_bd = torch.einsum("btd,bt->bd", states_btd.float(), text_bt.float())
    return summed_bd / text_bt.sum(1, keepdim=True)


@torch.no_grad()
def pooled_states(
    subject: Subject,
    examples: Examples,
    site: str,
    *,
    batch_tokens: int,
    precision: Literal["auto", "float32", "bfloat16"] = "float32",
    edits: Mapping[str, Edit] | None = None,
    what: str = "reading",
) -> Tensor:
    """Return the pooled activations (n, d) of `site`, on the CPU, with `edits` by module active.

    The begin token is neither edited nor pooled: no SAE was trained on it.
    """
    skip = int(subject.prepend_bos)
    pooled: list[Tensor] = []
    order: list[int] = []
    with ExitStack() as stack, Progress(len(examples.tokens), "biographies", what) as progress:
        for module, edit in (edits or {}).items():
            stack.enter_context(spliced(subject, module, _on_text(edit, skip)))
        for rows in batches_by_length(examples.tokens, batch_tokens):
            tokens_bt, lengths_b = padded([examples.tokens[row] for row in rows])
            text_bt = text_mask(subject, tokens_bt, lengths_b)
            with arithmetic(subject, precision):
                states_btd = states_at(subject, tokens_bt, site)
            pooled.append(pool(states_btd, text_bt).cpu())
            order.extend(rows)
            progress.update(len(rows))
    return torch.cat(pooled)[torch.tensor(order).argsort()]


def _on_text(edit: Edit, skip: int) -> Callable[[Tensor], Tensor]:
    def replace(x_btd: Tensor) -> Tensor:
        with torch.autocast(x_btd.device.type, enabled=False):
            new = edit(x_btd[:, skip:].flatten(0, 1)).unflatten(0, (len(x_btd), -1))
        return torch.cat([x_btd[:, :skip], new], 1)

    return replace


def batches_by_length(tokens: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Yield rows of similar length, each batch at most `batch_tokens` padded tokens, or one row."""
    batch: list[int] = []
    for row in sorted(range(len(tokens)), key=lambda row: len(tokens[row])):
        if batch and (len(batch) + 1) * len(tokens[row]) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def padded(tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return tokens (b, t), padded on the right, which a causal model cannot see, and lengths."""
    lengths = [len(row) for row in tokens]
    tokens_bt = torch.zeros(len(tokens), max(lengths), dtype=torch.long)
    for into, row in zip(tokens_bt, tokens, strict=True):
        into[: len(row)] = torch.tensor(row)
    return tokens_bt, torch.tensor(lengths)
