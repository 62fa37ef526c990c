"""TracIn by outer products next to a gradient of every passage, on random activations.

    .venv/bin/python benchmarks/tracin.py                      # d = 192, 384 and 768
    .venv/bin/python benchmarks/tracin.py --shapes 192x1536 --passages 8 --rounds 2

For each width a TopK SAE of 8 or 32 times the width, passages of 128 tokens. Both ways score every
passage against the same mean gradient of the seeds; the naive one asks autograd for the gradient of
each passage by all parameters and multiplies it with that. Rounds alternate; seconds are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saeflow.retrieval.tracin_gradients import Gradient, factors, inner_products, weighted_sum
from saeflow.sae.activation_functions import TopK
from saeflow.sae.model import SAE

SHAPES = ["192x1536", "192x6144", "384x3072", "384x12288", "768x6144", "768x24576"]


def build(d_in: int, d_sae: int, k: int) -> SAE:
    """Return a TopK SAE with tied random directions."""
    W_dec = normalize(torch.randn(d_sae, d_in), dim=1)
    return SAE(W_dec.t().clone(), W_dec, torch.zeros(d_sae), torch.zeros(d_in), TopK(k))


def by_outer_products(sae: SAE, x_nd: Tensor, tokens: int, mean: Gradient) -> Tensor:
    """Return a score for every `tokens` rows of `x_nd`."""
    return inner_products(sae, factors(sae, x_nd), mean).view(-1, tokens).sum(1)


def naive(sae: SAE, x_nd: Tensor, tokens: int, mean: Gradient) -> Tensor:
    """Return the same from a gradient of each passage."""
    parameters = (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec)
    others = (mean.W_enc_fd.t(), *mean[1:])
    scores = []
    for x_bd in x_nd.split(tokens):
        loss = (sae(x_bd) - x_bd).square().sum()
        found = torch.autograd.grad(loss, parameters)
        products = [(g * m).sum() for g, m in zip(found, others, strict=True)]
        scores.append(torch.stack(products).sum())
    return torch.stack(scores)


def seconds(work: Callable[[], Tensor]) -> float:
    """Return how long `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print a table row for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="d_in x d_sae")
    parser.add_argument("--passages", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="of a passage")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, k = {args.k}, "
          f"{args.passages} passages of {args.tokens} tokens")  # fmt: skip
    print("| d_in | d_sae | tokens/s | naive tokens/s | ratio | largest relative difference |")
    print("|---|---|---|---|---|---|")
    for shape in args.shapes:
        d_in, d_sae = map(int, shape.split("x"))
        sae, rows = build(d_in, d_sae, args.k), args.passages * args.tokens
        x_nd, seeds_nd = torch.randn(rows, d_in), torch.randn(1024, d_in)
        mean = weighted_sum(sae, factors(sae, seeds_nd), torch.full((1024,), 1 / 1024))
        given = (sae, x_nd, args.tokens, mean)
        fast, slow = by_outer_products(*given), naive(*given)  # warms up
        difference = ((fast - slow).abs().max() / slow.abs().max()).item()
        times = [
            (seconds(lambda: by_outer_products(*given)), seconds(lambda: naive(*given)))  # noqa: B023
            for _ in range(args.rounds)
        ]
        ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        print(f"| {d_in} | {d_sae:,} | {rows / ours:,.0f} | {rows / theirs:,.0f} | {ratio:.1f} | "
              f"{difference:.0e} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
