"""Which latents of each SAE are explained, and their sequences, from one pass over the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from saeflow.activations.exclusion import Exclusion
from saeflow.autointerp.firing import Text, fire
from saeflow.evaluation.detection_sequences import Sequences, TooFew, draw_sequences
from saeflow.evaluation.detection_settings import DetectionSettings, protocols_of
from saeflow.evaluation.detection_text import Active, Activity, Line
from saeflow.evaluation.origin import Key
from saeflow.progress import say
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject


class Drawn(NamedTuple):
    """A latent and its sequences by one protocol."""

    latent: int
    protocol: str
    active: Active
    least: float
    """Activation above which a token counts as active."""
    sequences: Sequences | None
    missing: str | None
    """Why it has none."""


class DrawnSAE(NamedTuple):
    """The latents of one SAE."""

    candidates: int
    """Latents looked at."""
    live: int
    """Those of them that are active often enough."""
    latents: list[Drawn]
    """The first of these, each by each protocol."""


def draw_latents(
    settings: DetectionSettings,
    saes: Mapping[Key, SAE | Boosted],
    text: Text,
    line: Line,
    *,
    subject: Subject,
    rule: Exclusion,
    site: str,
    contrast: int,
) -> dict[Key, DrawnSAE]:
    """Return what is drawn of each SAE, with up to `contrast` silent sequences to compare with.

    Raises ValueError where a protocol has sequences of no latent.
    """
    candidates = {
        key: _order(settings.seed, key.seed, len(sae.W_dec))[: settings.candidates]
        for key, sae in saes.items()
    }
    firings = fire(subject, saes, candidates, text, site, rule, settings.batch_tokens)
    drawn = {}
    for key in saes:
        activity = Activity(firings.pop(key), line)
        looked_at = candidates[key].tolist()
        live = [f for f in looked_at if len(activity.of(f).place_n) >= settings.min_firings]
        chosen = live[: settings.latents]
        found = [one for f in chosen for one in _drawn(settings, line, activity, key, f, contrast)]
        drawn[key] = DrawnSAE(len(looked_at), len(live), found)
        say(
            f"{key}: {len(live):,} of {len(looked_at):,} latents are live in "
            f"{len(line.tokens_n):,} tokens; {len(chosen):,} of them are explained"
        )
    _check(settings, drawn)
    return drawn


def _order(seed: int, sae_seed: int, d_sae: int) -> np.ndarray:
    """Return the random order in which latents are looked at."""
    return np.random.default_rng([seed, sae_seed]).permutation(d_sae)


def _drawn(
    settings: DetectionSettings,
    line: Line,
    activity: Activity,
    key: Key,
    latent: int,
    contrast: int,
) -> Iterator[Drawn]:
    """Yield one latent by each protocol; neither depends on other latents or protocols."""
    active = activity.of(latent)
    least = settings.active_share * float(active.activation_n.max())
    for protocol, of in protocols_of(settings).items():
        draw = np.random.default_rng([settings.seed, key.seed, latent])
        try:
            sequences, missing = draw_sequences(of, line, active, least, contrast, draw), None
        except TooFew as reason:
            sequences, missing = None, str(reason)
        yield Drawn(latent, protocol, active, least, sequences, missing)


def _check(settings: DetectionSettings, drawn: Mapping[Key, DrawnSAE]) -> None:
    """Raise unless each protocol has a latent to be asked about."""
    every = [one for of in drawn.values() for one in of.latents]
    if not every:
        raise ValueError(
            f"no latent is active on {settings.min_firings} tokens: read more tokens, or lower "
            "min_firings"
        )
    for protocol in protocols_of(settings):
        reasons = [one.missing for one in every if one.protocol == protocol]
        if all(reasons):
            raise ValueError(
                f"no latent has enough sequences for {protocol} ({reasons[0]}): read more tokens, "
                f"or lower the numbers of {protocol}"
            )
