"""The activation functions as they train."""

from __future__ import annotations

from saeflow.sae.selection import SelectBatchTopK, Selection, SelectPositive, SelectTopK
from saeflow.sae.settings import SAESettings


def training_selection(settings: SAESettings) -> Selection:
    """Return the selection that a variant trains with."""
    match settings.variant.activation:
        case "relu":
            return SelectPositive()
        case "topk":
            return SelectTopK(settings.l0)
        case "batchtopk":
            return SelectBatchTopK(settings.l0)
