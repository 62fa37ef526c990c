"""From final states to predictions, a few tokens at a time: no (b, t, V) tensor need exist."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from saeflow.subjects.load import Subject

LOGIT_BYTES = 2**26
"""Bound on one float32 block of logits; a few live at a time."""


def logit_blocks(rows: int, vocab_size: int) -> Iterator[slice]:
    """Yield slices that cover `rows`, each with logits of at most `LOGIT_BYTES` (or one row)."""
    size = max(1, LOGIT_BYTES // (4 * vocab_size))
    for start in range(0, rows, size):
        yield slice(start, start + size)


def logits(subject: Subject, states_btd: Tensor) -> Tensor:
    """Return the logits (b, t, V) of final states by the model's own head.

    Whatever the family does to its logits (Gemma's soft cap, a scale) is done here too: the
    model's own forward runs on a body that returns `states_btd`.
    """
    body = subject.model.base_model
    # An attribute of the instance hides the method of the class for this one call.
    output = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states_btd)
    body.forward = lambda *args, **kwargs: output
    try:
        return subject.model(inputs_embeds=states_btd, use_cache=False).logits
    finally:
        del body.forward
