"""Passes of a subject that can be differentiated: a clean one, and ones that start at a site."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saeflow.subjects.load import Subject
from saeflow.subjects.sites import SiteError, first, module_at
from saeflow.subjects.splice import run_from_site, spliced

Metric = Callable[[Tensor, Tensor, Tensor], Tensor]
"""metric(tokens_bt, lengths_b, labels_b) -> (b,): runs the subject with gradients turned on and
with the hooks that are active. Rows are padded on the right; `lengths_b` tells the text."""
Batch = tuple[Tensor, Tensor, Tensor]
"""Tokens (b, t), lengths (b,) and labels (b,) of some examples."""

_TRIAL = (slice(1), slice(4))


class CleanPass(NamedTuple):
    """What an undisturbed pass left at modules, each (b, t, d)."""

    outputs: dict[str, Tensor]
    """What the module passes on, in the order of the pass."""
    gradients: dict[str, Tensor]
    """Gradient of the summed metric with respect to it; zero where the metric does not hang on
    it."""


class Entry(NamedTuple):
    """How to run what follows a site, and no more than that."""

    block: str | None
    """Block whose output is given, so that nothing before it runs; null runs the whole model."""
    splice: bool
    """Whether the site lies behind that block and is replaced in the pass; otherwise a change of
    the site's output is the same change of the block's."""


def text_mask(subject: Subject, tokens_bt: Tensor, lengths_b: Tensor) -> Tensor:
    """Return where (b, t) there is text: neither padding nor the begin token.

    No SAE was trained on the begin token, and nothing is ablated there.
    """
    position_t = torch.arange(tokens_bt.shape[1], device=subject.device)
    return (position_t >= int(subject.prepend_bos)) & (
        position_t < lengths_b.to(subject.device)[:, None]
    )


def run_metric(metric: Metric, batch: Batch, repeats: int = 1) -> Tensor:
    """Return the metric (repeats * b,) of a batch laid end to end; it must have a gradient."""
    tokens_bt, lengths_b, labels_b = batch
    with torch.enable_grad():
        values_b = metric(
            tokens_bt.repeat(repeats, 1), lengths_b.repeat(repeats), labels_b.repeat(repeats)
        )
    if not values_b.requires_grad:
        raise ValueError(
            "the metric has no gradient with respect to the sites: it must read the subject "
            "behind them, with gradients turned on"
        )
    return values_b


def clean_pass(subject: Subject, names: Iterable[str], metric: Metric, batch: Batch) -> CleanPass:
    """Run the metric once and return what the modules `names` passed on, with its gradients.

    Raises SiteError for a module that the metric's pass never runs.
    """
    outputs: dict[str, Tensor] = {}

    def reader(name: str) -> Callable[[Tensor], Tensor]:
        def read(acts_btd: Tensor) -> Tensor:
            # The subject's weights ask for no gradient: the first site starts the graph.
            outputs[name] = (
                acts_btd if acts_btd.requires_grad else acts_btd.clone().requires_grad_()
            )
            return outputs[name]

        return read

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(spliced(subject, name, reader(name)))
        values_b = run_metric(metric, batch)
    check_reached(subject, names, outputs)
    gradients = torch.autograd.grad(
        values_b.sum(), list(outputs.values()), allow_unused=True, materialize_grads=True
    )
    return CleanPass(
        {name: acts_btd.detach() for name, acts_btd in outputs.items()},
        dict(zip(outputs, gradients, strict=True)),
    )


def check_reached(subject: Subject, names: Iterable[str], reached: Iterable[str]) -> None:
    """Raise SiteError where the pass did not run one of `names`."""
    missed = sorted(set(names) - set(reached))
    if missed:
        raise SiteError(
            f"{subject.name}: the metric ends before {', '.join(missed)} ran; attribute sites up "
            "to the one that the metric reads"
        )


def blocks_of(sites: Iterable[str]) -> list[str]:
    """Return the blocks whose outputs a pass from one of the `sites` may start at."""
    found = [name for site in sites for name in (_block(site), _previous(_block(site))) if name]
    return list(dict.fromkeys(found))


def find_entry(subject: Subject, site: str, batch: Batch, outputs: dict[str, Tensor]) -> Entry:
    """Return how to run what follows `site`, decided by trial on a few tokens.

    `outputs` are those of a clean pass of the batch at the site and at `blocks_of` it.
    """
    block = _block(site)
    if block is None:
        return Entry(None, splice=True)
    tokens_bt = batch[0][_TRIAL]
    if _can_start(subject, tokens_bt, block, outputs[block][_TRIAL]) and (
        site == block or _is_added(subject, tokens_bt, site, block, outputs)
    ):
        return Entry(block, splice=False)
    previous = _previous(block)
    if previous and _can_start(subject, tokens_bt, previous, outputs[previous][_TRIAL]):
        return Entry(previous, splice=True)
    return Entry(None, splice=True)


@contextmanager
def entered(
    subject: Subject, site: str, entry: Entry, block_btd: Tensor | None, site_btd: Tensor
) -> Iterator[None]:
    """Within this context a pass has `site_btd` at the site.

    `block_btd` is the output of `entry.block`: constant where the site is spliced in behind it.
    """
    with ExitStack() as stack:
        if entry.block is not None and block_btd is not None:
            stack.enter_context(_starting_at(subject, entry.block, block_btd))
        if entry.splice:
            stack.enter_context(spliced(subject, site, lambda _: site_btd))
        yield


@contextmanager
def _starting_at(subject: Subject, block: str, states_btd: Tensor) -> Iterator[None]:
    """Within this context blocks before `block` do nothing, and it passes on `states_btd`."""
    blocks, index = block.rsplit(".", 1)
    before = [module_at(subject, f"{blocks}.{i}") for i in range(int(index))]
    with ExitStack() as stack:
        for module in before:
            stack.enter_context(_forward(module, lambda states, *args, **kwargs: states))
        stack.enter_context(_forward(module_at(subject, block), lambda *args, **kwargs: states_btd))
        yield


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    # An attribute of the instance hides the method of the class.
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@torch.no_grad()
def _can_start(subject: Subject, tokens_bt: Tensor, block: str, acts_btd: Tensor) -> bool:
    if block not in subject.skips:
        run_from_site(subject, tokens_bt, block, acts_btd)
    return subject.skips[block]


@torch.no_grad()
def _is_added(
    subject: Subject, tokens_bt: Tensor, site: str, block: str, outputs: dict[str, Tensor]
) -> bool:
    """Whether the block's output is the site's plus what does not depend on it.

    So it is for the MLP of most families, and for attention where it runs beside the MLP.
    """
    # Twice the output: were it normed on its way to the sum, the change would be another.
    site_btd, block_btd = outputs[site][_TRIAL], outputs[block][_TRIAL]
    found: list[Tensor] = []

    def read(module: nn.Module, args: Any, output: Any) -> None:
        found.append(first(output))

    handle = module_at(subject, block).register_forward_hook(read)
    try:
        with spliced(subject, site, lambda _: 2 * site_btd):
            subject.model.base_model(tokens_bt.to(subject.device), use_cache=False)
    finally:
        handle.remove()
    tolerance = 1e-4 * float(site_btd.abs().max())
    return torch.allclose(found[0] - block_btd, site_btd, rtol=1e-4, atol=tolerance)


def _block(site: str) -> str | None:
    """Return the innermost numbered module of a name: `layers.3` of `layers.3.mlp`."""
    match = re.fullmatch(r"(.*\.\d+)(?:\..*)?", site)
    return match[1] if match else None


def _previous(block: str | None) -> str | None:
    if block is None:
        return None
    blocks, index = block.rsplit(".", 1)
    return f"{blocks}.{int(index) - 1}" if int(index) else None
