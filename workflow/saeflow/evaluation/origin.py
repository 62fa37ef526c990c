"""What a measurement is given: whether a checkpoint is the SAE asked for, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from saeflow.artifacts import (
    MANIFEST,
    ArtifactError,
    file_digest,
    read_manifest,
    rebuild_command,
)
from saeflow.evaluation.rows import Point
from saeflow.sae.boosted import Boosted
from saeflow.sae.formats import load_sae
from saeflow.sae.identity import sae_digest
from saeflow.sae.model import SAE
from saeflow.sae.parts import Part, read_parts


class Key(NamedTuple):
    """One SAE among those of the same subject, site, training corpus, variant and width."""

    l0_target: int
    seed: int

    def __str__(self) -> str:
        return f"L0 {self.l0_target}, seed {self.seed}"


class Member(NamedTuple):
    """One SAE of a series: its L0 target and seed, and where it lies."""

    l0_target: int
    seed: int
    folder: Path
    base: Path | None = None
    """Frozen SAE of a residual one, in any layout that `load_sae` reads."""

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return Key(self.l0_target, self.seed)


def arguments(snakemake: Any, *inputs: str) -> dict[str, Any]:
    """Return what every rule gives its measurement, by the names of arguments.

    That is `point`, `out`, `device` and, of each of `inputs`, the folder of the artefact whose
    manifest it is.
    """
    return {
        **{name: Path(getattr(snakemake.input, name)).parent for name in inputs},
        "point": Point(**snakemake.params.point),
        "out": Path(snakemake.output[0]).parent,
        "device": "cuda" if snakemake.resources.gpu else "cpu",
    }


def members_of(saes: Iterable[Mapping[str, Any]]) -> list[Member]:
    """Return the SAEs that a job was given, each with its `l0`, `seed`, `folder` and `base`."""
    return [
        Member(
            l0_target=sae["l0"],
            seed=sae["seed"],
            folder=Path(sae["folder"]),
            base=None if sae["base"] is None else Path(sae["base"]),
        )
        for sae in saes
    ]


def of_one_point(
    point: Point, saes: Mapping[int, Path], bases: Mapping[int, Path] | None
) -> list[Member]:
    """Return the SAEs of one point, given by seed; `bases` are the frozen ones of residual SAEs."""
    bases = bases or {}
    return [Member(point.l0_target, seed, folder, bases.get(seed)) for seed, folder in saes.items()]


def inputs_of(members: Iterable[Member]) -> dict[str, Path]:
    """Return the folders of SAEs of several L0 targets by names for a manifest."""
    return {f"l0_{sae.l0_target}/seed{sae.seed}": sae.folder for sae in members}


def bases_of(members: Iterable[Member]) -> dict[str, str]:
    """Return where the frozen SAEs are, by seed, as manifests say it."""
    return {f"seed{sae.seed}": str(sae.base) for sae in members if sae.base is not None}


def check_members(members: Iterable[Member], point: Point, activations: Path) -> None:
    """Raise unless each member is the SAE that it is said to be, trained on the cache given.

    ArtifactError names a damaged SAE or one of another width, site, L0, seed, cache or base;
    ValueError says that there is none, or that two have the same L0 and seed.
    """
    seen: set[Key] = set()
    for member in members:
        if member.key in seen:
            raise ValueError(f"two SAEs are given for {member.key} of {point}")
        seen.add(member.key)
        _check(member, point, activations)
    if not seen:
        raise ValueError(f"no SAEs given for {point}")


def _check(member: Member, point: Point, activations: Path) -> None:
    folder = member.folder
    manifest = read_manifest(folder, kind="sae", deep=True)
    settings = manifest["settings"]
    expected = {"d_sae": point.d_sae, "l0": member.l0_target, "seed": member.seed}
    wrong = [f"{k} {settings.get(k)} for {v}" for k, v in expected.items() if settings.get(k) != v]
    if (site := manifest["stats"].get("site")) != point.site:
        wrong.append(f"site {site} for {point.site}")
    trained_on = manifest["inputs"].get("activations", {}).get("sha256")
    if trained_on != file_digest(activations / MANIFEST):
        wrong.append(f"another activation cache for {activations}")
    wrong.extend(_base_mistakes(manifest["stats"].get("base"), member.base))
    if wrong:
        raise ArtifactError(
            f"{folder} does not hold the SAE of this point: it has {', '.join(wrong)}; "
            f"train it anew with: {rebuild_command(folder)}"
        )


def _base_mistakes(trained_on: str | None, base: Path | None) -> Iterator[str]:
    """Yield what is wrong with `base` for an SAE trained on the error of the SAE `trained_on`."""
    if trained_on is None and base is not None:
        yield f"no frozen base for {base}"
    elif trained_on is not None and base is None:
        yield "a frozen base and none is given"
    elif base is not None and trained_on != sae_digest(base):
        yield f"another frozen base for {base}"


def load_members(members: Iterable[Member], device: str) -> dict[Key, SAE | Boosted]:
    """Return the SAEs by rising L0 and seed, residual ones on their base, each base loaded once.

    Raises ValueError for a base that reads another width.
    """
    ordered = sorted(members, key=lambda member: member.key)
    bases = dict.fromkeys(member.base for member in ordered if member.base is not None)
    frozen = {path: load_sae(path).to(device) for path in bases}
    loaded: dict[Key, SAE | Boosted] = {}
    for member in ordered:
        sae = load_sae(member.folder).to(device)
        loaded[member.key] = sae if member.base is None else Boosted(sae, frozen[member.base])
    return loaded


def added_parts(
    members: Iterable[Member], saes: Mapping[Key, SAE | Boosted]
) -> dict[Key, list[Part]]:
    """Return, of each member that adds latents to those of a base, what it adds.

    A residual SAE adds all that it has. An SAE that was put together or extended says in its
    manifest which were added; raises ArtifactError where that is not about its latents.
    """
    added: dict[Key, list[Part]] = {}
    for member in members:
        folder, d_sae = member.folder, len(saes[member.key].W_dec)
        if member.base is not None:
            added[member.key] = [Part("residual", 0, d_sae, str(folder))]
            continue
        try:
            parts = read_parts(read_manifest(folder, kind="sae")["stats"], d_sae)
        except ValueError as error:
            raise ArtifactError(
                f"{folder / MANIFEST}: {error}; make it anew with: {rebuild_command(folder)}"
            ) from error
        if parts:
            added[member.key] = parts[1:]
    return added
