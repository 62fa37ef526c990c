"""What every figure and table has in common, whatever it is made from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from saeflow.settings import Settings

L0Selection = Literal["all", "reference"] | tuple[PositiveInt, ...]


class Described(Settings):
    """What stands around a figure or a table."""

    title: str
    """Heading in the report."""
    source: str
    """The published original, e.g. "after OrtSAE Fig. 3a"."""
    statement: str
    """What the paper says about it."""
    caption: str
    """What is shown here, and how it was measured."""


class SAEContext(Settings):
    """What a figure says about its own origin, and the SAEs that it must find complete."""

    scale: str
    """Name of the scale, e.g. desk."""
    subject: str
    """Name of the model that is interpreted."""
    site: str
    """Module whose output the SAEs read."""
    corpus: str
    """Corpus that is measured; those of a grid are trained on it, too."""
    d_sae: PositiveInt
    """Dictionary size."""
    l0s: tuple[PositiveInt, ...] = Field(min_length=1)
    """The L0 targets of the grid or sweep: what `all` means."""
    reference_l0: PositiveInt
    """The one L0 of figures that show a single sparsity."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Seeds that every point must have."""
    labels: dict[str, str]
    """Name of each variant or series in figures and tables."""

    @model_validator(mode="after")
    def _reference_is_among_them(self) -> SAEContext:
        if self.reference_l0 not in self.l0s:
            raise ValueError(f"reference_l0 {self.reference_l0} is not among l0s {self.l0s}")
        return self


class ReferenceLine(Settings):
    """A level to compare with: the mean of a metric over all drawn points."""

    metric: str
    """Metric that gives the level."""
    label: str
    """Name beside the line."""


class FixedLine(Settings):
    """A level to compare with that is known beforehand, e.g. a ratio of 1."""

    value: float
    """The level."""
    label: str
    """Name beside the line."""


class Published(Settings):
    """The paper's own numbers, shown as a block of their own."""

    label: str
    """Whose numbers, and on which model."""
    columns: tuple[str, ...] = Field(min_length=1)
    """Column headings."""
    rows: dict[str, tuple[float | None, ...]]
    """Row label to one number a column."""
    decimals: tuple[int, ...]
    """Decimals of each column."""

    @model_validator(mode="after")
    def _rows_fit_columns(self) -> Published:
        for label, numbers in {**self.rows, "decimals": self.decimals}.items():
            if len(numbers) != len(self.columns):
                raise ValueError(
                    f"{label} has {len(numbers)} entries for {len(self.columns)} columns"
                )
        return self
