"""The circuit of a metric: latents with a large effect, and what goes from one to another.

Marks et al. 2024 (Sparse Feature Circuits), section 3.1 and appendix A.1. Nodes are latents, the
SAEs' errors and the metric's output. The edge from an upstream latent u to a downstream one d is

    effect(u -> d) = sum_{s, r} dm/dd(s) * dd(s)/du(r) * (0 - u(r))

over the positions s and r, averaged over the examples, with all gradients at the clean activations:
dm/dd over every path that leads on from d, dd/du over direct paths alone, in which everything that
another site passes on stays as it is. An error stands in the place of a latent with its d_in
entries. So the edges that leave a latent add up to its effect in one step, unless an SAE
standardises its input: means and deviations are no nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saeflow.debias.attribution import Effects, check_width, split
from saeflow.debias.passes import Batch, Metric, check_reached, clean_pass, run_metric, text_mask
from saeflow.debias.settings import Signs
from saeflow.debias.slicing import encoder_of
from saeflow.progress import Progress
from saeflow.sae.model import SAE, standardised
from saeflow.subjects.load import Subject
from saeflow.subjects.splice import spliced

OUTPUT = "output"
ERROR = "error"

NODE_TYPES = {
    "node": "string",
    "site": "string",
    "order": "int64",
    "layer": "int64",
    "kind": "string",
    "part": "string",
    "latent": "Int64",
    "effect": "float64",
}
EDGE_TYPES = {
    "source": "string",
    "target": "string",
    "source_site": "string",
    "source_latent": "Int64",
    "target_site": "string",
    "target_latent": "Int64",
    "effect": "float64",
}


class _Kept(NamedTuple):
    """The nodes of one site: latents, and the error where it is one."""

    latents: Tensor
    error: bool

    def names(self, site: str) -> list[tuple[str, str, int | None]]:
        """Return node, part and latent of each."""
        found: list[tuple[str, str, int | None]] = [
            (f"{site}/{latent}", "latent", latent) for latent in self.latents.tolist()
        ]
        return [*found, (f"{site}/{ERROR}", ERROR, None)] if self.error else found


def find_circuit(
    subject: Subject,
    saes: Mapping[str, SAE],
    batches: Iterable[Batch],
    metric: Metric,
    effects: Effects,
    *,
    node_threshold: float,
    edge_threshold: float,
    signs: Signs,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the nodes and the edges whose effects exceed the thresholds.

    `effects` are those of `attribute` with the same SAEs. `positive` keeps what makes the metric
    rise when it is taken away, as the published circuits of Bias in Bios do; `both` goes by the
    absolute effect. Nodes: `node` (name), `site`, `order` (of the site in the pass), `layer` (-1
    before the first block), `kind` (embed, attn, mlp, resid, output), `part` (latent, error,
    output), `latent`, `effect`. Edges: `source` and `target` (names), their sites and latents,
    `effect`. Raises what `attribute` raises, and ValueError for effects of other SAEs.
    """
    batches = list(batches)
    examples = sum(len(lengths_b) for _, lengths_b, _ in batches)
    if not examples:
        raise ValueError("no examples to find a circuit with")
    _check_effects(saes, effects)

    latents = circuit_latents(effects, node_threshold, signs)
    kept = {
        site: _Kept(
            latents[site], bool(_large(torch.tensor(effects.error[site]), node_threshold, signs))
        )
        for site in saes
    }
    totals: dict[tuple[str, str], Tensor] = {}
    order: list[str] = []
    with Progress(examples, "examples", "edges of the circuit") as progress:
        for batch in batches:
            order = _add_edges(subject, saes, batch, metric, kept, totals)
            progress.update(len(batch[1]))
    return (
        _node_table(order, kept, effects),
        _edge_table(kept, totals, lambda effect: _large(effect, edge_threshold, signs), examples),
    )


def circuit_latents(effects: Effects, node_threshold: float, signs: Signs) -> dict[str, Tensor]:
    """Return by site the latents, in order, that are nodes of the circuit."""
    return {
        site: _large(effect_f, node_threshold, signs).nonzero()[:, 0]
        for site, effect_f in effects.latents.items()
    }


def _large(effect: Tensor, threshold: float, signs: Signs) -> Tensor:
    return (effect.abs() if signs == "both" else effect) > threshold


def place_of(site: str) -> tuple[int, str]:
    """Return the layer (-1 before the first block) and the kind of a site by its module's name."""
    match = re.fullmatch(r".*?\.(\d+)(?:\.(.*))?", site)
    if not match:
        return -1, "embed"
    inner = match[2] or "resid"
    kinds = {"att": "attn", "mlp": "mlp", "feed_forward": "mlp", "ffn": "mlp"}
    return int(match[1]), next((kind for part, kind in kinds.items() if part in inner), inner)


def _check_effects(saes: Mapping[str, SAE], effects: Effects) -> None:
    for site, sae in saes.items():
        found = effects.latents.get(site)
        if found is None or len(found) != sae.d_sae:
            raise ValueError(
                f"{site}: the SAE has {sae.d_sae:,} latents, there are effects of "
                f"{0 if found is None else len(found):,}; attribute the same SAEs first"
            )


class _Cut(NamedTuple):
    """A pass in which each site passes on a leaf of its own: only direct paths are connected."""

    before: dict[str, Tensor]
    """What a site would have passed on (b, t, d), by the leaves before it."""
    leaves: dict[str, Tensor]
    metric_b: Tensor


def _cut_pass(subject: Subject, saes: Iterable[str], metric: Metric, batch: Batch) -> _Cut:
    before: dict[str, Tensor] = {}
    leaves: dict[str, Tensor] = {}

    def cutter(site: str) -> Callable[[Tensor], Tensor]:
        def cut(acts_btd: Tensor) -> Tensor:
            before[site] = acts_btd
            leaves[site] = acts_btd.detach().clone().requires_grad_()
            return leaves[site]

        return cut

    with ExitStack() as stack:
        for site in saes:
            stack.enter_context(spliced(subject, site, cutter(site)))
        metric_b = run_metric(metric, batch)
    return _Cut(before, leaves, metric_b)


def _add_edges(
    subject: Subject,
    saes: Mapping[str, SAE],
    batch: Batch,
    metric: Metric,
    kept: Mapping[str, _Kept],
    totals: dict[tuple[str, str], Tensor],
) -> list[str]:
    """Add a batch's effects (targets, sources) by source and target site; return sites in order."""
    clean = clean_pass(subject, saes, metric, batch)
    check_reached(subject, saes, clean.outputs)
    for site, sae in saes.items():
        check_width(site, sae, clean.outputs[site])
    cut = _cut_pass(subject, saes, metric, batch)
    mask_bt = text_mask(subject, batch[0], batch[1])
    order = list(clean.outputs)
    sources = {
        site: _Source(saes[site], clean.outputs[site][mask_bt], kept[site])
        for site in order
        if kept[site].names(site)
    }
    for target in [*order, OUTPUT]:
        if target == OUTPUT:
            scores = cut.metric_b.sum()[None]
        elif target in sources and cut.before[target].requires_grad:
            x_nd, gradient_nd = cut.before[target][mask_bt], clean.gradients[target][mask_bt]
            scores = _scores(saes[target], x_nd, gradient_nd, kept[target])
        else:
            continue
        for row, (site, gradient_btd) in _vjps(scores, cut.leaves, sources):
            effect = sources[site].effects(gradient_btd[mask_bt])
            shape = (len(scores), len(effect))
            totals.setdefault((site, target), torch.zeros(shape))[row] += effect.float().cpu()
    return order


def _scores(sae: SAE, x_nd: Tensor, gradient_nd: Tensor, kept: _Kept) -> Tensor:
    """Return for each node the sum over tokens of dm/dnode (a constant) times the node."""
    x_nd, gradient_nd = x_nd.to(sae.W_dec.dtype), gradient_nd.to(sae.W_dec.dtype)
    latents = kept.latents.to(sae.W_dec.device)
    acts_nk = encoder_of(sae, latents)(x_nd)
    scale_n1 = standardised(x_nd.detach()).deviation_b1 if sae.standardise else 1
    scores = ((gradient_nd * scale_n1) @ sae.W_dec[latents].T * acts_nk).sum(0)
    if not kept.error:
        return scores
    return torch.cat([scores, (gradient_nd * split(sae, x_nd).error_nd).sum()[None]])


def _vjps(
    scores: Tensor, leaves: Mapping[str, Tensor], wanted: Iterable[str]
) -> Iterator[tuple[int, tuple[str, Tensor]]]:
    """Yield each score's row, and its gradient at each of the `wanted` leaves that it hangs on."""
    names = list(wanted)
    for row, score in enumerate(scores) if names else ():
        gradients = torch.autograd.grad(
            score, [leaves[name] for name in names], retain_graph=True, allow_unused=True
        )
        for name, gradient_btd in zip(names, gradients, strict=True):
            if gradient_btd is not None:
                yield row, (name, gradient_btd)


class _Source:
    """The clean latents and error of a site, of which one wants to know the effects."""

    @torch.no_grad()
    def __init__(self, sae: SAE, x_nd: Tensor, kept: _Kept) -> None:
        parts = split(sae, x_nd.to(sae.W_dec.dtype))
        latents = kept.latents.to(x_nd.device)
        self.rows_kd = sae.W_dec[latents]
        self.acts_nk = parts.acts_nf[:, latents] * parts.scale_n1
        self.error_nd = parts.error_nd if kept.error else None

    @torch.no_grad()
    def effects(self, gradient_nd: Tensor) -> Tensor:
        """Return what a change by `gradient_nd` an entry makes of each node's way to zero."""
        gradient_nd = gradient_nd.to(self.rows_kd.dtype)
        # sum_n a_nk (g_n . w_k): with K below n, the sum over tokens comes first.
        effect_k = -((self.acts_nk.T @ gradient_nd) * self.rows_kd).sum(1)
        if self.error_nd is None:
            return effect_k
        return torch.cat([effect_k, -(gradient_nd * self.error_nd).sum()[None]])


def _node_table(order: list[str], kept: Mapping[str, _Kept], effects: Effects) -> pd.DataFrame:
    rows: list[tuple[object, ...]] = []
    last = -1
    for position, site in enumerate(order):
        layer, kind = place_of(site)
        last = max(last, layer)
        for node, part, latent in kept[site].names(site):
            effect = effects.error[site] if latent is None else effects.latents[site][latent]
            rows.append((node, site, position, layer, kind, part, latent, float(effect)))
    rows.append((OUTPUT, OUTPUT, len(order), last + 1, OUTPUT, OUTPUT, None, np.nan))
    return pd.DataFrame(rows, columns=list(NODE_TYPES)).astype(NODE_TYPES)


def _edge_table(
    kept: Mapping[str, _Kept],
    totals: Mapping[tuple[str, str], Tensor],
    large: Callable[[Tensor], Tensor],
    examples: int,
) -> pd.DataFrame:
    rows: list[tuple[object, ...]] = []
    output: list[tuple[str, str, int | None]] = [(OUTPUT, OUTPUT, None)]
    for (source, target), total in totals.items():
        mean = total / examples
        sources = kept[source].names(source)
        targets = output if target == OUTPUT else kept[target].names(target)
        for row, column in large(mean).nonzero().tolist():
            (u, _, u_latent), (d, _, d_latent) = sources[column], targets[row]
            rows.append((u, d, source, u_latent, target, d_latent, float(mean[row, column])))
    return pd.DataFrame(rows, columns=list(EDGE_TYPES)).astype(EDGE_TYPES)
