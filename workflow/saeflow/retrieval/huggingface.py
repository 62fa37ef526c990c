"""A Hugging Face encoder: hidden states of the last layer, averaged over a text's tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from saeflow.retrieval.encoders import encoder_files
from saeflow.retrieval.reading import RetrievalError
from saeflow.retrieval.settings import HuggingFace


class HuggingFaceEncoder:
    """An encoder ready to be used (Contriever's pooling: the mean of what is no padding).

    It runs in float32, whatever its weights are stored in: half precision is slow on CPUs.
    """

    files: tuple[str, ...] = ()

    def __init__(self, settings: HuggingFace, root: Path, device: str) -> None:
        self.settings = settings
        self.inputs: dict[str, Path] = {}
        where = self._place(root)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(**where)
            model = AutoModel.from_pretrained(**where, use_safetensors=True, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise RetrievalError(
                f"encoder {settings.model or settings.folder} cannot be loaded ({error}); it needs "
                "a tokenizer and weights as safetensors: where there are only other weights, write "
                "it once with save_pretrained and give that folder"
            ) from error
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = model.requires_grad_(False).eval().to(device)
        self.width = model.config.hidden_size
        longest = getattr(model.config, "max_position_embeddings", settings.max_tokens)
        if settings.max_tokens > longest:
            raise RetrievalError(
                f"encoder {settings.model or settings.folder}: max_tokens {settings.max_tokens} "
                f"exceeds the {longest} positions that the model has"
            )

    def _place(self, root: Path) -> dict[str, Any]:
        """Return where the files are; those of a folder are noted as inputs."""
        settings = self.settings
        if settings.folder is None:
            return {
                "pretrained_model_name_or_path": settings.model,
                "revision": settings.revision,
            }
        place = root / settings.folder
        self.inputs = {path.name: path for path in encoder_files(settings, root)}
        if not any(name.endswith(".safetensors") for name in self.inputs):
            raise RetrievalError(
                f"encoder folder {place} has no *.safetensors; write the model there with "
                "save_pretrained, and its tokenizer"
            )
        return {"pretrained_model_name_or_path": str(place), "local_files_only": True}

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, (texts, width)."""
        vectors_nd = np.empty((len(texts), self.width), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for first in range(0, len(order), self.settings.batch):
            rows = order[first : first + self.settings.batch]
            vectors_nd[rows] = self._pooled([texts[i] for i in rows]).cpu().numpy()
        return vectors_nd

    def _pooled(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.settings.max_tokens,
            return_tensors="pt",
        ).to(self.model.device)
        hidden_btd = self.model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
        pooled_bd = mean_pooled(hidden_btd.float(), tokens["attention_mask"])
        return normalize(pooled_bd, dim=-1) if self.settings.normalise else pooled_bd


def mean_pooled(hidden_btd: Tensor, mask_bt: Tensor) -> Tensor:
    """Return the mean hidden state of each text over its tokens, padding left out."""
    mask_bt1 = mask_bt.unsqueeze(-1)
    return (hidden_btd * mask_bt1).sum(1) / mask_bt1.sum(1).clamp(min=1)


def fit(
    settings: HuggingFace, texts: Iterable[str], out: Path, root: Path, device: str
) -> HuggingFaceEncoder:
    """Load the encoder; it is trained already."""
    return HuggingFaceEncoder(settings, root, device)


def load(settings: HuggingFace, folder: Path, root: Path, device: str) -> HuggingFaceEncoder:
    """Load the encoder."""
    return HuggingFaceEncoder(settings, root, device)
