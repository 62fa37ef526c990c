"""Subjects whose tokens are words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from saeflow.artifacts import write_manifest


def write_worded_subject(
    folder: Path, model: PreTrainedModel, words: Sequence[str], context: int
) -> None:
    """Write a model as a subject whose token i is `words[i]`; text is split at spaces.

    The first word begins and ends text, and stands for what is no word.
    """
    model.save_pretrained(folder)
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=words[0], eos_token=words[0]
    ).save_pretrained(folder)
    settings = {"dtype": "float32", "context": context, "prepend_bos": True}
    names = [path.name for path in folder.iterdir()]
    write_manifest(folder, kind="subject", settings=settings, files=names)
