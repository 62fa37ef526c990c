"""Training tokens/s on a CUDA device, and their share of the matrix-product peak measured there.

python benchmarks/gpu.py [--only large] [--batch 8192] [--steps 20] [--out FILE]

A step with all products dense has five of size 2 x batch x d_in x d_sae (encode, decode, the
activations' gradient, both weights'). Only the first has to be dense, as a few latents of a token
are active. So two shares of the bf16 peak are printed: of that one product, which says how near an
ideal step is, and of all five, which compares with a dense trainer. Activations wait on the device.
The file is written after each row, and a configuration that fails leaves a row that says so.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from saeflow.sae.optimisation import Trainer
from saeflow.sae.settings import SAESettings, Training, Variant

SHAPES = {"small": (512, 8192, 32), "large": (2304, 65536, 70)}
"""d_in, d_sae, k."""
VARIANTS: dict[str, dict[str, Any]] = {
    "TopK": {"activation": "topk", "auxk": {}},
    "BatchTopK": {"activation": "batchtopk", "auxk": {}},
    "Matryoshka": {"activation": "batchtopk", "auxk": {}, "matryoshka": {}},
}
PRODUCTS = 5
WARM_STEPS = 5


def seconds_each(work: Callable[[], object], repeats: int) -> float:
    """Mean seconds of a call, the device's queue empty before and after."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def product_peak(dtype: torch.dtype, tf32: bool = False, size: int = 8192) -> float:
    """TFLOP/s of the best of five series of square products."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    left, right = torch.randn(2, size, size, device="cuda").to(dtype)
    out = torch.empty_like(left)

    def product() -> None:
        torch.mm(left, right, out=out)

    seconds_each(product, 3)
    best = min(seconds_each(product, 10) for _ in range(5))
    torch.backends.cuda.matmul.allow_tf32 = False
    return 2 * size**3 / best / 1e12


def train(
    variant: dict[str, Any], shape: tuple[int, int, int], selection: str, batch: int, steps: int
) -> tuple[float, float]:
    """Return tokens/s, the median of five series of steps, and the peak of device memory in GiB."""
    d_in, d_sae, k = shape
    settings = SAESettings(
        variant=Variant.model_validate(variant),
        training=Training.model_validate(
            {"tokens": 10**9, "batch_size": batch, "selection": selection}
        ),
        d_sae=d_sae,
        l0=k,
        seed=0,
    )
    # Rank 256 and noise: the latents that are active differ from token to token.
    directions = torch.randn(256, d_in, device="cuda")
    batches = [
        torch.randn(batch, 256, device="cuda") @ directions / 16
        + 0.1 * torch.randn(batch, d_in, device="cuda")
        for _ in range(4)
    ]
    torch.cuda.reset_peak_memory_stats()
    mean_square = batches[0].square().mean().item()
    trainer = Trainer(settings, batches[0][:2048].cpu(), mean_square, "cuda")
    taken = 0

    def step() -> None:
        nonlocal taken
        trainer.step(batches[taken % len(batches)])
        taken += 1

    seconds_each(step, WARM_STEPS)
    seconds = statistics.median(seconds_each(step, steps) for _ in range(5))
    return batch / seconds, torch.cuda.max_memory_allocated() / 2**30


def rows(shapes: list[tuple[int, int, int]], bf16: float, batch: int, steps: int) -> Iterator[str]:
    """Yield a row of the table for each configuration; `bf16` is the peak in TFLOP/s."""
    for shape in shapes:
        for label, variant in VARIANTS.items():
            for selection in ("float32", "bfloat16"):
                size = ", ".join(f"{n:,}" for n in shape)
                failure = None
                try:
                    tokens, gib = train(variant, shape, selection, batch, steps)
                except Exception as error:  # whatever it is, the other rows are still of use
                    failure = f"{type(error).__name__}: {error}".split("\n")[0].replace("|", "/")
                if failure:
                    torch.cuda.empty_cache()  # here, as the exception's frames hold tensors
                    yield f"| {label} | {size} | {selection} | failed, {failure} | | | |"
                    continue
                share = tokens * 2 * shape[0] * shape[1] / (bf16 * 1e12)
                yield (
                    f"| {label} | {size} | {selection} | {tokens:,.0f} | {share:.1%} "
                    f"| {PRODUCTS * share:.1%} | {gib:.1f} |"
                )


def write(lines: Iterable[str], path: Path | None) -> None:
    """Print each line as it comes and, where a path is given, write it there at once."""
    if path:
        path.write_text("")
    for line in lines:
        print(line, flush=True)
        if path:
            with path.open("a") as file:
                file.write(line + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=SHAPES)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=20, help="in each of five series")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: benchmarks/gpu.py measures training on one")
    bf16 = product_peak(torch.bfloat16)
    peaks = f"bf16 {bf16:.0f}, tf32 {product_peak(torch.float32, tf32=True):.0f}, "
    peaks += f"fp32 {product_peak(torch.float32):.0f} TFLOP/s"
    header = [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {date.today().isoformat()}.",
        f"Matrix-product peak measured: {peaks}. Batch {args.batch:,}.",
        "",
        "| variant | d_in, d_sae, k | selection | tokens/s | of the bf16 peak, one product "
        "| of the bf16 peak, five products | peak GiB |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    shapes = [shape for name, shape in SHAPES.items() if args.only in (None, name)]
    write(chain(header, rows(shapes, bf16, args.batch, args.steps)), args.out)


if __name__ == "__main__":
    main()
