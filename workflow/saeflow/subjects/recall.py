"""Does a subject know the facts that it was trained on?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from saeflow.corpora.facts import Query

BATCH = 64


@torch.no_grad()
def fact_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, queries: Sequence[Query]
) -> dict[str, float]:
    """Return the share of `queries` answered right, by attribute and over all (key `all`).

    Right means that greedy decoding from the prompt, which follows the begin token, gives the
    answer's tokens. One pass over prompt and answer decides it: greedy decoding gives the answer
    exactly where each of its tokens is the likeliest after the ones before.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(queries), BATCH):
        batch = queries[start : start + BATCH]
        for query, known in zip(batch, _answered(model, tokenizer, batch), strict=True):
            right[query.attribute].append(known)
            right["all"].append(known)
    return {name: round(sum(known) / len(known), 4) for name, known in sorted(right.items())}


def _answered(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, batch: Sequence[Query]
) -> list[bool]:
    bos = tokenizer.bos_token_id
    prompts = [[bos, *_ids(tokenizer, query.prompt)] for query in batch]
    answers = [_ids(tokenizer, query.answer) for query in batch]
    rows = [torch.tensor(p + a) for p, a in zip(prompts, answers, strict=True)]
    # Padding on the right: in a causal model it cannot change what precedes it.
    tokens_bt = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=bos)
    likeliest_bt = model(tokens_bt.to(model.device), use_cache=False).logits.argmax(-1).cpu()
    return [
        likeliest[len(p) - 1 : len(p) + len(a) - 1].tolist() == a
        for likeliest, p, a in zip(likeliest_bt, prompts, answers, strict=True)
    ]


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
