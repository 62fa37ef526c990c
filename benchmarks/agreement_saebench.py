"""The core metrics of one trained SAE, by saeflow and by SAEBench, on the same text.

.venv/bin/python benchmarks/agreement_saebench.py --saebench saebench/bin/python [--out FILE] ...

saeflow measures here, SAEBench with the interpreter of an environment of its own
(`envs/saebench.txt`): it is handed the subject's folder, the SAE's weights and the token ids, loads
the subject into TransformerLens and runs its own core evaluation. README.md beside this file says
which metrics are the same by definition and which are not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saeflow.activations.exclusion import Exclusion
from saeflow.activations.windows import read_windows
from saeflow.evaluation.origin import Key
from saeflow.evaluation.rows import Point
from saeflow.evaluation.site_rows import arithmetic
from saeflow.evaluation.spliced import Spliced, decoder_geometry
from saeflow.sae.formats import load_sae
from saeflow.subjects.load import Subject, load_subject

HERE = Path(__file__).parent
COMPARED = (
    ("l0", "l0"),
    ("1 - dead_latents", "frac_alive"),
    ("mean_decoder_cosine", "average_max_decoder_cosine_sim"),
    ("ce_clean", "ce_loss_without_sae"),
    ("ce_sae", "ce_loss_with_sae"),
    ("ce_zero", "ce_loss_with_ablation"),
    ("ce_loss_score", "ce_loss_score"),
    ("kl_sae", "kl_div_with_sae"),
    ("kl_sae", "kl_div_with_sae, next token known"),
    ("kl_zero", "kl_div_with_ablation"),
    ("kl_zero", "kl_div_with_ablation, next token known"),
    ("kl_score", "kl_div_score"),
    ("explained_variance", "explained_variance"),
    ("explained_variance by SAEBench's formula", "explained_variance"),
    ("mean squared error of a row", "mse"),
    ("the same / rows of a batch", "mse"),
)
"""What saeflow and what SAEBench has."""
PROMPTS = 8
"""Windows of a batch."""


def main() -> None:
    arguments = parsed()
    results, point = arguments.results, arguments.point
    subject_name, site, corpus = point.split("/")[:3]
    subject_folder = results / "subjects" / subject_name
    sae_folder = results / "saes" / point / f"seed{arguments.seed}"
    tokens = results / "tokens" / subject_name / corpus / f"{arguments.split}.parquet"
    subject = load_subject(subject_folder)
    tokens_bt = whole_windows(tokens, subject.context, arguments.windows)
    parts = [
        f"{point}, seed {arguments.seed}, {len(tokens_bt)} windows of {subject.context} tokens.\n"
    ]
    for what, ignored in (("left out", subject.special_ids), ("taken as text", frozenset())):
        ours = by_saeflow(subject, sae_folder, site, tokens_bt, ignored)
        job = {"subject": subject_folder, "sae": sae_folder, "layer": site.rsplit(".", 1)[1]}
        theirs = by_saebench(arguments.saebench, job, tokens_bt, ignored)
        parts.append(f"Special tokens {what} (sae-bench {theirs['version']}):\n")
        parts.append(table(ours, theirs))
    text = "\n".join(parts)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--saebench", required=True, help="interpreter with sae-bench installed")
    parser.add_argument("--results", type=Path, default=Path("results/desk"))
    parser.add_argument("--point", default="desk/gpt_neox.layers.3/mixed/batchtopk/d1536-l0_16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test")
    parser.add_argument("--windows", type=int, default=16, help="whole windows of text")
    parser.add_argument("--out", type=Path, help="file for the table")
    return parser.parse_args()


def whole_windows(path: Path, context: int, count: int) -> Tensor:
    """Return the ids (b, t) of a split's first windows of full length: none is padded."""
    found = []
    for window in read_windows(path):
        if len(window.tokens) == context:
            found.append(torch.tensor(window.tokens.tolist()))
        if len(found) == count:
            return torch.stack(found)
    raise SystemExit(f"{path} has {len(found)} windows of {context} tokens, {count} were asked for")


def by_saeflow(
    subject: Subject, sae_folder: Path, site: str, tokens_bt: Tensor, ignored: frozenset[int]
) -> dict[str, float]:
    """Return saeflow's core metrics, at every position but those of the `ignored` tokens."""
    sae, key = load_sae(sae_folder), Key(0, 0)
    rule = Exclusion(ignored, skip_positions=0, thresholds={})
    measured = Spliced(subject, {key: sae}, site, rule, arithmetic(subject, "float32"))
    batches = tokens_bt.split(PROMPTS)
    for batch_bt in batches:
        measured.update((batch_bt, torch.full((len(batch_bt),), batch_bt.shape[1])))
    point = Point("", subject.name, site, "", "", "", sae.d_sae, 0)
    rows = measured.rows(key, decoder_geometry({key: sae})[key], point, "")
    metrics = {row.metric: row.value for row in rows}
    error, square = measured.saes[key].error.mean_square(), measured.inputs.mean_square()
    return metrics | {
        "1 - dead_latents": 1 - metrics["dead_latents"],
        "explained_variance by SAEBench's formula": 1 - error / (square - (square / sae.d_in) ** 2),
        "mean squared error of a row": error,
        "the same / rows of a batch": error / (measured.inputs.n / len(batches)),
    }


def by_saebench(
    python: str, job: dict[str, Any], tokens_bt: Tensor, ignored: frozenset[int]
) -> dict[str, Any]:
    """Return SAEBench's core metrics of the same, by its own names, and its version."""
    job = {key: str(value) for key, value in job.items()} | {"ignored": sorted(ignored)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(list(tokens_bt.split(PROMPTS)), folder / "tokens.pt")
        (folder / "job.json").write_text(json.dumps(job))
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        subprocess.run([python, HERE / "agreement_worker.py", folder], check=True, env=offline)
        return json.loads((folder / "metrics.json").read_text())


def table(ours: dict[str, float], theirs: dict[str, Any]) -> str:
    """Return both sides in Markdown, with the relative difference."""
    lines = ["| saeflow | | SAEBench | | relative difference |", "|---|---|---|---|---|"]
    for mine, other in COMPARED:
        a, b = ours[mine], theirs[other]
        lines.append(f"| {mine} | {a:.6g} | {other} | {b:.6g} | {abs(a - b) / abs(b):.0e} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
