"""The house rules that a machine can read: sizes, names, docstrings, no print, nobody imports the face."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "neurodeploy").rglob("*.py"))
EVERYTHING = [*PACKAGE, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
"""Lines of code: a docstring, which good functions are encouraged to have, does not count."""

LONGER_FILES: dict[str, tuple[int, str]] = {}
LONGER_FUNCTIONS: dict[str, tuple[int, str]] = {}

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc", "manager", "tools"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function and method, with its dotted name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if isinstance(node, Function):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, prefix)


def code_lines(function: Function) -> int:
    """Lines from `def` to the end, less the docstring's."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    quoted = 0 if docstring is None else (docstring.end_lineno or 0) - docstring.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - quoted


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_a_file_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    limit, _reason = LONGER_FILES.get(relative(path), (MAX_FILE_LINES, ""))
    assert lines <= limit, f"{relative(path)} has {lines} lines: part it, or give a reason in LONGER_FILES"


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_a_function_is_short(path: Path) -> None:
    for name, function in functions(parsed(path)):
        where = f"{relative(path)}:{name}"
        limit, _reason = LONGER_FUNCTIONS.get(where, (MAX_FUNCTION_LINES, ""))
        assert code_lines(function) <= limit, f"{where} has {code_lines(function)} lines without its docstring"


def test_every_exception_is_still_needed_and_has_a_reason() -> None:
    for where, (_limit, reason) in {**LONGER_FILES, **LONGER_FUNCTIONS}.items():
        path, _, name = where.partition(":")
        if name:
            needed = code_lines(dict(functions(parsed(ROOT / path)))[name]) > MAX_FUNCTION_LINES
        else:
            needed = len((ROOT / path).read_text(encoding="utf-8").splitlines()) > MAX_FILE_LINES
        assert needed, f"{where} keeps the rule by now: take its exception out"
        assert len(reason.split()) > 3


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_a_module_opens_with_its_question(path: Path) -> None:
    docstring = ast.get_docstring(parsed(path))
    assert docstring, f"{relative(path)} has no docstring"
    assert len(docstring.split()) > 2, f"{relative(path)} says {docstring!r}: what is the file for?"


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_no_file_or_folder_has_a_vague_name(path: Path) -> None:
    assert not VAGUE_NAMES & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_the_package_does_not_print(path: Path) -> None:
    prints = [
        node.lineno
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints, f"{relative(path)} prints on lines {prints}"


@pytest.mark.parametrize("path", [path for path in PACKAGE if relative(path) != "neurodeploy/__init__.py"], ids=relative)
def test_nobody_inside_imports_the_face(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            assert "neurodeploy" not in {alias.name for alias in node.names}, f"{relative(path)}:{node.lineno} imports the face"
        if isinstance(node, ast.ImportFrom) and node.module == "neurodeploy":
            rooms = {alias.name for alias in node.names}
            inside = {p.stem for p in (ROOT / "neurodeploy").iterdir()}
            assert rooms <= inside, f"{relative(path)}:{node.lineno} takes {sorted(rooms - inside)} from the face"


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_no_error_is_swallowed_whole(path: Path) -> None:
    handlers = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.ExceptHandler)]
    for handler in handlers:
        if handler.type is None or ast.unparse(handler.type) in ("Exception", "BaseException"):
            raises = any(isinstance(node, ast.Raise) for node in ast.walk(handler))
            assert raises, f"{relative(path)}:{handler.lineno} hides every error"
