"""A causal language model of Hugging Face as judge, in the job's own process."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from saeflow.artifacts import file_digest
from saeflow.autointerp.answers import Answer
from saeflow.autointerp.judges import JudgeError, JudgeRefused
from saeflow.autointerp.settings import Local, Price
from saeflow.progress import say

_SMALL_BYTES = 2**26


class LocalModel:
    """Decodes greedily; the weights are loaded with the first question.

    Raises JudgeRefused for a folder that holds no model and for an id that cannot be read.
    """

    concurrency = 1
    price: Price | None = Price(input=0, output=0)

    def __init__(self, settings: Local, device: str = "cpu") -> None:
        self.settings, self.device = settings, device
        self.retries, self.longest = settings.retries, settings.max_new_tokens
        self.name = f"local:{settings.id or Path(settings.path or '').name}"
        decides: dict[str, Any] = settings.model_dump(exclude={"retries", "path"})
        if settings.path is not None:
            decides["files"] = _files(Path(settings.path))
        self.identity = json.dumps(decides, sort_keys=True)
        self.place = str(settings.path or settings.id)
        self.pinned = {"revision": settings.revision} if settings.id else {}
        self.tokenizer: Any
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.place, **self.pinned)
        except (OSError, ValueError) as error:
            raise JudgeRefused(
                f"the judge {self.place} has no usable tokenizer: {error}"
            ) from error

    @cached_property
    def model(self) -> Any:
        """The model, with its weights."""
        say(f"loading the judge {self.place}")
        dtype = getattr(torch, self.settings.dtype)
        model = AutoModelForCausalLM.from_pretrained(
            self.place, dtype=dtype, use_safetensors=True, **self.pinned
        )
        return model.eval().to(self.device)

    def complete(self, prompt: str) -> Answer:
        """Return the model's answer, decoded greedily.

        Raises JudgeError for a prompt that leaves no room in the model's context.
        """
        model, tokenizer = self.model, self.tokenizer
        ids_1t = self._encoded(prompt).to(self.device)
        room = getattr(model.config, "max_position_embeddings", None)
        if room is not None and ids_1t.shape[1] >= room:
            raise JudgeError(
                "error",
                f"a prompt of {ids_1t.shape[1]} tokens is too long for {self.name} ({room})",
            )
        most = self.settings.max_new_tokens
        most = most if room is None else min(most, room - ids_1t.shape[1])
        padding = tokenizer.pad_token_id or tokenizer.eos_token_id or 0
        new_t = _decoded(model, ids_1t, most, padding)
        text = tokenizer.decode(new_t, skip_special_tokens=True)
        return Answer(text, ids_1t.shape[1], len(new_t))

    def _encoded(self, prompt: str) -> torch.Tensor:
        """Return the prompt as tokens, by the model's own template where it has one."""
        if self.tokenizer.chat_template:
            return self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )["input_ids"]
        return self.tokenizer(f"{prompt}\n\nAnswer:", return_tensors="pt")["input_ids"]


@torch.no_grad()
def _decoded(model: Any, ids_1t: torch.Tensor, most: int, padding: int) -> torch.Tensor:
    """Return up to `most` tokens that the model writes behind `ids_1t`, each its likeliest."""
    output_1t = model.generate(
        ids_1t,
        attention_mask=torch.ones_like(ids_1t),
        do_sample=False,
        max_new_tokens=most,
        pad_token_id=padding,
    )
    return output_1t[0, ids_1t.shape[1] :]


def _files(folder: Path) -> dict[str, Any]:
    """Return what tells a folder's model from another: small files by hash, large ones by age."""
    if not (folder / "config.json").is_file():
        raise JudgeRefused(f"judge.path: {folder} holds no Hugging Face model (no config.json)")
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")):
        about = path.stat()
        small = about.st_size < _SMALL_BYTES
        found[path.name] = file_digest(path) if small else [about.st_size, about.st_mtime_ns]
    return found
