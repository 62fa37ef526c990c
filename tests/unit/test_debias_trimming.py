"""A person's decisions: three formats, what is not named, and every mistake by its place."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import saeflow.debias.trimming as trimming
from saeflow.debias.trimming import Decisions, TrimmingError, decide_by_person, read_decisions

WIDTHS = {"embed": 100, "mlp_0": 50}
DECISIONS = Decisions({"embed": [7, 9], "mlp_0": [3]}, {"embed": [8]})


def as_json(folder: Path, content: object) -> Path:
    path = folder / "latents.json"
    path.write_text(json.dumps(content))
    return path


def test_the_three_formats_say_the_same(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"site": ["mlp_0", "embed", "embed", "embed"], "latent": [3, 9, 8, 7],
         "ablated": [True, True, False, True]}
    )  # fmt: skip
    table.to_csv(tmp_path / "latents.csv", index=False)
    table.to_parquet(tmp_path / "latents.parquet")
    content = {"ablated": {"embed": [9, 7], "mlp_0": [3]}, "kept": {"embed": [8]}}
    paths = [as_json(tmp_path, content), tmp_path / "latents.csv", tmp_path / "latents.parquet"]
    for path in paths:
        assert read_decisions(path, WIDTHS) == DECISIONS


def test_sites_alone_are_all_ablated(tmp_path: Path) -> None:
    expected = Decisions({"embed": [1, 5]}, {})
    assert read_decisions(as_json(tmp_path, {"embed": [5, 1]}), WIDTHS) == expected
    pd.DataFrame({"site": ["embed"] * 2, "latent": [1, 5]}).to_csv(tmp_path / "l.csv", index=False)
    assert read_decisions(tmp_path / "l.csv", WIDTHS) == expected
    assert read_decisions(as_json(tmp_path, {}), WIDTHS) == Decisions({}, {})


def test_the_published_decisions_are_55_and_12() -> None:
    sites = ["embed", *(f"{kind}_{i}" for i in range(5) for kind in ("attn", "mlp", "resid"))]
    path = Path(trimming.__file__).with_name("data") / "pythia70m_bias_in_bios.json"
    decisions = read_decisions(path, dict.fromkeys(sites, 32_768))
    assert sum(map(len, decisions.ablated.values())) == 55
    assert sum(map(len, decisions.kept.values())) == 12


def test_the_person_decides_on_candidates_and_on_what_was_named_besides() -> None:
    table = decide_by_person(DECISIONS, {"mlp_0": [4], "embed": [8, 9, 10]})
    assert table.to_dict("split")["data"] == [
        ["mlp_0", 4, False, "person: not named"],
        ["embed", 8, False, "person"],
        ["embed", 9, True, "person"],
        ["embed", 10, False, "person: not named"],
        ["embed", 7, True, "person"],
        ["mlp_0", 3, True, "person"],
    ]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"embd": [1]}, r"no SAE at a site 'embd'; did you mean embed\?"),
        ({"zzzz": [1]}, "there are .*mlp_0"),
        ({"mlp_0": [50]}, "mlp_0 has latent 50, its SAE has 0 to 49"),
        ({"mlp_0": [-1]}, "latent -1"),
        ({"mlp_0": [1.5]}, "mlp_0 has 1.5"),
        ({"mlp_0": [True]}, "mlp_0 has True"),
        ({"mlp_0": ["7"]}, "mlp_0 has '7'"),
        ({"mlp_0": [7, 7]}, "twice on latent 7 of mlp_0"),
        ({"ablated": {"embed": [1]}, "kept": {"embed": [1]}}, "twice on latent 1"),
        ({"ablated": {}, "judged": {}}, "'judged'"),
        ({"ablated": {"embed": 3}}, "lists of latents"),
        ({"kept": [1]}, "kept must map sites"),
        ([1], "holds a list"),
    ],
)
def test_a_wrong_file_is_refused_by_file_and_place(
    tmp_path: Path, content: object, match: str
) -> None:
    path = as_json(tmp_path, content)
    with pytest.raises(TrimmingError, match=match) as error:
        read_decisions(path, WIDTHS)
    assert str(path) in str(error.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    for name, content, match in (
        ("a.json", '{"embed": [1', "not JSON"),
        ("a.parquet", "PAR1", "cannot be read as a table"),
        ("a.csv", "", "cannot be read as a table"),
        ("b.csv", "site,feature\nembed,1\n", r"lacks the columns \['latent'\]"),
        ("c.csv", "site,latent,ablated\nembed,1,perhaps\n", "true or false"),
        ("d.csv", "site,latent\nembed,\n", "no latent's number"),
        ("a.txt", "embed 1", "json, .csv or .parquet"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(TrimmingError, match=match):
            read_decisions(tmp_path / name, WIDTHS)
    with pytest.raises(TrimmingError, match="no such file"):
        read_decisions(tmp_path / "none.json", WIDTHS)
