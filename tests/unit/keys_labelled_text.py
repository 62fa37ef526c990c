"""Cases of the keys of sparse probing, SCR and TPP: people whose words are often said."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from concept_recall_world import BLOCK
from keys_case import Case, Result, Stage, watched
from labelled_world import GENDER, PROFESSION, make_world, point_of, write_people

from saeflow.evaluation.origin import Member
from saeflow.evaluation.rows import read_rows
from saeflow.evaluation.scr import evaluate_scr
from saeflow.evaluation.scr_settings import ScrSettings
from saeflow.evaluation.sparse_probing import evaluate_sparse_probing
from saeflow.evaluation.sparse_probing_settings import SparseProbingSettings
from saeflow.evaluation.tpp import evaluate_tpp
from saeflow.evaluation.tpp_settings import TppSettings

SIZES = {"train_documents": 16, "test_documents": 16}
CLASSES = {"jobs": {"corpus": "people", "attribute": PROFESSION}}
FIRST = {**PROFESSION, "classes": ["cook", "poet"]}
PAIRS = {"people": {"corpus": "people", "first": FIRST, "second": GENDER}}
DOMAIN = {"domain_depth": 1, "classes": ["cook", "poet"]}
OTHER = {"domain_depth": 1, "classes": ["poet", "smith"]}
NAMES = {"name_patterns": {"a": r"\.M", "b": r"\.f"}}


def prepare(world: Path) -> None:
    make_world(world, certain=0.7)
    write_people(world / "others", 0.2, {"train": 12, "test": 12})


def run(evaluate: Any, name: str, settings: Any, world: Path, out: Path) -> Result:
    """Return values and details, what probes learned from, and what they became."""
    module = f"saeflow.evaluation.{name}"
    probing = name == "sparse_probing"
    with (
        watched("saeflow.evaluation.site_rows.run_to_sites") as passes,
        watched(f"{module}.{'probe_accuracy' if probing else 'train_probes'}") as learned,
        watched(f"{module}.{'mean_difference' if probing else 'logit_weights'}") as read,
    ):
        evaluate(
            settings,
            [Member(4, 0, world / "random")],
            subject=world / "subject",
            corpora={corpus: world / corpus for corpus in ("people", "others")},
            activations=world / "cache",
            point=point_of(BLOCK, 40),
            out=out,
        )
    rows = read_rows([out / f"{name}.parquet"])
    details = pd.read_parquet(out / f"{name}_details.parquet")
    return {
        "values": rows[["metric", "value", "n"]].values.tolist(),
        "details": details.astype(str).values.tolist(),
        "rows": [float(abs(call[0 if probing else 1]).sum()) for call in learned],
        "probes": [] if probing else [call[1].weight_cd.tolist() for call in read],
        "largest pass": max(tokens_bt.numel() for _, tokens_bt, _ in passes),
    }


def text_cases(of: str) -> dict[str, Case]:
    """Return the cases of the keys that all three have."""
    return {
        f"{of}.train_documents": Case("train_documents", 24, "details"),
        f"{of}.test_documents": Case("test_documents", 8, "details"),
        f"{of}.context": Case("context", 4, "rows"),
        f"{of}.batch_tokens": Case("batch_tokens", 16, "largest pass"),
        f"{of}.precision": Case("precision", "bfloat16", "rows"),
    }


STAGES = {
    "sparse probing": Stage(
        SparseProbingSettings.model_validate,
        {"datasets": CLASSES, **SIZES},
        partial(run, evaluate_sparse_probing, "sparse_probing"),
        {
            **text_cases("SparseProbingSettings"),
            "SparseProbingSettings.k": Case("k", [1, 3], "values"),
            "LabelledClasses.corpus": Case("datasets.jobs.corpus", "others", "values"),
            "LabelledClasses.attribute": Case("datasets.jobs.attribute", NAMES, "details"),
            "LabelAttribute.label": Case("datasets.jobs.attribute.label", "former", "details"),
            "LabelAttribute.classes": Case(
                "datasets.jobs.attribute.classes", ["cook", "smith"], "details"
            ),
            "DomainAttribute.domain_depth": Case(
                "datasets.jobs.attribute.domain_depth",
                2,
                "details",
                {"datasets.jobs.attribute": DOMAIN},
            ),
            "DomainAttribute.classes": Case(
                "datasets.jobs.attribute.classes",
                ["cook", "smith"],
                "details",
                {"datasets.jobs.attribute": DOMAIN},
            ),
            "NameAttribute.name_patterns": Case(
                "datasets.jobs.attribute.name_patterns",
                {"even": "[02468]$", "odd": "[13579]$"},
                "details",
                {"datasets.jobs.attribute": NAMES},
            ),
        },
        prepare,
    ),
    "tpp": Stage(
        TppSettings.model_validate,
        {"datasets": CLASSES, **SIZES},
        partial(run, evaluate_tpp, "tpp"),
        {
            **text_cases("TppSettings"),
            "TppSettings.n": Case("n", [1, 3], "values"),
            "TppSettings.seed": Case("seed", 1, "probes"),
        },
        prepare,
    ),
    "scr": Stage(
        ScrSettings.model_validate,
        {"pairs": PAIRS, **SIZES, "probe": {"weight_decay": 0.1}},
        partial(run, evaluate_scr, "scr"),
        {
            **text_cases("ScrSettings"),
            "ScrSettings.n": Case("n", [1, 3], "values"),
            "ScrSettings.seed": Case("seed", 1, "probes"),
            "LabelledPair.corpus": Case("pairs.people.corpus", "others", "details"),
            "LabelledPair.first": Case("pairs.people.first", OTHER, "details"),
            "LabelledPair.second": Case("pairs.people.second", NAMES, "details"),
            **{
                f"RemovalProbe.{key}": Case(f"probe.{key}", value, "probes")
                for key, value in (
                    ("optimiser", "adam"),
                    ("learning_rate", 0.01),
                    ("final_learning_rate", 0.01),
                    ("epochs", 10),
                    ("batch_size", 8),
                    ("l1", 0.1),
                    ("weight_decay", 0.5),
                )
            },
        },
        prepare,
    ),
}
