"""A hash of the library code that a rule runs, so that an edit reruns just what depends on it.

Snakemake sees a rule's script but not what the script imports. Rules therefore carry this hash as
a parameter. Comments, docstrings and formatting do not count, nor do the modules of `_UNHASHED`,
which cannot change a result. What a function imports when it is called is not followed, because
such imports are alternatives: a rule names the one that it takes.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGE = "saeflow"
_ROOT = Path(__file__).resolve().parent
# These carry no result: progress lines, this hash, and the artefact protocol, whose schema version
# every reader checks.
_UNHASHED = frozenset(
    {_PACKAGE, f"{_PACKAGE}.progress", f"{_PACKAGE}.fingerprint", f"{_PACKAGE}.artifacts"}
)


def fingerprint(*modules: str) -> str:
    """Return 16 hexadecimal digits over `modules` and every saeflow module they import on top.

    Raises ValueError for a name that is no module of the package.
    """
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen or module in _UNHASHED:
            continue
        seen.add(module)
        waiting.extend(_imports(module))
    digest = hashlib.sha256()
    for module in sorted(seen):
        digest.update(f"{module}:{_code_hash(module)}\n".encode())
    return digest.hexdigest()[:16]


def _path(module: str) -> Path:
    stem = _ROOT.joinpath(*module.split(".")[1:])
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    raise ValueError(f"{module} is not a module of {_PACKAGE}")


def _is_module(name: str) -> bool:
    try:
        _path(name)
    except ValueError:
        return False
    return True


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text())


@cache
def _imports(module: str) -> tuple[str, ...]:
    return tuple(sorted(set(_imported_names(_tree(module)))))


def _imported_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [node.module, *members]
        else:
            continue
        for name in names:
            if name.split(".")[0] == _PACKAGE and _is_module(name):
                yield name


@cache
def _code_hash(module: str) -> str:
    digest = hashlib.sha256(ast.dump(_without_docstrings(_tree(module))).encode())
    path = _path(module)
    if path.parent != _ROOT and _reads_files(_tree(module)):
        for data in sorted(_data_files(path.parent)):
            digest.update(data.relative_to(_ROOT).as_posix().encode() + data.read_bytes())
    return digest.hexdigest()


def _reads_files(tree: ast.Module) -> bool:
    """Whether a module knows where it lies: the way to the tables and templates beside it."""
    return any(isinstance(node, ast.Name) and node.id == "__file__" for node in ast.walk(tree))


def _data_files(room: Path) -> Iterator[Path]:
    """Tables, templates and styles of a room."""
    for path in room.rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            yield path


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = [n for n in node.body if not _is_bare_string(n)]
            node.body = body or [ast.Pass()]
    return tree


def _is_bare_string(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
