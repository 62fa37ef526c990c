"""Settings of a subject: where the interpreted model comes from, and how it is pretrained."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from saeflow.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]


class PretrainSettings(Settings):
    """The recipe of a GPT-NeoX trained from random weights on a mixture of corpora."""

    mixture: dict[str, Share]
    """Share of the training tokens by corpus name; the shares sum to 1."""
    tokens: PositiveInt
    """Training budget in tokens."""
    vocab_size: Annotated[int, Field(ge=300, le=65_535)] = 4096
    """Entries of the byte-level BPE, special token included (token ids are kept as uint16)."""
    context: Annotated[int, Field(ge=8)] = 256
    d_model: PositiveInt = 192
    layers: PositiveInt = 6
    heads: PositiveInt = 6
    d_mlp: PositiveInt = 768
    batch_windows: PositiveInt = 32
    """Windows of `context` tokens in one optimiser step."""
    micro_batch: PositiveInt = 8
    """Windows in one forward and backward pass; gradients accumulate over the step."""
    workers: PositiveInt = 2
    """Threads that each take a share of the step's windows; sets the order of summation."""
    optimiser: Literal["adamw", "muon"] = "muon"
    """`muon` orthogonalises the updates of the hidden matrices; AdamW then trains the rest."""
    lr: PositiveFloat = 6e-3
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the steps over which the learning rate rises linearly from 0."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the steps, at the end, over which the learning rate falls linearly to 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled decay of the matrices; vectors are not decayed."""
    clip: PositiveFloat = 1.0
    """Largest global gradient norm."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the products; the weights stay float32. `auto`: bfloat16 where the hardware has it."""
    validation_tokens: PositiveInt = 200_000
    """At most so many held-out tokens of each corpus measure the validation loss."""
    log_every: PositiveInt = 20
    """Steps between two rows of the training curve."""
    checkpoint_minutes: PositiveFloat = 5.0
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> PretrainSettings:
        if not self.mixture or abs(sum(self.mixture.values()) - 1) > 1e-6:
            raise ValueError(
                f"mixture: the shares must sum to 1, they sum to {sum(self.mixture.values()):g}"
            )
        if self.d_model % self.heads or (self.d_model // self.heads) % 2:
            raise ValueError(
                f"heads: d_model={self.d_model} must split into heads={self.heads} of an even size"
            )
        if self.batch_windows % (self.workers * self.micro_batch):
            raise ValueError(
                f"micro_batch: {self.micro_batch} for each of workers={self.workers} does not "
                f"divide batch_windows={self.batch_windows}"
            )
        if self.warmup + self.decay > 1:
            raise ValueError(
                f"decay: warmup={self.warmup:g} and decay={self.decay:g} overlap (sum above 1)"
            )
        if self.steps < 2:
            raise ValueError(
                f"tokens: a budget of {self.tokens} is less than two steps of "
                f"{self.batch_windows * self.context} tokens"
            )
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps that the token budget pays for."""
        return self.tokens // (self.batch_windows * self.context)


class WindowSettings(Settings):
    """How documents are cut into what a subject reads."""

    context: Annotated[int, Field(ge=2)]
    """Longest window of tokens fed to the model, its begin token included."""
    prepend_bos: bool = True
    """Begin every window with the begin token, whose position then serves as attention sink."""
    min_window: PositiveInt = 16
    """Windows with fewer tokens of text are dropped."""

    @model_validator(mode="after")
    def _some_window_is_kept(self) -> WindowSettings:
        room = self.context - self.prepend_bos
        if self.min_window > room:
            raise ValueError(
                f"min_window: {self.min_window} exceeds the {room} text tokens that context "
                f"{self.context} has room for: every window would be dropped"
            )
        return self


class CommonSettings(WindowSettings):
    """What every subject has, wherever it comes from."""

    sites: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names or globs of the modules whose outputs are interpreted (`gpt_neox.layers.*`)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the loaded weights."""
    cached_tokens: PositiveInt | None = None
    """Rows cached of each split in place of `activations.tokens`, as many sites need much disk."""


class PretrainedHere(CommonSettings):
    """A small GPT-NeoX that the workflow trains, or whose shipped weights it takes."""

    source: Literal["pretrain"]
    training: PretrainSettings
    pretrain: bool = False
    """Train it; otherwise take `shipped`, which must come from the same `training`."""
    shipped: str | None = None
    """Folder with the weights that `training` gave, relative to the project."""

    @model_validator(mode="after")
    def _obtainable(self) -> PretrainedHere:
        if not self.pretrain and self.shipped is None:
            raise ValueError("pretrain: false needs the weights; name their folder in `shipped`")
        if self.context > self.training.context:
            raise ValueError(
                f"context: {self.context} is longer than the training.context of "
                f"{self.training.context}"
            )
        return self


class FromFolder(CommonSettings):
    """A causal language model in a Hugging Face folder."""

    source: Literal["folder"]
    path: str
    """The folder; a relative path starts from `data_dir` where that is set, else the project."""


class FromHub(CommonSettings):
    """A causal language model of the Hugging Face hub (or its local cache)."""

    source: Literal["hub"]
    id: str
    revision: str
    """Commit hash, or a tag or branch that does not move."""
    trust_remote_code: bool = False
    """Run the repository's own Python code; only at a commit hash."""

    @model_validator(mode="after")
    def _pinned(self) -> FromHub:
        if self.revision in ("", "main", "master", "HEAD"):
            raise ValueError(f"revision: {self.revision!r} moves; give a commit hash or a tag")
        if self.trust_remote_code and not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ValueError(
                f"trust_remote_code: needs a commit hash of 40 digits as revision, "
                f"not {self.revision!r}"
            )
        return self


class FromLlama2c(CommonSettings):
    """A model in llama2.c's legacy checkpoint format, converted to a Hugging Face folder."""

    source: Literal["llama2c"]
    checkpoint: str
    """The `.bin` of the weights, found as the folder of `FromFolder` is."""
    tokenizer: str
    """The `.bin` of the tokenizer, found likewise."""


SubjectSettings = Annotated[
    PretrainedHere | FromFolder | FromHub | FromLlama2c, Field(discriminator="source")
]
