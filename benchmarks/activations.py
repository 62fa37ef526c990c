"""How fast activations are cached, read and fed to a training step, each as a ratio.

python benchmarks/activations.py [--json FILE]

Everything is built here: subjects with random weights, random tokens. What is compared takes turns
in one process, so that a busy machine slows both sides; a ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from saeflow.activations.partial import Partial
from saeflow.activations.rows import LOOKAHEAD_ROWS, RowSource, has_bfloat16
from saeflow.activations.settings import ActivationSettings
from saeflow.activations.shards import group_rows, write_shard
from saeflow.activations.stream import ActivationStream
from saeflow.activations.windows import Window, group_by_length, pad, read_windows
from saeflow.activations.write import CacheWriter
from saeflow.artifacts import write_manifest
from saeflow.job import keep_freed_memory
from saeflow.preempt import StopRequest
from saeflow.sae.optimisation import Trainer
from saeflow.sae.settings import AuxK, SAESettings, Training, Variant
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import run_to_sites

CONTEXT, VOCAB = 256, 4096
SHAPES = {
    "desk subject (d=192, to layer 3 of 6)": {"hidden_size": 192, "num_attention_heads": 6},
    "Pythia-70M (d=512, to layer 3 of 6)": {"hidden_size": 512, "num_attention_heads": 8},
}
SITES = ["gpt_neox.layers.3"]


def make_subject(shape: Mapping[str, int]) -> Subject:
    """A GPT-NeoX of six layers with random weights; its tokenizer only says that 0 is special."""
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            **shape, intermediate_size=4 * shape["hidden_size"], num_hidden_layers=6,
            vocab_size=VOCAB, max_position_embeddings=CONTEXT,
        )
    )  # fmt: skip
    model.requires_grad_(False)
    words = Tokenizer(WordLevel({"<eos>": 0}, unk_token="<eos>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    return Subject("random", model.eval(), tokenizer, CONTEXT, prepend_bos=True)


def make_tokens(path: Path, tokens: int) -> None:
    """Windows as of real documents: about half are full, the others of any length."""
    rng = np.random.default_rng(0)
    windows = []
    while tokens > 0:
        length = CONTEXT if rng.random() < 0.5 else int(rng.integers(16, CONTEXT))
        windows.append([0, *rng.integers(1, VOCAB, length - 1).tolist()])
        tokens -= length
    n = len(windows)
    columns = {
        "window": pa.array(range(n)),
        "document": pa.array(range(n)),
        "start": pa.array([0] * n, pa.int32()),
        "tokens": pa.array(windows, pa.list_(pa.int32())),
    }
    pq.write_table(pa.table(columns), path)


def seconds(work: Callable[[], None]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    with redirect_stderr(StringIO()):
        work()
    return time.perf_counter() - started


def take_turns(sides: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each side in each round; one warm-up round is left out."""
    names = list(sides)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names if turn % 2 else reversed(names):
            spent = seconds(sides[name])
            if turn:
                taken[name].append(spent)
    return taken


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median over the rounds of how often `fast` fits into `slow`."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def measure_caching(shape: Mapping[str, int], folder: Path, tokens: int, rounds: int) -> dict:
    """Caching, in float32 and bfloat16, against a forward pass that keeps nothing."""
    subject = make_subject(shape)
    path = folder / "tokens.parquet"
    make_tokens(path, tokens)
    base = ActivationSettings(tokens={"train": tokens}, shuffle_rows=tokens // 2)

    def cache(precision: str) -> None:
        chosen = base.model_copy(update={"precision": precision})
        out = folder / "cache"
        out.mkdir()
        source = RowSource(chosen, subject, SITES, path, tokens)
        CacheWriter(chosen, source, Partial({}), out).run(StopRequest())
        shutil.rmtree(out)

    def forward() -> None:
        windows: list[Window] = list(read_windows(path))
        assert sum(len(w.tokens) for w in windows) < 2 * LOOKAHEAD_ROWS
        for batch in group_by_length(windows, base.batch_tokens, np.random.default_rng(0)):
            run_to_sites(subject, pad(batch)[0], SITES)

    sides = {"forward": forward, "cache float32": lambda: cache("float32")}
    if has_bfloat16("cpu"):
        sides["cache bfloat16"] = lambda: cache("bfloat16")
    taken = take_turns(sides, rounds)
    result = {
        "forward_tokens_per_second": tokens / min(taken["forward"]),
        "cache_tokens_per_second": tokens / min(taken["cache float32"]),
        "cache_over_forward": ratio(taken["forward"], taken["cache float32"]),
    }
    if "cache bfloat16" in taken:
        result["cache_bfloat16_over_forward"] = ratio(taken["forward"], taken["cache bfloat16"])
    return result


def make_cache(folder: Path, rows: int, width: int) -> np.ndarray:
    """Write a float16 cache of normal rows of one site and return the rows."""
    rng = np.random.default_rng(0)
    acts = rng.standard_normal((rows, width), dtype=np.float32).astype(np.float16)
    ids = {"document": np.arange(rows), "position": np.zeros(rows, np.int32)}
    ids["token"] = ids["position"]
    write_shard(folder / "shard-00000.parquet", ids, {"site": acts}, rng.permutation(rows))
    settings = ActivationSettings(tokens={"train": rows})
    write_manifest(
        folder,
        kind="activations",
        settings={"activations": settings.model_dump()},
        files=["shard-00000.parquet"],
        stats={"sites": {"site": width}, "shards": {"shard-00000.parquet": rows}},
    )
    return acts


def measure_reading(folder: Path, rows: int = 131_072, width: int = 512, rounds: int = 5) -> dict:
    """Shuffled float32 batches against pyarrow reading the rows as a fixed-size list."""
    acts = make_cache(folder, rows, width)
    plain = folder / "list.parquet"
    column = pa.FixedSizeListArray.from_arrays(pa.array(acts.reshape(-1)), width)
    size = group_rows({"site": width}, "float16")
    pq.write_table(
        pa.table({"site": column}), plain, size, use_dictionary=False, compression="NONE"
    )

    def stream() -> None:
        for _ in range(rows // 2048):
            next(batches)

    def pyarrow() -> None:
        file = pq.ParquetFile(plain)
        for group in range(file.num_row_groups):
            file.read_row_group(group, columns=["site"])

    # Opened once, so that what is read ahead in one round is delivered in the next.
    with ActivationStream(folder, "site", batch_size=2048, seed=0) as batches:
        taken = take_turns({"stream": stream, "pyarrow": pyarrow}, rounds)
    megabytes = acts.nbytes / 1e6
    return {
        "stream_megabytes_per_second": megabytes / min(taken["stream"]),
        "list_megabytes_per_second": megabytes / min(taken["pyarrow"]),
        "stream_over_list": ratio(taken["pyarrow"], taken["stream"]),
    }


def measure_waiting(folder: Path, steps: int = 400) -> dict:
    """Share of the training time that a step at desk size waits for its batch."""
    make_cache(folder, 131_072, 192)
    training = Training(tokens=10**6, batch_size=512)
    variant = Variant(label="BatchTopK", activation="batchtopk", auxk=AuxK())
    settings = SAESettings(variant=variant, training=training, d_sae=1536, l0=16, seed=0)
    waited = stepped = 0.0
    with ActivationStream(folder, "site", batch_size=512, seed=0) as stream:
        trainer = Trainer(settings, next(stream), 1.0, "cpu")
        for _ in range(steps):
            started = time.perf_counter()
            batch = next(stream)
            got = time.perf_counter()
            trainer.step(batch)
            waited += got - started
            stepped += time.perf_counter() - got
    return {
        "step_milliseconds": 1000 * stepped / steps,
        "waiting_share": waited / (waited + stepped),
    }


TARGETS = {
    "cache_over_forward": (">=", 0.85),
    "cache_bfloat16_over_forward": (">=", 1.5),
    "stream_over_list": (">=", 2.0),
    "waiting_share": ("<=", 0.05),
}


def report(what: str, result: Mapping[str, float]) -> None:
    """Print one measurement, with the targets that it has."""
    print(what)
    for name, value in result.items():
        sign, target = TARGETS.get(name, ("", 0.0))
        met = value >= target if sign == ">=" else value <= target
        verdict = f"  (target {sign} {target:g}: {'met' if met else 'MISSED'})" if sign else ""
        print(f"  {name.replace('_', ' '):32} {value:10,.3f}{verdict}", flush=True)


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--tokens", type=int, default=32_000, help="tokens cached in a round")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    keep_freed_memory()
    results: dict[str, dict] = {}

    def run(what: str, measure: Callable[[Path], dict]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            results[what] = measure(Path(folder))
        report(what, results[what])

    for name, shape in SHAPES.items():
        run(
            f"caching, {name}",
            lambda f, s=shape: measure_caching(s, f, arguments.tokens, arguments.rounds),
        )
    run("reading, d=512 float16", measure_reading)
    run("training BatchTopK, d=192, d_sae=1536, batch 512", measure_waiting)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
