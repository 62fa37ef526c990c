"""Write tiny SAEs with the libraries that saeflow imports from, and what those libraries compute.

    python -m venv peers
    peers/bin/pip install torch==2.13.0 sae-lens==6.54.12 dictionary-learning==0.1.0 \
        eai-sparsify==1.3.3
    HF_HUB_OFFLINE=1 peers/bin/python tests/compat/write_fixtures.py

Each folder of `tests/fixtures/saes` is written by the library's own code. Beside it,
`expected.safetensors` holds activations `x`, and `encode` and `reconstruct` of them by the SAE that
the library loads from that very folder. No Gemma Scope weights are needed: `params.npz` is written
with numpy in the published layout and read by SAELens's loader for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import sae_lens
import torch
from dictionary_learning.dictionary import AutoEncoderNew
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from dictionary_learning.utils import load_dictionary
from sae_lens.loading import pretrained_sae_loaders
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor, nn

OUT = Path(__file__).resolve().parents[1] / "fixtures" / "saes"
D_IN, D_SAE, K, ROWS = 8, 24, 5, 10
Function = Callable[[Tensor], Tensor]


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Draw every parameter, and positive thresholds, so that no bias is 0 and no norm is 1."""
    for name, parameter in [*module.named_parameters(), *module.named_buffers()]:
        if "threshold" in name:
            parameter.copy_(0.2 + 0.5 * torch.rand_like(parameter))
        elif parameter.is_floating_point():
            parameter.copy_(0.5 * torch.randn_like(parameter))


@torch.no_grad()
def expect(folder: Path, encode: Function, reconstruct: Function) -> None:
    x_bd = 0.5 + 2 * torch.randn(ROWS, D_IN)
    outputs = {"x": x_bd, "encode": encode(x_bd), "reconstruct": reconstruct(x_bd)}
    save_file({n: t.contiguous() for n, t in outputs.items()}, folder / "expected.safetensors")


def write_saelens() -> None:
    rescaled = {"k": K, "rescale_acts_by_decoder_norm": True}
    inference: dict[str, tuple[type, type, dict[str, Any]]] = {
        "standard": (sae_lens.StandardSAE, sae_lens.StandardSAEConfig, {}),
        "topk": (sae_lens.TopKSAE, sae_lens.TopKSAEConfig, {"k": K}),
        "topk-rescaled": (sae_lens.TopKSAE, sae_lens.TopKSAEConfig, rescaled),
        "jumprelu": (sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig, {}),
        "gated": (sae_lens.GatedSAE, sae_lens.GatedSAEConfig, {}),
    }
    changes = {
        "": {},
        "-input_with_bias": {"apply_b_dec_to_input": False},
        "-layer_norm": {"normalize_activations": "layer_norm"},
    }
    for name, (sae_class, config_class, extra) in inference.items():
        for suffix, change in changes.items() if name != "topk-rescaled" else [("", {})]:
            cfg = config_class(d_in=D_IN, d_sae=D_SAE, **{**extra, **change})
            sae = sae_class(cfg)
            randomise(sae)
            sae.save_model(OUT / "saelens" / f"{name}{suffix}")
    training: dict[str, tuple[type, type, dict[str, Any]]] = {
        "batchtopk": (
            sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig, {"k": K},
        ),
        "matryoshka": (
            sae_lens.MatryoshkaBatchTopKTrainingSAE,
            sae_lens.MatryoshkaBatchTopKTrainingSAEConfig,
            {"k": K, "matryoshka_widths": [4, D_SAE]},
        ),
    }  # fmt: skip
    for name, (sae_class, config_class, extra) in training.items():
        sae = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, **extra))
        randomise(sae)
        sae.save_inference_model(OUT / "saelens" / name)
    for folder in sorted((OUT / "saelens").iterdir()):
        sae = sae_lens.SAE.load_from_disk(folder)
        expect(folder, sae.encode, sae)


def write_sparsify() -> None:
    configs = {
        "topk": SparseCoderConfig(num_latents=D_SAE, k=K, normalize_decoder=False),
        "topk-expansion": SparseCoderConfig(expansion_factor=D_SAE // D_IN, k=K, multi_topk=True),
    }
    for name, cfg in configs.items():
        folder = OUT / "sparsify" / name
        coder = SparseCoder(D_IN, cfg)
        randomise(coder)
        coder.save_to_disk(folder)
        loaded = SparseCoder.load_from_disk(folder)

        def encode(x_bd: Tensor, loaded: SparseCoder = loaded) -> Tensor:
            top_acts, top_indices, _ = loaded.encode(x_bd)
            return torch.zeros(len(x_bd), D_SAE).scatter(1, top_indices, top_acts)

        def reconstruct(x_bd: Tensor, loaded: SparseCoder = loaded) -> Tensor:
            top_acts, top_indices, _ = loaded.encode(x_bd)
            return loaded.decode(top_acts, top_indices)

        expect(folder, encode, reconstruct)


def write_dictionary_learning() -> None:
    common = {
        "activation_dim": D_IN, "dict_size": D_SAE, "layer": 1, "lm_name": "none", "device": "cpu",
    }  # fmt: skip
    plain = {"steps": 10, "warmup_steps": 1, "sparsity_warmup_steps": 1}
    top = {"steps": 10, "warmup_steps": 1, "k": K}
    trainers: dict[str, tuple[type, dict[str, Any]]] = {
        "standard": (StandardTrainer, plain),
        "standard-april_update": (StandardTrainerAprilUpdate, plain),
        "gated": (GatedSAETrainer, plain),
        "topk": (TopKTrainer, top),
        "batchtopk": (BatchTopKTrainer, top),
        "matryoshka": (MatryoshkaBatchTopKTrainer, {**top, "group_fractions": [0.25, 0.75]}),
        "jumprelu": (JumpReluTrainer, plain),
    }
    for name, (trainer_class, extra) in trainers.items():

        def build(trainer_class: type = trainer_class, **values: Any) -> Any:
            trainer = trainer_class(**values)
            randomise(trainer.ae)
            return trainer

        # No step is taken: the library saves the drawn weights and the trainer's configuration.
        with patch("dictionary_learning.training.tqdm", lambda data, total: data):
            folder = OUT / "dictionary_learning"
            trainSAE([], [{"trainer": build, **common, **extra}], 0, save_dir=folder, device="cpu")
        (folder / "trainer_0").rename(folder / name)
    write_auto_encoder_new(OUT / "dictionary_learning" / "autoencoder_new")
    for folder in sorted((OUT / "dictionary_learning").iterdir()):
        dictionary, _ = load_dictionary(str(folder), "cpu")
        expect(folder, dictionary.encode, dictionary)


def write_auto_encoder_new(folder: Path) -> None:
    """The class without a trainer in this release: only its weights are by the library."""
    folder.mkdir()
    dictionary = AutoEncoderNew(D_IN, D_SAE)
    randomise(dictionary)
    torch.save(dictionary.state_dict(), folder / "ae.pt")
    sizes = f'"activation_dim": {D_IN}, "dict_size": {D_SAE}'
    text = f'{{"trainer": {{"dict_class": "AutoEncoderNew", {sizes}}}}}\n'
    (folder / "config.json").write_text(text)


def write_gemma_scope() -> None:
    folder = OUT / "gemma_scope" / "jumprelu"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    shapes = {"W_dec": (D_SAE, D_IN), "W_enc": (D_IN, D_SAE), "b_dec": (D_IN,), "b_enc": (D_SAE,)}
    arrays = {name: 0.5 * draw.standard_normal(shape) for name, shape in shapes.items()}
    arrays["threshold"] = draw.uniform(0.2, 0.7, D_SAE)
    np.savez(folder / "params.npz", **{n: a.astype(np.float32) for n, a in arrays.items()})
    with patch.object(pretrained_sae_loaders, "hf_hub_download", lambda **_: folder / "params.npz"):
        cfg, state, _ = pretrained_sae_loaders.gemma_2_sae_huggingface_loader(
            "google/gemma-scope-2b-pt-res",
            "layer_1/width_16k/average_l0_5",
            cfg_overrides={"d_in": D_IN, "d_sae": D_SAE},
        )
    cfg = pretrained_sae_loaders.handle_config_defaulting(cfg)
    sae = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig.from_dict(cfg))
    sae.load_state_dict(state)
    expect(folder, sae.encode, sae)


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    torch.manual_seed(0)
    write_saelens()
    write_sparsify()
    write_dictionary_learning()
    write_gemma_scope()


if __name__ == "__main__":
    main()
