"""What a figure or a table shows: everything that differs between two of them is config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter, model_validator

from saeflow.figures.common_settings import L0Selection, Published, ReferenceLine
from saeflow.figures.debias_settings import Circuit, DebiasContext, Methods
from saeflow.figures.decomposition_settings import Decomposition, Decompositions
from saeflow.figures.grid_settings import Context, ShownVariants
from saeflow.figures.single_l0_settings import Ablation, Bars, Metrics, Paired
from saeflow.figures.sweep_settings import Densities, Latents, Lines, Scatter, SweepContext
from saeflow.settings import Settings


class Curve(ShownVariants):
    """A metric against the measured L0, one line a variant."""

    kind: Literal["curve"]
    metric: str
    """Metric of the vertical axis."""
    y_label: str
    """Label of the vertical axis."""
    x_label: str = "L0 (measured)"
    """Label of the horizontal axis."""
    x_scale: Literal["linear", "log"] = "linear"
    """Scale of the horizontal axis; log suits grids that double."""
    l0: L0Selection = "all"
    """L0 targets that are drawn."""
    reference: ReferenceLine | None = None
    """A horizontal line."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are shown."""
        return (self.metric, *((self.reference.metric,) if self.reference else ()))


class BarPanel(Settings):
    """One panel of bars."""

    metric: str
    """Metric whose mean is the bar."""
    label: str
    """Label of the panel's axis."""


class Density(Settings):
    """The density of a per-latent value over all latents."""

    column: Literal["max_decoder_cosine", "firing_rate", "mean_activation"]
    """Column of the per-latent tables."""
    label: str
    """Label of the horizontal axis."""
    low: float
    """Left end of the axis; every value must lie between `low` and `high`."""
    high: float
    """Right end of the axis."""
    bandwidth: PositiveFloat
    """Standard deviation of the Gaussian kernel, in units of the axis."""
    reference: ReferenceLine | None = None
    """A vertical line."""

    @model_validator(mode="after")
    def _axis_has_width(self) -> Density:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self


class BarsAndDensity(ShownVariants):
    """Bars of several metrics at one L0 beside the density of a per-latent value."""

    kind: Literal["bars_and_density"]
    panels: tuple[BarPanel, ...] = Field(min_length=1, max_length=4)
    """The bar panels, left to right."""
    density: Density
    """The density panel."""
    l0: Literal["reference"] | PositiveInt = "reference"
    """The L0 target that is drawn."""
    not_measured: tuple[str, ...] = ()
    """Panels of the original that are not drawn; the caption names them."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are shown."""
        line = self.density.reference
        return (*(panel.metric for panel in self.panels), *((line.metric,) if line else ()))


class Scaling(ShownVariants):
    """Training time against the dictionary size, one line a variant, on log axes."""

    kind: Literal["scaling"]
    timing: str
    """Timing of the paper, over dictionary sizes, whose rows are shown."""
    split: str = "train"
    """Part of the corpus that was trained on."""
    metric: str = "step_seconds"
    """Metric of the vertical axis."""
    baseline: str | None = None
    """Variant whose time is taken off, round by round, so that what is left is the cost of a loss
    term; null shows whole steps."""
    factor: PositiveFloat = 1.0
    """The metric is multiplied by this."""
    y_label: str
    """Label of the vertical axis, with the unit after `factor`."""
    x_label: str = "Dictionary size"
    """Label of the horizontal axis."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are shown."""
        return (self.metric,)

    @model_validator(mode="after")
    def _baseline_is_not_shown(self) -> Scaling:
        if self.baseline in self.variants:
            raise ValueError(f"baseline {self.baseline!r} less itself is nothing to show")
        return self


class TableShown(ShownVariants):
    """What all tables have in common."""

    timing: str | None = None
    """Timing of the paper whose rows are shown; null shows the grid's metrics."""
    published: Published | None = None
    """The paper's numbers, as a block of their own."""


class Sweep(TableShown):
    """A metric per variant (rows) and L0 target (columns)."""

    kind: Literal["sweep"]
    metric: str
    """Metric in the cells."""
    decimals: int = Field(default=4, ge=0, le=8)
    """Decimals of means and half-widths."""
    best: Literal["min", "max"] | None = None
    """Which end is better; null marks no cell."""
    l0: L0Selection = "all"
    """L0 targets that are columns."""
    levels: dict[str, str] = Field(default_factory=dict)
    """Label to metric of numbers for the caption, averaged over all cells."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are shown."""
        return (self.metric, *self.levels.values())


class Ratio(TableShown):
    """A cost per variant and its ratio to a baseline, paired by seed (for timings: by round)."""

    kind: Literal["ratio"]
    metric: str
    """Metric in the cells."""
    unit: str
    """Heading of the first column, with the unit after `factor`."""
    factor: PositiveFloat = 1.0
    """The metric is multiplied by this."""
    baseline: str
    """Variant that the ratios refer to."""
    decimals: int = Field(default=1, ge=0, le=8)
    """Decimals of the first column; ratios have two."""
    l0: Literal["reference"] | PositiveInt = "reference"
    """The L0 target that was timed."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are shown."""
        return (self.metric,)

    @model_validator(mode="after")
    def _baseline_is_shown(self) -> Ratio:
        if self.baseline not in self.variants:
            raise ValueError(f"baseline {self.baseline!r} is not among variants {self.variants}")
        return self


GridFigure: TypeAlias = Curve | BarsAndDensity | Scaling | Ablation | Paired | Bars | Decomposition
GridTable: TypeAlias = Sweep | Ratio | Metrics | Decompositions
Figure: TypeAlias = GridFigure | Lines | Densities | Scatter | Circuit
Table: TypeAlias = GridTable | Methods | Latents
FigureSettings = Annotated[Figure, Field(discriminator="kind")]
TableSettings = Annotated[Table, Field(discriminator="kind")]
AnyContext: TypeAlias = Context | SweepContext | DebiasContext


def parse_figure(section: Mapping[str, Any] | Figure) -> Figure:
    """Return the figure that a config section describes; raises pydantic.ValidationError."""
    return TypeAdapter(FigureSettings).validate_python(section)


def parse_table(section: Mapping[str, Any] | Table) -> Table:
    """Return the table that a config section describes; raises pydantic.ValidationError."""
    return TypeAdapter(TableSettings).validate_python(section)


def parse_context(section: Mapping[str, Any] | AnyContext) -> AnyContext:
    """Return the context of a grid's, a sweep's or the debiasing experiment's figure."""
    return TypeAdapter(AnyContext).validate_python(section)
