"""What is shown of a grid at one L0: ablations, pairs of metrics, bars, tables of metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from saeflow.figures.common_settings import Published, ReferenceLine
from saeflow.figures.grid_settings import Shown, ShownVariants
from saeflow.settings import Settings


class AblationPanel(Settings):
    """One panel of an ablation."""

    metric: str
    """Metric of the vertical axis."""
    y_label: str
    """Label of the vertical axis."""
    reference: ReferenceLine | None = None
    """A horizontal line."""


class Ablation(Shown):
    """Metrics against a number in which variants differ, e.g. the weight of a loss term."""

    kind: Literal["ablation"]
    lines: dict[str, Annotated[dict[float, str], Field(min_length=1)]] = Field(min_length=1)
    """Name of each line to its points: the number, and the variant that has it. A variant may lie
    on several lines."""
    levels: tuple[str, ...] = ()
    """Variants to compare with, which have no such number: horizontal lines."""
    panels: tuple[AblationPanel, ...] = Field(min_length=1, max_length=4)
    """The panels, left to right."""
    x_label: str
    """Label of the horizontal axes."""
    x_scale: Literal["linear", "log"] = "log"
    """Scale of the horizontal axes; log suits numbers that double."""
    l0: Literal["reference"] | PositiveInt = "reference"
    """The L0 target that is drawn."""

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that are shown: all that lines and levels name."""
        on_lines = [variant for line in self.lines.values() for variant in line.values()]
        return tuple(dict.fromkeys([*on_lines, *self.levels]))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are shown."""
        lines = [panel.reference.metric for panel in self.panels if panel.reference]
        return (*(panel.metric for panel in self.panels), *lines)

    @model_validator(mode="after")
    def _axis_has_place(self) -> Ablation:
        lowest = min(min(line) for line in self.lines.values())
        if self.x_scale == "log" and lowest <= 0:
            raise ValueError(f"lines: {lowest:g} has no place on a log axis; set x_scale: linear")
        return self

    @model_validator(mode="after")
    def _levels_are_distinct(self) -> Ablation:
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels {self.levels} holds one twice")
        return self


class Paired(ShownVariants):
    """A metric against another, both measured at several levels: one line a variant."""

    kind: Literal["paired"]
    x: str
    """Metric of the horizontal axis, without the level that its rows have after an @."""
    y: str
    """Metric of the vertical axis; points are what both metrics have at the same level."""
    x_label: str
    """Label of the horizontal axis."""
    y_label: str
    """Label of the vertical axis."""
    x_scale: Literal["linear", "log"] = "linear"
    """Scale of the horizontal axis; on a log axis means are geometric."""
    y_scale: Literal["linear", "log"] = "linear"
    """Scale of the vertical axis; on a log axis means are geometric."""
    l0: Literal["reference"] | PositiveInt = "reference"
    """The L0 target that is drawn."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are shown."""
        return (self.x, self.y)

    @model_validator(mode="after")
    def _metrics_are_of_all_levels(self) -> Paired:
        for metric in self.metrics:
            if "@" in metric:
                raise ValueError(f"{metric!r} is of one level; leave out what follows the name")
        return self


class Bar(Settings):
    """One bar: a metric of a variant."""

    variant: str
    """Variant of which the metric is."""
    metric: str
    """Metric whose mean is the bar."""
    label: str
    """Name beside the bar."""
    look: str | None = None
    """Variant whose colour and hatch the bar has; null is its own. What a metric says of the
    baseline of a comparison should look like the baseline."""


class BarsPanel(Settings):
    """Bars on one axis."""

    label: str
    """Label of the axis."""
    bars: tuple[Bar, ...] = Field(min_length=1)
    """The bars, top to bottom."""


class Bars(Shown):
    """Panels of lying bars, each of a metric and a variant of its own."""

    kind: Literal["bars"]
    panels: tuple[BarsPanel, ...] = Field(min_length=1, max_length=4)
    """The panels, left to right."""
    l0: Literal["reference"] | PositiveInt = "reference"
    """The L0 target that is drawn."""

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that are shown: all that bars name."""
        return tuple(dict.fromkeys(bar.variant for panel in self.panels for bar in panel.bars))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are shown."""
        return tuple(dict.fromkeys(bar.metric for panel in self.panels for bar in panel.bars))


class MetricsColumn(Settings):
    """One column of a table of metrics."""

    metric: str
    """Metric in the cells."""
    label: str
    """Heading."""
    decimals: int = Field(default=3, ge=0, le=8)
    """Decimals of means and half-widths."""
    best: Literal["min", "max"] | None = None
    """Which end is better; null marks no cell."""


class Metrics(ShownVariants):
    """Several metrics (columns) of each variant (rows) at one L0."""

    kind: Literal["metrics"]
    columns: tuple[MetricsColumn, ...] = Field(min_length=1)
    """The columns, left to right."""
    l0: Literal["reference"] | PositiveInt = "reference"
    """The L0 target that is shown."""
    published: Published | None = None
    """The paper's numbers, as a block of their own."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are shown."""
        return tuple(column.metric for column in self.columns)

    @model_validator(mode="after")
    def _headings_are_distinct(self) -> Metrics:
        labels = [column.label for column in self.columns]
        if len(set(labels)) < len(labels):
            raise ValueError(f"columns have a label twice: {labels}")
        return self
