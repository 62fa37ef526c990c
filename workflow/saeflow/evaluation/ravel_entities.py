"""Entities with attributes, and templates that ask for them: the shipped facts or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from saeflow.corpora.facts import HELD_OUT_TEMPLATES, facts
from saeflow.settings import Settings

Name = Annotated[str, Field(min_length=1)]


class EntityKind(Settings):
    """Entities of one kind: cities, Nobel laureates."""

    templates: dict[Name, tuple[str, ...]] = Field(min_length=1)
    """By attribute: texts with `{entity}` once, each ending where the answer begins, without the
    space before it: `{entity} lies in the country of`."""
    entities: dict[Name, dict[Name, Name]]
    """By entity, the values of its attributes; not every entity needs all."""

    @model_validator(mode="after")
    def _fits(self) -> EntityKind:
        for attribute, templates in self.templates.items():
            for template in templates:
                if template.count("{entity}") != 1 or template != template.rstrip():
                    raise ValueError(
                        f"template {template!r} of {attribute}: give {{entity}} once and no space "
                        "at the end"
                    )
        for entity, values in self.entities.items():
            if unknown := sorted(set(values) - set(self.templates)):
                raise ValueError(f"{entity} has {unknown}, for which there are no templates")
        return self


def shipped_entities() -> dict[str, EntityKind]:
    """Return cities and laureates with the templates that no generated document uses.

    A right answer there shows that the subject knows the pair and not a sentence.
    """
    entities: dict[str, dict[str, dict[str, str]]] = {}
    for fact in facts():
        entities.setdefault(fact.kind, {}).setdefault(fact.entity, {})[fact.attribute] = fact.value
    return {
        kind: EntityKind(
            templates={
                attribute: tuple(t.removesuffix(" {value}.") for t in HELD_OUT_TEMPLATES[attribute])
                for attribute in dict.fromkeys(name for of in values.values() for name in of)
            },
            entities=values,
        )
        for kind, values in entities.items()
    }


def read_entities(path: Path) -> dict[str, EntityKind]:
    """Return the kinds of entities of a JSON file, `{kind: {"templates": ..., "entities": ...}}`.

    As `EntityKind` says: templates by attribute, and values by entity and attribute. RAVEL's own
    files are brought into this form by writing `{entity}` for `%s`. Raises ValueError that names
    the file where it is missing or has another form.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kinds = TypeAdapter(dict[Name, EntityKind]).validate_python(found)
    except (OSError, json.JSONDecodeError, ValidationError) as error:
        raise ValueError(f"{path} is no file of entities and templates: {error}") from error
    if not kinds:
        raise ValueError(f"{path} has no kind of entities")
    return kinds
