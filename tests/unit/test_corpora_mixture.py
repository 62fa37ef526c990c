"""A mixture is whole documents of several corpora in the shares that are asked for, each once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from corpora_small import rows_of
from pydantic import ValidationError

from saeflow.artifacts import ArtifactError, read_manifest, write_manifest
from saeflow.config import ConfigError, load_config, merge
from saeflow.corpora.biographies import generate
from saeflow.corpora.documents import CorpusError, make_corpus
from saeflow.corpora.settings import Mixture
from saeflow.corpora.spool import SCHEMA
from saeflow.corpora.text import clean, duplicate_key, integer_of

CONFIG = Path(__file__).resolve().parents[2] / "config"
USER = yaml.safe_load((CONFIG / "config.yaml").read_text())

SPLITS = ("train", "train", "train", "validation", "test")
Rows = list[dict[str, Any]]


def documents(name: str, n: int, chars: int, splits: tuple[str, ...] = SPLITS) -> Rows:
    """Texts of `chars` characters, their splits in turn."""
    texts = [f"{name} {i:04d} ".ljust(chars, "x") for i in range(n)]
    return [row_of(text, name, splits[i % len(splits)]) for i, text in enumerate(texts)]


def row_of(text: str, domain: str, split: str) -> dict[str, Any]:
    row = {"document": integer_of(text, "document"), "domain": domain, "split": split}
    return {**row, "name": f"{domain}-{text[:12]}", "text": text, "labels": '{"of": "somebody"}'}


def write(folder: Path, rows: Rows) -> Path:
    folder.mkdir(parents=True)
    ordered = sorted(rows, key=lambda row: row["document"])
    pq.write_table(pa.Table.from_pylist(ordered, schema=SCHEMA), folder / "documents.parquet")
    write_manifest(folder, kind="corpus", settings={}, files=["documents.parquet"])
    return folder


Make = Callable[..., tuple[Rows, dict[str, Any]]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """From parts (share and rows, by name) to the mixture's rows and its manifest's stats."""

    def made(parts: dict[str, tuple[float, Rows]], **settings: Any) -> tuple[Rows, dict[str, Any]]:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        parents = {name: write(place / name, rows) for name, (_, rows) in parts.items()}
        shares = {name: share for name, (share, _) in parts.items()}
        mixture = Mixture.model_validate({"source": "mixture", "parts": shares, **settings})
        make_corpus(mixture, place / "out", place, parents)
        manifest = read_manifest(place / "out", kind="corpus", deep=True)
        assert set(manifest["inputs"]) == set(parts)
        return rows_of(place / "out"), manifest["stats"]

    return made


def train_chars(rows: Rows, domain: str) -> int:
    return sum(len(r["text"]) for r in rows if r["domain"] == domain and r["split"] == "train")


LARGE, SMALL = documents("large", 1000, 100), documents("small", 50, 300)


def test_the_scarcest_part_is_whole_and_the_others_have_their_share(make: Make) -> None:
    rows, stats = make({"large": (0.75, LARGE), "small": (0.25, SMALL)})
    assert [row["document"] for row in rows] == sorted(row["document"] for row in rows)
    before = {row["document"]: row for row in (*LARGE, *SMALL)}
    assert all(row == before[row["document"]] for row in rows)
    assert [row for row in rows if row["domain"] == "small"] == sorted(
        SMALL, key=lambda row: row["document"]
    )
    assert train_chars(rows, "large") == 3 * train_chars(rows, "small") == 3 * 9000
    assert stats["parts"]["large"] == {
        "share": 0.75,
        "achieved": 0.75,
        "documents": sum(row["domain"] == "large" for row in rows),
        "of_documents": 1000,
    }
    assert stats["dropped"] == {"in another part": 0, "beyond its share": 1000 + 50 - len(rows)}


def test_held_out_splits_are_thinned_as_the_train_split_is(make: Make) -> None:
    rows, _ = make({"large": (0.75, LARGE), "small": (0.25, SMALL)})
    for split in ("validation", "test"):
        kept = sum(row["domain"] == "large" and row["split"] == split for row in rows)
        assert abs(kept / 200 - 0.45) < 0.15
    none_held_out, stats = make(
        {"large": (0.5, LARGE), "train": (0.5, documents("train", 90, 100, ("train",)))}
    )
    assert {r["split"] for r in none_held_out if r["domain"] == "train"} == {"train"}
    assert stats["splits"]["test"]["documents"] > 10


def test_a_cap_shrinks_all_parts_alike(make: Make) -> None:
    parts = {"large": (0.6, LARGE), "small": (0.4, SMALL)}
    rows, _ = make(parts, max_train_chars=10_000)
    assert train_chars(rows, "large") == 6000
    assert abs(train_chars(rows, "small") - 4000) <= 150  # half a document
    assert make(parts, max_train_chars=10**9)[0] == make(parts)[0]


def test_a_seed_decides_the_draw_and_added_documents_hardly_change_it(make: Make) -> None:
    parts = {"large": (0.75, LARGE), "small": (0.25, SMALL)}
    first, again, other = make(parts)[0], make(parts)[0], make(parts, seed=1)[0]
    assert first == again and first != other
    more = {"large": (0.75, [*LARGE, *documents("added", 10, 100)]), "small": (0.25, SMALL)}
    ids = {row["document"] for row in first}
    assert len(ids - {row["document"] for row in make(more)[0]}) <= 10


def test_a_document_in_two_parts_is_kept_once_for_the_smaller(make: Make) -> None:
    """So a domain can be mixed with the corpus that it is of."""
    domain = LARGE[:100]
    rows, stats = make({"all": (0.5, LARGE), "domain": (0.5, domain)})
    ids = [row["document"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert {row["document"] for row in domain} <= set(ids)
    assert stats["parts"]["domain"]["achieved"] == stats["parts"]["all"]["achieved"] == 0.5
    assert stats["parts"]["all"]["of_documents"] == 900
    assert stats["dropped"]["in another part"] == 100


def test_what_one_part_holds_out_is_held_out(make: Make) -> None:
    """One text, trained on in one corpus and tested on in the other, in either order of size."""
    shared = [row_of(f"shared {i}".ljust(100, "y"), "shared", "train") for i in range(4)]
    splits = ("test", "validation", "train", "test")
    elsewhere = [{**row, "split": split} for row, split in zip(shared, splits, strict=True)]
    for mine, theirs in ((shared, elsewhere), (elsewhere, shared)):
        parts = {"large": (0.5, [*LARGE, *mine]), "small": (0.5, [*SMALL, *theirs])}
        found = {row["document"]: row["split"] for row in make(parts)[0]}
        assert [found[row["document"]] for row in shared] == list(splits)


def test_a_part_with_nothing_of_its_own_to_train_on_is_refused(make: Make) -> None:
    held_out = documents("held_out", 20, 100, ("test",))
    with pytest.raises(CorpusError, match=r"held_out has no document to train on.*make up 20%"):
        make({"large": (0.8, LARGE), "held_out": (0.2, held_out)})
    with pytest.raises(CorpusError, match=r"twin has no document .* in no smaller part"):
        make({"large": (0.8, LARGE), "twin": (0.2, LARGE)})


def test_parents_must_be_given_and_whole(tmp_path: Path) -> None:
    mixture = Mixture(source="mixture", parts={"large": 0.5, "small": 0.5})
    large = write(tmp_path / "large", LARGE[:5])
    with pytest.raises(ValueError, match=r"made of the corpus 'small'.*there are: large"):
        make_corpus(mixture, tmp_path / "out", tmp_path, {"large": large})
    (tmp_path / "small").mkdir()
    with pytest.raises(ArtifactError, match="never finished"):
        make_corpus(
            mixture, tmp_path / "out", tmp_path, {"large": large, "small": tmp_path / "small"}
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": {"a": 0.5, "b": 0.4}}, "must sum to 1, they sum to 0.9"),
        ({"parts": {"a": 1.0}}, "at least 2|less than 1"),
        ({"parts": {"a": 0.0, "b": 1.0}}, "greater than 0"),
        ({"parts": {"a": 0.5, "b": 0.5}, "max_train_chars": 0}, "greater than 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Mixture.model_validate({"source": "mixture", **settings})


@pytest.mark.parametrize(
    ("corpora", "parts"),
    [
        (
            {"general": {"parts": {"docs": 0.5, "biografies": 0.5}}},
            ["config/config.yaml", "corpora.general.parts", "mean 'biographies'"],
        ),
        ({"general": {"parts": {"docs": 0.5}}}, ["corpora.general.parts", "at least 2"]),
        (
            {"general": {"parts": {"docs": 0.5, "facts": 0.2}}},
            ["corpora.general.parts", "the shares must sum to 1, they sum to 0.7"],
        ),
        (
            {"general": {"parts": {"docs": 0.5, "general": 0.5}}},
            ["corpora.general", "made of itself: general -> general"],
        ),
        (
            {
                "general": {"parts": {"docs": 0.5, "more": 0.5}},
                "more": {"source": "domain", "corpus": "general", "domains": "*"},
            },
            ["corpora.general", "made of itself: general -> more -> general"],
        ),
        (
            {"docs": {"source": "domain", "corpus": "physics_dense", "domains": "*"}},
            ["made of itself: docs -> physics_dense -> docs"],
        ),
    ],
)
def test_mistakes_in_the_config_are_named(corpora: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(merge(USER, {"papers": ["ssae"], "corpora": corpora}), CONFIG)
    for part in parts:
        assert part in str(error.value)


def test_parts_of_a_scale_are_replaced_as_a_whole() -> None:
    changes = {"corpora": {"general": {"parts": {"docs": 0.7, "facts": 0.3}}}}
    mixture = load_config(merge(USER, changes), CONFIG).corpora["general"]
    assert isinstance(mixture, Mixture) and mixture.parts == {"docs": 0.7, "facts": 0.3}


@pytest.mark.parametrize("scale", ["smoke", "desk"])
def test_general_text_has_no_biography_that_debiasing_learns_or_is_tested_on(scale: str) -> None:
    """Neither the same text nor one that differs in names and numbers alone."""
    corpora = load_config(merge(USER, {"scale": scale}), CONFIG).corpora
    general, labelled = (
        {duplicate_key(clean(document.text), "prose") for document in generate(corpora[name])}
        for name in ("biographies", "bias_in_bios")
    )
    assert "biographies" in corpora["general"].parts
    assert len(labelled) > 500 and not general & labelled
