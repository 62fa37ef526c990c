"""A whole run in the planted world: what it writes, what it refuses, and that seeds decide it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from debias_planted import (
    D_IN,
    HE,
    LECTURE,
    PROBE_SITE,
    SHE,
    SITES,
    axes_sae,
    planted_corpus,
    planted_settings,
    planted_subject,
    write_saes,
)

from saeflow.artifacts import ArtifactError, read_manifest, write_manifest
from saeflow.debias.names import method_names, subgroup_metrics
from saeflow.debias.probe import ProbeError
from saeflow.debias.run import run_debias
from saeflow.debias.trimming import TrimmingError
from saeflow.evaluation.rows import read_rows
from saeflow.subjects.sites import SiteError

METHODS = (
    "original", "oracle", "cbp",
    "gsae_shift", "gsae_shift_retrain", "compressed_gsae_shift", "compressed_gsae_shift_retrain",
    "ssae_shift", "ssae_shift_retrain", "compressed_ssae_shift", "compressed_ssae_shift_retrain",
    "random", "feature_skyline", "neuron_skyline",
)  # fmt: skip
BLIND = 5.0
"""A bias that switches every latent off."""


LAME = {"epochs": 1, "batch_size": 24, "learning_rate": 1e-12}
"""A probe that stays as it is drawn."""


class World:
    """What a run reads; the general SAE is blind to gender, the specialised one is not."""

    def __init__(self, root: Path) -> None:
        self.root, self.subject, self.corpus = root, root / "subject", root / "corpus"
        planted_subject(self.subject)
        planted_corpus(self.corpus)
        self.saes = {
            "gsae": write_saes(root / "gsae", axes_sae(-BLIND)),
            "ssae": write_saes(root / "ssae", axes_sae()),
        }

    def run(self, out: Path, seed: int = 0, **changes: Any) -> dict[str, pd.DataFrame]:
        given = {name: changes.pop(name) for name in ("saes", "root") if name in changes}
        run_debias(
            planted_settings(**changes), paper="ssae", subject=self.subject, corpus=self.corpus,
            d_sae={"gsae": D_IN, "ssae": D_IN}, seed=seed, out=out, **{"saes": self.saes, **given},
        )  # fmt: skip
        names = ("debias", "latents", "nodes", "edges")
        return {name: pd.read_parquet(out / f"{name}.parquet") for name in names}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    world.run(out)
    return out


def values(folder: Path) -> pd.Series:
    rows = read_rows([folder / "debias.parquet"])
    return rows.set_index(["variant", "metric"])["value"]


def test_every_method_has_its_rows(finished: Path) -> None:
    rows = read_rows([finished / "debias.parquet"])
    assert set(rows["variant"]) == set(METHODS)
    assert method_names(("gsae", "ssae")) == METHODS
    assert set(rows["paper"]) == {"ssae"} and set(rows["site"]) == {PROBE_SITE}
    assert set(rows["corpus"]) == {"corpus"} and set(rows["split"]) == {"test"}
    accuracies = rows[rows["metric"].str.contains("accuracy")]
    assert accuracies.groupby("variant").size().eq(8).all()
    assert accuracies["value"].between(0, 1).all()
    assert rows.set_index("variant")["selection"].loc["ssae_shift"].eq("ssae").all()
    assert rows.set_index("variant")["d_sae"].loc["compressed_ssae_shift"].eq(D_IN // 2).all()


def test_rows_count_the_biographies_behind_them(finished: Path) -> None:
    """The tested subgroups have 10, 9, 6 and 8 biographies."""
    rows = read_rows([finished / "debias.parquet"])
    n = rows.set_index(["variant", "metric"])["n"]
    value = rows.set_index(["variant", "metric"])["value"]
    subgroups = list(subgroup_metrics(planted_settings()).values())
    assert subgroups == [
        "accuracy_male_professor", "accuracy_female_professor",
        "accuracy_male_nurse", "accuracy_female_nurse",
    ]  # fmt: skip
    for method in METHODS:
        assert n[method][subgroups].tolist() == [10, 9, 6, 8]
        assert n[method, "profession_accuracy"] == n[method, "gender_accuracy"] == 4 * 6
        assert n[method, "ambiguous_accuracy"] == 2 * 8
        worst = value[method][subgroups].min()
        assert value[method, "worst_group_accuracy"] == worst
        behind = n[method][subgroups][value[method][subgroups] == worst]
        assert n[method, "worst_group_accuracy"] in set(behind)


def test_saes_that_know_gender_debias_and_others_do_not(finished: Path) -> None:
    found = values(finished)
    assert found["original", "worst_group_accuracy"] == 0.0
    assert found["gsae_shift", "worst_group_accuracy"] == 0.0
    assert found["gsae_shift", "ablated_latents"] == 0
    assert found["ssae_shift", "worst_group_accuracy"] == 1.0
    assert found["ssae_shift_retrain", "gender_accuracy"] == 0.5
    assert found["oracle", "worst_group_accuracy"] == 1.0
    assert found["random", "ablated_latents"] == found["neuron_skyline", "ablated_latents"] == 4


def test_latents_are_listed_with_their_verdicts(finished: Path) -> None:
    latents = pd.read_parquet(finished / "latents.parquet")
    whole = latents[~latents["compressed"]].set_index(["sae", "site", "id"])
    for axis, auroc, word in ((HE, 0.0, "he"), (SHE, 1.0, "she")):
        row = whole.loc[("ssae", "embed", axis)]
        assert (row["gender"], row["label"], row["decided_by"]) == (auroc, word, "judge")
        assert row["ablated"]
    if ("ssae", "embed", LECTURE) in whole.index:
        assert not whole.loc[("ssae", "embed", LECTURE), "ablated"]
    assert set(latents["sae"]) == {"ssae"}


def test_the_circuit_has_names_and_verdicts(finished: Path) -> None:
    nodes = pd.read_parquet(finished / "nodes.parquet")
    embed = nodes[(nodes["site"] == SITES["embed"]) & (nodes["part"] == "latent")]
    named = embed.set_index("latent")
    assert named.loc[SHE, "label"] == "she" and named.loc[SHE, "judged"] == "gender"
    assert set(nodes["sae"]) == {"gsae", "ssae"}
    edges = pd.read_parquet(finished / "edges.parquet")
    assert set(edges["source"]) | set(edges["target"]) <= set(nodes["node"])


def test_the_manifest_tells_what_was_read(finished: Path) -> None:
    manifest = read_manifest(finished, kind="debias", deep=True)
    assert manifest["seed"] == 0
    assert manifest["stats"]["other_values"] == {"gender": {}, "profession": {}}
    assert manifest["stats"]["ambiguous"] == 48 and manifest["stats"]["test"] == 33
    assert set(manifest["inputs"]) == {"subject", "corpus"}
    assert len(set(manifest["stats"]["saes"].values())) == 2


def test_a_seed_decides_everything(world: World, finished: Path, tmp_path: Path) -> None:
    again, other = world.run(tmp_path / "again"), world.run(tmp_path / "other", seed=1)
    for name, frame in again.items():
        pd.testing.assert_frame_equal(frame, pd.read_parquet(finished / f"{name}.parquet"))
    assert not again["latents"]["effect"].equals(other["latents"]["effect"])


def test_a_persons_file_overrides_the_judge(world: World, tmp_path: Path) -> None:
    """Ids are those of the whole SAE, and those that the measured effects miss are ablated too."""
    person = tmp_path / "mine.json"
    person.write_text(json.dumps({"ablated": {"embed": [HE, SHE, 5]}, "kept": {"resid_0": [HE]}}))
    found = world.run(
        tmp_path / "out", person={"ssae": "mine.json"}, root=tmp_path,
        slice={"share": 0.5, "rule": "first"},
    )  # fmt: skip
    latents = found["latents"]
    whole = latents[~latents["compressed"]]
    ablated = whole[whole["ablated"]]
    assert set(zip(ablated["site"], ablated["id"], strict=True)) == {
        ("embed", HE), ("embed", SHE), ("embed", 5),
    }  # fmt: skip
    assert whole["gender"].isna().all() and set(whole["decided_by"]) >= {"person"}
    small = latents[latents["compressed"] & latents["ablated"]]
    assert set(small["id"]) == {HE, SHE}
    row = found["debias"].set_index(["variant", "metric"])["value"]
    assert row["ssae_shift", "ablated_latents"] == 3
    assert row["compressed_ssae_shift", "ablated_latents"] == 2
    nodes = found["nodes"][(found["nodes"]["sae"] == "ssae") & (found["nodes"]["part"] == "latent")]
    assert row["ssae_shift", "circuit_latents"] == len(nodes) > 0


def test_without_a_count_skylines_ablate_as_many_as_shift(world: World, tmp_path: Path) -> None:
    saes = {"ssae": world.saes["ssae"]}
    found = world.run(tmp_path, saes=saes, skyline={"steps": 1})["debias"]
    row = found.set_index(["variant", "metric"])["value"]
    assert row["ssae_shift", "ablated_latents"] > 0
    for method in ("random", "feature_skyline", "neuron_skyline"):
        assert row[method, "ablated_latents"] == row["ssae_shift", "ablated_latents"]


def test_the_published_decisions_do_not_fit_another_sae(world: World, tmp_path: Path) -> None:
    with pytest.raises(TrimmingError, match=r"pythia70m_bias_in_bios\.json"):
        world.run(tmp_path, person={"gsae": "pythia70m_bias_in_bios"})


def test_bad_input_is_refused_before_any_work(world: World, tmp_path: Path) -> None:
    bad_width = axes_sae()
    bad_width.W_enc.data, bad_width.W_dec.data = bad_width.W_enc[:4], bad_width.W_dec[:, :4]
    bad_width.b_dec.data = bad_width.b_dec[:4]
    of_embed = {"embed": SITES["embed"]}
    wide = {**world.saes["ssae"], **write_saes(tmp_path / "wide", bad_width, of_embed)}
    double = {**world.saes["ssae"], **write_saes(tmp_path / "double", axes_sae(copies=2), of_embed)}
    missing = {site: path for site, path in world.saes["ssae"].items() if site != "embed"}
    late = {**SITES, "resid_2": "gpt_neox.layers.2"}
    given = {**world.saes["ssae"], "resid_2": world.saes["ssae"]["embed"]}
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ValueError, "reads 4 entries a token, embed", {"saes": {"ssae": wide}}),
        (ValueError, "embed has 16 latents, d_sae of kind ssae is 8", {"saes": {"ssae": double}}),
        (ValueError, "they differ in embed", {"saes": {"ssae": missing}}),
        (ValueError, "no kind of SAE", {"saes": {}}),
        (SiteError, r"resid_2 .* run after", {"sites": late, "saes": {"ssae": given}}),
        (SiteError, r"layers\.9", {"sites": {"x": "gpt_neox.layers.9"}}),
        (TrimmingError, "kind 'tsae'", {"person": {"tsae": "mine.json"}}),
        (TrimmingError, "data_dir", {"person": {"ssae": "mine.json"}}),
        (ValueError, r"skyline\.count 999 exceeds the 24", {"skyline": {"count": 999}}),
        (ProbeError, r"probe of oracle at gpt_neox\.layers\.1 .* 96 .* 4 steps", {"probe": LAME}),
    ]
    for kind, message, changes in refused:
        with pytest.raises(kind, match=message):
            world.run(tmp_path / "out", **changes)
        assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_damaged_sae_is_refused(world: World, tmp_path: Path) -> None:
    broken = write_saes(tmp_path / "broken", axes_sae())
    path = broken["resid_0"] / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="truncated"):
        world.run(tmp_path / "out", saes={"ssae": broken})


def test_a_residual_sae_is_refused(world: World, tmp_path: Path) -> None:
    saes = write_saes(tmp_path / "residual", axes_sae())
    weights = ["cfg.json", "sae_weights.safetensors"]
    stats = {"base": "0" * 64}
    write_manifest(saes["embed"], kind="sae", settings={}, files=weights, stats=stats)
    with pytest.raises(ValueError, match=r"corrects another SAE .* kind ssae SAEs without error"):
        world.run(tmp_path / "out", saes={"ssae": saes})
