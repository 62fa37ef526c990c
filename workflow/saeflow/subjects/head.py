"""From final states to predictions, a few tokens at a time: no (b, t, V) tensor need exist."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from saeflow.subjects.load import Subject

LOGIT_BYTES = 2**26
"""Bound on one float32 block of logits; a few live at a time."""


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


@torch.no_grad()
def token_losses(subject: Subject, states_btd: Tensor, tokens_bt: Tensor) -> Tensor:
    """Return the loss (b, t - 1) in nats of predicting tokens 1..t-1 from final states."""
    b, t = tokens_bt.shape
    targets = tokens_bt[:, 1:].reshape(-1).to(subject.device)
    losses = [
        functional.cross_entropy(logits_nv, targets[rows], reduction="none")
        for rows, logits_nv in _logit_blocks(subject, states_btd[:, :-1])
    ]
    return torch.cat(losses).view(b, t - 1)


@torch.no_grad()
def token_kl(subject: Subject, clean_btd: Tensor, other_btd: Tensor) -> Tensor:
    """Return KL(clean || other) (b, t) in nats between the next-token distributions."""
    divergences = []
    blocks = zip(_logit_blocks(subject, clean_btd), _logit_blocks(subject, other_btd), strict=True)
    for (_, clean_nv), (_, other_nv) in blocks:
        clean_logp, other_logp = clean_nv.log_softmax(-1), other_nv.log_softmax(-1)
        divergences.append((clean_logp.exp() * (clean_logp - other_logp)).sum(-1))
    return torch.cat(divergences).view(clean_btd.shape[:2])


def _logit_blocks(subject: Subject, states_btd: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, logits (n, V) in float32) over the b*t positions in order."""
    states = states_btd.reshape(-1, states_btd.shape[-1])
    size = max(1, LOGIT_BYTES // (4 * subject.config.get_text_config().vocab_size))
    for start in range(0, len(states), size):
        rows = slice(start, start + size)
        yield rows, logits(subject, states[None, rows])[0].float()
