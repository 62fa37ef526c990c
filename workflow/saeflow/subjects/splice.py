"""Replace what a site passes on, and run the rest of the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saeflow.subjects.load import Subject
from saeflow.subjects.sites import first, module_at, run_body

Replace = Callable[[Tensor], Tensor]


@contextmanager
def spliced(subject: Subject, site: str, replace: Replace) -> Iterator[None]:
    """Within this context the output (b, t, d) of `site` is what `replace` makes of it.

    Of a module that returns a tuple the first entry is replaced.
    """

    def swap(module: nn.Module, args: Any, output: Any) -> Any:
        new = replace(first(output))
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module_at(subject, site).register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def splice(subject: Subject, tokens_bt: Tensor, site: str, replace: Replace) -> Tensor:
    """Return the final states (b, t, d) of a whole pass in which `replace` acts at `site`.

    `head.logits` reads final states. Gradients flow through `replace` unless the caller turned
    them off.
    """
    with spliced(subject, site, replace):
        return run_body(subject, tokens_bt)


def run_from_site(subject: Subject, tokens_bt: Tensor, site: str, acts_btd: Tensor) -> Tensor:
    """Return the final states (b, t, d) with `acts_btd` as the output of `site`.

    Equal to `splice` with a constant. Where the site is a block whose output is all that the
    next block reads, only what comes after it is computed; a trial on four tokens decides this
    once for each site.
    """
    if site not in subject.skips:
        subject.skips[site] = _can_skip(subject, tokens_bt[:1, :4], site)
    if subject.skips[site]:
        return _run_rest(subject, tokens_bt, site, acts_btd)
    return splice(subject, tokens_bt, site, lambda _: acts_btd)


@torch.no_grad()
def _can_skip(subject: Subject, tokens_bt: Tensor, site: str) -> bool:
    if not re.fullmatch(r".*\.\d+", site):
        return False
    changed: list[Tensor] = []

    def negate(acts: Tensor) -> Tensor:
        changed.append(-acts)
        return changed[0]

    whole = splice(subject, tokens_bt, site, negate)
    try:
        rest = _run_rest(subject, tokens_bt, site, changed[0])
    except Exception:  # A body that misses what a block leaves behind may fail in any way.
        return False
    return torch.equal(whole, rest)


def _run_rest(subject: Subject, tokens_bt: Tensor, site: str, acts_btd: Tensor) -> Tensor:
    blocks, index = site.rsplit(".", 1)
    with ExitStack() as stack:
        for i in range(int(index)):
            block = subject.model.get_submodule(f"{blocks}.{i}")
            stack.enter_context(_forward(block, lambda states, *args, **kwargs: states))
        last = module_at(subject, site)
        stack.enter_context(_forward(last, lambda *args, **kwargs: acts_btd))
        return run_body(subject, tokens_bt)


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    # An attribute of the instance hides the method of the class; the block keeps its place in
    # the list, so that models that look up a mask by block number still find the right one.
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
