"""Source `installed-docs`: the docstrings of installed packages, read without importing them."""

from __future__ import annotations

import ast
import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from saeflow.corpora.docstrings import is_english, is_licence, prose_of
from saeflow.corpora.documents import CorpusError, Document, Tally
from saeflow.corpora.settings import InstalledDocs
from saeflow.progress import say

_TEST_FOLDERS = {"tests", "test", "_test", "_tests"}
_DOC_CALLS = {"add_newdoc", "add_docstr", "_add_docstr"}
_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documents(settings: InstalledDocs, root: Path, tally: Tally) -> Iterator[Document]:
    """Yield one document for each docstring of the packages, in the order of their files.

    Docstrings of modules, classes, methods and functions, and the text that numpy, scipy and
    torch attach to compiled functions (`add_newdoc`, `add_docstr`). Tests and functions within
    functions are left out; licences and texts that are not English are dropped and counted.
    Raises CorpusError for a package that is not installed.
    """
    folders = {package: _package_folder(package) for package in settings.packages}
    tally.facts["packages"] = {package: _version(package) for package in settings.packages}
    for package, folder in folders.items():
        say(f"reading the documentation of {package} {tally.facts['packages'][package]}")
        for path in sorted(folder.rglob("*.py")):
            relative = path.relative_to(folder)
            if _is_test(relative):
                continue
            module = ".".join((package, *relative.with_suffix("").parts)).removesuffix(".__init__")
            domain = _domain((package, *relative.parent.parts), settings.domain_depth)
            for name, docstring in _docstrings(path, module, tally):
                text = prose_of(docstring)
                if is_licence(text):
                    tally.dropped["licence"] += 1
                elif not is_english(text):
                    tally.dropped["not English"] += 1
                else:
                    yield Document(text, domain, name)


def _package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None:
        raise CorpusError(
            f"installed-docs: package {package!r} is not installed here; install it, or remove it "
            "from the corpus's `packages`"
        )
    if not spec.submodule_search_locations:
        raise CorpusError(f"installed-docs: {package!r} is a single module, not a package")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def _distributions() -> dict[str, list[str]]:
    return {name: sorted(set(found)) for name, found in packages_distributions().items()}


def _version(package: str) -> str:
    owners = _distributions().get(package)
    return version(owners[0]) if owners else "unknown"


def _is_test(relative: Path) -> bool:
    return (
        not _TEST_FOLDERS.isdisjoint(relative.parent.parts)
        or relative.parts[:2] == ("testing", "_internal")
        or relative.name.startswith("test_")
        or relative.name == "conftest.py"
    )


def _domain(packages: tuple[str, ...], depth: int) -> str:
    public = next((at for at, name in enumerate(packages) if name.startswith("_")), len(packages))
    return ".".join(packages[: min(depth, public)])


def _docstrings(path: Path, module: str, tally: Tally) -> list[tuple[str, str]]:
    """Return (dotted name, docstring) of the objects that a file defines."""
    with warnings.catch_warnings(), _no_garbage_collection():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            tree = ast.parse(path.read_bytes(), filename=str(path))
        except (SyntaxError, ValueError):  # templates of code, and code for other versions
            tally.dropped["file that is not Python"] += 1
            return []
        return list(_of_definition(tree, module))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Syntax trees hold no cycles; looking for them takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _of_definition(node: _Definition, name: str) -> Iterator[tuple[str, str]]:
    docstring = ast.get_docstring(node, clean=False)
    if docstring:
        yield name, docstring
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from _of_statements(node.body, name)


def _of_statements(body: list[ast.stmt], owner: str) -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of_definition(node, f"{owner}.{node.name}")
        elif isinstance(node, ast.If):
            yield from _of_statements(node.body + node.orelse, owner)
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _of_statements(node.body + handlers + node.orelse, owner)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _attached(node.value, owner)


def _attached(call: ast.Call, owner: str) -> Iterator[tuple[str, str]]:
    """Yield the texts that `add_newdoc(module, name, text)` and the like attach to an object."""
    function = call.func
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if called not in _DOC_CALLS or not call.args:
        return
    *target, text = call.args
    name = ".".join([owner, *(_last_name(node) for node in target[-1:])])
    pairs = text.elts if isinstance(text, ast.List) else [text]
    for pair in pairs:
        if isinstance(pair, ast.Tuple) and len(pair.elts) == 2:
            yield f"{name}.{_last_name(pair.elts[0])}", _literal_text(pair.elts[1])
        else:
            yield name, _literal_text(pair)


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "object")


def _literal_text(node: ast.expr) -> str:
    """Return the literal parts of an expression such as `"..." + "...".format(...)`."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.BinOp):
        return _literal_text(node.left) + _literal_text(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _literal_text(node.func.value)
    return ""
