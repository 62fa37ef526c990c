"""saeflow's training steps, and a dense one in plain autograd for reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize
from worker import Contender, Job, QuietRows

from saeflow.sae.optimisation import Trainer
from saeflow.sae.settings import SAESettings, Training, Variant

Build = Callable[[Job, Tensor], Contender]
IDLE = 10**9


def saeflow(activation: str, *, dead: bool = False, bf16: bool = False, **parts: dict) -> Build:
    """Return the builder of saeflow's trainer for a variant; `parts` are its sections."""

    def build(job: Job, x_bd: Tensor) -> Contender:
        training = {
            "tokens": 10**9,
            "batch_size": job.batch,
            "selection": "bfloat16" if bf16 else "float32",
        }
        settings = SAESettings(
            variant=Variant.model_validate({"activation": activation, **parts}),
            training=Training.model_validate(training),
            d_sae=job.d_sae,
            l0=job.k,
            seed=0,
        )
        trainer = Trainer(settings, x_bd[:2048], x_bd.square().mean().item())
        contender = Contender(trainer.step, lambda x_bd: trainer.step(x_bd).step.l0)
        if dead:
            quiet = QuietRows(trainer.sae.W_enc.t(), job.dead)

            def before() -> None:
                quiet.restore()
                trainer.idle_tokens_f[-job.dead :] = IDLE

            contender.before = before
        return contender

    return build


def dense(activation: str, groups: tuple[float, ...] = (1.0,)) -> Build:
    """Return the builder of what one writes from a paper's appendix, with all of batch x d_sae."""

    def build(job: Job, x_bd: Tensor) -> Contender:
        W_dec = normalize(torch.randn(job.d_sae, job.d_in), dim=1)
        W_enc = W_dec.t().contiguous().requires_grad_()
        W_dec.requires_grad_()
        b_enc = torch.zeros(job.d_sae, requires_grad=True)
        b_dec = x_bd.mean(0).requires_grad_()
        parameters = [W_enc, b_enc, W_dec, b_dec]
        optimiser = torch.optim.Adam(parameters, lr=2e-4)
        sizes = [round(share * job.d_sae) for share in groups]

        def encode(x_bd: Tensor) -> Tensor:
            pre_bf = torch.relu((x_bd - b_dec) @ W_enc + b_enc)
            if activation == "relu":
                return pre_bf
            rows = pre_bf if activation == "topk" else pre_bf.flatten()[None]
            values, latents = rows.topk(job.k * pre_bf.shape[0] // len(rows), sorted=False)
            return torch.zeros_like(rows).scatter(1, latents, values).view_as(pre_bf)

        def step(x_bd: Tensor) -> None:
            acts_bf = encode(x_bd)
            rebuilt_bd, loss = b_dec, torch.zeros(())
            for part_bg, rows_gd in zip(acts_bf.split(sizes, 1), W_dec.split(sizes), strict=True):
                rebuilt_bd = rebuilt_bd + part_bg @ rows_gd
                loss = loss + (x_bd - rebuilt_bd).square().mean()
            if activation == "relu":
                loss = loss + 1e-3 * acts_bf.sum(1).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            with torch.no_grad():
                W_dec.div_(W_dec.norm(dim=1, keepdim=True))

        def l0(x_bd: Tensor) -> float:
            return (encode(x_bd[:512]) > 0).sum().item() / 512

        return Contender(step, torch.no_grad()(l0))

    return build


GROUPS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
AUXK: dict[str, dict] = {"auxk": {}}
NESTED: dict[str, dict] = {**AUXK, "matryoshka": {"fractions": GROUPS}}
EVERY5: dict[str, dict] = {**AUXK, "orthogonality": {"every": 5, "chunk_size": 8192}}
SEARCH: dict[str, dict] = {
    **AUXK,
    "orthogonality": {"every": 5, "chunk_size": 8192, "search": "bfloat16"},
}

CONTENDERS: dict[tuple[str, str], Build] = {
    ("TopK", "saeflow"): saeflow("topk", **AUXK),
    ("TopK", "saeflow, bf16 selection"): saeflow("topk", bf16=True, **AUXK),
    ("TopK", "dense reference"): dense("topk"),
    ("BatchTopK", "saeflow"): saeflow("batchtopk", **AUXK),
    ("BatchTopK", "saeflow, bf16 selection"): saeflow("batchtopk", bf16=True, **AUXK),
    ("BatchTopK", "dense reference"): dense("batchtopk"),
    ("Matryoshka", "saeflow"): saeflow("batchtopk", **NESTED),
    ("Matryoshka", "saeflow, bf16 selection"): saeflow("batchtopk", bf16=True, **NESTED),
    ("Matryoshka", "dense reference"): dense("batchtopk", GROUPS),
    ("TopK, AuxK at work", "saeflow"): saeflow("topk", dead=True, **AUXK),
    ("BatchTopK, AuxK at work", "saeflow"): saeflow("batchtopk", dead=True, **AUXK),
    ("Matryoshka, AuxK at work", "saeflow"): saeflow("batchtopk", dead=True, **NESTED),
    ("ReLU", "saeflow"): saeflow("relu", l1={}),
    ("ReLU", "dense reference"): dense("relu"),
    ("JumpReLU", "saeflow"): saeflow("jumprelu", l0={}),
    ("Gated", "saeflow"): saeflow("gated", l1={}),
    ("OrtSAE", "saeflow without penalty"): saeflow("batchtopk", **AUXK),
    ("OrtSAE", "saeflow"): saeflow("batchtopk", **EVERY5),
    ("OrtSAE", "saeflow, bf16 search"): saeflow("batchtopk", **SEARCH),
    ("OrtSAE", "saeflow without penalty, bf16 selection"): saeflow("batchtopk", bf16=True, **AUXK),
    ("OrtSAE", "saeflow, bf16 search and selection"): saeflow("batchtopk", bf16=True, **SEARCH),
}
