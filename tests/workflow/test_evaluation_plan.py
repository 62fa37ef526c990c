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
