"""SAEBench's core evaluation of an SAE on given tokens; `agreement_saebench.py` starts it.

It runs in the environment of `envs/saebench.txt`, which has no saeflow. TransformerLens reads the
subject from its folder, so that nothing is downloaded; what SAEBench asks of SAELens's activation
store is a few attributes and batches of tokens, which `Batches` has.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import torch
from sae_bench.custom_saes.base_sae import BaseSAE
from sae_bench.evals.core import main as core
from sae_bench.evals.core.eval_config import CoreEvalConfig
from safetensors.torch import load_file
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens import loading_from_pretrained as loading
from transformers import AutoModelForCausalLM


class Batches:
    """Batches of tokens one after another, in place of SAELens's activation store."""

    normalize_activations = "none"

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.batches = batches
        self.store_batch_size_prompts, self.context_size = batches[0].shape
        self.reset_input_dataset()

    def reset_input_dataset(self) -> None:
        self.left = iter(self.batches)

    def get_batch_tokens(self, batch_size: int) -> Tensor:
        return next(self.left)


class JumpReLU(BaseSAE):
    """What saeflow stores of BatchTopK, Matryoshka and OrtSAE: `b_dec` is taken off the input."""

    def __init__(self, weights: dict[str, Tensor], layer: int) -> None:
        d_in, d_sae = weights["W_enc"].shape
        hook, device = f"blocks.{layer}.hook_resid_post", torch.device("cpu")
        super().__init__(d_in, d_sae, "", layer, device, torch.float32, hook)
        self.cfg.architecture_str = "jumprelu"  # which sae-bench 0.6.0 asks for and does not set
        self.register_buffer("threshold", torch.zeros(d_sae))
        self.load_state_dict(weights)

    def encode(self, x: Tensor) -> Tensor:
        hidden = (x - self.b_dec) @ self.W_enc + self.b_enc
        return hidden * (hidden > self.threshold)

    def decode(self, feature_acts: Tensor) -> Tensor:
        return feature_acts @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


@torch.no_grad()
def divergences(
    sae: BaseSAE, lens: HookedTransformer, store: Batches, ignored: set[int]
) -> dict[str, float]:
    """Return SAEBench's divergences without those of each window's last position.

    Nothing is known of what comes next there.
    """
    found: dict[str, list[Tensor]] = {}
    for tokens_bt in store.batches:
        kept_bt = ~torch.isin(tokens_bt, torch.tensor(sorted(ignored), dtype=tokens_bt.dtype))
        values = core.get_recons_loss(
            sae, lens, tokens_bt, store, compute_kl=True, compute_ce_loss=False,
            ignore_tokens=ignored, exclude_special_tokens_from_reconstruction=True,
        )  # fmt: skip
        for name, values_bt in values.items():
            kept = values_bt[:, :-1][kept_bt[:, :-1]]
            found.setdefault(f"{name}, next token known", []).append(kept)
    return {name: torch.cat(parts).mean().item() for name, parts in found.items()}


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    cfg = json.loads((Path(job["sae"]) / "cfg.json").read_text())
    if cfg["architecture"] != "jumprelu" or not cfg["apply_b_dec_to_input"]:
        raise SystemExit(f"{job['sae']}: {cfg['architecture']} is not wrapped here; take BatchTopK")
    sae = JumpReLU(load_file(Path(job["sae"]) / "sae_weights.safetensors"), int(job["layer"]))
    model = AutoModelForCausalLM.from_pretrained(job["subject"], dtype=torch.float32)
    # TransformerLens reads the config in a folder, but first looks the name up in its list.
    with patch.object(loading, "get_official_model_name", lambda name: name):
        lens = HookedTransformer.from_pretrained_no_processing(
            job["subject"], hf_model=model, device="cpu", dtype=torch.float32
        )
    batches = torch.load(folder / "tokens.pt", weights_only=True)
    ignored = set(job["ignored"])
    config = CoreEvalConfig(
        model_name=job["subject"],
        batch_size_prompts=len(batches[0]),
        n_eval_reconstruction_batches=len(batches),
        n_eval_sparsity_variance_batches=len(batches),
        exclude_special_tokens_from_reconstruction=True,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
    )
    store = Batches(batches)
    grouped, of_latents = core.run_evals(sae, store, lens, config, ignore_tokens=ignored)
    found = {name: value for group in grouped.values() for name, value in group.items()}
    found |= core.calculate_misc_metrics(of_latents) | divergences(sae, lens, store, ignored)
    (folder / "metrics.json").write_text(json.dumps({**found, "version": version("sae-bench")}))


if __name__ == "__main__":
    main()
