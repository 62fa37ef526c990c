"""The words under figures and tables: what is shown, how far it goes, and what is not shown."""

from __future__ import annotations

from collections.abc import Mapping

from saeflow.figures.settings import BarsAndDensity, Context, Curve, Ratio, Sweep


def caption_of(
    settings: Curve | BarsAndDensity | Sweep | Ratio,
    context: Context,
    levels: Mapping[str, str] | None = None,
) -> str:
    """Return the caption: what is shown, its spread, what is missing and where it comes from.

    `levels` are a sweep's printed levels by label.
    """
    parts = [settings.caption]
    parts += [f"{label[:1].upper()}{label[1:]}: {text}." for label, text in (levels or {}).items()]
    parts.append(_spread(settings, context))
    if isinstance(settings, BarsAndDensity | Ratio):
        parts.append(f"L0 target {_l0(settings.l0, context)}.")
    if isinstance(settings, BarsAndDensity) and settings.not_measured:
        parts.append(f"Not measured, so not drawn: {', '.join(settings.not_measured)}.")
    if isinstance(settings, Sweep) and settings.best:
        parts.append("Bold: the best of its column, where its interval overlaps no other's.")
    parts.append(
        f"Subject {context.subject} at {context.site}, corpus {context.corpus}, {context.scale} "
        f"scale, d_sae {context.d_sae:,}, {context.training_tokens:,} training tokens; "
        f"{settings.source}."
    )
    return " ".join(parts)


def _l0(selection: str | int, context: Context) -> int:
    return context.reference_l0 if isinstance(selection, str) else selection


def _spread(settings: Curve | BarsAndDensity | Sweep | Ratio, context: Context) -> str:
    if isinstance(settings, Ratio):
        return "Mean ± half the width of the 95% t-interval over rounds; ratios with both ends."
    count = len(context.seeds)
    if count == 1:
        return "One seed, so no interval."
    if isinstance(settings, Sweep):
        return f"Mean ± half the width of the 95% t-interval over {count} seeds."
    return f"Mean with 95% t-interval over {count} seeds."
