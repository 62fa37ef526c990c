"""A corpus of people whose profession and gender show in single words, for a tiny subject.

A cook's text says w1, a poet's w2, a smith's w3; a man's w4 and a woman's w5; all amid filler
words. The subject's embedding of a word is an axis, and so are the latents of its SAE.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from concept_recall_world import (
    BLOCK,
    D_IN,
    EMBEDDING,
    axes_sae,
    make_subject,
    random_sae,
    write_sae,
)
from test_evaluation_core import write_cache_manifest

from saeflow.activations.exclusion import Exclusion
from saeflow.artifacts import write_manifest
from saeflow.corpora.spool import SCHEMA
from saeflow.evaluation.pooled import Site
from saeflow.evaluation.rows import Point
from saeflow.subjects.load import load_subject

PROFESSIONS = {"cook": "w1", "poet": "w2", "smith": "w3"}
GENDERS = {"male": "w4", "female": "w5"}
FILLER = [f"w{i}" for i in range(6, 16)]
PROFESSION = {"label": "profession", "classes": ["cook", "poet", "smith"]}
GENDER = {"label": "gender", "classes": ["male", "female"]}


def make_world(root: Path, certain: float = 1.0, train: int = 16, test: int = 8) -> None:
    """Write subject, corpus, the manifest of a cache, and SAEs of the embedding and of a block.

    Each profession and gender has `train` and `test` documents; `certain` is the chance that the
    word of a profession, or of a gender, is said.
    """
    make_subject(root / "subject")
    write_people(root / "people", certain, {"train": train, "test": test})
    write_cache_manifest(root / "cache", None)
    write_sae(root / "axes", axes_sae(), EMBEDDING, root / "cache")
    write_sae(root / "random", random_sae(), BLOCK, root / "cache")


def write_people(folder: Path, certain: float, per_group: dict[str, int]) -> None:
    """Write the corpus; the documents of all groups come in turn."""
    folder.mkdir()
    draw = Random(0)
    rows = []
    for split, n in per_group.items():
        for i in range(n):
            for profession, says in PROFESSIONS.items():
                for gender, also in GENDERS.items():
                    words = draw.choices(FILLER, k=draw.randint(3, 6))
                    words += [word for word in (says, also) if draw.random() < certain]
                    draw.shuffle(words)
                    former = draw.choice(list(PROFESSIONS))
                    labels = {"profession": profession, "gender": gender, "former": former}
                    # The name tells the gender too, and the domain both.
                    name = f"people.{'M' if gender == 'male' else 'f'}{i}"
                    domain = f"{profession}.male" if gender == "male" else profession
                    rows.append((domain, split, name, " ".join(words), json.dumps(labels)))
    names = ("domain", "split", "name", "text", "labels")
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    columns["document"] = range(len(rows))
    pq.write_table(pa.table(columns, schema=SCHEMA), folder / "documents.parquet")
    write_manifest(folder, kind="corpus", settings={}, files=["documents.parquet"])


def site_of(root: Path, name: str = EMBEDDING, **changed: Any) -> Site:
    """Return the site of the world's subject, with the cache's rule."""
    subject = load_subject(root / "subject")
    return Site(subject, name, Exclusion(subject.special_ids, 1, {}), **changed)


def point_of(site: str = EMBEDDING, d_sae: int = D_IN) -> Point:
    """Return the point of the world's SAE."""
    return Point("ortsae", "subject", site, "people", "all", "batchtopk", d_sae, 99)
