"""What is trained and compared: grids of variants, sweeps of series, SAEs of many sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from saeflow.debias.settings import DebiasSettings
from saeflow.settings import Settings

Item = TypeVar("Item")


def _distinct(values: tuple[Item, ...]) -> tuple[Item, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"lists a value twice: {', '.join(map(str, values))}")
    return values


Distinct = Annotated[tuple[Item, ...], Field(min_length=1), AfterValidator(_distinct)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]


class Point(Settings):
    """One SAE configuration; its seeds are trained apart and evaluated together."""

    subject: str
    site: str
    corpus: str
    variant: str
    d_sae: PositiveInt
    l0: PositiveInt

    @property
    def path(self) -> str:
        """The point's place below `saes/` and `metrics/core/`."""
        return f"{self.subject}/{self.site}/{self.corpus}/{self.variant}/d{self.d_sae}-l0_{self.l0}"


class _Sparsities(Settings):
    """A site of a subject, and the dictionary size and sparsity levels of its SAEs."""

    subject: Name
    """Subject of `subjects`."""
    site: str
    """Module of the subject whose output is reconstructed."""
    d_sae: PositiveInt
    """Dictionary size."""
    l0: Distinct[PositiveInt]
    """Sparsity levels."""
    reference_l0: PositiveInt
    """The level of single-L0 figures and claims."""

    @model_validator(mode="after")
    def _consistent(self) -> _Sparsities:
        if self.reference_l0 not in self.l0:
            raise ValueError(f"reference_l0 {self.reference_l0} is not one of l0 {self.l0}")
        if max(self.l0) > self.d_sae:
            raise ValueError(
                f"l0 {max(self.l0)} exceeds d_sae {self.d_sae}: k must be at most d_sae"
            )
        return self

    def _points(self, corpus: str, variant: str) -> Iterator[Point]:
        site = {"subject": self.subject, "site": self.site, "d_sae": self.d_sae}
        for l0 in self.l0:
            yield Point(**site, corpus=corpus, variant=variant, l0=l0)


class Grid(_Sparsities):
    """SAEs to train on one site: variants x L0 (x the seeds of the config)."""

    like: str | None = None
    """Grid of the same paper that gives what this one leaves out, at its reference L0 alone."""

    corpus: Name
    """Corpus of `corpora` whose activations are cached and whose held-out part is evaluated."""
    variants: Distinct[str]
    """Variants of `variants`."""
    baseline: str
    """The variant whose latents those of the others are compared with."""

    @property
    def series(self) -> dict[str, Series]:
        """The variants as series of a sweep, for measures of either."""
        return {name: Series(corpus=self.corpus, variant=name) for name in self.variants}

    @property
    def tested(self) -> dict[str, Tested]:
        """What they are measured on: held-out text of their corpus, by its name."""
        return {self.corpus: Tested(corpus=self.corpus)}

    def selection(self, series: str) -> str:
        """Return what the SAEs of a variant were trained on: the corpus as it is."""
        return "all"

    def points(self, series: str | None = None) -> Iterator[Point]:
        """Yield the points of a variant, or of all."""
        for variant in self.variants if series is None else (series,):
            yield from self._points(self.corpus, variant)


def completed(name: str, grids: Mapping[str, Any]) -> Any:
    """Return the section of the grid `name` with what it takes over from the one that it is `like`.

    What is no section is left for the check of the settings. Raises ValueError where there is no
    such grid, or one that itself is like another.
    """
    grid = grids[name]
    if not isinstance(grid, dict) or grid.get("like") is None:
        return grid
    other = grids.get(grid["like"])
    if not isinstance(other, dict) or other.get("like") is not None:
        whole = [n for n, g in grids.items() if isinstance(g, dict) and g.get("like") is None]
        raise ValueError(f"grids.{name}.like: {grid['like']!r} is not one of {', '.join(whole)}")
    taken = {key: other[key] for key in ("subject", "corpus", "site", "d_sae") if key in other}
    reference = grid.get("reference_l0", other.get("reference_l0"))
    levels = {} if reference is None else {"reference_l0": reference, "l0": [reference]}
    return {**taken, **levels, **grid}


class Series(Settings):
    """A line of a comparison: SAEs of one variant, trained on one corpus, at every L0."""

    corpus: Name
    """Corpus of `corpora` that they are trained on: general, of a domain, or selected."""
    variant: str
    """Variant of `variants`."""
    label: str = ""
    """Name in figures and tables."""


class Tested(Settings):
    """Text on which every series of a sweep is measured."""

    corpus: Name
    """Corpus of `corpora`."""
    split: Literal["validation", "test"] = "test"
    """Its held-out part."""


class L0Window(Settings):
    """A range of L0 for which a paper states something."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _has_width(self) -> L0Window:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self


class SeriesGrid(_Sparsities):
    """SAEs of several origins, compared on the same text: series x L0 (x the seeds)."""

    baseline: Name
    """The series that perplexity is related to at matched L0: the general-purpose SAE."""
    series: dict[Name, Series] = Field(min_length=1)
    """What is compared. In metrics, `variant` is the name of a series and `selection` the corpus
    that it was trained on."""
    tested: dict[Name, Tested] = Field(min_length=1)
    """What it is measured on."""
    window: L0Window | None = None
    """What `at_l0: inside` and `outside` mean in claims, by L0 target."""

    @model_validator(mode="after")
    def _has_its_baseline(self) -> SeriesGrid:
        if self.baseline not in self.series:
            raise ValueError(
                f"baseline {self.baseline!r} is not one of the series {', '.join(self.series)}"
            )
        return self

    def selection(self, series: str) -> str:
        """Return what the SAEs of a series were trained on."""
        return self.series[series].corpus

    def points(self, series: str | None = None) -> Iterator[Point]:
        """Yield the points of a series, or of all."""
        for name in self.series if series is None else (series,):
            yield from self._points(self.series[name].corpus, self.series[name].variant)


class Timing(Settings):
    """Training time of several variants, measured side by side in one process."""

    grid: Name
    variants: Annotated[Distinct[str], Field(min_length=2)]
    """Variants to time."""
    d_sae: Distinct[PositiveInt] | None = None
    """Dictionary sizes at each of which all variants are timed; null takes the grid's. Tables and
    claims are of the grid, so that they show timings at its size only."""
    rounds: PositiveInt = 10
    """Rounds; in each, every variant takes its turn."""
    steps: PositiveInt = 20
    """Training steps of one turn."""


class SiteSAEs(Settings):
    """SAEs of one kind for all sites of a debiasing experiment, trained by the workflow."""

    source: Literal["trained"] = "trained"
    corpus: Name
    """Corpus of `corpora` that they are trained on."""
    variant: str
    """Variant of `variants`."""
    d_sae: PositiveInt
    """Dictionary size."""
    l0: PositiveInt
    """Sparsity."""


class SiteFolders(Settings):
    """SAEs of one kind from elsewhere, in any layout that `formats.load_sae` reads."""

    source: Literal["folder"]
    path: str
    """Folder or file below `data_dir`; `{site}` in it stands for the module of each site."""
    d_sae: PositiveInt
    """Dictionary size, which figures state."""


class Debiasing(Settings):
    """Removing a classifier's shortcut by ablating latents of SAEs at many sites."""

    subject: Name
    """Subject of `subjects` that the classifier reads."""
    corpus: Name
    """Corpus of `corpora` with the labelled biographies."""
    saes: dict[Name, Annotated[SiteSAEs | SiteFolders, Field(discriminator="source")]] = Field(
        min_length=1
    )
    """Kinds of SAE that are compared; the first is the general-purpose one."""
    protocol: DebiasSettings
    """What is done, with one seed of everything at a time."""

    def points(self) -> dict[str, list[Point]]:
        """Return the SAEs of all sites by kind, of the kinds that the workflow trains."""
        return {
            kind: [
                Point(subject=self.subject, site=site, **saes.model_dump(exclude={"source"}))
                for site in self.protocol.sites.values()
            ]
            for kind, saes in self.saes.items()
            if isinstance(saes, SiteSAEs)
        }
