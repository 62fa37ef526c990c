"""One clean pass over a batch of text up to a site, and the rows there that count."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from saeflow.activations.exclusion import Exclusion
from saeflow.activations.rows import has_bfloat16
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import run_to_sites


class SiteRows(NamedTuple):
    """Activations of a batch at a site, and which of its positions are rows."""

    tokens_bt: Tensor
    acts_btd: Tensor
    kept_bt: Tensor
    """The positions that the activation cache would hold."""
    predicting_bt: Tensor
    """Those whose next token is inside the window: not padding, not past the end."""

    @property
    def x_nd(self) -> Tensor:
        """The activations (n, d_in) of the rows, in float32."""
        return self.acts_btd[self.kept_bt].float()

    @property
    def types_n(self) -> Tensor:
        """The token ids (n,) of the rows."""
        return self.tokens_bt[self.kept_bt]


def arithmetic(
    subject: Subject, precision: Literal["auto", "float32", "bfloat16"]
) -> torch.autocast:
    """Return the context of the subject's passes.

    `auto` is bfloat16 where the device computes in it.
    """
    device = subject.device.type
    low = precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))
    return torch.autocast(device, torch.bfloat16, enabled=low)


@torch.no_grad()
def read_site(
    subject: Subject,
    site: str,
    rule: Exclusion,
    batch: tuple[Tensor, Tensor],
    context: torch.autocast,
) -> SiteRows:
    """Return the rows of a batch: tokens (b, t) padded on the right, and lengths (b,)."""
    tokens_bt, lengths_b = batch[0].to(subject.device), batch[1]
    with context:
        acts = run_to_sites(subject, tokens_bt, sorted({site, *rule.thresholds}))
    kept_bt = rule.kept(tokens_bt, lengths_b, acts)
    last_b1 = (lengths_b - 1).to(kept_bt.device)[:, None]
    before_last_bt = torch.arange(kept_bt.shape[1], device=kept_bt.device) < last_b1
    return SiteRows(tokens_bt, acts[site], kept_bt, kept_bt & before_last_bt)


def check_width(subject: Subject, site: str, width: int, d_in: int) -> None:
    """Raise ValueError unless the site's `width` is that which the SAEs read."""
    if width != d_in:
        raise ValueError(f"site {site} of {subject.name} is {width} wide, the SAEs read {d_in}")
