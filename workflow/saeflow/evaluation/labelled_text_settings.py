"""What is read of documents whose attributes are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, field_validator

from saeflow.settings import Settings


def _all_different(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(classes)) < len(classes):
        raise ValueError(f"a class is listed twice in {list(classes)}")
    return classes


Classes = Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(_all_different)]


class LabelAttribute(Settings):
    """An attribute that is one of the documents' labels."""

    label: str
    """The label: `profession`."""
    classes: Classes
    """Its values that are told apart; documents of others are left out."""

    def value(self, domain: str, name: str, labels: Mapping[str, str]) -> str | None:
        """Return a document's value."""
        return labels.get(self.label)


class DomainAttribute(Settings):
    """The attribute that is the beginning of the documents' domains."""

    domain_depth: PositiveInt
    """Components of the domain: 1 makes `torch` of `torch.nn`, the package."""
    classes: Classes
    """Its values that are told apart; documents of others are left out."""

    def value(self, domain: str, name: str, labels: Mapping[str, str]) -> str | None:
        """Return a document's value."""
        return ".".join(domain.split(".")[: self.domain_depth])


class NameAttribute(Settings):
    """An attribute that shows in the documents' names."""

    name_patterns: dict[str, str] = Field(min_length=2)
    r"""Class -> regular expression that is searched in the name, the first that is found counts;
    `{class: '\\.[A-Z]\\w*$', function: '\\.[a-z_]\\w*$'}` tells documentation of classes from that
    of functions."""

    @field_validator("name_patterns")
    @classmethod
    def _patterns_compile(cls, patterns: dict[str, str]) -> dict[str, str]:
        for name, pattern in patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"pattern {pattern!r} of {name!r}: {error}") from error
        return patterns

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that are told apart."""
        return tuple(self.name_patterns)

    def value(self, domain: str, name: str, labels: Mapping[str, str]) -> str | None:
        """Return a document's value."""
        return next((of for of, p in self.name_patterns.items() if re.search(p, name)), None)


Attribute = LabelAttribute | DomainAttribute | NameAttribute


class LabelledClasses(Settings):
    """Documents of a corpus by one attribute."""

    corpus: str
    """Corpus that the documents are of."""
    attribute: Attribute
    """What makes the classes."""


class LabelledPair(Settings):
    """Documents of a corpus by two attributes of two classes each.

    In the biased set the first class of one always comes with the first class of the other.
    """

    corpus: str
    """Corpus that the documents are of."""
    first: Attribute
    """One attribute: professor or nurse."""
    second: Attribute
    """The other: male or female."""

    @field_validator("first", "second")
    @classmethod
    def _two_classes(cls, attribute: Attribute) -> Attribute:
        if len(attribute.classes) != 2:
            raise ValueError(f"give two classes, not {list(attribute.classes)}")
        return attribute


class LabelledTextSettings(Settings):
    """How much labelled text is read, and how: probes learn on documents of the train split and are
    judged on documents of the test split, the first ones of each class in the corpus's order."""

    train_documents: int = Field(default=4000, ge=4, multiple_of=4)
    """Documents that one probe learns on, half of them of its class (SAEBench)."""
    test_documents: int = Field(default=1000, ge=4, multiple_of=4)
    """Documents that it is judged on, half of them of its class (SAEBench)."""
    context: PositiveInt = 128
    """Tokens read from the start of each, the begin token included (SAEBench)."""
    batch_tokens: PositiveInt = 4096
    """Tokens, padding included, in one forward pass of the subject."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the subject, as in `CoreSettings`."""
