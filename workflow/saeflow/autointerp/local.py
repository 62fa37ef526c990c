"""A causal language model of Hugging Face as judge, in the job's own process."""

from __future__ import annotations

import json
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from saeflow.artifacts import file_digest
from saeflow.autointerp.answers import Answer
from saeflow.autointerp.judges import JudgeError, JudgeRefused
from saeflow.autointerp.kinds import judge_files
from saeflow.autointerp.language import LanguageJudge
from saeflow.autointerp.settings import Autointerp, Local, Price
from saeflow.progress import say

_SMALL_BYTES = 2**26


def make(settings: Autointerp, folder: Path, root: Path, device: str) -> LanguageJudge:
    """Return the judge that runs the model of the settings and keeps its answers in `folder`."""
    assert isinstance(settings.judge, Local)
    return LanguageJudge(
        LocalModel(settings.judge, root, device), folder, settings.examples_per_prompt
    )


class LocalModel:
    """Decodes greedily; the weights are loaded with the first question.

    `root` is what the settings' path is relative to. Raises JudgeRefused for a folder that holds no
    model and for an id that cannot be read.
    """

    concurrency = 1
    price: Price | None = Price(input=0, output=0)

    def __init__(self, settings: Local, root: Path, device: str = "cpu") -> None:
        self.settings, self.device = settings, device
        self.retries, self.longest = settings.retries, settings.max_new_tokens
        self.name = f"local:{settings.id or Path(settings.path or '').name}"
        self.place = f"in the job itself, {settings.dtype}, greedy"
        decides: dict[str, Any] = settings.model_dump(exclude={"retries", "path"})
        self.where: dict[str, Any] = {
            "pretrained_model_name_or_path": settings.id,
            "revision": settings.revision,
        }
        if settings.path is not None:
            folder = root / settings.path
            decides["files"] = _files(judge_files(settings, root), folder)
            self.where = {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
        self.identity = json.dumps(decides, sort_keys=True)
        self.stopping = threading.Event()
        self.tokenizer: Any
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(**self.where)
        except (OSError, ValueError) as error:
            raise JudgeRefused(f"{self.name} has no usable tokenizer: {error}") from error

    @cached_property
    def model(self) -> Any:
        """The model, with its weights. Raises JudgeRefused where they cannot be read."""
        say(f"loading the judge {self.name}")
        dtype = getattr(torch, self.settings.dtype)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                **self.where, dtype=dtype, use_safetensors=True
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise JudgeRefused(f"{self.name} has no usable weights: {error}") from error
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
        num_beams=1,
        max_new_tokens=most,
        pad_token_id=padding,
    )
    return output_1t[0, ids_1t.shape[1] :]


def _files(files: list[Path], folder: Path) -> dict[str, Any]:
    """Return what tells a folder's model from another: small files by hash, large ones by age."""
    if not any(path.name == "config.json" for path in files):
        raise JudgeRefused(f"judge.path: {folder} holds no Hugging Face model (no config.json)")
    if not any(path.suffix == ".safetensors" for path in files):
        raise JudgeRefused(
            f"judge.path: {folder} has no *.safetensors; write the model there with save_pretrained"
        )
    found: dict[str, Any] = {}
    for path in files:
        about = path.stat()
        small = about.st_size < _SMALL_BYTES
        found[path.name] = file_digest(path) if small else [about.st_size, about.st_mtime_ns]
    return found
