"""Where a figure's or a table's numbers come from, in words: for its footer and its caption."""

from __future__ import annotations

from saeflow.figures.decomposition_settings import Decomposition, Decompositions
from saeflow.figures.settings import (
    AnyContext,
    Circuit,
    Context,
    Curve,
    DebiasContext,
    Densities,
    Figure,
    Latents,
    Lines,
    Methods,
    Ratio,
    Scaling,
    Scatter,
    Sweep,
    SweepContext,
    Table,
)
from saeflow.figures.single_l0_settings import Metrics, Paired


def footer_parts(
    settings: Figure, context: AnyContext, judge: str | None = None
) -> tuple[str, ...]:
    """Return what the footer says, part by part; `judge` explained and scored the latents."""
    l0 = single_l0(settings, context)
    return (
        settings.source,
        f"{context.subject} at {context.site}",
        *_text_and_training(context, settings),
        *(() if isinstance(settings, Scaling) else (f"d_sae {context.d_sae:,}",)),
        *(() if l0 is None else (f"L0 {l0}",)),
        _short_spread(settings, context),
        *(() if judge is None else (f"judge: {judge}",)),
    )


def single_l0(settings: Figure | Table, context: AnyContext) -> int | None:
    """Return the one L0 target that is shown, or None where there are several or none."""
    if isinstance(context, DebiasContext) or isinstance(settings, Curve | Sweep):
        return None
    if isinstance(settings, Lines) and any(panel.over_l0 for panel in settings.panels):
        return None
    chosen = getattr(settings, "l0", None)
    return chosen if isinstance(chosen, int) else context.reference_l0


def _text_and_training(context: AnyContext, settings: Figure) -> tuple[str, ...]:
    if isinstance(context, DebiasContext):
        people = f"generated {context.corpus}" if context.generated else context.corpus
        return f"{people}, {context.scale} scale", f"SAEs at {context.sites} sites"
    if isinstance(settings, Scaling):  # of SAEs that are trained for some steps only
        return (f"{context.corpus}, {context.scale} scale",)
    if isinstance(context, Context):
        tokens = short_count(context.training_tokens)
        return f"{context.corpus}, {context.scale} scale", f"{tokens} training tokens"
    counts = sorted(set(context.training_tokens.values()))
    tokens = "-".join(dict.fromkeys(short_count(count) for count in (counts[0], counts[-1])))
    text = f"measured on {context.corpus} ({context.split}), {context.scale} scale"
    return text, f"{tokens} training tokens"


def _short_spread(settings: Figure, context: AnyContext) -> str:
    if isinstance(settings, Scaling):
        return "geometric mean and 95% t-interval over rounds"
    seeds = ", ".join(str(seed) for seed in context.seeds)
    if isinstance(settings, Scatter | Circuit | Decomposition):
        return f"seed {context.seeds[0]}"
    if isinstance(settings, Densities):
        return f"mean over seeds {seeds}" if len(context.seeds) > 1 else f"seed {seeds}"
    if len(context.seeds) == 1:
        return f"1 seed ({seeds}), no interval"
    mean = "mean (geometric on log axes)" if _has_log_axis(settings) else "mean"
    return f"seeds {seeds}: {mean} and 95% t-interval"


def _has_log_axis(settings: Figure | Table) -> bool:
    """Whether means are taken of logarithms somewhere in the figure."""
    if isinstance(settings, Paired):
        return "log" in (settings.x_scale, settings.y_scale)
    return isinstance(settings, Lines) and any(p.y_scale == "log" for p in settings.panels)


def spread_sentence(settings: Figure | Table, context: AnyContext) -> str:
    """Return how the caption says what is averaged and what an interval is."""
    count = len(context.seeds)
    if isinstance(settings, Decompositions):
        return f"One seed ({context.seeds[0]}), sums drawn at random."
    if isinstance(settings, Scatter | Circuit | Decomposition):
        return f"One seed ({context.seeds[0]})."
    if isinstance(settings, Latents):
        return (
            f"One seed ({context.seeds[0]}), latents drawn at random from those that were scored."
        )
    if isinstance(settings, Scaling):
        return "Geometric mean with 95% t-interval over rounds."
    if isinstance(settings, Ratio):
        return "Mean ± half the width of the 95% t-interval over rounds; ratios with both ends."
    if count == 1:
        return "One seed, so no interval."
    if isinstance(settings, Densities):
        return f"Gaussian kernel, mean over {count} seeds."
    if isinstance(settings, Sweep | Metrics | Methods):
        return f"Mean ± half the width of the 95% t-interval over {count} seeds."
    mean = "Mean (geometric on log axes)" if _has_log_axis(settings) else "Mean"
    return f"{mean} with 95% t-interval over {count} seeds."


def origin_sentence(settings: Figure | Table, context: AnyContext) -> str:
    """Return subject, text, training and original as the caption's last sentence."""
    where = f"Subject {context.subject} at {context.site}"
    if isinstance(settings, Scaling):
        return f"{where}, corpus {context.corpus}, {context.scale} scale; {settings.source}."
    return f"{where}, {_origin(context)}; {settings.source}."


def _origin(context: AnyContext) -> str:
    size = f"{context.scale} scale, d_sae {context.d_sae:,}"
    if isinstance(context, Context):
        tokens = f"{context.training_tokens:,} training tokens"
        return f"corpus {context.corpus}, {size}, {tokens}"
    if isinstance(context, DebiasContext):
        return (
            f"SAEs at {context.sites} sites, {'generated ' if context.generated else ''}"
            f"biographies {context.corpus}, {size}, "
            f"latents judged by {context.judge}"
        )
    return f"measured on {context.corpus} ({context.split}), {size}"


def training_sentence(series: tuple[str, ...], context: SweepContext) -> str:
    """Return on what each series was trained, and on how many activations."""
    parts = (
        f"{context.labels[name]} on {context.trained_on[name]} "
        f"({context.training_tokens[name]:,} tokens)"
        for name in series
    )
    return f"Trained, or fine-tuned: {'; '.join(parts)}."


def short_count(count: int) -> str:
    """Return 1,500,000 as 1.5M and 20,000 as 20k."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
