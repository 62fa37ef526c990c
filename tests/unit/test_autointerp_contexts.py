"""Examples of latents that are active on known words: which, where marked, from which side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from autointerp_planted import LATENTS, SITE, make_world, write_sae, write_tokens

from saeflow.artifacts import ArtifactError, write_manifest
from saeflow.autointerp.contexts import Collected, collect, peaks, spread
from saeflow.autointerp.firing import Firing
from saeflow.autointerp.settings import Autointerp

SMALL = {"tokens": 10_000, "example_tokens": 10, "min_activations": 3}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def collected(world: Path, contrast: int = 50, **settings: object) -> Collected:
    return collect(
        Autointerp.model_validate({**SMALL, **settings}),
        {0: world / "seed0", 1: world / "seed1"},
        subject=world / "subject",
        tokens=world / "tokens",
        split="test",
        exclusion=world / "cache",
        site=SITE,
        contrast=contrast,
    )


def test_a_latent_is_marked_on_its_words_and_silent_elsewhere(world: Path) -> None:
    found = collected(world)
    assert found.candidates == {0: len(LATENTS), 1: len(LATENTS)}
    assert found.eligible == {0: len(LATENTS) - 1, 1: len(LATENTS) - 1}  # one is dead
    for latent in found.latents:
        words = [word for word, strength in LATENTS[latent.latent].items() if strength >= 1]
        examples = latent.examples
        assert len(examples) >= 3
        if latent.latent != 4:  # its weak word is another test's
            has_ct = np.isin(examples.contexts.tokens_ct, words)
            assert (examples.acts_ct > 0).tolist() == has_ct.tolist()
            assert not np.isin(latent.contrast.tokens_ct, words).any()
            held_ct = np.isin(latent.held_out.tokens_ct, words)
            assert held_ct.any(1).tolist() == latent.active_c.tolist()
        strongest = examples.acts_ct.max(1)
        assert (np.diff(strongest) <= 0).all()


def test_each_latent_is_scored_on_as_many_silent_as_activating_contexts(world: Path) -> None:
    """However often it is active: on one word of 64, or on ten."""
    counts = {}
    for latent in collected(world).latents:
        counts[latent.latent] = int(latent.active_c.sum())
        assert len(latent.active_c) == 2 * counts[latent.latent]
    assert min(counts.values()) < max(counts.values())  # of rare and of frequent latents
    for latent in collected(world, negatives_per_positive=0.5, test_examples=8).latents:
        assert (latent.active_c.sum(), len(latent.active_c)) == (8, 12)


def test_where_silent_contexts_lack_there_are_fewer_activating_ones(world: Path) -> None:
    latent = next(x for x in collected(world, test_examples=1000).latents if x.latent == 2)
    assert latent.active_c.sum() < 60  # of the 160 contexts, most activate it
    assert len(latent.active_c) == 2 * latent.active_c.sum()


def test_marks_stand_around_runs_of_active_tokens(world: Path) -> None:
    latent = next(found for found in collected(world).latents if found.latent == 0)
    text = latent.examples.marked(0)
    assert "<< w7>>" in text
    assert text.replace("<<", "").replace(">>", "") == latent.examples.contexts.text(0)


def test_tokens_far_below_the_peak_are_not_active(world: Path) -> None:
    def with_both(share: float) -> list[list[bool]]:
        latent = next(x for x in collected(world, active_share=share).latents if x.latent == 4)
        tokens_ct = latent.examples.contexts.tokens_ct
        both = np.isin(tokens_ct, 40).any(1) & np.isin(tokens_ct, 41).any(1)
        assert both.any()
        return latent.examples.active_ct[both][tokens_ct[both] == 41].tolist()

    assert not any(with_both(0.3))
    assert all(with_both(0.1))


def test_explaining_and_scoring_share_no_document(world: Path) -> None:
    rows = np.random.default_rng(0).integers(1, 64, (80, 40))
    document = {
        row[i : i + 10].tobytes(): d for d, row in enumerate(rows) for i in range(0, 40, 10)
    }
    for latent in collected(world).latents:
        explaining = np.concatenate([latent.examples.contexts.tokens_ct, latent.contrast.tokens_ct])
        sides = [
            {document[context.astype(rows.dtype).tobytes()] for context in side}
            for side in (explaining, latent.held_out.tokens_ct)
        ]
        assert not sides[0] & sides[1]


def test_a_latents_examples_do_not_depend_on_the_others(world: Path) -> None:
    everything = {(x.seed, x.latent): x for x in collected(world).latents}
    some = collected(world, latents=2, candidates=4).latents
    assert {x.seed for x in some} == {0, 1} and len(some) <= 4
    for latent in some:
        same = everything[latent.seed, latent.latent]
        np.testing.assert_array_equal(latent.held_out.tokens_ct, same.held_out.tokens_ct)
        np.testing.assert_array_equal(latent.examples.acts_ct, same.examples.acts_ct)


def test_batches_do_not_matter(world: Path) -> None:
    one, many = collected(world, batch_tokens=41), collected(world, batch_tokens=4000)
    for a, b in zip(one.latents, many.latents, strict=True):
        np.testing.assert_array_equal(a.examples.acts_ct, b.examples.acts_ct)
        np.testing.assert_array_equal(a.active_c, b.active_c)


def test_tokens_that_a_cache_leaves_out_are_silent(world: Path, tmp_path: Path) -> None:
    write_manifest(
        tmp_path,
        kind="activations",
        settings={"activations": {"skip_positions": 11}},  # the begin token and a context
        files=[],
        stats={"sink_thresholds": None},
    )
    all_counted, fewer = (
        collect(
            Autointerp.model_validate(SMALL), {0: world / "seed0"}, subject=world / "subject",
            tokens=world / "tokens", split="test", exclusion=cache, site=SITE,
        )
        for cache in (world / "cache", tmp_path)
    )  # fmt: skip
    counts = [sum(x.activating for x in c.latents) for c in (all_counted, fewer)]
    assert counts[1] < 0.85 * counts[0]


def test_examples_are_spread_over_quantiles() -> None:
    contexts = np.arange(10)
    found = [(group.tolist(), n) for group, n in spread(contexts, 5, 3)]
    assert found == [([0, 1, 2, 3], 2), ([4, 5, 6], 2), ([7, 8, 9], 1)]
    assert [n for _, n in spread(contexts, 99, 3)] == [4, 3, 3]
    for size in range(1, 30):
        for n in range(1, 30):
            for quantiles in (1, 3, 10):
                parts = spread(np.arange(size), n, quantiles)
                assert sum(k for _, k in parts) == min(n, size)
                assert all(k <= len(group) for group, k in parts)


def test_peaks_are_the_greatest_of_each_context() -> None:
    latent_n, context_n = np.array([1, 1, 1, 4]), np.array([0, 0, 2, 2])
    found = peaks(Firing(context_n, np.arange(4), latent_n, np.array([1.0, 3.0, 2.0, 5.0])))
    assert [x.tolist() for x in found] == [[1, 1, 4], [0, 2, 2], [3.0, 2.0, 5.0]]
    empty = np.zeros(0)
    assert len(peaks(Firing(empty, empty, empty, empty)).latent_k) == 0


def test_unusable_text_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no window with 41 tokens"):
        collected(world, example_tokens=41)
    with pytest.raises(ArtifactError, match="need a document each"):
        collected(world, tokens=1)
    tokens = world / "tokens" / "test.parquet"
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[:-100])
    try:
        with pytest.raises(ArtifactError, match="truncated"):
            collected(world)
    finally:
        tokens.write_bytes(whole)


def test_a_split_that_is_not_there_is_named(world: Path, tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens", "test", np.ones((3, 40), int))
    write_manifest(tmp_path / "tokens", kind="tokens", settings={}, files=["test.parquet"])
    with pytest.raises(ArtifactError, match="has no split train"):
        collect(
            Autointerp(), {0: world / "seed0"}, subject=world / "subject",
            tokens=tmp_path / "tokens", split="train", exclusion=world / "cache", site=SITE,
        )  # fmt: skip


def test_an_sae_of_another_width_is_refused(world: Path, tmp_path: Path) -> None:
    from test_evaluation_core import random_sae

    from saeflow.sae.formats import save_sae

    write_sae(tmp_path, LATENTS, 0, world / "cache")
    save_sae(random_sae(0), tmp_path, {})
    with pytest.raises(ValueError, match="64 wide, the SAEs read 16"):
        collect(
            Autointerp.model_validate(SMALL), {0: tmp_path}, subject=world / "subject",
            tokens=world / "tokens", split="test", exclusion=world / "cache", site=SITE,
        )  # fmt: skip
