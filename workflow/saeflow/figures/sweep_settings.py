"""What figures and tables of a sweep show: series of SAEs that are measured on the same text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from saeflow.figures.common_settings import (
    Described,
    FixedLine,
    L0Selection,
    ReferenceLine,
    SAEContext,
)
from saeflow.settings import Settings

# Files by the measure whose folder holds them.
MEASURE_OF = {
    "core": "core",
    "pareto": "pareto",
    "curves": "tokens",
    "concept_recall": "concepts",
    "types": "tokens",
    "scores": "explained",
    "ratios": "ratios",
    "map": "map",
    "debias": "debias",
    "nodes": "debias",
    "edges": "debias",
}
# One folder for all series of a sweep; of the others, each series has its own.
SHARED_MEASURES = frozenset({"map"})


class SweepContext(SAEContext):
    """The origin of a figure of a sweep."""

    split: str
    """Held-out part of the corpus that is measured."""
    trained_on: dict[str, str]
    """Corpus of training of each series."""
    training_tokens: dict[str, PositiveInt]
    """Activations that each SAE of a series saw; of a fine-tuned one, in fine-tuning."""


class SweepShown(Described):
    """What figures and tables of a sweep have in common."""

    sweep: str
    """Sweep of the paper whose series are shown."""
    tested: str
    """Text of the sweep on which they were measured."""
    series: tuple[str, ...] = Field(min_length=1)
    """Series in drawing order."""

    @model_validator(mode="after")
    def _series_are_distinct(self) -> SweepShown:
        if len(set(self.series)) < len(self.series):
            raise ValueError(f"series {self.series} holds one twice")
        return self


class LinePanel(Settings):
    """One panel of lines: a metric against what its file is over."""

    file: Literal["core", "pareto", "curves", "concept_recall"]
    """Metric file that holds the metric. The horizontal axis is the measured L0 for core and
    pareto, the column `x` for curves, and the frequency after `metric`@ for concept_recall."""
    metric: str
    """Metric of the vertical axis."""
    title: str = ""
    """Heading of the panel; only useful beside another."""
    x_label: str = "L0 (measured)"
    """Label of the horizontal axis."""
    y_label: str
    """Label of the vertical axis."""
    x_scale: Literal["linear", "log"] = "linear"
    """Scale of the horizontal axis."""
    x_from: float | None = None
    """Left end of the horizontal axis; null leaves room for all that is drawn."""
    x_to: float | None = None
    """Right end of the horizontal axis."""
    y_scale: Literal["linear", "log"] = "linear"
    """Scale of the vertical axis; on a log axis means are geometric and zeros are left out."""
    l0: L0Selection = "all"
    """L0 targets that are drawn, where the horizontal axis is L0."""
    series: tuple[str, ...] | None = None
    """Series of this panel; null draws all of the figure's."""
    reference: ReferenceLine | FixedLine | None = None
    """A horizontal line."""

    @model_validator(mode="after")
    def _axis_has_width(self) -> LinePanel:
        if self.x_from is not None and self.x_to is not None and self.x_from >= self.x_to:
            raise ValueError(f"x_from {self.x_from:g} must be below x_to {self.x_to:g}")
        return self

    @property
    def over_l0(self) -> bool:
        """Whether the horizontal axis is L0."""
        return self.file in ("core", "pareto")


class Window(Settings):
    """A range of L0 that is shaded, e.g. one for which the paper states something."""

    low: PositiveFloat
    """Smallest L0."""
    high: PositiveFloat
    """Largest L0."""
    label: str
    """Name in the legend."""

    @model_validator(mode="after")
    def _has_width(self) -> Window:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self


class Lines(SweepShown):
    """Panels of lines, one a series, with 95% intervals over seeds."""

    kind: Literal["lines"]
    panels: tuple[LinePanel, ...] = Field(min_length=1, max_length=3)
    """The panels, left to right."""
    shade: Window | None = None
    """Range that is shaded in panels whose horizontal axis is L0."""

    @model_validator(mode="after")
    def _panels_draw_known_series(self) -> Lines:
        for panel in self.panels:
            foreign = sorted(set(panel.series or ()) - set(self.series))
            if foreign:
                raise ValueError(f"panel {panel.metric!r}: series {foreign} are not the figure's")
        return self

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures whose folders are read."""
        return tuple(dict.fromkeys(MEASURE_OF[panel.file] for panel in self.panels))


class DensityPanel(Settings):
    """The density of one value over token types or latents."""

    file: Literal["types", "scores", "ratios"]
    """Table that holds the value: of token types, of explained latents, or of log ratios of the
    latents' activation counts to the baseline's."""
    column: str
    """Column of the value."""
    label: str
    """Label of the horizontal axis."""
    low: float | None = None
    """Left end of the axis; null follows from `beyond`."""
    high: float | None = None
    """Right end of the axis; null follows from `beyond`."""
    beyond: float = Field(default=0.005, ge=0, lt=0.5)
    """Share of the values of all series that may lie beyond an end that is null: a few extreme ones
    would squeeze the others into a corner. 0 shows every value."""
    bandwidth: float = Field(default=0.03, gt=0, lt=1)
    """Standard deviation of the Gaussian kernel as a share of the axis: 0.03 shows the shape of
    some hundred values and hides their grain."""
    reference: FixedLine | None = None
    """A vertical line."""

    @model_validator(mode="after")
    def _axis_has_width(self) -> DensityPanel:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self


class Densities(SweepShown):
    """One or two panels of densities, one line a series: means over seeds."""

    kind: Literal["densities"]
    panels: tuple[DensityPanel, ...] = Field(min_length=1, max_length=2)
    """The panels, left to right."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures whose folders are read."""
        return tuple(dict.fromkeys(MEASURE_OF[panel.file] for panel in self.panels))


class Scatter(SweepShown):
    """A map of token activations and decoder directions."""

    kind: Literal["scatter"]
    layout: Literal["panels", "overlay"] = "panels"
    """A panel a series, on shared axes, or all in one: panels, since points hide one another."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures whose folders are read."""
        return ("map",)


class PublishedLatents(Settings):
    """Latents that the paper shows."""

    label: str
    """Whose latents, and of which model."""
    rows: dict[str, tuple[str, float]]
    """Latent to what it stands for and its diversity score."""


class Latents(SweepShown):
    """Latents with what a judge wrote about them (rows), a block a series."""

    kind: Literal["latents"]
    rows: PositiveInt = 4
    """Latents of each series; the paper's tables show four."""
    examples: PositiveInt = 3
    """Examples of each latent; the paper's tables show three."""
    sampling_seed: int = 0
    """Which latents are drawn from those that the judge explained and scored: all have the same
    chance, so that no latent is picked for its looks."""
    published: tuple[PublishedLatents, ...] = ()
    """The paper's own latents, a block each."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures whose folders are read."""
        return ("explained",)
