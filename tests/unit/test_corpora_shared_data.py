"""Every published text set loads by settings alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from saeflow.artifacts import read_manifest
from saeflow.corpora.documents import make_corpus
from saeflow.corpora.settings import Files

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

# name: (settings, documents kept, rows dropped, some of the domains)
SETS = {
    "wikitext": (
        {
            "paths": "text_general/wikitext2_*.txt",
            "document": "wikitext-title",
            "domain": {"pattern": r"wikitext2_(\w+)\.txt"},
        },
        120,
        0,
        {"test", "valid"},
    ),
    "shakespeare": (
        {
            "paths": "text_general/tinyshakespeare.txt",
            "document": "paragraph",
            "domain": "shakespeare",
            "min_chars": 20,
        },
        6952,
        270,
        {"shakespeare"},
    ),
    "sotu": (
        {
            "paths": "sotu_speeches/*.jsonl.gz",
            "domain": {"column": "party"},
            "labels": ["President", "Date"],
        },
        244,
        1,
        {"Democratic", "Republican"},
    ),
    "un_debates": (
        {
            "paths": "un_debates_2017/*.jsonl",
            "domain": {"column": "continent"},
            "labels": ["country", "year"],
        },
        196,
        0,
        {"Africa", "Europe"},
    ),
    "chemistry": (
        {
            "paths": "chemistry_chebi20/*.txt",
            "format": "tsv",
            "text": "description",
            "domain": "chemistry",
            "labels": ["CID", "SMILES"],
            "min_chars": 1,
            "duplicates": "exact",
        },
        6596,
        5,
        {"chemistry"},
    ),
    "arxiv": (
        {
            "paths": "arxiv_physics/arxiv.jsonl",
            "text": ["title", "abstract"],
            "domain": {"column": "categories", "pattern": r"^([^.\s]+)"},
            "labels": ["id"],
            "min_chars": 1,
        },
        200,
        0,
        {"hep-ph", "math", "astro-ph"},
    ),
    "toxicity": (
        {
            "paths": "toxicity_surge/toxicity_en.csv",
            "domain": {"column": "is_toxic"},
            "min_chars": 1,
            "duplicates": "exact",
        },
        999,
        1,
        {"Toxic", "Not Toxic"},
    ),
}


@pytest.mark.skipif(not DATA.is_dir(), reason="the published data sets are not beside the checkout")
@pytest.mark.parametrize("name", SETS)
def test_set_loads_by_settings_alone(name: str, tmp_path: Path) -> None:
    settings, expected, dropped, domains = SETS[name]
    make_corpus(Files(source="files", **settings), tmp_path, DATA)
    stats = read_manifest(tmp_path, kind="corpus", deep=True)["stats"]
    domains_of = pq.read_table(tmp_path / "documents.parquet", columns=["domain"])["domain"]
    assert stats["documents"] == expected == len(domains_of)
    assert domains <= set(domains_of.to_pylist())
    assert sum(stats["dropped"].values()) == dropped
