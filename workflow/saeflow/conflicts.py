"""Keys of the configuration that each exist and do not go together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from saeflow.figures.caption_values import CaptionError, filled
from saeflow.figures.sweep_settings import Lines
from saeflow.retrieval.settings import Selection
from saeflow.subjects.patterns import site_matches

if TYPE_CHECKING:
    from saeflow.config import Config


def conflicts(config: Config) -> Iterator[str]:
    """Yield `key: what is wrong` for every key that another one makes impossible."""
    for name, corpus in config.corpora.items():
        if isinstance(corpus, Selection) and corpus.tracin is not None:
            yield from _tracin_mistakes(config, f"corpora.{name}.tracin", corpus)
    for paper in config.papers:
        yield from dict.fromkeys(_site_mistakes(config, paper))
        yield from _split_mistakes(config, paper)
        yield from _caption_mistakes(config, paper)
        yield from _timing_mistakes(config, paper)


def _tracin_mistakes(config: Config, where: str, corpus: Selection) -> Iterator[str]:
    """Yield why the SAE whose gradients rerank cannot be trained, or has none."""
    tracin, subject = corpus.tracin, config.subjects.get(corpus.subject)
    assert tracin is not None
    if subject and not any(site_matches(tracin.site, p) for p in subject.sites):
        yield (
            f"{where}.site: {tracin.site!r} is not cached; subjects.{corpus.subject}.sites asks "
            f"for {', '.join(subject.sites)}"
        )
    if tracin.sae.l0 > tracin.sae.d_sae:
        yield f"{where}.sae.l0: {tracin.sae.l0} exceeds d_sae {tracin.sae.d_sae}"
    if (variant := config.variants.get(tracin.sae.variant)) is None:
        return
    if variant.activation == "gated" or variant.error_of is not None:
        yield f"{where}.sae.variant: TracIn has no gradient of gated and of residual SAEs"
    if variant.extend is not None and variant.extend.frozen:
        yield f"{where}.sae.variant: TracIn takes gradients of all weights, and some are frozen"
    snapshots = variant.training.get("snapshots") or config.training.snapshots
    if tracin.checkpoints == "all" and not snapshots:
        yield (
            f"{where}.checkpoints: all needs snapshots; give variants.{tracin.sae.variant} "
            "training: {snapshots: [...]}, or take final"
        )


def _split_mistakes(config: Config, paper: str) -> Iterator[str]:
    """Yield texts whose split a measure does not follow: concepts are judged on test text."""
    section = config.paper(paper)
    for name, figure in section.figures.items():
        if not isinstance(figure, Lines) or "concepts" not in figure.measures:
            continue
        sweep = section.sweeps.get(figure.sweep)
        tested = sweep.tested.get(figure.tested) if sweep else None
        if tested and tested.split != "test":
            yield (
                f"{paper}.sweeps.{figure.sweep}.tested.{figure.tested}.split: figure {name} shows "
                "concept recall, which is judged on the test split"
            )


def _caption_mistakes(config: Config, paper: str) -> Iterator[str]:
    section = config.paper(paper)
    for kind, everything in (("figures", section.figures), ("tables", section.tables)):
        for name, shown in everything.items():
            try:
                filled(shown, config, paper)
            except CaptionError as error:
                yield f"{paper}.{kind}.{name}.caption: {error}"


def _site_mistakes(config: Config, paper: str) -> Iterator[str]:
    for key, point in config.points(paper):
        subject = config.subjects.get(point.subject)
        if subject and not any(site_matches(point.site, p) for p in subject.sites):
            yield (
                f"{key}.site: {point.site!r} is not cached; "
                f"subjects.{point.subject}.sites asks for {', '.join(subject.sites)}"
            )


def _timing_mistakes(config: Config, paper: str) -> Iterator[str]:
    for name, timing in config.paper(paper).timings.items():
        where = f"{paper}.timings.{name}"
        if timing.rounds % len(timing.variants):
            yield (
                f"{where}.rounds: {timing.rounds} is no multiple of the {len(timing.variants)} "
                "variants, which take turns to go first"
            )
        for variant in timing.variants:
            if variant not in config.variants:
                continue
            term = config.variants[variant].orthogonality
            if config.variants[variant].error_of is not None:
                yield f"{where}.variants: {variant} needs a frozen SAE, with which none is timed"
            if config.variants[variant].by_document:
                yield (
                    f"{where}.variants: {variant} tilts over sequences, and batches of whole "
                    "documents are not timed; time it with tilt.over: token"
                )
            if term is not None and timing.steps % term.every:
                yield (
                    f"{where}.steps: {timing.steps} is no multiple of orthogonality.every "
                    f"{term.every} of {variant}, so rounds would differ in work"
                )
