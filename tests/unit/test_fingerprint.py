import sys
from pathlib import Path

import pytest

from saeflow import fingerprint as module


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in place of saeflow: top imports part, part reads a table."""
    files = {
        "__init__.py": "",
        "progress.py": "X = 1\n",
        "top.py": "from saeflow.room.part import f\nfrom saeflow.progress import X\n",
        "other.py": "Y = 1\n",
        "room/__init__.py": '"""A room."""\n',
        "room/part.py": 'def f():\n    """Doc."""\n    return open(__file__ + "tsv")  # why\n',
        "room/data.tsv": "a\tb\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "_ROOT", tmp_path)

    def hash_after(name=None, text=None):
        if name:
            (tmp_path / name).write_text(text)
        for function in (module._tree, module._imports, module._code_hash):
            function.cache_clear()
        return module.fingerprint("saeflow.top")

    yield hash_after
    for function in (module._tree, module._imports, module._code_hash):
        function.cache_clear()


def test_an_edit_of_an_imported_module_or_its_table_is_seen(package):
    before = package()
    after = package("room/part.py", 'def f():\n    return open(__file__, "rb")\n')
    assert before != after
    assert package("room/data.tsv", "a\tc\n") != after


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("room/part.py", 'def f():\n    """New doc."""\n    return open( __file__ + "tsv" )\n'),
        ("other.py", "Y = 2\n"),
        ("progress.py", "X = 2\n"),
    ],
)
def test_comments_unused_modules_and_progress_lines_do_not_count(package, name, text):
    assert package() == package(name, text)


def test_an_unknown_module_is_refused():
    with pytest.raises(ValueError, match=r"saeflow\.nowhere is not a module"):
        module.fingerprint("saeflow.nowhere")


def test_every_table_template_and_style_of_the_package_counts(monkeypatch):
    entries = [
        "saeflow.corpora.biographies",
        "saeflow.corpora.facts",
        "saeflow.autointerp.prompts",
        "saeflow.debias.run",
        "saeflow.figures.draw",
        "saeflow.report.build",
    ]
    read = set()
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.add(path) or real(path))
    module._code_hash.cache_clear()
    module.fingerprint(*entries)
    suffixes = {".tsv", ".json", ".html", ".mplstyle"}
    data = {path for path in module._ROOT.rglob("*") if path.suffix in suffixes}
    assert len(data) > 5
    assert data <= read


def test_the_figures_do_not_depend_on_the_trainer():
    seen = set()
    waiting = ["saeflow.figures.draw", "saeflow.figures.tables"]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(module._imports(name))
    assert not [name for name in seen if name.startswith(("saeflow.sae", "saeflow.subjects"))]
    assert "saeflow.figures.style" in seen
    assert sys.modules["saeflow.fingerprint"] is module
