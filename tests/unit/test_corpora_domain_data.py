"""The published physics abstracts and toxic posts as domains, by settings alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saeflow.artifacts import read_manifest
from saeflow.corpora.documents import make_corpus
from saeflow.corpora.settings import Domain, Files

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

# name: (the corpus, its domain, documents of the domain)
SETS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "arxiv": (
        {
            "paths": "arxiv_physics/arxiv.jsonl",
            "text": ["title", "abstract"],
            "domain": {"column": "categories", "pattern": r"^([^.\s]+)"},
            "labels": ["categories"],
            "min_chars": 1,
            "validation": 0.2,
            "test": 0.3,
        },
        {
            "labels": {
                "categories": [
                    f"*{archive}*"
                    for archive in (
                        *("physics", "hep-", "astro-ph", "cond-mat", "quant-ph", "gr-qc", "nucl-"),
                        *("math-ph", "nlin"),
                    )
                ]
            }
        },
        151,
    ),
    "posts": (
        {
            "paths": "toxicity_surge/toxicity_en.csv",
            "domain": {"column": "is_toxic"},
            "min_chars": 1,
            "duplicates": "exact",
            "validation": 0.2,
            "test": 0.3,
        },
        {"domains": ["Toxic"]},
        501,
    ),
}


@pytest.mark.skipif(not DATA.is_dir(), reason="the published data sets are not beside the checkout")
@pytest.mark.parametrize("name", SETS)
def test_a_domain_of_published_data(name: str, tmp_path: Path) -> None:
    corpus, domain, documents = SETS[name]
    make_corpus(Files(source="files", **corpus), tmp_path / name, DATA)
    settings = Domain(source="domain", corpus=name, **domain)
    make_corpus(settings, tmp_path / "domain", DATA, {name: tmp_path / name})
    stats = read_manifest(tmp_path / "domain", kind="corpus", deep=True)["stats"]
    assert stats["documents"] == documents
    for split in ("train", "validation", "test"):
        assert stats["splits"][split]["documents"] >= 20
