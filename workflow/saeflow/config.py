"""The typed configuration: one tree, composed of each room's settings, checked before any job.

Layers, each overriding the one before, mapping by mapping: `config/variants.yaml`, each
`config/papers/{paper}.yaml` (under the paper's name), `config/scales/{scale}.yaml`, then what the
user gives (`config/config.yaml`, `--configfile`, `--config`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from saeflow.activations.settings import ActivationSettings
from saeflow.autointerp.settings import Autointerp
from saeflow.claims import ClaimSettings
from saeflow.corpora.settings import Corpus
from saeflow.evaluation.settings import EvaluationSettings
from saeflow.figures.settings import FigureSettings, TableSettings
from saeflow.grids import Debiasing, Distinct, Grid, Name, Point, SeriesGrid, Timing, completed
from saeflow.references import mistakes, unknown
from saeflow.retrieval.settings import Retrieval, Selection
from saeflow.sae.settings import SAESettings, Training, Variant, merge_training
from saeflow.settings import Settings
from saeflow.subjects.settings import SubjectSettings

Scale = Literal["smoke", "desk", "paper"]
PaperName = Literal["ortsae", "ssae"]
Layer = tuple[str, dict[str, Any]]


_MAPPINGS_REPLACED = frozenset(
    {
        ("training", "mixture"),
        ("core", "splits"),
        ("activations", "tokens"),
        ("*", "parts"),
        ("*", "lines"),
    }
)
"""Mappings whose entries belong together, with the section that holds them (`*`: any)."""


class ConfigError(ValueError):
    """The configuration is wrong; the message gives file, key, value and what is allowed."""


_ANY_WIDTH = 1 << 16
"""A dictionary wide enough for every Matryoshka group."""


class Paper(Settings):
    """The experiment of one paper: its grids, sweeps, timings, figures, tables and claims."""

    title: str
    reference: str
    grids: dict[Name, Grid] = Field(default_factory=dict)
    sweeps: dict[Name, SeriesGrid] = Field(default_factory=dict)
    debias: Debiasing | None = None
    timings: dict[Name, Timing] = Field(default_factory=dict)
    figures: dict[Name, FigureSettings] = Field(default_factory=dict)
    tables: dict[Name, TableSettings] = Field(default_factory=dict)
    claims: tuple[ClaimSettings, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _grids_like_others(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Fill in what a grid takes over from the one that it is like."""
        grids = data.get("grids")
        if not isinstance(grids, dict):
            return data
        return {**data, "grids": {name: completed(name, grids) for name in grids}}


class Config(Settings):
    """The whole configuration of a run."""

    scale: Scale
    """Which `config/scales` file sets subjects, corpora, sizes and budgets."""
    papers: Distinct[PaperName]
    """Papers to reproduce."""
    seeds: Distinct[NonNegativeInt]
    """Seeds of every SAE; intervals are over them."""
    data_dir: Path | None = None
    """Root of your own and downloaded data; the globs of corpora cannot leave it."""
    results: Annotated[str, Field(pattern=r"^[^\s{}]+$")] = "results"
    """Folder of everything that is generated, absolute or relative to where Snakemake runs."""
    train_together: PositiveInt = 1
    """SAEs that one job trains from one read of their cache; any number gives the same weights."""
    seeds_together: PositiveInt = 1
    """Seeds that one job trains one after another, of SAEs that start from or correct another; any
    number gives the same weights."""
    measure_together: PositiveInt = 1
    """Variants of a grid or series of a sweep that one job measures; any number gives the same."""
    select_together: PositiveInt = 1
    """Selections for one domain that one job makes or caches; any number gives the same."""
    corpora: dict[Name, Annotated[Corpus | Selection, Field(discriminator="source")]]
    retrieval: Retrieval = Retrieval()
    subjects: dict[Name, SubjectSettings]
    activations: ActivationSettings
    training: Training
    variants: dict[Name, Variant]
    evaluation: EvaluationSettings
    autointerp: Autointerp = Autointerp()
    ortsae: Paper
    ssae: Paper

    @property
    def root(self) -> str:
        """The folder of this scale's results."""
        return f"{self.results}/{self.scale}"

    def paper(self, name: str) -> Paper:
        """Return a paper's section by its name."""
        return getattr(self, name)

    def points(self, paper: str) -> Iterator[tuple[str, Point]]:
        """Yield what a paper's grids, sweeps and debiasing train, each point with its key."""
        section = self.paper(paper)
        for name, grid in section.grids.items():
            yield from ((f"{paper}.grids.{name}", point) for point in grid.points())
        for name, sweep in section.sweeps.items():
            yield from ((f"{paper}.sweeps.{name}", point) for point in sweep.points())
        for kind, points in section.debias.points().items() if section.debias else ():
            yield from ((f"{paper}.debias.saes.{kind}", point) for point in points)

    def sae(self, variant: str, d_sae: int, l0: int, seed: int) -> SAESettings:
        """Return the settings of one training job."""
        chosen = self.variants[variant]
        return SAESettings(
            variant=chosen.model_copy(update={"training": {}}),
            training=merge_training(self.training, chosen),
            d_sae=d_sae,
            l0=l0,
            seed=seed,
        )

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        if found := list(mistakes(self)):
            raise ValueError("\n".join(found))
        return self

    @model_validator(mode="after")
    def _variants_train(self) -> Config:
        for name, variant in self.variants.items():
            for key in {"batch_size", "checkpoint_minutes"} & set(variant.training):
                raise ValueError(
                    f"variants.{name}.training.{key}: is the same for the variants of a "
                    f"comparison; set training.{key}"
                )
            try:
                added = variant.extend.latents if variant.extend else 0
                self.sae(name, max(_ANY_WIDTH, 2 * added), 1, 0)
            except ValidationError as error:
                detail = error.errors()[0]
                key = ".".join(["training", *(str(part) for part in detail["loc"])])
                key = key if detail["loc"] else "training with error_of"
                raise ValueError(f"variants.{name}.{key}: {detail['msg']}") from error
        return self

    @model_validator(mode="after")
    def _points_are_possible(self) -> Config:
        for paper in self.papers:
            for key, point in self.points(paper):
                if why := self._why_impossible(point.variant, point.d_sae, point.l0):
                    raise ValueError(f"{key}.d_sae: {point.variant}: {why}")
        return self

    @model_validator(mode="after")
    def _timed_sizes_are_possible(self) -> Config:
        for paper in self.papers:
            section = self.paper(paper)
            for name, timing in section.timings.items():
                grid = section.grids[timing.grid]
                for variant, d_sae in product(timing.variants, timing.d_sae or (grid.d_sae,)):
                    if why := self._why_impossible(variant, d_sae, grid.reference_l0):
                        where = f"{paper}.timings.{name}.d_sae"
                        raise ValueError(f"{where}: {variant}: {why}")
        return self

    def _why_impossible(self, variant: str, d_sae: int, l0: int) -> str | None:
        """Say why no SAE of a variant can be trained at a size, or nothing where it can."""
        try:
            self.sae(variant, d_sae, l0, 0)
        except ValidationError as error:
            return error.errors()[0]["msg"]
        term = self.variants[variant].orthogonality
        if term is not None and term.chunks is not None and 2 * term.chunks > d_sae:
            return (
                f"orthogonality.chunks {term.chunks} leave a latent alone in its chunk, where none "
                f"is compared with it: give at most half of d_sae {d_sae}"
            )
        return None

    @model_validator(mode="after")
    def _comparisons_are_fair(self) -> Config:
        for paper in self.papers:
            for key, point in self.points(paper):
                variant = self.variants[point.variant]
                if variant.init_from is not None or key.startswith(f"{paper}.debias"):
                    continue
                settings = self.sae(point.variant, point.d_sae, point.l0, 0)
                if settings.training.tokens != self.training.tokens:
                    raise ValueError(
                        f"variants.{point.variant}.training.tokens: {key} compares it, and what a "
                        "comparison trains from nothing is trained on as many tokens; "
                        "set training.tokens"
                    )
        return self


def load_config(user: Mapping[str, Any], folder: Path) -> Config:
    """Return the checked configuration of `user`'s choices over the layers in `folder`.

    Raises ConfigError naming the file, key, value and what is allowed.
    """
    scale = user.get("scale", "desk")
    path = folder / "scales" / f"{scale}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in (folder / "scales").glob("*.yaml"))
        raise ConfigError(f"config key scale: {unknown(str(scale), known)}")
    papers = sorted((folder / "papers").glob("*.yaml"))
    layers: list[Layer] = [("config/variants.yaml", read_yaml(folder / "variants.yaml"))]
    layers += [(f"config/papers/{p.name}", {p.stem: read_yaml(p)}) for p in papers]
    layers.append((f"config/scales/{path.name}", read_yaml(path)))
    layers.append(("config/config.yaml, --configfile or --config", dict(user)))
    tree: dict[str, Any] = {}
    for _, layer in layers:
        tree = merge(tree, layer)
    for paper in papers:
        tree[paper.stem] = _without_left_out(paper.stem, tree[paper.stem])
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, tree, layers)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping; raises ConfigError naming the file and the line."""
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values")
    return tree


def _without_left_out(paper: str, section: Any) -> Any:
    """Return a paper's section without the figures, tables and claims that `leave_out` lists.

    A model without facts has no figure of RAVEL. Raises ConfigError for a name of nothing.
    """
    if not isinstance(section, dict) or "leave_out" not in section:
        return section
    kept = dict(section)
    names = kept.pop("leave_out") or []
    found: set[str] = set()
    for kind in ("figures", "tables"):
        found |= set(names) & set(kept.get(kind) or {})
        kept[kind] = {n: one for n, one in (kept.get(kind) or {}).items() if n not in names}
    claims = kept.get("claims") or []
    found |= {claim.get("id") for claim in claims} & set(names)
    kept["claims"] = [claim for claim in claims if claim.get("id") not in names]
    if missing := [name for name in names if name not in found]:
        raise ConfigError(
            f"config key {paper}.leave_out: {missing[0]!r} is no figure, table or claim of it"
        )
    return kept


def merge(below: Mapping[str, Any], above: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Return `below` with the keys of `above`; mappings are merged, anything else replaced.

    Whole units are replaced rather than merged: a corpus, subject or figure of another source or
    kind, and the mappings whose entries belong together (a mixture, budgets by split).
    """
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        mergeable = (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and not {(section, key), ("*", key)} & _MAPPINGS_REPLACED
            and not _other_kind(old, value)
        )
        merged[key] = merge(dict(old or {}), value, key) if mergeable else value
    return merged


def _other_kind(old: Any, new: Any) -> bool:
    return any(tag in new and new[tag] != old.get(tag) for tag in ("source", "kind"))


def _explain(error: ValidationError, tree: Mapping[str, Any], layers: list[Layer]) -> str:
    """One line a mistake: file, key, what is allowed, value."""
    lines = []
    for detail in error.errors():
        keys = _written_keys(detail["loc"], tree)
        message = detail["msg"].removeprefix("Value error, ")
        if not keys:  # a check of the whole tree names the key itself
            for line in message.splitlines():
                lines.append(f"{_origin(line.partition(': ')[0].split('.'), layers)}: {line}")
            continue
        if detail["type"] == "extra_forbidden":
            message = f"unknown key: {unknown(str(keys[-1]), _fields_at(keys[:-1], tree))}"
        elif detail["type"] != "missing":
            message += f"; got {_short(detail['input'])}"
        lines.append(": ".join(filter(None, [_origin(keys, layers), ".".join(keys), message])))
    return "\n".join(lines)


def _written_keys(location: tuple[int | str, ...], tree: Any) -> list[str]:
    """Drop what pydantic adds to a location: the tag of the union member it chose."""
    keys, node = [], tree
    for part in location:
        is_tag = isinstance(node, Mapping) and part in (node.get("source"), node.get("kind"))
        if is_tag and part not in node:
            continue
        keys.append(str(part))
        node = _child(node, part)
    return keys


def _child(node: Any, key: int | str) -> Any:
    if isinstance(node, Mapping):
        return node.get(key)
    if isinstance(node, list) and str(key).isdigit() and int(key) < len(node):
        return node[int(key)]
    return None


def _fields_at(keys: list[str], tree: Any) -> list[str]:
    """Names that the settings class at a place of the tree knows."""
    annotation: Any = Config
    node = tree
    for key in keys:
        node = _child(node, key)
        annotation = _annotation_below(annotation, key)
        members = [m for m in _flatten(annotation) if _accepts_tag(m, node)]
        annotation = members[0] if members else annotation
    models = [m for m in _flatten(annotation) if _is_settings(m)]
    return sorted({name for model in models for name in model.model_fields})


def _annotation_below(annotation: Any, key: str) -> Any:
    for member in _flatten(annotation):
        if _is_settings(member):
            field = member.model_fields.get(key)
            return field.annotation if field else None
        if get_args(member):
            return get_args(member)[-1 if get_origin(member) is dict else 0]
    return None


def _flatten(annotation: Any) -> list[Any]:
    """Members of a union, with Annotated taken off."""
    if get_origin(annotation) is Annotated:
        return _flatten(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [m for part in get_args(annotation) for m in _flatten(part)]
    return [annotation]


def _is_settings(member: Any) -> bool:
    return isinstance(member, type) and issubclass(member, Settings)


def _accepts_tag(member: Any, node: Any) -> bool:
    if not _is_settings(member):
        return get_origin(member) in (dict, tuple)
    for tag in ("source", "kind"):
        if tag in member.model_fields and isinstance(node, Mapping):
            return node.get(tag) in get_args(member.model_fields[tag].annotation)
    return True


def _origin(keys: list[str], layers: list[Layer]) -> str:
    """The last layer that sets the key, or its nearest parent."""
    for length in range(len(keys), 0, -1):
        for name, layer in reversed(layers):
            node: Any = layer
            for key in keys[:length]:
                node = _child(node, key)
            if node is not None:
                return name
    return "config"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
