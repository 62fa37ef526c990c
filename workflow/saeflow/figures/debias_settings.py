"""What figures and tables of the debiasing experiment show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from saeflow.figures.circuit_settings import CircuitStyle
from saeflow.figures.common_settings import Described, Published
from saeflow.settings import Settings


class DebiasContext(Settings):
    """What a figure of the debiasing experiment says about its own origin."""

    scale: str
    """Name of the scale, e.g. desk."""
    subject: str
    """Name of the model whose classifier is debiased."""
    site: str
    """Module whose output the classifier reads."""
    sites: PositiveInt
    """How many sites have an SAE."""
    corpus: str
    """Corpus of biographies."""
    d_sae: PositiveInt
    """Dictionary size."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Seeds of SAEs and classifiers."""
    judge: str
    """Who decided which latents are about gender."""
    generated: bool = False
    """Whether the people of the biographies are invented."""


class MethodColumn(Settings):
    """A column of a table of methods."""

    metric: str
    """Metric in the cells, a share that is printed in percent."""
    label: str
    """Heading."""
    best: Literal["min", "max"]
    """Which end is better."""


class MethodGroup(Settings):
    """Methods of one category, of which the best is marked."""

    label: str
    """Name of the category, for the caption."""
    methods: dict[str, str] = Field(min_length=1)
    """Method to its name in the table, in order."""


class Methods(Described):
    """Accuracies of debiasing methods (rows) beside the paper's."""

    kind: Literal["methods"]
    columns: tuple[MethodColumn, ...] = Field(min_length=1)
    """The columns, left to right."""
    groups: tuple[MethodGroup, ...] = Field(min_length=1)
    """The rows, by category."""
    decimals: int = Field(default=1, ge=0, le=4)
    """Decimals of percentages."""
    published: Published | None = None
    """The paper's numbers, as further columns; its rows are named as this table's."""

    @model_validator(mode="after")
    def _rows_are_named_once(self) -> Methods:
        labels = list(self.labels)
        if len(set(labels)) < len(labels):
            raise ValueError(f"methods {labels} holds one twice")
        foreign = sorted(set(self.published.rows if self.published else ()) - set(labels))
        if foreign:
            raise ValueError(f"published.rows {foreign} are not rows of the table: {labels}")
        return self

    @property
    def labels(self) -> Iterator[str]:
        """Names of the rows, in order."""
        return (label for group in self.groups for label in group.methods.values())

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures whose folders are read."""
        return ("debias",)


class Circuit(Described):
    """The classifier's circuit of latents with the SAEs of one kind patched in, at one seed."""

    kind: Literal["circuit"]
    sae: str
    """Kind of SAE whose circuit is drawn, e.g. gsae or ssae."""
    style: CircuitStyle = CircuitStyle()
    """How much of it is drawn."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures whose folders are read."""
        return ("debias",)
