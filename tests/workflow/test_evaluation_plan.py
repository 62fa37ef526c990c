"""What the evaluation of a residual SAE waits for. No job runs here."""

import re

import yaml


def test_the_bases_of_all_seeds_are_inputs_of_the_evaluation(fresh, tmp_path):
    frozen = {"source": "trained", "variant": "topk", "corpus": "docs", "d_sae": 64, "l0": 4}
    variants = ["relu", "batchtopk", "matryoshka", "ortsae", "residual"]
    path = tmp_path / "mine.yaml"
    changes = {
        "measure_together": 1,
        "variants": {"residual": {"activation": "batchtopk", "error_of": frozen}},
        "ortsae": {"grids": {"main": {"variants": variants}}},
    }
    path.write_text(yaml.safe_dump(changes))
    result = fresh.snakemake("-n", "--configfile", str(path))
    text = result.stdout + result.stderr
    assert result.returncode == 0, text
    jobs = re.findall(
        r"^rule evaluate_core:\n.*?^    input: (.*?)$.*?^    output: (.*?)$", text, re.M | re.S
    )
    bases = {
        output.split("/")[-3]: {path for path in given.split(", ") if "/topk/d64-l0_4/" in path}
        for given, output in jobs
    }
    assert {name for name, found in bases.items() if found} == {"residual"}
    assert {path.split("/")[-2] for path in bases["residual"]} == {"seed0", "seed1"}


def test_an_extended_sae_starts_from_one_without_its_new_latents(fresh, tmp_path):
    start = {"source": "trained", "variant": "batchtopk", "corpus": "docs"}
    extended = {"activation": "batchtopk", "init_from": start, "extend": {"latents": 16}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"variants": {"extended": extended}}))
    folder = "results/smoke/saes/tiny/gpt_neox.layers.1/docs/{}/d{}-l0_4/seed0/manifest.json"
    wanted, start = folder.format("extended", 256), folder.format("batchtopk", 240)
    assert {wanted, start} <= fresh.planned_outputs(wanted, "--configfile", str(path))
