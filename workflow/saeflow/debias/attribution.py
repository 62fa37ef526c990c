"""How much each latent contributes to a metric: integrated gradients at every site.

Marks et al. 2024 (Sparse Feature Circuits), section 2 and appendix A.3, as SSAE section 3.1.3
uses it. A site's clean activation is what its latents write plus the decoder's bias plus the
SAE's error, and the latents are taken to zero:

    effect(f) = [1/steps * sum_{k=0}^{steps-1} dm/df at (1 - k/steps) f_clean] * (0 - f_clean)

summed over positions, averaged over examples. A decoder is linear, so that dm/df is dm/dx W_dec^T
and the path of all latents is a straight line of x: only gradients of width d_in are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from saeflow.debias.passes import (
    Batch,
    CleanPass,
    Entry,
    Metric,
    blocks_of,
    clean_pass,
    entered,
    find_entry,
    run_metric,
    text_mask,
)
from saeflow.progress import Progress
from saeflow.sae.model import SAE, standardised
from saeflow.subjects.load import Subject

Path = Literal["latents", "joint"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Effects:
    """Signed mean effects on the metric of setting something to zero at all positions."""

    latents: dict[str, Tensor]
    """By site: one effect a latent, (d_sae,) float32."""
    error: dict[str, float]
    """By site: the effect of the SAE's error, by the gradients of the same path."""
    examples: int
    """How many examples were averaged over."""


class Split(NamedTuple):
    """Activations (n, d) as the sum of what latents write, the decoder's bias and the error."""

    acts_nf: Tensor
    written_nd: Tensor
    error_nd: Tensor
    scale_n1: Tensor
    """What an entry of `acts W_dec` is multiplied by: 1, or the token's standard deviation."""


class _Method(NamedTuple):
    """How gradients along a path are taken; see `attribute`."""

    steps: int
    path: Path
    precision: Precision
    rows: int


def split(sae: SAE, x_nd: Tensor) -> Split:
    """Return the parts of activations (n, d_in); a gradient flows where `x_nd` asks for one."""
    acts_nf = sae.encode(x_nd)
    scale_n1, mean_n1 = torch.ones_like(x_nd[:, :1]), torch.zeros_like(x_nd[:, :1])
    if sae.standardise:
        _, mean_n1, scale_n1 = standardised(x_nd)
    written_nd = acts_nf @ sae.W_dec * scale_n1
    bias_nd = sae.b_dec * scale_n1 + mean_n1
    return Split(acts_nf, written_nd, x_nd - written_nd - bias_nd, scale_n1)


def neurons(d_in: int, device: torch.device | str = "cpu") -> SAE:
    """Return the identity as an SAE: its latents are the neurons (Marks et al.'s skyline)."""
    eye, zero = torch.eye(d_in, device=device), torch.zeros(d_in, device=device)
    return SAE(eye, eye.clone(), zero, zero.clone(), nn.Identity()).requires_grad_(False)


def attribute(
    subject: Subject,
    saes: Mapping[str, SAE],
    batches: Iterable[Batch],
    metric: Metric,
    *,
    steps: int = 10,
    path: Path = "latents",
    precision: Precision = "float32",
    rows: int = 32,
) -> Effects:
    """Return the effects of all latents of `saes` (module name to SAE) on the mean metric.

    On the path `latents` bias and error stay as they are (the text of Marks et al.); on `joint`
    the error goes to zero together with the latents (their code). `bfloat16` takes the points of
    the path but for the first in mixed precision: two thirds of the time, and effects that differ
    by about 1%. `rows` bounds the sequences of one pass, and with it the memory; it changes no
    result but for rounding. Raises SiteError for a site that the subject lacks or that the
    metric's pass never runs, and ValueError for an SAE of another width, no examples, or a metric
    without a gradient.
    """
    batches = list(batches)
    examples = sum(len(lengths_b) for _, lengths_b, _ in batches)
    if not examples:
        raise ValueError("no examples to attribute")
    if steps < 1 or rows < 1:
        raise ValueError(f"steps {steps} and rows {rows} must be at least 1")
    method = _Method(steps, path, precision, rows)
    latents = {site: torch.zeros(sae.d_sae) for site, sae in saes.items()}
    error = dict.fromkeys(saes, 0.0)
    entries: dict[str, Entry] = {}
    with Progress(examples, "examples", f"attribution at {len(saes)} sites") as progress:
        for batch in batches:
            clean = clean_pass(subject, [*saes, *blocks_of(saes)], metric, batch)
            for site, sae in saes.items():
                check_width(site, sae, clean.outputs[site])
                if site not in entries:
                    entries[site] = find_entry(subject, site, batch, clean.outputs)
                effect_f, of_error = _effects(
                    subject, site, sae, entries[site], clean, batch, metric, method
                )
                latents[site] += effect_f.float().cpu() / examples
                error[site] += of_error / examples
            progress.update(len(batch[1]))
    return Effects(latents, error, examples)


def check_width(site: str, sae: SAE, x_btd: Tensor) -> None:
    """Raise ValueError where an SAE cannot read the activations (b, t, d) of its site."""
    if sae.d_in != x_btd.shape[-1]:
        raise ValueError(
            f"{site} passes on {x_btd.shape[-1]} entries a token, its SAE reads {sae.d_in}: "
            "give each site an SAE that was trained on it"
        )


def _effects(
    subject: Subject,
    site: str,
    sae: SAE,
    entry: Entry,
    clean: CleanPass,
    batch: Batch,
    metric: Metric,
    method: _Method,
) -> tuple[Tensor, float]:
    """Return the effects of latents (d_sae,) and of the error, summed over a batch."""
    x_btd = clean.outputs[site]
    mask_bt = text_mask(subject, batch[0], batch[1])
    with torch.no_grad():
        parts = split(sae, x_btd[mask_bt].to(sae.W_dec.dtype))
    gone_nd = parts.written_nd if method.path == "latents" else parts.written_nd + parts.error_nd
    gone_btd = torch.zeros_like(x_btd)
    gone_btd[mask_bt] = gone_nd.to(x_btd.dtype)
    # The first point of every path is the clean activation: one pass did it for all sites.
    gradient_btd = clean.gradients[site] + _along_path(
        subject, site, entry, clean.outputs, gone_btd, batch, metric, method
    )
    with torch.no_grad():
        gradient_nd = gradient_btd[mask_bt].to(sae.W_dec.dtype) / method.steps
        of_latents_nf = (gradient_nd * parts.scale_n1) @ sae.W_dec.T
        effect_f = -torch.einsum("nf,nf->f", of_latents_nf, parts.acts_nf)
        return effect_f, -float((gradient_nd * parts.error_nd).sum())


def _along_path(
    subject: Subject,
    site: str,
    entry: Entry,
    outputs: Mapping[str, Tensor],
    gone_btd: Tensor,
    batch: Batch,
    metric: Metric,
    method: _Method,
) -> Tensor:
    """Return the sum of dm/dx (b, t, d) over all points of the path but the first.

    At the end of the path the site's activation has lost `gone_btd`. As many points as give
    `rows` sequences, and at least one, are one batch.
    """
    x_btd = outputs[site] if entry.splice else outputs[entry.block or site]
    total_btd = torch.zeros_like(x_btd)
    shares = torch.arange(1, method.steps, device=x_btd.device, dtype=x_btd.dtype) / method.steps
    for share_k in shares.split(max(1, method.rows // len(x_btd))) if len(shares) else ():
        points = len(share_k)
        changed = (x_btd - share_k[:, None, None, None] * gone_btd).flatten(0, 1).requires_grad_()
        block_btd = changed
        if entry.splice and entry.block is not None:
            block_btd = outputs[entry.block].repeat(points, 1, 1)
        with entered(subject, site, entry, block_btd, changed), _mixed(method.precision, x_btd):
            total = run_metric(metric, batch, points).sum()
        (gradient,) = torch.autograd.grad(total, changed, allow_unused=True, materialize_grads=True)
        total_btd += gradient.unflatten(0, (points, -1)).sum(0)
    return total_btd


@contextmanager
def _mixed(precision: Precision, x: Tensor) -> Iterator[None]:
    with ExitStack() as stack:
        if precision == "bfloat16":
            stack.enter_context(torch.autocast(x.device.type, torch.bfloat16))
            if x.device.type == "cpu":
                # The fused kernel's backward in bfloat16 takes ten times as long as this one.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
