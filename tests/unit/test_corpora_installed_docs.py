"""Source `installed-docs`: read without importing, cleaned of code, domains by package path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from saeflow.corpora.docstrings import is_english, is_licence, prose_of
from saeflow.corpora.documents import CorpusError, Document, Tally
from saeflow.corpora.installed_docs import documents
from saeflow.corpora.settings import InstalledDocs
from saeflow.corpora.text import clean

ENGLISH = "This is what the {} does with the values that it is given."


def read(tally: Tally | None = None, **changed: object) -> dict[str, Document]:
    settings = InstalledDocs(**changed)  # type: ignore[arg-type]
    return {d.name: d for d in documents(settings, Path(), tally or Tally())}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "madeup_docs"
    sources = {
        "__init__.py": f'"""{ENGLISH.format("package")}"""\nraise RuntimeError("imported")\n',
        "deep/__init__.py": "",
        "deep/er/__init__.py": "",
        "deep/er/mod.py": (
            f'class A:\n    """{ENGLISH.format("class")}"""\n'
            f'    def f(self):\n        """{ENGLISH.format("method")}"""\n'
            f'        def g():\n            """{ENGLISH.format("inner")}"""\n'
            f"try:\n    import x\nexcept ImportError:\n"
            f'    async def h():\n        """{ENGLISH.format("fallback")}"""\n'
        ),
        "_core/docs.py": (
            f'add_newdoc("madeup_docs", "sum", """{ENGLISH.format("sum")}""")\n'
            f'docs.add_docstr(torch.abs, r"""{{input}}\n""".format(**args)'
            f' + "{ENGLISH.format("abs")}")\n'
            f'add_newdoc("m", "C", [("size", """{ENGLISH.format("size")}""")])\n'
        ),
        "tests/test_a.py": f'"""{ENGLISH.format("test")}"""\n',
        "conftest.py": f'"""{ENGLISH.format("conftest")}"""\n',
        "template.py": "class {{ name }}:\n",
        "other.py": '"""Licensed under the licence of this and that."""\n'
        'def f():\n    """Dies ist kein Englisch, sondern Deutsch, und bleibt weg."""\n',
    }
    for name, source in sources.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    return root


def test_objects_names_and_domains(package: Path) -> None:
    tally = Tally()
    found = read(tally, packages=("madeup_docs",))
    assert {name: document.domain for name, document in found.items()} == {
        "madeup_docs": "madeup_docs",
        "madeup_docs._core.docs.sum": "madeup_docs",
        "madeup_docs._core.docs.abs": "madeup_docs",
        "madeup_docs._core.docs.C.size": "madeup_docs",
        "madeup_docs.deep.er.mod.A": "madeup_docs.deep",
        "madeup_docs.deep.er.mod.A.f": "madeup_docs.deep",
        "madeup_docs.deep.er.mod.h": "madeup_docs.deep",
    }
    assert found["madeup_docs.deep.er.mod.A.f"].text == ENGLISH.format("method")
    assert tally.dropped == {"licence": 1, "not English": 1, "file that is not Python": 1}
    assert tally.facts == {"packages": {"madeup_docs": "unknown"}}
    assert "madeup_docs" not in sys.modules
    deeper = read(packages=("madeup_docs",), domain_depth=3)
    assert deeper["madeup_docs.deep.er.mod.A"].domain == "madeup_docs.deep.er"


def test_real_package() -> None:
    tally = Tally()
    found = read(tally, packages=("networkx",))
    assert len(found) > 1000
    dijkstra = found["networkx.algorithms.shortest_paths.weighted.dijkstra_path"]
    assert dijkstra.domain == "networkx.algorithms"
    assert dijkstra.text.startswith("Returns the shortest weighted path from source to target")
    assert ">>>" not in dijkstra.text
    assert tally.facts["packages"]["networkx"].count(".") >= 1
    assert len({d.domain for d in found.values()}) > 5
    assert not [d.name for d in found.values() if ".tests." in d.name]


def test_missing_package_is_named() -> None:
    with pytest.raises(CorpusError, match="'no_such_package_here' is not installed"):
        read(packages=("networkx", "no_such_package_here"))
    with pytest.raises(CorpusError, match="'typing' is a single module"):
        read(packages=("typing",))


@pytest.mark.parametrize("packages", [(), ("numpy.linalg",), ("numpy", "numpy")])
def test_bad_package_lists_are_refused(packages: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        InstalledDocs(packages=packages)


DOCSTRING = """Return the sum.

    {input}
    Adds {what} up::

        total = 0
        for x in xs: total += x

    and stops.

    .. note::
        Kept, for it is prose.

    .. code-block:: python

        gone()

    ```python
    gone()
    ```
    Kept too.

    Example:
        Kept, for words follow.

    Example::

        >>> add(1)
        2

    Parameters
    ----------
    x : int
        The number.

    Examples
    --------
    >>> add(1)
    2

    See Also
    --------
    """

PROSE = """Return the sum.

Adds  up:

and stops.

.. note::
    Kept, for it is prose.

Kept too.

Example:
    Kept, for words follow.

Parameters
----------
x : int
    The number.
"""


def test_prose_of_a_docstring() -> None:
    assert clean(prose_of(DOCSTRING)) == PROSE.strip()


def test_english_and_licence() -> None:
    assert is_english("This is a function of the two arguments.")
    assert not is_english("x y z alpha beta gamma delta q r s t u v w")
    assert not is_english("Это не по-английски, of the is a")
    assert is_licence("Permission is hereby granted, free of charge") and not is_licence(ENGLISH)
