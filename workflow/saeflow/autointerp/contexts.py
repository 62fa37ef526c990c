"""Examples of sampled latents: to explain from, and, out of other documents, to be scored on.

Half of the documents, drawn at random, is for explaining and the other half for scoring, so that
no explanation is scored on a document that it has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from saeflow.activations.exclusion import read_exclusion
from saeflow.artifacts import ArtifactError
from saeflow.autointerp.examples import Contexts, Examples, pieces_of
from saeflow.autointerp.firing import Firing, fire, read_text
from saeflow.autointerp.settings import Autointerp
from saeflow.progress import say
from saeflow.sae.formats import load_sae
from saeflow.subjects.load import load_subject


class Latent(NamedTuple):
    """One sampled latent with what it is explained from and scored on."""

    seed: int
    latent: int
    activating: int
    """Contexts of the text read in which it is active."""
    examples: Examples
    contrast: Contexts
    """Contexts out of the same documents as the examples, in which it is silent."""
    held_out: Contexts
    """Contexts to predict on, activating and silent ones mixed."""
    active_c: np.ndarray
    """Whether it is active in each of them (bool)."""


class Collected(NamedTuple):
    """Sampled latents of all seeds and how many there were to choose from."""

    latents: list[Latent]
    candidates: dict[int, int]
    """Latents looked at, by seed."""
    eligible: dict[int, int]
    """Those of them that are active often enough."""


class Peaks(NamedTuple):
    """One entry for each context that activates a latent, sorted by latent."""

    latent_k: np.ndarray
    context_k: np.ndarray
    greatest_k: np.ndarray
    """Its greatest activation there."""


def collect(
    settings: Autointerp,
    saes: Mapping[int, Path],
    *,
    subject: Path,
    tokens: Path,
    split: str,
    exclusion: Path,
    site: str,
    contrast: int = 0,
    device: str = "cpu",
) -> Collected:
    """Return examples of sampled latents of SAEs (folders by seed) from one pass of the subject.

    `exclusion` is the activation cache whose rule says which tokens count; `contrast` is how many
    silent contexts a judge compares with. Raises ArtifactError for damaged inputs and for text of
    fewer than two documents, and ValueError where an SAE does not fit the site.
    """
    model = load_subject(subject, device)
    rule = read_exclusion(exclusion, model.special_ids)
    loaded = {seed: load_sae(folder).to(device) for seed, folder in sorted(saes.items())}
    text = read_text(tokens, split, settings.tokens, settings.example_tokens, model.special_ids)
    explaining_c = _explaining(text.document_c, settings.seed, tokens)
    orders = {
        seed: np.random.default_rng([settings.seed, seed]).permutation(sae.d_sae)
        for seed, sae in loaded.items()
    }
    candidates = {seed: order[: settings.candidates] for seed, order in orders.items()}
    firings = fire(model, loaded, candidates, text, site, rule, settings.batch_tokens)
    pieces = pieces_of(model.tokenizer, np.unique(text.tokens_ct))
    everything = Contexts(text.tokens_ct, pieces)
    found: list[Latent] = []
    eligible = {}
    for seed, firing in firings.items():
        sampler = _Sampler(settings, seed, everything, explaining_c, firing, contrast)
        often = sampler.often_active(candidates[seed])
        eligible[seed] = len(often)
        found.extend(sampler.sample(latent) for latent in often[: settings.latents])
        say(
            f"seed {seed}: {len(often):,} of {len(candidates[seed]):,} latents are active often "
            f"enough in {len(everything):,} contexts; {min(len(often), settings.latents):,} of "
            "them are explained"
        )
    return Collected(found, {seed: len(c) for seed, c in candidates.items()}, eligible)


def _explaining(document_c: np.ndarray, seed: int, tokens: Path) -> np.ndarray:
    """Return whether each context is for explaining; the others are for scoring."""
    documents = np.unique(document_c)
    if len(documents) < 2:
        raise ArtifactError(
            f"{tokens}: explaining and scoring need a document each, and the text read has "
            f"{len(documents)}; read more tokens"
        )
    order = np.random.default_rng(seed).permutation(documents)
    return np.isin(document_c, order[: len(order) // 2])


class _Sampler:
    """Draws the examples of the latents of one SAE; a latent's do not depend on the others'."""

    def __init__(
        self,
        settings: Autointerp,
        seed: int,
        everything: Contexts,
        explaining_c: np.ndarray,
        firing: Firing,
        contrast: int,
    ) -> None:
        order = np.lexsort((firing.position_n, firing.context_n, firing.latent_n))
        self.firing = Firing(*(column[order] for column in firing))
        self.peaks = peaks(self.firing)
        self.settings, self.seed, self.contrast = settings, seed, contrast
        self.everything, self.explaining_c = everything, explaining_c

    def _activating(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the contexts that activate `latent`, strongest first, as (explaining, scoring)."""
        first, last = np.searchsorted(self.peaks.latent_k, [latent, latent + 1])
        contexts = self.peaks.context_k[first:last]
        contexts = contexts[np.argsort(-self.peaks.greatest_k[first:last], kind="stable")]
        explains = self.explaining_c[contexts]
        return contexts[explains], contexts[~explains]

    def often_active(self, latents: np.ndarray) -> list[int]:
        """Return the latents with `min_activations` contexts of each kind that is needed."""
        explains_k = self.explaining_c[self.peaks.context_k]
        size = 1 + int(latents.max())
        explaining_f, scoring_f = (
            np.bincount(self.peaks.latent_k[side_k], minlength=size)[latents]
            for side_k in (explains_k, ~explains_k)
        )
        silent_f = int((~self.explaining_c).sum()) - scoring_f
        fewest_f = np.minimum(np.minimum(explaining_f, scoring_f), silent_f)
        return latents[fewest_f >= self.settings.min_activations].tolist()

    def sample(self, latent: int) -> Latent:
        """Return the examples of one latent."""
        settings = self.settings
        draw = np.random.default_rng([settings.seed, self.seed, latent])
        explaining, scoring = self._activating(latent)
        strongest = [
            group[:n]
            for group, n in spread(explaining, settings.train_examples, settings.quantiles)
        ]
        positives, negatives = self._sizes(len(scoring))
        drawn = [
            draw.choice(group, n, replace=False)
            for group, n in spread(scoring, positives, settings.quantiles)
        ]
        positive = np.concatenate(drawn)
        negative = self._silent(scoring, ~self.explaining_c, negatives, draw)
        contrast = self._silent(explaining, self.explaining_c, self.contrast, draw)
        mixed = draw.permutation(len(positive) + len(negative))
        return Latent(
            seed=self.seed,
            latent=latent,
            activating=len(explaining) + len(scoring),
            examples=self._examples(latent, np.concatenate(strongest)),
            contrast=self.everything.take(contrast),
            held_out=self.everything.take(np.concatenate([positive, negative])[mixed]),
            active_c=(np.arange(len(mixed)) < len(positive))[mixed],
        )

    def _sizes(self, activating: int) -> tuple[int, int]:
        """Return how many of `activating` contexts and how many silent ones to be scored on.

        Where either are too few for the ratio of the settings, there are fewer of both.
        """
        ratio = self.settings.negatives_per_positive
        silent = int((~self.explaining_c).sum()) - activating
        positives = min(self.settings.test_examples, activating, max(1, int(silent / ratio)))
        return positives, max(1, round(ratio * positives))

    def _silent(
        self, activating: np.ndarray, side_c: np.ndarray, n: int, draw: np.random.Generator
    ) -> np.ndarray:
        """Return up to `n` contexts of one side in which the latent is silent."""
        silent_c = side_c.copy()
        silent_c[activating] = False
        silent = silent_c.nonzero()[0]
        return draw.choice(silent, min(n, len(silent)), replace=False)

    def _examples(self, latent: int, contexts: np.ndarray) -> Examples:
        """Return `contexts` with the latent's activations."""
        first, last = np.searchsorted(self.firing.latent_n, [latent, latent + 1])
        order = np.argsort(contexts)
        ordered, context_n = contexts[order], self.firing.context_n[first:last]
        place_n = np.searchsorted(ordered, context_n).clip(max=len(ordered) - 1)
        here_n = ordered[place_n] == context_n
        acts_ct = np.zeros((len(contexts), self.settings.example_tokens), np.float32)
        acts_ct[order[place_n[here_n]], self.firing.position_n[first:last][here_n]] = (
            self.firing.activation_n[first:last][here_n]
        )
        active_ct = acts_ct >= self.settings.active_share * acts_ct.max(1, keepdims=True)
        return Examples(self.everything.take(contexts), acts_ct, active_ct)


def peaks(firing: Firing) -> Peaks:
    """Return each latent's greatest activation in each context; `firing` is sorted by both."""
    starts_n = np.ones(len(firing.latent_n), bool)
    starts_n[1:] = (np.diff(firing.latent_n) != 0) | (np.diff(firing.context_n) != 0)
    first_k = starts_n.nonzero()[0]
    if not len(first_k):
        return Peaks(firing.latent_n, firing.context_n, firing.activation_n)
    greatest_k = np.maximum.reduceat(firing.activation_n, first_k)
    return Peaks(firing.latent_n[first_k], firing.context_n[first_k], greatest_k)


def spread(contexts: np.ndarray, n: int, quantiles: int) -> list[tuple[np.ndarray, int]]:
    """Split `contexts`, strongest first, into quantiles; with how many of `n` come from each.

    Where there are no more than `n`, each gives all that it has; what does not divide evenly comes
    from the strongest.
    """
    groups = np.array_split(contexts, quantiles)
    share, rest = divmod(min(n, len(contexts)), quantiles)
    return [(group, share + (i < rest)) for i, group in enumerate(groups)]
