"""Which variants are meaningful: every combination trains or is refused with its reason."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from sae_planted import planted, settings

from saeflow.sae.optimisation import Trainer
from saeflow.sae.settings import SAESettings, Training, Variant

ACTIVATIONS: dict[str, dict[str, Any]] = {
    "relu": {"l1": {}},
    "topk": {},
    "batchtopk": {},
    "jumprelu": {"l0": {}},
    "gated": {"l1": {}},
}
PARTS: dict[str, dict[str, Any]] = {
    "auxk": {"auxk": {}},
    "matryoshka": {"matryoshka": {"weights": [1, 2, 3, 4, 5]}},
    "orthogonality": {"orthogonality": {"chunk_size": 8}},
    "tilt": {"tilt": {"t": 500, "of": "loss"}},
    "no bias": {"decoder_bias": False},
}
REFUSED = ("gated", "auxk")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_combination_of_parts_trains(activation):
    rows, _ = planted(640)
    possible = {name: part for name, part in PARTS.items() if (activation, name) != REFUSED}
    for chosen in product((False, True), repeat=len(possible)):
        parts = [part for part, on in zip(possible.values(), chosen, strict=True) if on]
        named = {key: value for part in parts for key, value in part.items()}
        variant = Variant(activation=activation, **ACTIVATIONS[activation], **named)
        config = settings(variant, dead_after_tokens=64)
        trainer = Trainer(config, rows, rows.square().mean().item())
        start = trainer.sae.W_dec.detach().clone()
        for batch in rows[:192].split(64):
            trainer.step(batch)
        assert not torch.equal(trainer.sae.W_dec, start)
        if trainer.needs_calibration:
            trainer.calibrate([rows])
        assert trainer.finished()(rows).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"activation": "relu"}, "relu needs an l1 section"),
        ({"activation": "gated"}, "gated needs an l1 section"),
        ({"activation": "jumprelu"}, "jumprelu needs an l0 section"),
        ({"activation": "jumprelu", "l0": {}, "l1": {}}, "in place of l1"),
        ({"activation": "topk", "l1": {}}, "fixes L0 itself; remove the l1 section"),
        ({"activation": "batchtopk", "l0": {}}, "fixes L0 itself; remove the l0 section"),
        ({"activation": "relu", "l1": {}, "l0": {}}, "no threshold that an l0 section could"),
        ({"activation": "topk", "jumprelu": {}}, "topk does not read a jumprelu section"),
        ({"activation": "topk", "decoder_norm": "free"}, "only with decoder_norm: unit"),
        (
            {"activation": "relu", "l1": {}, "auxk": {}, "decoder_norm": "free"},
            "auxk compares latents",
        ),
        ({"activation": "gated", "l1": {}, "auxk": {}}, "of which a gated one has two"),
        (
            {"activation": "relu", "l1": {}, "training": {"selection": "bfloat16"}},
            "selection does nothing for activation relu",
        ),
        (
            {"activation": "relu", "l1": {"match_l0": False, "match_gain": 3}},
            "needs match_l0",
        ),
        ({"decoder_bias": False, "apply_b_dec_to_input": True}, "nothing to subtract"),
        (
            {"error_of": {"source": "folder", "path": "x"}, "apply_b_dec_to_input": True},
            "bias of the frozen SAE's error",
        ),
        ({"tilt": {"t": 0}}, "t = 0 is the mean"),
        ({"tilt": {"t": 1, "running": 1}}, "less than 1"),
        ({"activation": "relu", "l1": {"warmup": 0.1}}, "warmup needs match_l0: false"),
        ({"matryoshka": {"fractions": [0.5, 0.4]}}, "must sum to 1"),
        ({"matryoshka": {"weights": [1, 2]}}, "one for each of the 5 fractions"),
        ({"matryoshka": {"weights": [1, 1, 1, 1, 0]}}, "last weight must not be 0"),
        ({"activation": "softmax"}, "'relu', 'topk', 'batchtopk', 'jumprelu' or 'gated'"),
        ({"orthogonalty": {}}, "Extra inputs are not permitted"),
        ({"error_of": {"source": "hub"}}, "'trained', 'folder'"),
    ],
)
def test_a_meaningless_variant_is_refused_with_the_reason(changes, reason):
    with pytest.raises(ValidationError, match=reason):
        Variant.model_validate({"activation": "batchtopk", **changes})


def test_a_standardised_error_is_refused():
    variant = Variant(activation="topk", error_of={"source": "folder", "path": "x"})
    training = Training(tokens=64, batch_size=64, input_scaling="standardise")
    with pytest.raises(ValidationError, match=r"a token's mean.*is no part of an error"):
        SAESettings(variant=variant, training=training, d_sae=8, l0=2, seed=0)


def test_what_the_encoder_subtracts_by_default():
    centred = {
        name: Variant(activation=name, **parts).centred for name, parts in ACTIVATIONS.items()
    }
    assert centred == {name: name != "jumprelu" for name in ACTIVATIONS}
    frozen = {"error_of": {"source": "folder", "path": "x"}}
    assert not Variant(activation="topk", **frozen).centred
    assert not Variant(activation="topk", decoder_bias=False).centred
    assert Variant(activation="jumprelu", l0={}, apply_b_dec_to_input=True).centred


def test_an_empty_matryoshka_group_is_refused():
    variant = Variant(activation="topk", matryoshka={"fractions": [0.99, 0.01]})
    training = Training(tokens=64, batch_size=64)
    with pytest.raises(ValidationError, match=r"group of the 32 latents empty.*\[32, 32\]"):
        SAESettings(variant=variant, training=training, d_sae=32, l0=2, seed=0)
    SAESettings(variant=variant, training=training, d_sae=64, l0=2, seed=0)


def test_betas_are_shares():
    with pytest.raises(ValidationError, match="less than 1"):
        Training(tokens=64, batch_size=64, betas=(0.9, 1.0))
