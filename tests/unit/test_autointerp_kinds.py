"""The kinds of judges: whose code and whose files count, and what is checked before any job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from autointerp_planted import write_small_model
from keys_config import ROOT, lookups

from saeflow import fingerprint as module
from saeflow.autointerp.kinds import JUDGES, judge_code, judge_files
from saeflow.autointerp.settings import Autointerp
from saeflow.config import Config, ConfigError, load_config
from saeflow.preflight import check_files

LOCAL = {"kind": "local", "path": "model"}
ENDPOINT = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m"}


def configured(**changes: Any) -> Config:
    return load_config({"scale": "smoke", "papers": ["ssae"], **changes}, ROOT / "config")


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that tells which judges are asked anew after an edit of a file of the package."""
    real = Path.read_bytes, Path.read_text

    def after(name: str) -> set[str]:
        before = {kind: judge_code(kind) for kind in JUDGES}
        path = module._ROOT / name
        assert path.is_file()
        monkeypatch.setattr(
            Path, "read_bytes", lambda p: real[0](p) + (b"\n" if p == path else b"")
        )
        monkeypatch.setattr(
            Path, "read_text", lambda p: real[1](p) + ("\nX = 1\n" if p == path else "")
        )
        forget()
        return {kind for kind in JUDGES if judge_code(kind) != before[kind]}

    yield after
    monkeypatch.undo()
    forget()


def forget() -> None:
    for function in (module._tree, module._imports, module._code_hash):
        function.cache_clear()


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("autointerp/endpoint.py", {"endpoint"}),
        ("autointerp/transport.py", {"endpoint"}),
        ("autointerp/local.py", {"local"}),
        ("autointerp/lexical.py", {"lexical"}),
        ("autointerp/prompts.py", {"endpoint", "local"}),
        ("autointerp/data/prompts.json", {"endpoint", "local"}),
        ("autointerp/language.py", {"endpoint", "local"}),
        ("autointerp/answers.py", {"endpoint", "local"}),
        ("autointerp/verdicts.py", set(JUDGES)),
        ("autointerp/contexts.py", set(JUDGES)),
    ],
)
def test_an_edit_counts_for_the_judges_that_run_it(edited: Any, name: str, kinds: set[str]) -> None:
    assert edited(name) == kinds


def test_the_rules_wait_for_the_files_of_a_local_judge(tmp_path: Path) -> None:
    write_small_model(tmp_path / "model")
    (tmp_path / "model" / "manifest.json").write_text("{}")
    rules = lookups(configured(data_dir=str(tmp_path), autointerp={"judge": LOCAL}))
    files = {Path(path).name for path in rules.local_judge_files()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert "manifest.json" not in files
    assert rules.judge_root() == str(tmp_path)
    for judge in ({"kind": "lexical"}, ENDPOINT):
        rules = lookups(configured(data_dir=str(tmp_path), autointerp={"judge": judge}))
        assert (rules.local_judge_files(), rules.judge_root()) == ([], ".")


def test_a_model_of_the_hub_has_no_files_here(tmp_path: Path) -> None:
    pinned = {"kind": "local", "id": "owner/name", "revision": "0" * 40}
    settings = Autointerp.model_validate({"judge": pinned}).judge
    assert judge_files(settings, tmp_path) == []


def test_a_local_judge_is_looked_for_before_the_first_job(tmp_path: Path) -> None:
    def mistakes(**changes: Any) -> str:
        with pytest.raises(ConfigError) as found:
            check_files(configured(autointerp={"judge": LOCAL}, **changes), ROOT)
        return str(found.value)

    where = "autointerp.judge.path"
    assert mistakes() == f"{where}: set data_dir, the folder it is relative to"
    missing = f"{where}: {tmp_path / 'model'} holds no "
    both = f"{missing}config.json\n{missing}*.safetensors"
    assert mistakes(data_dir=str(tmp_path)) == both
    write_small_model(tmp_path / "model")
    check_files(configured(autointerp={"judge": LOCAL}, data_dir=str(tmp_path)), ROOT)
    with pytest.raises(ConfigError, match=r"autointerp\.judge: .*leaves data_dir"):
        configured(autointerp={"judge": LOCAL | {"path": "../model"}})


def test_who_explains_nothing_needs_no_judge() -> None:
    smoke = yaml.safe_load((ROOT / "config/scales/smoke.yaml").read_text())
    unexplained = {"leave_out": [*smoke["ortsae"]["leave_out"], "fig3d", "detection_equal"]}
    changes = {"papers": ["ortsae"], "autointerp": {"judge": LOCAL}}
    check_files(configured(**changes, ortsae=unexplained), ROOT)
    with pytest.raises(ConfigError, match=r"autointerp\.judge\.path"):
        check_files(configured(**changes), ROOT)
