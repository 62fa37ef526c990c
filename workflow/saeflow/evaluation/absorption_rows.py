"""Rows of single tokens in classes, and how they are read from a subject."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saeflow.activations.windows import Window, group_by_length, pad
from saeflow.evaluation.pooled import Site
from saeflow.evaluation.site_rows import arithmetic, read_site
from saeflow.progress import Progress, say


class LabelledRows(NamedTuple):
    """Activations of single tokens, each of one class of a concept."""

    x_nd: Tensor
    """Activations (n, d_in)."""
    class_n: Tensor
    """Each row's class, an index of `classes`."""
    held_out_n: Tensor
    """Whether a row is held out (bool): probes are trained on the others."""
    parts: list[str]
    """What tells apart the rows of a class: the word, or the subpackage."""
    classes: list[str]


class Place(NamedTuple):
    """A text up to the token whose activation is read, with its class and part."""

    tokens: list[int]
    """As the subject reads them, the begin token first where it has one."""
    class_name: str
    part: str
    held_out: bool


@torch.no_grad()
def read_places(site: Site, places: Sequence[Place], classes: Iterable[str] = ()) -> LabelledRows:
    """Return the activations at the last tokens of places, in their order.

    Those that the site's rule leaves out are no rows. `classes` are classes that there are besides
    those of the places. Raises ValueError if no row is left.
    """
    context = arithmetic(site.subject, site.precision)
    windows = [Window(i, 0, np.asarray(place.tokens)) for i, place in enumerate(places)]
    acts: list[Tensor] = []
    kept: list[Tensor] = []
    order: list[int] = []
    with Progress(len(windows), "rows", f"reading {site.name}") as progress:
        for batch in group_by_length(windows, site.batch_tokens, np.random.default_rng(0)):
            rows = read_site(site.subject, site.name, site.rule, pad(batch), context)
            last_b = [len(window.tokens) - 1 for window in batch]
            acts.append(rows.acts_btd[range(len(batch)), last_b].float())
            kept.append(rows.kept_bt[range(len(batch)), last_b].cpu())
            order.extend(window.document for window in batch)
            progress.update(len(batch))
    back_n = torch.tensor(order).argsort()
    kept_n = torch.cat(kept)[back_n]
    if not kept_n.any():
        raise ValueError(f"none of the {len(places)} tokens counts at {site.name}: all excluded")
    if not kept_n.all():
        say(f"{int((~kept_n).sum())} of {len(places)} tokens do not count; left out")
    left = [place for place, keep in zip(places, kept_n.tolist(), strict=True) if keep]
    x_nd = torch.cat(acts)
    return labelled(x_nd[back_n[kept_n].to(x_nd.device)], left, classes)


def labelled(x_nd: Tensor, places: Sequence[Place], classes: Iterable[str] = ()) -> LabelledRows:
    """Return activations (n, d_in) with the classes and parts of as many places."""
    names = sorted({*classes, *(place.class_name for place in places)})
    return LabelledRows(
        x_nd,
        torch.tensor([names.index(place.class_name) for place in places]),
        torch.tensor([place.held_out for place in places]),
        [place.part for place in places],
        names,
    )
