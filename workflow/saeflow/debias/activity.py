"""What latents do on text: how often they are active, and on which tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from saeflow.debias.biographies import Examples
from saeflow.debias.passes import text_mask
from saeflow.debias.patched import batches_by_length, padded
from saeflow.debias.slicing import encoder_of
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import run_to_sites


def count_active(
    subject: Subject, saes: Mapping[str, SAE], examples: Examples, batch_tokens: int
) -> dict[str, Tensor]:
    """Return by module on how many tokens of the text each latent (d_sae,) is active."""
    counts = {module: torch.zeros(sae.d_sae) for module, sae in saes.items()}
    for _, states in text_states(subject, list(saes), examples, batch_tokens):
        for module, x_nd in states.items():
            counts[module] += (saes[module].encode(x_nd) > 0).sum(0).cpu()
    return counts


def mean_states(
    subject: Subject, modules: Sequence[str], examples: Examples, batch_tokens: int
) -> dict[str, Tensor]:
    """Return by module the mean (d,) over all tokens of the text."""
    sums: dict[str, Tensor] = {}
    n = 0
    for tokens_n, states in text_states(subject, modules, examples, batch_tokens):
        n += len(tokens_n)
        for module, x_nd in states.items():
            sums[module] = sums.get(module, 0) + x_nd.double().sum(0)
    return {module: (total / n).float() for module, total in sums.items()}


def top_tokens(
    subject: Subject,
    saes: Mapping[str, SAE],
    latents: Mapping[str, Sequence[int]],
    examples: Examples,
    *,
    number: int,
    batch_tokens: int,
) -> dict[str, list[str]]:
    """Return by module a line for each of its `latents`: the tokens that activate it most.

    A token counts by the sum of the latent's activations on it; they are shown as text, without
    the space before them. A latent that is never active has an empty line.
    """
    modules = [module for module in saes if latents.get(module)]
    vocabulary = subject.config.get_text_config().vocab_size
    sums = {module: torch.zeros(vocabulary, len(latents[module])) for module in modules}
    encoders = {m: encoder_of(saes[m], torch.as_tensor(latents[m])) for m in modules}
    for tokens_n, states in (
        text_states(subject, modules, examples, batch_tokens) if modules else ()
    ):
        for module, x_nd in states.items():
            sums[module].index_add_(0, tokens_n, encoders[module](x_nd).cpu())
    return {
        module: [_line(subject, sum_v, number) for sum_v in sums[module].T] for module in modules
    }


def _line(subject: Subject, sum_v: Tensor, number: int) -> str:
    best = sum_v.argsort(descending=True, stable=True)[:number].tolist()
    words = (str(subject.tokenizer.decode([token])).strip() for token in best if sum_v[token] > 0)
    return " ".join(dict.fromkeys(word for word in words if word))


@torch.no_grad()
def text_states(
    subject: Subject, modules: Sequence[str], examples: Examples, batch_tokens: int
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield tokens (n,) and the modules' clean activations (n, d) at them, some texts at a time."""
    for rows in batches_by_length(examples.tokens, batch_tokens):
        tokens_bt, lengths_b = padded([examples.tokens[row] for row in rows])
        text_bt = text_mask(subject, tokens_bt, lengths_b)
        found = run_to_sites(subject, tokens_bt, modules)
        yield tokens_bt[text_bt.cpu()], {m: found[m][text_bt].float() for m in modules}
