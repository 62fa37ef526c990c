"""RAVEL: do latents carry one attribute of an entity and leave its other attributes alone?

As in SAEBench (Huang et al. 2024), of prompts that the subject answers right. For an attribute a
binary mask over latents is learned. At the last token of the base prompt's entity (or where the
settings say) these latents are set to what they are at the source prompt's; the SAE's
reconstruction stands in place of the activation, without its error unless the settings keep it, and
the subject goes on from there.

- cause: share of pairs about the attribute whose answer becomes the source's
- isolation: share of pairs about the other attributes whose answer stays the base's
- disentanglement: their mean

A value is the mean over a kind's attributes and then over kinds of entities. Unlike SAEBench, a
right answer has the value's own tokens (there the value is looked for in what is generated), cause
and isolation pairs are split alike, and rare attributes are skipped. Beside each value stands what
interchange achieves without an SAE, of the whole activation (`_whole`) and of the space that the
means of the attribute's values span (`_subspace`), where SAEBench offers a trained rotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from saeflow.evaluation.origin import Key, Member
from saeflow.evaluation.pooled import Site
from saeflow.evaluation.ravel_entities import EntityKind, read_entities, shipped_entities
from saeflow.evaluation.ravel_interchange import (
    Effects,
    effects,
    learn_mask,
    of_everything,
    of_latents,
    of_subspace,
    unexplained,
)
from saeflow.evaluation.ravel_pairs import draw_pairs, ready, split
from saeflow.evaluation.ravel_prompts import REASONS, Known, known_prompts
from saeflow.evaluation.ravel_settings import RavelSettings
from saeflow.evaluation.rows import Point, Row, make_row
from saeflow.evaluation.site_job import Inputs, Measured, SAEs, run_job
from saeflow.evaluation.site_rows import check_width
from saeflow.fingerprint import fingerprint
from saeflow.progress import Progress, say

SCORES = ("cause", "isolation", "disentanglement")
WITHOUT_SAE = ("whole", "subspace")
SCHEMA = pa.schema(
    [
        ("l0_target", pa.int64()),
        ("seed", pa.int64()),
        ("kind", pa.string()),
        ("attribute", pa.string()),
        *((reason, pa.int64()) for reason in REASONS),
        ("known", pa.int64()),
        ("entities", pa.int64()),
        ("train_pairs", pa.int64()),
        ("cause_pairs", pa.int64()),
        ("isolation_pairs", pa.int64()),
        *((score, pa.float64()) for score in SCORES),
        *((f"{score}_{of}", pa.float64()) for of in WITHOUT_SAE for score in SCORES),
        ("unexplained", pa.float64()),
        ("latents", pa.list_(pa.int64())),
        ("skipped", pa.string()),
    ]
)
"""A row for each SAE and attribute: prompts asked, left out by reason (`ravel_prompts.REASONS`) and
`known`, held-out pairs, scores and the latents that are interchanged. And one, without an SAE, for
each attribute that was skipped, with the reason."""


def evaluate_ravel(
    settings: RavelSettings,
    saes: Sequence[Member],
    *,
    subject: Path,
    activations: Path,
    point: Point,
    out: Path,
    exclusion: Path | None = None,
    data_dir: Path | None = None,
    device: str = "cpu",
) -> None:
    """Measure the SAEs of one variant, all L0 targets and seeds, on the same pairs of prompts.

    `activations` is the cache that the SAEs were trained on, `exclusion` the one whose rule says
    which tokens count, null takes `activations`; `data_dir` is where `file` of the settings lies.
    Writes `ravel.parquet` (tidy rows of split test), `ravel_details.parquet` and the manifest into
    `out`. The point's `l0_target` is ignored: each row has its SAE's. Raises ArtifactError for
    inputs that are damaged or do not belong together, and ValueError where `measure_ravel` raises
    it and for a file that is missing or of another form.
    """
    kinds, file = _kinds(settings, data_dir)

    def measure(site: Site, loaded: SAEs) -> Measured:
        return measure_ravel(settings, kinds, loaded, site=site, point=point)

    run_job(
        "ravel",
        settings,
        saes,
        measure,
        Inputs(subject, activations, exclusion, file),
        point=point,
        out=out,
        device=device,
        code=fingerprint(__name__),
        seed=settings.seed,
    )


def measure_ravel(
    settings: RavelSettings,
    kinds: Mapping[str, EntityKind],
    saes: SAEs,
    *,
    site: Site,
    point: Point,
) -> Measured:
    """Return cause, isolation and disentanglement of each SAE, and details by attribute.

    `ravel_cause`, `ravel_isolation`, `ravel_disentanglement`, the same with `_whole` and
    `_subspace` for interchange without an SAE, `ravel_latents`, how many are interchanged, and
    `ravel_unexplained`, the share of variance at the tokens read that the SAE does not explain (n
    attributes): where it is near 1 there is nothing to interchange. Besides `ravel_known`, the
    share of prompts that are used (n all that were asked), `ravel_pairs`, the held-out pairs of all
    attributes, and `ravel_attributes_skipped` (n all attributes). Raises ValueError where no kind
    has two attributes that the subject knows and for SAEs of another width than the site.
    """
    known = {kind: known_prompts(settings, of, site) for kind, of in kinds.items()}
    skipped = {kind: _skipped(settings, of) for kind, of in known.items()}
    used = {
        kind: {name: one for name, one in of.items() if name not in skipped[kind]}
        for kind, of in known.items()
    }
    _check_something_left(skipped, used)
    details: list[dict[str, Any]] = []
    attributes = [(kind, name) for kind, of in used.items() for name in of]
    with Progress(len(attributes) * len(saes), "masks", "interchanging attributes") as progress:
        for kind, name in attributes:
            named = {"kind": kind, "attribute": name, **_prompts(used[kind][name])}
            for one in _measure_attribute(settings, site, used[kind], name, saes):
                details.append({**named, **one})
                progress.update(1)
    lost = [
        {"kind": kind, "attribute": name, "skipped": why, **_prompts(known[kind][name])}
        for kind, of in skipped.items()
        for name, why in of.items()
    ]
    rows = [row for key in saes for row in _rows(details, lost, key, point)]
    return Measured(rows, pa.Table.from_pylist([*details, *lost], schema=SCHEMA))


def _measure_attribute(
    settings: RavelSettings,
    site: Site,
    known: Mapping[str, Known],
    attribute: str,
    saes: SAEs,
) -> Iterator[dict[str, Any]]:
    """Yield the details of each SAE."""
    train, test = split(settings, draw_pairs(settings, known, attribute))
    learn, judge = ready(site, known, train), ready(site, known, test)
    without = {"whole": of_everything, "subspace": of_subspace(known[attribute])}
    references = {of: effects(site, judge, change) for of, change in without.items()}
    for key, sae in saes.items():
        check_width(site.subject, site.name, judge.base_nd.shape[1], sae.W_dec.shape[1])
        mask_f = learn_mask(settings, site, learn, sae)
        own = effects(site, judge, of_latents(sae, mask_f, settings.keep_error))
        yield {
            **key._asdict(),
            "train_pairs": len(train),
            "cause_pairs": own.cause_pairs,
            "isolation_pairs": own.isolation_pairs,
            **_scores(own),
            **{k: v for of, one in references.items() for k, v in _scores(one, f"_{of}").items()},
            "unexplained": unexplained(sae, known[attribute].x_nd),
            "latents": mask_f.nonzero()[:, 0].tolist(),
        }


def _scores(found: Effects, suffix: str = "") -> dict[str, float]:
    return {score + suffix: getattr(found, score) for score in SCORES}


def _prompts(known: Known) -> dict[str, int]:
    return {**known.left_out, "known": len(known.prompts), "entities": known.entities}


def _skipped(settings: RavelSettings, known: Mapping[str, Known]) -> dict[str, str]:
    """Return the attributes of a kind that are left out, with the reasons."""
    reasons = {}
    for name, of in known.items():
        if of.entities < settings.min_entities:
            reasons[name] = f"{of.entities} known entities, {settings.min_entities} are needed"
        elif len({prompt.value for prompt in of.prompts}) < 2:
            reasons[name] = "all known entities have the same value"
    left = [name for name in known if name not in reasons]
    if len(left) == 1:
        reasons[left[0]] = "no other attribute of its kind is left to be isolated from"
    return reasons


def _check_something_left(
    skipped: Mapping[str, Mapping[str, str]], used: Mapping[str, Mapping[str, Known]]
) -> None:
    reasons = [f"{kind}, {name}: {why}" for kind, of in skipped.items() for name, why in of.items()]
    if not any(used.values()):
        raise ValueError(
            f"the subject knows too little for RAVEL ({'; '.join(reasons)}); lower min_entities, "
            "raise prompts or give entities and templates that it knows"
        )
    for reason in reasons:
        say(f"RAVEL leaves out {reason}")


def _rows(
    details: Iterable[Mapping[str, Any]], lost: Sequence[Mapping[str, Any]], key: Key, point: Point
) -> Iterator[Row]:
    """Yield the rows of one SAE."""
    own = [of for of in details if (of["l0_target"], of["seed"]) == key]
    names = [*SCORES, *(f"{score}_{of}" for of in WITHOUT_SAE for score in SCORES)]
    values: dict[str, tuple[float, int]] = {
        **{name: (_mean(own, lambda of, name=name: of[name]), len(own)) for name in names},
        "latents": (_mean(own, lambda of: len(of["latents"])), len(own)),
        "unexplained": (_mean(own, lambda of: of["unexplained"]), len(own)),
    }
    asked = sum(of["asked"] for of in (*own, *lost))
    values["known"] = (sum(of["known"] for of in own) / asked, asked)
    pairs = sum(of["cause_pairs"] + of["isolation_pairs"] for of in own)
    values["pairs"] = (pairs, pairs)
    values["attributes_skipped"] = (len(lost), len(own) + len(lost))
    at = point._replace(l0_target=key.l0_target)
    for name, (value, n) in values.items():
        yield make_row(at, split="test", seed=key.seed, metric=f"ravel_{name}", value=value, n=n)


def _mean(own: Sequence[Mapping[str, Any]], value: Any) -> float:
    """Return the mean over kinds of entities of the means over their attributes (SAEBench)."""
    by_kind: dict[str, list[float]] = {}
    for of in own:
        by_kind.setdefault(of["kind"], []).append(value(of))
    return float(np.mean([np.mean(values) for values in by_kind.values()]))


def _kinds(
    settings: RavelSettings, data_dir: Path | None
) -> tuple[dict[str, EntityKind], dict[str, Path]]:
    """Return the kinds of entities, and the file that they are of where there is one."""
    if settings.file is None:
        return shipped_entities(), {}
    if data_dir is None:
        raise ValueError(f"ravel.file {settings.file!r}: set data_dir, the folder it is below")
    path = data_dir / settings.file
    return read_entities(path), {"entities": path}
