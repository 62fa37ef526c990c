"""The core evaluation of a real, tiny GPT-NeoX against an independent computation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from worded_subject import write_worded_subject

from saeflow.artifacts import ArtifactError, read_manifest, write_manifest
from saeflow.evaluation.core import evaluate_core
from saeflow.evaluation.rows import Point, read_rows
from saeflow.evaluation.settings import CORE_METRICS, CoreSettings
from saeflow.sae.activation_functions import JumpReLU
from saeflow.sae.formats import save_sae
from saeflow.sae.identity import sae_digest
from saeflow.sae.model import SAE

SITE, VOCAB, D_IN, CONTEXT = "gpt_neox.layers.1", 48, 16, 24
LENGTHS = (24, 9, 17, 24, 2, 13, 24, 6, 24, 20, 11, 24)


class World(NamedTuple):
    """A subject, its held-out tokens and its cache's manifest."""

    root: Path
    model: GPTNeoXForCausalLM
    windows: list[Tensor]

    def run(
        self,
        out: str,
        saes: dict[int, SAE],
        bases: dict[int, Path] | None = None,
        **changes: object,
    ) -> dict[tuple[int, str], float]:
        settings = CoreSettings.model_validate({"splits": {"test": 10_000}, **changes})
        folders = {}
        for seed, sae in saes.items():
            folders[seed] = self.root / out / f"seed{seed}"
            base = (bases or {}).get(seed)
            write_sae(folders[seed], sae, seed, self.root / "cache", base)
        d_sae = next(iter(saes.values())).d_sae
        self.evaluate(settings, folders, out, d_sae, bases)
        rows = read_rows([self.root / out / "metrics" / "core.parquet"])
        keys = zip(rows["seed"], rows["metric"], strict=True)
        return dict(zip(keys, rows["value"], strict=True))

    def evaluate(
        self,
        settings: CoreSettings,
        saes: dict[int, Path],
        out: str,
        d_sae: int = 40,
        bases: dict[int, Path] | None = None,
    ) -> None:
        evaluate_core(
            settings,
            saes,
            bases=bases,
            subject=self.root / "subject",
            tokens=self.root / "tokens",
            activations=self.root / "cache",
            point=Point("ortsae", "subject", SITE, "docs", "all", "batchtopk", d_sae, 4),
            out=self.root / out / "metrics",
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def make_world(root: Path) -> World:
    model = make_subject(root / "subject")
    windows = [sample(model, length, seed) for seed, length in enumerate(LENGTHS)]
    write_tokens(root / "tokens", windows)
    write_cache_manifest(root / "cache", None)
    return World(root, model, windows)


def make_subject(folder: Path) -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=D_IN, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=CONTEXT, initializer_range=0.3,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval()
    words = ["<|endoftext|>", *(f"w{i}" for i in range(1, VOCAB))]
    write_worded_subject(folder, model, words, CONTEXT)
    return model


@torch.no_grad()
def sample(model: GPTNeoXForCausalLM, length: int, seed: int) -> Tensor:
    """Text of the model's own, so that breaking the model raises its loss."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([[0, 1 + seed]])
    while tokens.shape[1] < length:
        p = (model(tokens).logits[:, -1, 1:]).softmax(-1)
        tokens = torch.cat([tokens, 1 + torch.multinomial(p, 1, generator=generator)], 1)
    return tokens[0]


def write_tokens(folder: Path, windows: Iterable[Tensor]) -> None:
    lists = [w.tolist() for w in windows]
    n = len(lists)
    folder.mkdir(exist_ok=True)
    table = pa.table(
        {
            "window": pa.array(range(n), pa.int64()),
            "document": pa.array(range(n), pa.int64()),
            "start": pa.array([0] * n, pa.int32()),
            "tokens": pa.array(lists, pa.list_(pa.int32())),
        }
    )
    pq.write_table(table, folder / "test.parquet")
    write_manifest(folder, kind="tokens", settings={}, files=["test.parquet"])


def write_cache_manifest(folder: Path, thresholds: dict[str, float] | None) -> None:
    folder.mkdir(exist_ok=True)
    write_manifest(
        folder,
        kind="activations",
        settings={"activations": {"skip_positions": 1}},
        files=[],
        stats={"sink_thresholds": thresholds},
    )


def write_sae(folder: Path, sae: SAE, seed: int, cache: Path, base: Path | None = None) -> None:
    write_manifest(
        folder,
        kind="sae",
        settings={"d_sae": sae.d_sae, "l0": 4, "seed": seed},
        files=save_sae(sae, folder, {}),
        inputs={"activations": cache},
        stats={"site": SITE, **({} if base is None else {"base": sae_digest(base)})},
    )


def random_sae(seed: int, d_sae: int = 40) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(d_sae, D_IN, generator=generator)
    w = w / w.norm(dim=1, keepdim=True)
    return SAE(
        w.T.clone(), w, torch.zeros(d_sae), torch.randn(D_IN, generator=generator) / 10,
        JumpReLU(torch.full((d_sae,), 0.8)),
    )  # fmt: skip


def identity_sae() -> SAE:
    both = torch.cat([torch.eye(D_IN), -torch.eye(D_IN)])
    return SAE(both.T.clone(), both, torch.zeros(2 * D_IN), torch.zeros(D_IN), nn.ReLU())


def null_sae() -> SAE:
    return SAE(
        torch.zeros(D_IN, 4), torch.zeros(4, D_IN), torch.zeros(4), torch.zeros(D_IN), nn.ReLU()
    )


@torch.no_grad()
def reference(world: World, sae: SAE | None, largest: float = np.inf) -> dict[str, float]:
    """The metrics from one unpadded, whole forward pass a window, in float64 where it matters."""
    rows, clean_ce, new_ce, kl = [], [], [], []

    def swap(module: nn.Module, args: object, output: Tensor) -> Tensor:
        x = output[0]
        keep = torch.arange(len(x)) >= 1
        keep &= x.norm(dim=-1) <= largest
        rows.append((keep, x))
        new = torch.where(keep[:, None], sae(x) if sae else torch.zeros_like(x), x)
        return new[None]

    for tokens in world.windows:
        clean = world.model(tokens[None]).logits[0].double().log_softmax(-1)
        handle = world.model.get_submodule(SITE).register_forward_hook(swap)
        new = world.model(tokens[None]).logits[0].double().log_softmax(-1)
        handle.remove()
        at = rows[-1][0][:-1]
        targets = tokens[1:][at]
        clean_ce.append(-clean[:-1][at].gather(1, targets[:, None]))
        new_ce.append(-new[:-1][at].gather(1, targets[:, None]))
        kl.append((clean.exp() * (clean - new)).sum(-1)[:-1][at])
    x = torch.cat([acts[keep] for keep, acts in rows]).double()
    error = x - sae(x.float()).double() if sae else x
    return {
        "explained_variance": 1 - (error.var(0).sum() / x.var(0).sum()).item(),
        "fvu": (error.square().sum() / (x - x.mean(0)).square().sum()).item(),
        "l0": (sae.encode(x.float()) != 0).sum(1).double().mean().item() if sae else 0.0,
        "ce_clean": torch.cat(clean_ce).mean().item(),
        "ce_sae": torch.cat(new_ce).mean().item(),
        "kl_sae": torch.cat(kl).mean().item(),
    }


def test_all_metrics_equal_an_independent_computation(world: World) -> None:
    saes = {0: random_sae(0), 5: random_sae(5)}
    found = world.run("independent", saes, batch_tokens=64)
    zero = reference(world, None)
    for seed, sae in saes.items():
        expected = reference(world, sae)
        for name, value in expected.items():
            assert found[seed, name] == pytest.approx(value, rel=1e-4), name
        ce_gap = zero["ce_sae"] - zero["ce_clean"]
        assert ce_gap > 0.1
        assert found[seed, "ce_zero"] == pytest.approx(zero["ce_sae"], rel=1e-4)
        assert found[seed, "kl_zero"] == pytest.approx(zero["kl_sae"], rel=1e-4)
        assert found[seed, "ce_loss_score"] == pytest.approx(
            (zero["ce_sae"] - expected["ce_sae"]) / ce_gap, rel=1e-3
        )
        assert found[seed, "kl_score"] == pytest.approx(
            1 - expected["kl_sae"] / zero["kl_sae"], rel=1e-3
        )
    assert found[0, "explained_variance"] != found[5, "explained_variance"]


def test_perfect_and_null_saes_are_the_ends_of_the_scales(world: World) -> None:
    perfect = world.run("perfect", {0: identity_sae()})
    assert perfect[0, "explained_variance"] == pytest.approx(1, abs=1e-9)
    assert perfect[0, "ce_loss_score"] == pytest.approx(1, abs=1e-5)
    assert perfect[0, "kl_score"] == pytest.approx(1, abs=1e-5)
    null = world.run("null", {0: null_sae()})
    assert null[0, "explained_variance"] == pytest.approx(0, abs=1e-9)
    assert null[0, "ce_loss_score"] == pytest.approx(0, abs=1e-6)
    assert null[0, "kl_score"] == pytest.approx(0, abs=1e-6)
    assert null[0, "dead_latents"] == 1


def test_metrics_do_not_depend_on_the_batches(world: World) -> None:
    whole = world.run("whole", {0: random_sae(0)}, batch_tokens=10_000)
    single = world.run("single", {0: random_sae(0)}, batch_tokens=1)
    assert whole.keys() == single.keys()
    for key, value in whole.items():
        assert single[key] == pytest.approx(value, rel=1e-4), key


def test_the_same_run_gives_the_same_bytes(world: World) -> None:
    for out in ("first", "second"):
        world.run(out, {0: random_sae(0)})
    for name in ("core.parquet", "latents.parquet"):
        first, second = (world.root / out / "metrics" / name for out in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_sinks_are_left_alone_and_uncounted(world: World) -> None:
    everything = world.run("no_sinks", {0: random_sae(0)})
    norms = []
    for tokens in world.windows:
        with torch.no_grad():
            hidden = world.model.gpt_neox(tokens[None], output_hidden_states=True).hidden_states
        norms.append(hidden[2][0, 1:].norm(dim=-1))
    largest = torch.cat(norms).quantile(0.7).item()
    write_cache_manifest(world.root / "cache", {SITE: largest})
    try:
        found = world.run("sinks", {0: random_sae(0)})
    finally:
        write_cache_manifest(world.root / "cache", None)
    for name, value in reference(world, random_sae(0), largest).items():
        assert found[0, name] == pytest.approx(value, rel=1e-4), name
    assert found[0, "fvu"] != everything[0, "fvu"]


def test_rows_and_predictions_are_counted(world: World) -> None:
    world.run("counts", {0: random_sae(0)})
    rows = read_rows([world.root / "counts" / "metrics" / "core.parquet"]).set_index("metric")["n"]
    text = sum(length - 1 for length in LENGTHS)
    assert rows["explained_variance"] == rows["l0"] == text
    assert rows["ce_sae"] == rows["kl_score"] == text - len(LENGTHS)
    assert rows["mean_decoder_cosine"] == 40


def test_the_budget_takes_whole_windows_from_the_start(world: World) -> None:
    world.run("budget", {0: random_sae(0)}, splits={"test": 25})
    rows = read_rows([world.root / "budget" / "metrics" / "core.parquet"]).set_index("metric")["n"]
    assert rows["l0"] == LENGTHS[0] - 1 + LENGTHS[1] - 1


def test_latents_are_described_one_by_one(world: World) -> None:
    sae = random_sae(0)
    with torch.no_grad():
        sae.b_enc[3] = -100.0  # never fires
        sae.W_dec[7] = 3 * sae.W_dec[9]
    found = world.run("latents", {0: sae, 1: random_sae(1)})
    latents = pq.read_table(world.root / "latents" / "metrics" / "latents.parquet").to_pandas()
    assert set(latents["variant"]) == {"batchtopk"} and set(latents["l0_target"]) == {4}
    of_0 = latents[latents["seed"] == 0].set_index("latent")
    assert len(of_0) == 40 and len(latents) == 80
    assert of_0["firing_rate"].sum() == pytest.approx(found[0, "l0"])
    assert of_0["firing_rate"][3] == 0 and np.isnan(of_0["mean_activation"][3])
    assert of_0["mean_activation"].drop(3).dropna().min() > 0.8
    assert of_0["max_decoder_cosine"][7] == pytest.approx(1)
    assert of_0["max_decoder_cosine"].mean() == pytest.approx(found[0, "mean_decoder_cosine"])


def test_the_manifest_names_inputs_and_point(world: World) -> None:
    world.run("manifest", {3: random_sae(3)})
    manifest = read_manifest(world.root / "manifest" / "metrics", kind="metrics", deep=True)
    assert set(manifest["inputs"]) == {"subject", "tokens", "activations", "seed3"}
    assert manifest["settings"]["point"]["l0_target"] == 4
    assert manifest["code"]
    assert json.dumps(manifest["settings"]["core"])


def test_an_sae_that_does_not_fit_is_named(world: World, tmp_path: Path) -> None:
    narrow = SAE(torch.ones(8, 4), torch.ones(4, 8), torch.zeros(4), torch.zeros(8), nn.ReLU())
    with pytest.raises(ValueError, match=r"gpt_neox\.layers\.1 .* is 16 wide, the SAEs read 8"):
        world.run("narrow", {0: narrow})
    with pytest.raises(ArtifactError, match=r"sizes/seed1 .* d_sae 20 for 40; .*rm \S+/seed1/man"):
        world.run("sizes", {0: random_sae(0), 1: random_sae(1, d_sae=20)})
    assert not (world.root / "narrow" / "metrics" / "manifest.json").exists()


def test_text_without_windows_is_an_error(world: World, tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens", [])
    (tmp_path / "subject").symlink_to(world.root / "subject")
    (tmp_path / "cache").symlink_to(world.root / "cache")
    empty = World(tmp_path, world.model, [])
    with pytest.raises(ArtifactError, match=r"test\.parquet holds no windows"):
        empty.run("empty", {0: random_sae(0)})
    with pytest.raises(ArtifactError, match=r"has no split validation"):
        empty.run("absent", {0: random_sae(0)}, splits={"validation": 10})


def test_the_core_metrics_are_those_it_names(world: World) -> None:
    assert {metric for _, metric in world.run("names", {0: random_sae(0)})} == set(CORE_METRICS)


def test_an_undefined_score_costs_no_other_metric(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saeflow.evaluation.spliced.torch.zeros_like", torch.clone)
    found = world.run("harmless", {0: random_sae(0)})
    missing = {"ce_loss_score", "kl_score"}
    assert {metric for _, metric in found} == set(CORE_METRICS) - missing


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("byte", "does not have the hash of its manifest"),
        ("seed", "it has seed 1 for 0"),
        ("cache", "it has another activation cache for"),
        ("kind", "describes a 'thing', expected a 'sae'"),
    ],
)
def test_another_sae_than_the_points_is_refused(
    world: World, tmp_path: Path, wrong: str, message: str
) -> None:
    folder, cache = tmp_path / "sae", world.root / "cache"
    if wrong == "cache":
        cache = tmp_path / "cache"
        write_cache_manifest(cache, {SITE: 1.0})
    write_sae(folder, random_sae(0), 1 if wrong == "seed" else 0, cache)
    if wrong == "byte":
        weights = folder / "sae_weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    if wrong == "kind":
        write_manifest(folder, kind="thing", settings={}, files=[])
    settings = CoreSettings.model_validate({"splits": {"test": 100}})
    with pytest.raises(ArtifactError, match=rf"{folder}.* {message}.*snakemake") as error:
        world.evaluate(settings, {0: folder}, f"refused_{wrong}")
    assert f"rm {folder}/manifest.json" in str(error.value)


def test_an_evaluation_that_fails_leaves_no_old_manifest(world: World) -> None:
    world.run("again", {0: random_sae(0)})
    metrics = world.root / "again" / "metrics"
    (metrics / ".tmp-core.parquet-12345678.parquet").write_bytes(b"of a killed run")
    with pytest.raises(ArtifactError):
        world.run("again", {0: random_sae(0)}, splits={"validation": 10})
    assert {path.name for path in metrics.iterdir()} == {"core.parquet", "latents.parquet"}
