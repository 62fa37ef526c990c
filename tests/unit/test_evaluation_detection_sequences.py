"""Which sequences a latent is explained from and scored on: counts, strengths, silence, overlap."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from saeflow.activations.windows import Window
from saeflow.autointerp.examples import Pieces
from saeflow.autointerp.firing import Firing, Text
from saeflow.evaluation.detection_sequences import Sequences, TooFew, draw_sequences
from saeflow.evaluation.detection_settings import OrtSAESequences, Protocol, SAEBenchSequences
from saeflow.evaluation.detection_text import Active, Activity, Line

SIDE = 2
WIDTH = 2 * SIDE + 1


def line_of(contexts: list[int]) -> Line:
    """Windows of so many contexts, whose tokens are numbered through."""
    n = sum(contexts)
    return Line(
        Text(
            windows=[Window(i, 0, np.zeros(0)) for i in range(len(contexts))],
            tokens_ct=np.arange(n * WIDTH, dtype=np.int32).reshape(n, WIDTH),
            document_c=np.repeat(np.arange(len(contexts)), contexts),
            first_w=np.concatenate([[0], np.cumsum(contexts)]),
            offset_w=np.zeros(len(contexts), int),
            number={},
        ),
        Pieces(),
    )


def active_on(places: Mapping[int, float]) -> Active:
    ordered = sorted(places)
    strengths = np.array([places[p] for p in ordered], np.float32)
    return Active(np.array(ordered), strengths)


def random_latent(line: Line, n: int, seed: int = 0) -> Active:
    generator = np.random.default_rng(seed)
    places = generator.choice(len(line.tokens_n), n, replace=False)
    return active_on(dict(zip(places.tolist(), generator.exponential(size=n), strict=True)))


def drawn(
    protocol: Protocol,
    line: Line,
    active: Active,
    least: float = 0.0,
    contrast: int = 0,
    seed: int = 0,
) -> Sequences:
    return draw_sequences(protocol, line, active, least, contrast, np.random.default_rng(seed))


def fires(active: Active, centres: np.ndarray) -> list[bool]:
    return [bool((np.abs(active.place_n - centre) <= SIDE).any()) for centre in centres]


def strength(active: Active, centres: np.ndarray) -> np.ndarray:
    return active.activation_n[np.searchsorted(active.place_n, centres)]


def test_a_sequence_lies_in_one_window() -> None:
    line = line_of([2, 0, 1])
    assert line.centre_m.tolist() == [2, 3, 4, 5, 6, 7, 12]
    assert line.contexts(np.array([2, 12])).tokens_ct.tolist() == [
        [0, 1, 2, 3, 4],
        [10, 11, 12, 13, 14],
    ]


def test_examples_have_the_activations_of_their_tokens_and_the_strongest_first() -> None:
    line = line_of([4])
    firing = Firing(
        np.array([2, 0, 0, 1]), np.array([0, 3, 2, 0]), np.array([7, 7, 7, 5]),
        np.array([4.0, 1.0, 0.5, 9.0]),
    )  # fmt: skip
    active = Activity(firing, line).of(7)
    assert active.place_n.tolist() == [2, 3, 10]
    found = line.examples(np.array([3, 10]), active, 0.5)
    assert found.contexts.tokens_ct.tolist() == [[8, 9, 10, 11, 12], [1, 2, 3, 4, 5]]
    assert found.acts_ct.tolist() == [[0, 0, 4, 0, 0], [0, 0.5, 1, 0, 0]]
    assert found.active_ct.tolist() == [[False, False, True, False, False],
                                        [False, False, True, False, False]]  # fmt: skip


def test_ortsae_has_fifty_active_and_fifty_silent_sequences() -> None:
    line = line_of([10] * 200)
    active = random_latent(line, 600)
    found = drawn(OrtSAESequences(), line, active)
    assert len(found.explain) == 10
    assert len(found.held_out) == 100 and found.active_c.sum() == 50
    assert fires(active, found.held_out) == found.active_c.tolist()
    assert not (np.diff(found.active_c.astype(int)) == 0).all()  # mixed


def test_saebench_has_four_active_and_ten_silent_sequences() -> None:
    line = line_of([10] * 200)
    active = random_latent(line, 600)
    found = drawn(SAEBenchSequences(), line, active)
    assert len(found.explain) == 15
    assert len(found.held_out) == 14 and found.active_c.sum() == 4
    assert fires(active, found.held_out) == found.active_c.tolist()
    apart = apart_by_strength(line, active)
    assert len(set(found.explain.tolist()) & set(apart[:12])) == 10
    assert len(set(found.held_out.tolist()) & set(apart[:12])) == 2


def apart_by_strength(line: Line, active: Active) -> list[int]:
    """Centres by falling activation, without those that share a token with a stronger one."""
    found: list[int] = []
    for place in active.place_n[np.argsort(-active.activation_n)].tolist():
        if place in line.centre_m and all(abs(place - other) >= WIDTH for other in found):
            found.append(place)
    return found


@pytest.mark.parametrize("protocol", [OrtSAESequences(), SAEBenchSequences()])
def test_no_two_active_sequences_share_a_token(protocol: Protocol) -> None:
    line = line_of([10] * 200)
    active = random_latent(line, 4000)  # dense: most of them overlap
    found = drawn(protocol, line, active)
    centres = np.sort(np.concatenate([found.explain, found.held_out[found.active_c]]))
    assert (np.diff(centres) >= WIDTH).all()
    assert np.isin(centres, line.centre_m).all()


def test_ortsae_explains_from_the_strongest_and_scores_all_strengths() -> None:
    line = line_of([1] * 1000)
    places = WIDTH * np.arange(510) + SIDE
    active = active_on({int(p): 510.0 - i for i, p in enumerate(places)})
    found = drawn(OrtSAESequences(), line, active)
    assert found.explain.tolist() == places[:10].tolist()
    rank = 500 - strength(active, found.held_out[found.active_c])  # 0 to 499 of those left
    assert np.bincount((rank // 50).astype(int), minlength=10).tolist() == [5] * 10
    one_group = drawn(OrtSAESequences(quantiles=1), line, active)
    rank = 500 - strength(active, one_group.held_out[one_group.active_c])
    assert np.bincount((rank // 50).astype(int), minlength=10).tolist() != [5] * 10


def test_what_a_quantile_lacks_comes_from_the_others() -> None:
    """The weaker half all stand next to one another: just few of them can be taken."""
    line = line_of([100] + [1] * 60)
    strong = {int(p): 10.0 for p in 500 + WIDTH * np.arange(60) + SIDE}
    weak = {int(p): 1.0 for p in range(2, 62)}
    found = drawn(
        OrtSAESequences(explain=10, active=50, quantiles=2), line, active_on(strong | weak)
    )
    levels = strength(active_on(strong | weak), found.held_out[found.active_c])
    assert (levels == 10).sum() > 37 and len(levels) == 50


def test_weighted_sequences_are_drawn_by_the_squared_activation() -> None:
    line = line_of([1] * 200)
    active = active_on({2: 10.0, WIDTH + 2: 3.0, 2 * WIDTH + 2: 1.0})
    protocol = SAEBenchSequences(explain_top=1, explain_weighted=1, top=1, weighted=0, silent=1)
    # The strongest two are dealt; the third is all that is left, so that both are always used.
    assert set(drawn(protocol, line, active).explain) >= {2 * WIDTH + 2}
    active = active_on({2: 10.0, WIDTH + 2: 9.0, 2 * WIDTH + 2: 3.0, 3 * WIDTH + 2: 1.0})
    first = [drawn(protocol, line, active, seed=seed).explain for seed in range(400)]
    share = np.mean([2 * WIDTH + 2 in explain for explain in first])
    assert share == pytest.approx(0.9, abs=0.05)  # 9 to 1, and not 3 to 1


def test_silent_sequences_are_any_without_an_active_token() -> None:
    line = line_of([3, 1, 5])
    active = active_on({4: 1.0, 22: 1.0, 40: 1.0})
    every = [int(c) for c in line.centre_m if not fires(active, np.array([c]))[0]]
    found = line.silent(active, 10_000, np.random.default_rng(0))
    assert sorted(found.tolist()) == every
    counts = dict.fromkeys(every, 0)
    for seed in range(300):
        for centre in line.silent(active, 3, np.random.default_rng(seed)).tolist():
            counts[centre] += 1
    expected = 900 / len(every)
    assert min(counts.values()) > 0.5 * expected and max(counts.values()) < 1.6 * expected


def test_what_a_judge_compares_with_is_silent_and_not_scored() -> None:
    line = line_of([10] * 100)
    active = random_latent(line, 300)
    found = drawn(OrtSAESequences(), line, active, contrast=500)
    assert 200 < len(found.contrast) <= 500 and not any(fires(active, found.contrast))
    distance = np.abs(found.contrast[:, None] - found.held_out[None, :]).min(1)
    assert (distance >= WIDTH).all()
    alone = drawn(OrtSAESequences(), line, active)
    assert len(alone.contrast) == 0 and alone.held_out.tolist() == found.held_out.tolist()


def test_faint_tokens_make_a_sequence_neither_active_nor_silent() -> None:
    line = line_of([1] * 200)
    strong = {int(p): 10.0 for p in WIDTH * np.arange(100) + SIDE}
    faint = {int(p): 0.01 for p in WIDTH * np.arange(100, 150) + SIDE}
    active = active_on(strong | faint)
    found = drawn(OrtSAESequences(), line, active, least=0.1)
    assert not set(found.held_out.tolist()) & set(faint)
    assert not set(found.explain.tolist()) & set(faint)


def test_too_few_sequences_are_told() -> None:
    line = line_of([1] * 100)
    few = active_on({int(p): 1.0 + p for p in WIDTH * np.arange(30) + SIDE})
    with pytest.raises(TooFew, match="20 active sequences of the 50 to be scored on"):
        drawn(OrtSAESequences(), line, few)
    with pytest.raises(TooFew, match="30 active sequences of the 40 to explain from"):
        drawn(OrtSAESequences(explain=40), line, few)
    with pytest.raises(TooFew, match="30 active sequences of the 31 among the strongest"):
        drawn(SAEBenchSequences(explain_top=29), line, few)
    with pytest.raises(TooFew, match="18 active sequences of the 19 among the weaker"):
        drawn(SAEBenchSequences(weighted=14), line, few)
    with pytest.raises(TooFew, match="70 silent sequences of the 71 to be scored on"):
        drawn(SAEBenchSequences(silent=71), line, few)
