"""Training steps of SAELens, dictionary_learning and sparsify, each by the library's own code.

Everything is at the library's defaults save what a comparison fixes: d_in, d_sae, k, float32, the
five Matryoshka groups. Libraries are imported by the builder that needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from worker import Contender, Job, QuietRows

Build = Callable[[Job, Tensor], Contender]
IDLE = 10**9
START_L0 = 4
"""ReLU, JumpReLU and Gated start with so many times k active, as saeflow's ReLU does."""
GROUPS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)


def group_sizes(d_sae: int) -> list[int]:
    sizes = [round(share * d_sae) for share in GROUPS[:-1]]
    return [*sizes, d_sae - sum(sizes)]


@torch.no_grad()
def make_sparse(bias_f: Tensor, W_df: Tensor, x_bd: Tensor, job: Job) -> None:
    """Set the bias so that `START_L0` x k latents a token are active."""
    sample = x_bd[:512]
    exceeding = max(1, round(START_L0 * job.k / job.d_sae * len(sample)))
    bias_f.copy_(-(sample @ W_df).topk(exceeding, dim=0).values[-1])


def mean_active(encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], float]:
    """Return the measurement of L0, on 512 tokens so that peak memory stays the step's."""

    @torch.no_grad()
    def l0(x_bd: Tensor) -> float:
        return torch.count_nonzero(encode(x_bd[:512])).item() / 512

    return l0


def saelens(architecture: str, *, dead: bool = False) -> Build:
    """sae_lens.training.sae_trainer.SAETrainer.step."""

    def build(job: Job, x_bd: Tensor) -> Contender:
        import sae_lens
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        options: dict[str, Any] = {"d_in": job.d_in, "d_sae": job.d_sae, "dtype": "float32"}
        if architecture in ("TopK", "BatchTopK", "MatryoshkaBatchTopK"):
            options["k"] = job.k
        if architecture == "MatryoshkaBatchTopK":
            options["matryoshka_widths"] = list(accumulate(group_sizes(job.d_sae)))
        config = getattr(sae_lens, f"{architecture}TrainingSAEConfig")(device="cpu", **options)
        sae = getattr(sae_lens, f"{architecture}TrainingSAE")(config)
        trainer = SAETrainer(
            SAETrainerConfig(
                total_training_samples=10**9, train_batch_size_samples=job.batch, lr_end=3e-5
            ),
            sae,
            iter(()),
        )
        if "k" not in options:
            bias = sae.b_gate if architecture == "Gated" else sae.b_enc
            make_sparse(bias, sae.W_enc, x_bd, job)

        def step(x_bd: Tensor) -> None:
            trainer.step(x_bd)
            trainer.n_training_steps += 1

        contender = Contender(step, mean_active(lambda x: sae.encode_with_hidden_pre(x)[0]))
        if dead:
            idle = trainer.n_forward_passes_since_fired
            contender.before = keep_dead(sae.W_enc.t(), lambda: idle, job.dead)
        return contender

    return build


def dictionary_learning(trainer_class: str, *, dead: bool = False) -> Build:
    """The `update` of a trainer in dictionary_learning.trainers, named `module.Class`."""

    def build(job: Job, x_bd: Tensor) -> Contender:
        import importlib

        module, name = trainer_class.split(".")
        found = importlib.import_module(f"dictionary_learning.trainers.{module}")
        options: dict[str, Any] = {}
        if "top_k" in module:
            options["k"] = job.k
        if module == "matryoshka_batch_top_k":
            options["group_fractions"] = list(GROUPS)
        trainer = getattr(found, name)(
            steps=10**6, activation_dim=job.d_in, dict_size=job.d_sae, layer=0, lm_name="none",
            device="cpu", seed=0, **options,
        )  # fmt: skip
        sae = trainer.ae
        W_fd = sae.W_enc.t() if hasattr(sae, "W_enc") else sae.encoder.weight
        if "top_k" not in module:
            bias = {"jumprelu": "b_enc", "gdm": "gate_bias"}.get(module)
            bias_f = getattr(sae, bias) if bias else sae.encoder.bias
            make_sparse(bias_f, W_fd.t(), x_bd, job)
        number = 0

        def step(x_bd: Tensor) -> None:
            nonlocal number
            trainer.update(number, x_bd)
            number = max(number + 1, 2000)  # 0 sets a bias; from 1000 on, thresholds are kept

        fixed = {"use_threshold": False} if "top_k" in module else {}
        contender = Contender(step, mean_active(lambda x: sae.encode(x, **fixed)))
        if dead:
            contender.before = keep_dead(W_fd, lambda: trainer.num_tokens_since_fired, job.dead)
        return contender

    return build


def sparsify(optimiser: str, *, dead: bool = False) -> Build:
    """The inner part of sparsify.trainer.Trainer.fit, which has no method of its own."""

    def build(job: Job, x_bd: Tensor) -> Contender:
        from sparsify.config import SparseCoderConfig
        from sparsify.sparse_coder import SparseCoder

        config = SparseCoderConfig(num_latents=job.d_sae, k=job.k)
        sae = SparseCoder(job.d_in, config, device="cpu", dtype=torch.float32)
        update = sparsify_optimiser(optimiser, sae, job.d_sae)
        idle_f = torch.zeros(job.d_sae, dtype=torch.long)

        def step(x_bd: Tensor) -> None:
            sae.set_decoder_norm_to_unit_norm()
            variance = (x_bd - x_bd.mean(0)).pow(2).sum()
            dead_f = idle_f > 10_000_000 if dead else None
            out = sae(x=x_bd, y=x_bd, dead_mask=dead_f, total_variance=variance)
            fired_f = torch.zeros(job.d_sae, dtype=torch.bool)
            fired_f[out.latent_indices.flatten()] = True
            (out.fvu + out.auxk_loss / 32).backward()
            sae.remove_gradient_parallel_to_decoder_directions()
            update.step()
            update.zero_grad()
            idle_f.add_(len(x_bd))
            idle_f[fired_f] = 0

        contender = Contender(step, lambda x_bd: float(job.k))
        if dead:
            contender.before = keep_dead(sae.encoder.weight, lambda: idle_f, job.dead)
        return contender

    return build


def sparsify_optimiser(name: str, sae: torch.nn.Module, d_sae: int) -> Any:
    if name == "adam":
        return torch.optim.Adam(sae.parameters(), lr=2e-4)
    from schedulefree import ScheduleFreeWrapper
    from sparsify.sign_sgd import SignSGD

    signum = SignSGD(sae.parameters(), lr=5e-3 / (d_sae / 2**14) ** 0.5)
    update = ScheduleFreeWrapper(signum, momentum=0.95)
    update.train()
    return update


def keep_dead(W_fd: Tensor, idle: Callable[[], Tensor], dead: int) -> Callable[[], None]:
    """Return what marks the last `dead` latents as idle for long, and keeps them from firing."""
    quiet = QuietRows(W_fd, dead)

    def before() -> None:
        quiet.restore()
        idle()[-dead:] = IDLE

    return before


SPARSIFY_AUXK = "sparsify, Adam (AuxK trains the decoder only)"
PARTIAL = {("TopK, AuxK at work", SPARSIFY_AUXK)}
"""Less work than the others do: shown, but not counted as a peer. sparsify's encoder has no
gradient from AuxK."""

CONTENDERS: dict[tuple[str, str], Build] = {
    ("TopK", "SAELens"): saelens("TopK"),
    ("TopK", "dictionary_learning"): dictionary_learning("top_k.TopKTrainer"),
    ("TopK", "sparsify, Adam"): sparsify("adam"),
    ("TopK", "sparsify, signum"): sparsify("signum"),
    ("BatchTopK", "SAELens"): saelens("BatchTopK"),
    ("BatchTopK", "dictionary_learning"): dictionary_learning("batch_top_k.BatchTopKTrainer"),
    ("Matryoshka", "SAELens"): saelens("MatryoshkaBatchTopK"),
    ("Matryoshka", "dictionary_learning"): dictionary_learning(
        "matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer"
    ),
    ("TopK, AuxK at work", "SAELens"): saelens("TopK", dead=True),
    ("TopK, AuxK at work", "dictionary_learning"): dictionary_learning(
        "top_k.TopKTrainer", dead=True
    ),
    ("TopK, AuxK at work", SPARSIFY_AUXK): sparsify("adam", dead=True),
    ("BatchTopK, AuxK at work", "SAELens"): saelens("BatchTopK", dead=True),
    ("BatchTopK, AuxK at work", "dictionary_learning"): dictionary_learning(
        "batch_top_k.BatchTopKTrainer", dead=True
    ),
    ("Matryoshka, AuxK at work", "SAELens"): saelens("MatryoshkaBatchTopK", dead=True),
    ("Matryoshka, AuxK at work", "dictionary_learning"): dictionary_learning(
        "matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer", dead=True
    ),
    ("ReLU", "SAELens"): saelens("Standard"),
    ("ReLU", "dictionary_learning"): dictionary_learning("standard.StandardTrainer"),
    ("JumpReLU", "SAELens"): saelens("JumpReLU"),
    ("JumpReLU", "dictionary_learning"): dictionary_learning("jumprelu.JumpReluTrainer"),
    ("Gated", "SAELens"): saelens("Gated"),
    ("Gated", "dictionary_learning"): dictionary_learning("gdm.GatedSAETrainer"),
}
