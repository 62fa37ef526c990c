"""Settings of a corpus: which source it is drawn from, and how it is cut."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from saeflow.corpora.derived_settings import Domain, Mixture, Planted
from saeflow.corpora.generated_settings import BiographiesSource, ExercisesSource, FactsSource
from saeflow.settings import Settings

DuplicateRule = Literal["exact", "letters", "prose"]


class CorpusSettings(Settings):
    """What every corpus has, whatever its source."""

    min_chars: int = Field(200, ge=1)
    """Shorter documents (after cleaning) are dropped."""
    max_documents: int | None = Field(None, ge=1)
    """Keep this many documents: the first in document order, a uniform sample of the source."""
    max_chars: int | None = Field(None, ge=1)
    """Keep documents, in document order, up to this many characters in all."""
    duplicates: DuplicateRule = "letters"
    """Two documents are the same if they agree in everything but white space (`exact`); in
    their letters, without case, digits and punctuation (`letters`); in their plain lower-case
    words, without names, numbers and identifiers (`prose`)."""
    validation: float = Field(0.05, ge=0, lt=1)
    """Share of the documents, by hash, that is held out for choices."""
    test: float = Field(0.05, ge=0, lt=1)
    """Share of the documents, by hash, that is held out for evaluation."""

    @model_validator(mode="after")
    def _leave_some_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation ({self.validation}) + test ({self.test}) must be below 1: "
                "the rest is what is trained on"
            )
        return self


class DomainRule(Settings):
    """Takes the domain of a row from a column, or from the file's path where none is named."""

    column: str | None = None
    """Column that holds the domain; none: the path of the row's file relative to the root."""
    pattern: str = r"(.+)"
    """Regular expression searched for in it; its first group is the domain."""

    @field_validator("pattern")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        if groups < 1:
            raise ValueError(f"{pattern!r} has no group; put the domain's part in parentheses")
        return pattern


class Rows(CorpusSettings):
    """How a row of a table becomes a document."""

    text: tuple[str, ...] = ("text",)
    """Columns that make the text, joined by an empty line."""
    domain: str | DomainRule
    """A constant, or the rule that takes it from the row."""
    labels: tuple[str, ...] = ()
    """Columns kept beside the document."""
    on_undecodable: Literal["replace", "skip-document", "strict"] = "replace"
    """Bytes that are not UTF-8 become U+FFFD and are counted, or their document is dropped and
    counted, or they end the job with the place."""

    @field_validator("text", mode="before")
    @classmethod
    def _one_or_many(cls, text: object) -> object:
        return (text,) if isinstance(text, str) else text

    @field_validator("text")
    @classmethod
    def _some_text(cls, text: tuple[str, ...]) -> tuple[str, ...]:
        if not text:
            raise ValueError("name at least one column that holds text")
        return text


class InstalledDocs(CorpusSettings):
    """English docstrings of installed Python packages, one document an object."""

    source: Literal["installed-docs"] = "installed-docs"
    packages: tuple[str, ...] = Field(
        (
            "torch",
            "transformers",
            "scipy",
            "sklearn",
            "sympy",
            "pandas",
            "networkx",
            "numpy",
            "matplotlib",
            "datasets",
            "huggingface_hub",
        ),
        min_length=1,
    )
    """Import names of top-level packages; they are read, never imported."""
    domain_depth: int = Field(2, ge=1)
    """A domain is the package path cut at this depth and before its first private part."""
    duplicates: DuplicateRule = "prose"
    min_chars: int = Field(100, ge=1)

    @field_validator("packages")
    @classmethod
    def _top_level(cls, packages: tuple[str, ...]) -> tuple[str, ...]:
        for package in packages:
            if not package.isidentifier():
                raise ValueError(f"{package!r} is not the import name of a top-level package")
        if len(set(packages)) < len(packages):
            raise ValueError("a package is named twice")
        return packages


FileFormat = Literal["txt", "jsonl", "csv", "tsv", "parquet"]


class Files(Rows):
    """Text, JSONL, CSV, TSV or Parquet files found by glob."""

    source: Literal["files"]
    paths: tuple[str, ...] = Field(min_length=1)
    """Globs relative to `data_dir` (`sotu/*.jsonl.gz`, `**/*.txt`); they cannot leave it."""
    format: FileFormat | None = None
    """The files' format where their suffix does not say it. In `tsv` a quote is an ordinary
    character, so a row is always a line; `csv` has quotes, and rows of many lines."""
    document: Literal["file", "paragraph", "wikitext-title"] = "file"
    """What a document of a `.txt` file is: the file, what stands between empty lines, or what
    follows a WikiText ` = Title = ` line."""

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_many_globs(cls, paths: object) -> object:
        return (paths,) if isinstance(paths, str) else paths

    @field_validator("paths")
    @classmethod
    def _inside_the_root(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"{path!r} leaves data_dir; globs are relative to it, without ..")
        return paths


class Hub(Rows):
    """A `datasets` data set: by hub id and pinned revision, or a folder on disk."""

    source: Literal["hub"]
    dataset: str | None = None
    """Hub id (`Skylion007/openwebtext`)."""
    revision: str | None = None
    """Commit of the data set on the hub, all 40 digits: branches and tags move."""
    folder: str | None = None
    """In place of an id: a `save_to_disk` folder or a folder of Parquet files, in `data_dir`."""
    config_name: str | None = None
    """Configuration of the hub data set, where it has several."""
    part: str | None = None
    """The data set's own split to read (`train`); needed where it has several."""
    max_rows: int | None = Field(None, ge=1)
    """Stop reading after this many rows."""

    @model_validator(mode="after")
    def _one_pinned_place(self) -> Self:
        if (self.dataset is None) == (self.folder is None):
            raise ValueError("give either dataset (a hub id) or folder (on disk)")
        if self.folder is not None:
            if self.revision or self.config_name:
                raise ValueError("revision and config_name belong to a hub id, not to a folder")
            path = PurePosixPath(self.folder)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"folder {self.folder!r} leaves data_dir; give it relative to it")
        elif not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                f"data set {self.dataset!r} needs revision, the 40-digit commit it is pinned to "
                f"(its page on the hub, Files, History); got {self.revision!r}"
            )
        return self


class Generated(CorpusSettings):
    """What the generated corpora have in common: nothing but exact copies is a duplicate."""

    min_chars: int = Field(1, ge=1)
    duplicates: DuplicateRule = "exact"


class Biographies(BiographiesSource, Generated):
    """Biographies of invented people, as a corpus."""


class Facts(FactsSource, Generated):
    """Facts about real entities and spelling, as a corpus."""


class Exercises(ExercisesSource, Generated):
    """Physics exercises, as a corpus: all of it is test text unless the shares say otherwise."""

    test: float = Field(1.0, ge=0, le=1)
    """Share of the documents, by hash, that is held out for evaluation."""
    validation: float = Field(0.0, ge=0, le=1)
    """Share of the documents, by hash, that is held out for choices."""

    @model_validator(mode="after")
    def _leave_some_to_train_on(self) -> Self:
        if self.validation + self.test > 1:
            raise ValueError(
                f"validation ({self.validation}) + test ({self.test}) must be at most 1"
            )
        return self


Corpus = Annotated[
    InstalledDocs | Files | Hub | Biographies | Facts | Exercises | Domain | Planted | Mixture,
    Field(discriminator="source"),
]
"""The settings of any corpus; `source` says of which kind."""
