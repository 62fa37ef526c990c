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
