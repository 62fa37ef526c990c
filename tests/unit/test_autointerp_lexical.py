"""The lexical judge on planted latents, on noise, and on cases that can be done by hand."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np
import pytest

from saeflow.autointerp.contexts import Latent
from saeflow.autointerp.examples import Contexts, Examples, Pieces
from saeflow.autointerp.lexical import LexicalJudge, separating
from saeflow.autointerp.settings import Lexical
from saeflow.autointerp.verdicts import score, verdict

VOCAB = 200
PIECES = Pieces({i: f" w{i}" for i in range(VOCAB)})
JUDGE = LexicalJudge(Lexical(kind="lexical"))


def planted(fires: Callable[[np.ndarray], np.ndarray], seed: int = 0, vocab: int = VOCAB) -> Latent:
    """A latent that is active where `fires` says of tokens (contexts, tokens) that it is."""
    generator = np.random.default_rng(seed)
    tokens_ct = generator.integers(0, vocab, (4000, 20))
    active_ct = fires(tokens_ct)
    active_c = active_ct.any(1)
    assert active_c.sum() > 90
    on, off = active_c.nonzero()[0], (~active_c).nonzero()[0]
    explaining = Contexts(tokens_ct[on[:40]], PIECES)
    held_out = np.concatenate([on[40:90], off[:50]])
    return Latent(
        seed=0,
        latent=0,
        activating=len(on),
        examples=Examples(explaining, active_ct[on[:40]].astype(float), active_ct[on[:40]]),
        contrast=Contexts(tokens_ct[off[50:1050]], PIECES),
        held_out=Contexts(tokens_ct[held_out], PIECES),
        active_c=active_c[held_out],
    )


def bigram(tokens_ct: np.ndarray) -> np.ndarray:
    """Active on word 1 behind word 3."""
    follows = (tokens_ct[:, 1:] == 1) & (tokens_ct[:, :-1] == 3)
    return np.hstack([np.zeros((len(tokens_ct), 1), bool), follows])


def test_a_latent_of_given_words_is_explained_by_them() -> None:
    latent = planted(lambda tokens: np.isin(tokens, [5, 17, 80]))
    found = verdict(JUDGE, latent)
    assert sorted((found.explanation or "").split(" or ")) == ['" w17"', '" w5"', '" w80"']
    assert found.scores is not None
    assert found.scores.f1 == found.scores.accuracy == 1


def test_noise_is_not_explained() -> None:
    """A latent that is active by chance; predictions of held-out contexts are chance as well."""
    results = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        latent = planted(lambda tokens, g=generator: g.random(tokens.shape) < 0.01, seed)
        found = verdict(JUDGE, latent).scores
        assert found is not None
        results.append(found.accuracy)
    # 20 x 100 predictions: three standard errors of a fair coin are 0.034.
    assert abs(np.mean(results) - 0.5) < 0.034


def test_only_ngrams_tell_a_latent_that_reads_two_tokens() -> None:
    latent = planted(bigram, vocab=25)
    f1 = {}
    for n in (1, 2):
        settings = Lexical(kind="lexical", max_ngram=n)
        found = verdict(LexicalJudge(settings), latent).scores
        assert found is not None
        f1[n] = found.f1
    assert f1[2] == 1
    assert f1[1] < 0.9


def test_terms_are_chosen_by_what_they_add() -> None:
    """Word 1 in 3 of 4 examples, word 2 in the fourth and in one of them; word 3 is everywhere."""
    contexts = Contexts(np.array([[1, 3], [1, 3], [1, 2], [2, 3]]), PIECES)
    everywhere = Examples(contexts, np.ones((4, 2)), np.ones((4, 2), bool))
    silent = np.array([[3, 9], [8, 3]])
    settings = Lexical(kind="lexical", max_ngram=1, min_gain=0.25)
    assert separating(settings, everywhere, silent) == [(1,), (2,)]
    high = settings.model_copy(update={"min_gain": 0.26})
    assert separating(high, everywhere, silent) == [(1,)]
    one = settings.model_copy(update={"max_terms": 1})
    assert separating(one, everywhere, silent) == [(1,)]


def test_a_term_has_an_active_token() -> None:
    """Word 1 separates best, but the latent is not active there."""
    contexts = Contexts(np.array([[1, 5], [1, 6]]), PIECES)
    active = np.array([[False, True], [False, True]])
    settings = Lexical(kind="lexical", max_ngram=1)
    found = separating(settings, Examples(contexts, active * 1.0, active), np.array([[2, 3]]))
    assert sorted(found) == [(5,), (6,)]


@pytest.mark.parametrize("piece", [' "', "\\", " or ", "\n", '" or "', "é", " ", "\ufffd"])
def test_any_text_survives_the_explanation(piece: str) -> None:
    pieces = Pieces({0: piece, 1: " x", 2: "y", 3: "z"})
    contexts = Contexts(np.array([[0, 1], [0, 1]]), pieces)
    active = np.ones((2, 2), bool)
    judge = LexicalJudge(Lexical(kind="lexical", max_ngram=2))
    silent = Contexts(np.array([[0, 2], [2, 1]]), pieces)
    explanation = judge.explain(Examples(contexts, active * 1.0, active), silent)
    others = Contexts(np.array([[0, 1], [1, 0], [0, 2], [3, 3]]), pieces)
    assert judge.detect(explanation, others) == [True, False, False, False]


def test_tokens_that_read_alike_are_one_word() -> None:
    pieces = Pieces({0: "a", 1: "a", 2: "b"})
    assert JUDGE.detect('"a"', Contexts(np.array([[0, 2], [1, 2], [2, 2]]), pieces)) == [
        True,
        True,
        False,
    ]


def test_without_a_separating_token_nothing_is_predicted() -> None:
    contexts = Contexts(np.array([[1, 2], [1, 2]]), PIECES)
    active = np.ones((2, 2), bool)
    explanation = JUDGE.explain(Examples(contexts, active * 1.0, active), contexts)
    assert explanation.startswith("no token")
    assert JUDGE.detect(explanation, contexts) == [False, False]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([[1, 1], [1, 1]], 0),
        ([[1, 2], [3, 4]], 100),
        ([[1, 1], [2, 2]], 50),  # one bit out of two
        ([[1, 1], [1, 2]], 100 * (0.75 * log(4 / 3) + 0.25 * log(4)) / log(4)),
    ],
)
def test_diversity_is_the_entropy_of_active_tokens(
    tokens: list[list[int]], expected: float
) -> None:
    active = np.ones((2, 2), bool)
    examples = Examples(Contexts(np.array(tokens), PIECES), active * 1.0, active)
    assert JUDGE.diversity("", examples).score == pytest.approx(expected)


def test_diversity_reads_active_tokens_only() -> None:
    active = np.array([[True, False], [True, False], [True, False]])
    contexts = Contexts(np.array([[1, 7], [1, 8], [2, 9]]), PIECES)
    found = JUDGE.diversity("", Examples(contexts, active * 1.0, active))
    assert found.score == pytest.approx(100 * (2 / 3 * log(1.5) + log(3) / 3) / log(3))
    assert found.justification == (
        '2 different tokens among 3 active ones; the most frequent, " w1", is 67% of them'
    )
    single = Examples(contexts.take(slice(0, 1)), np.ones((1, 2)), active[:1])
    assert JUDGE.diversity("", single).score == 0


def test_scores_by_hand() -> None:
    active = np.array([True, True, True, False, False])
    found = score(np.array([True, True, False, True, False]), active)
    assert found == pytest.approx((2 / 3, 2 / 3, 2 / 3, 0.6))
    nothing = score(np.zeros(5, bool), active)
    assert nothing == (0, None, 0, 0.4)
    assert score(np.ones(5, bool), active) == pytest.approx((0.75, 0.6, 1, 0.6))
