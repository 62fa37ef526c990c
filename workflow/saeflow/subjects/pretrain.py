"""Pretrain a small GPT-NeoX on a mixture of corpora; killed at any moment, it goes on exactly."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from saeflow.artifacts import (
    atomic_path,
    clear_folder,
    file_digest,
    read_manifest,
    write_json,
)
from saeflow.corpora.facts import queries
from saeflow.fingerprint import fingerprint
from saeflow.preempt import EXIT_CODE, preemptible
from saeflow.progress import Progress, say
from saeflow.subjects.head import logit_blocks
from saeflow.subjects.mixture import Stream, encode_stream, plan_windows, read_texts
from saeflow.subjects.optimiser import (
    build_optimisers,
    learning_rate,
    load_state_tensors,
    state_tensors,
)
from saeflow.subjects.recall import fact_accuracy
from saeflow.subjects.settings import PretrainSettings
from saeflow.subjects.tokenizer import train_tokenizer

HEAD_TOKENS = 1024
"""Tokens whose logits exist at one time: a bound on memory that costs no speed."""


@dataclass
class Run:
    """What changes while training, and is enough to go on."""

    model: GPTNeoXForCausalLM
    replicas: list[GPTNeoXForCausalLM]
    """One for each worker: the model itself and copies that share its weights, not gradients."""
    optimisers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    """Training time of all processes that worked on this run, without the validation."""
    log: list[dict[str, float]] = field(default_factory=list)


def pretrain(
    settings: PretrainSettings,
    corpora: Mapping[str, Path],
    out: Path,
    work: Path,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train tokenizer and model, write a Hugging Face folder to `out`, and return its statistics.

    `corpora` maps each name of `settings.mixture` to its corpus folder. Writes float16 weights,
    config, tokenizer and `pretraining.parquet` (the curve: step, tokens, lr, loss in nats per
    token). State for resuming lies in `work`; the caller removes it once all is complete. There
    is no dropout, so weights, optimiser state and step are the whole state: the order of the
    windows follows from the seed. Raises FloatingPointError at a loss that is not finite, and
    SystemExit after SIGTERM, with the state saved.
    """
    missing = sorted(set(settings.mixture) - set(corpora))
    if missing:
        raise ValueError(f"mixture names corpora that were not given: {', '.join(missing)}")
    corpora = {name: corpora[name] for name in sorted(settings.mixture)}
    _claim(work, settings, corpora, device)
    tokenizer = _tokenizer(settings, corpora, work)
    streams = _streams(corpora, tokenizer, "train")
    run = _start_or_resume(settings, work, device)
    _train(settings, streams, run, work, device)
    _save(run, tokenizer, out)
    held_out = _streams(corpora, tokenizer, "validation")
    run.model.float().to(device)
    stats: dict[str, Any] = {"validation": validation_losses(run.model, held_out, settings, device)}
    if any(_is_facts(path) for path in corpora.values()):
        stats["fact_accuracy"] = fact_accuracy(run.model, tokenizer, queries())
    return stats | {
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "tokens": settings.steps * settings.batch_windows * settings.context,
        "train_tokens_available": {name: len(s.tokens) for name, s in streams.items()},
        "train_seconds": round(run.seconds, 1),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "precision": "bfloat16 products" if _bfloat16(settings, device) else "float32",
    }


def _is_facts(corpus: Path) -> bool:
    return read_manifest(corpus, kind="corpus")["settings"]["source"] == "facts"


def _claim(
    work: Path, settings: PretrainSettings, corpora: Mapping[str, Path], device: str
) -> None:
    """Keep the state of this very run; throw away that of another, with a line that says so."""
    identity = {
        "settings": settings.model_dump(mode="json"),
        "corpora": {
            name: file_digest(path / "documents.parquet") for name, path in corpora.items()
        },
        "code": fingerprint(__name__),
        "device": device,
        "torch": torch.__version__,
    }
    claim = work / "run.json"
    if claim.is_file():
        found = json.loads(claim.read_text())
        changed = sorted(key for key in identity if found.get(key) != identity[key])
        if not changed:
            return
        say(f"{work} belongs to another pretraining (other {', '.join(changed)}): starting anew")
    clear_folder(work)
    write_json(claim, identity)


def _tokenizer(
    settings: PretrainSettings, corpora: Mapping[str, Path], work: Path
) -> PreTrainedTokenizerFast:
    saved = work / "tokenizer"
    if not saved.is_dir():
        say(f"training a tokenizer of {settings.vocab_size} entries")
        texts = chain.from_iterable(read_texts(path, "train") for path in corpora.values())
        tokenizer = train_tokenizer(texts, settings.vocab_size, settings.context)
        if len(tokenizer) != settings.vocab_size:
            raise ValueError(
                f"vocab_size: the corpora yield only {len(tokenizer)} entries, "
                f"not {settings.vocab_size}"
            )
        unfinished = work / "tokenizer.tmp"
        tokenizer.save_pretrained(str(unfinished))
        unfinished.replace(saved)
    return PreTrainedTokenizerFast.from_pretrained(str(saved))


def _streams(
    corpora: Mapping[str, Path], tokenizer: PreTrainedTokenizerFast, split: str
) -> dict[str, Stream]:
    streams = {}
    for name, path in corpora.items():
        streams[name] = encode_stream(
            read_texts(path, split), tokenizer.backend_tokenizer, tokenizer.bos_token_id
        )
        say(f"{name} {split}: {len(streams[name].tokens):,} tokens")
    return streams


def build_model(settings: PretrainSettings) -> GPTNeoXForCausalLM:
    """Return the untrained model, drawn from the seed with the initialisation of GPT-NeoX-20B.

    Weights have standard deviation sqrt(2 / (5 d)), the two output matrices of a block
    2 / (layers sqrt(d)) (Black et al., 2022, section 2.1.2).
    """
    config = GPTNeoXConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.d_model,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=settings.d_mlp,
        max_position_embeddings=settings.context,
        initializer_range=math.sqrt(2 / (5 * settings.d_model)),
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = GPTNeoXForCausalLM(config)
        scale = 2 / (settings.layers * math.sqrt(settings.d_model))
        for name, parameter in model.named_parameters():
            if name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
                torch.nn.init.normal_(parameter, std=scale)
    return model


def _start_or_resume(settings: PretrainSettings, work: Path, device: str) -> Run:
    model = build_model(settings)
    model.to(device)  # type: ignore[arg-type]
    replicas = [model, *(_sharing_copy(model) for _ in range(settings.workers - 1))]
    run = Run(model, replicas, build_optimisers(model, model.get_input_embeddings(), settings))
    path = work / "state.safetensors"
    if not path.is_file():
        return run
    with safe_open(path, framework="pt", device=device) as saved:
        about = saved.metadata()
        tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
    weights = {n: t for n, t in tensors.items() if not n.startswith("optimiser.")}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    load_state_tensors(run.optimisers, tensors)
    run.step, run.seconds = int(about["step"]), float(about["seconds"])
    run.log = json.loads(about["log"])
    say(f"going on from step {run.step} of {settings.steps}")
    return run


def _sharing_copy(model: GPTNeoXForCausalLM) -> GPTNeoXForCausalLM:
    copy = deepcopy(model)
    for mine, theirs in zip(model.parameters(), copy.parameters(), strict=True):
        theirs.data = mine.data
    return copy


def _checkpoint(run: Run, work: Path) -> None:
    tensors = dict(run.model.named_parameters()) | state_tensors(run.optimisers)
    about = {
        "step": str(run.step),
        "seconds": str(run.seconds),
        "log": json.dumps(run.log),
    }
    with atomic_path(work / "state.safetensors") as temporary:
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, temporary, about)


def _train(
    settings: PretrainSettings, streams: Mapping[str, Stream], run: Run, work: Path, device: str
) -> None:
    windows = {name: stream.windows(settings.context) for name, stream in streams.items()}
    batch = settings.batch_windows
    plan = plan_windows(windows, settings.mixture, settings.steps * batch, settings.seed)
    step_tokens = batch * settings.context
    total = settings.steps * step_tokens
    saved_at = started = time.monotonic()
    before = run.seconds
    # Workers that meet once a step lose less to a busy machine than threads that meet in every
    # product.
    with (
        preemptible() as stop,
        ThreadPoolExecutor(settings.workers, initializer=partial(torch.set_num_threads, 1)) as pool,
        Progress(total, "tok", "pretraining", run.step * step_tokens) as progress,
    ):
        while run.step < settings.steps:
            chosen = plan[run.step * batch : (run.step + 1) * batch]
            ids = np.stack([streams[name].window(w, settings.context) for name, w in chosen])
            loss, norm = _step(settings, run, torch.from_numpy(ids).to(device), device, pool)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"step {run.step}: the loss is {loss} (gradient norm {norm}); "
                    f"a lower lr than {settings.lr:g} may help; the last good state is in {work}"
                )
            run.step += 1
            run.seconds = before + time.monotonic() - started
            if run.step % settings.log_every == 0 or run.step == settings.steps:
                _log(settings, run, loss, norm)
            progress.update(step_tokens, f"loss {loss:.3f}")
            due = time.monotonic() - saved_at > 60 * settings.checkpoint_minutes
            if due or stop.requested or run.step == settings.steps:
                _checkpoint(run, work)
                saved_at = time.monotonic()
            if stop.requested and run.step < settings.steps:
                say(f"asked to end: the state of step {run.step} is saved in {work}")
                raise SystemExit(EXIT_CODE)


def _log(settings: PretrainSettings, run: Run, loss: float, norm: float) -> None:
    run.log.append(
        {
            "step": run.step,
            "tokens": run.step * settings.batch_windows * settings.context,
            "lr": learning_rate(settings, run.step - 1),
            "loss": loss,
            "gradient_norm": norm,
        }
    )


def _step(
    settings: PretrainSettings, run: Run, ids: Tensor, device: str, pool: Executor
) -> tuple[float, float]:
    """Take one step on windows (b, t + 1); return the loss and the gradient norm before it."""
    rate = learning_rate(settings, run.step)
    for optimiser in run.optimisers:
        optimiser.zero_grad()
        for group in optimiser.param_groups:
            group["lr"] = rate
    loss = sum(
        pool.map(partial(_work, settings, device), run.replicas, ids.chunk(settings.workers))
    )
    for copy in run.replicas[1:]:
        for mine, theirs in zip(run.model.parameters(), copy.parameters(), strict=True):
            assert mine.grad is not None and theirs.grad is not None
            mine.grad.add_(theirs.grad)
            theirs.grad = None
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), settings.clip)
    if math.isfinite(loss):
        for optimiser in run.optimisers:
            optimiser.step()
    return loss, norm.item()


def _work(
    settings: PretrainSettings, device: str, replica: GPTNeoXForCausalLM, ids: Tensor
) -> float:
    """Add one worker's gradient to its replica; return its part of the mean loss."""
    scale = 1 / (settings.batch_windows * settings.context)
    loss = 0.0
    for micro in ids.split(settings.micro_batch):
        with torch.autocast(device, torch.bfloat16, enabled=_bfloat16(settings, device)):
            loss += _backward(replica, micro, scale)
    return loss


def _backward(model: GPTNeoXForCausalLM, ids: Tensor, scale: float) -> float:
    """Add the gradient of `scale` times the summed loss of windows (b, t + 1); return that loss.

    The head runs on a few tokens at a time, each with its own backward pass into the hidden
    states, so that the logits of the whole batch never exist together.
    """
    hidden = model.gpt_neox(ids[:, :-1], use_cache=False).last_hidden_state
    leaf = hidden.detach().requires_grad_()
    loss = 0.0
    pieces = zip(
        leaf.flatten(0, 1).split(HEAD_TOKENS), ids[:, 1:].flatten().split(HEAD_TOKENS), strict=True
    )
    for states, targets in pieces:
        logits = model.lm_head(states).float()
        piece = functional.cross_entropy(logits, targets, reduction="sum") * scale
        piece.backward()
        loss += piece.item()
    hidden.backward(leaf.grad)
    return loss


def _bfloat16(settings: PretrainSettings, device: str) -> bool:
    if settings.precision != "auto":
        return settings.precision == "bfloat16"
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@torch.no_grad()
def validation_losses(
    model: GPTNeoXForCausalLM,
    streams: Mapping[str, Stream],
    settings: PretrainSettings,
    device: str = "cpu",
) -> dict[str, dict[str, float]]:
    """Return the float32 loss on held-out windows by corpus: nats per token and per UTF-8 byte."""
    losses = {}
    for name, stream in streams.items():
        n = min(
            stream.windows(settings.context), -(-settings.validation_tokens // settings.context)
        )
        if n == 0:
            raise ValueError(f"corpus {name!r} holds less than one window of validation tokens")
        nats = 0.0
        for first in range(0, n, settings.micro_batch):
            some = range(first, min(first + settings.micro_batch, n))
            ids = torch.from_numpy(np.stack([stream.window(i, settings.context) for i in some]))
            nats += _summed_loss(model, ids.to(device))
        per_token = nats / (n * settings.context)
        losses[name] = {
            "nats_per_token": round(per_token, 4),
            "nats_per_byte": round(per_token * len(stream.tokens) / stream.text_bytes, 4),
            "tokens": n * settings.context,
        }
        say(f"{name} validation loss: {per_token:.4f} nats per token")
    return losses


def _summed_loss(model: GPTNeoXForCausalLM, ids: Tensor) -> float:
    """Return the summed loss of windows (b, t + 1)."""
    states = model.gpt_neox(ids[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
    targets = ids[:, 1:].flatten()
    return sum(
        functional.cross_entropy(
            model.lm_head(states[rows]).float(), targets[rows], reduction="sum"
        ).item()
        for rows in logit_blocks(len(targets), model.config.vocab_size)
    )


def _save(run: Run, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    # Float16 halves what is shipped; the losses are measured on the weights as rounded here.
    run.model.cpu().half().save_pretrained(out)
    tokenizer.save_pretrained(str(out))
    with atomic_path(out / "pretraining.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(run.log), temporary)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"
