"""The house rules that a program can check; each test walks all files. `python tests/structure.py` prints the figures."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

import pytest
import structure
from structure import PACKAGE, ROOT

MAX_FILES, MAX_ENTRIES, MAX_PRIVATE = 110, 16, 299
MIN_LINES, MAX_LINES, MAX_FUNCTION_LINES = 40, 500, 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc", "manager", "tools"}


@cache
def modules() -> structure.Parsed:
    return structure.parsed()


@cache
def everything() -> structure.Parsed:
    return modules() | structure.parsed(ROOT / "tests") | structure.parsed(ROOT / "benchmarks")


def where(path: object) -> str:
    return str(path).removeprefix(f"{ROOT}/")


def test_the_tree_is_small() -> None:
    assert len(modules()) <= MAX_FILES
    assert len(structure.entries()) <= MAX_ENTRIES
    private = structure.private_definitions(modules())
    assert len(private) <= MAX_PRIVATE, f"{len(private)} private functions and classes at the top of modules"


def test_files_and_functions_have_a_sensible_size() -> None:
    lines = structure.lines_of(everything())
    long = {name: n for name, n in lines.items() if n > MAX_LINES}
    short = {name: n for name, n in structure.lines_of(modules()).items() if n < MIN_LINES and not name.endswith("__init__.py")}
    functions = {
        f"{where(path)}:{name}": structure.code_lines(function)
        for path, tree in everything().items()
        for name, function in structure.functions(tree)
        if structure.code_lines(function) > MAX_FUNCTION_LINES
    }
    assert (long, short, functions) == ({}, {}, {})


def test_names_are_plain_and_mean_one_thing() -> None:
    assert structure.forbidden_identifiers(modules()) == {}
    assert structure.classes_defined_twice(modules()) == {}
    assert structure.constants_defined_twice(modules()) == {}
    vague = [
        where(path) for path in everything() if VAGUE_NAMES & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    ]
    assert vague == []


def test_every_module_says_what_it_is() -> None:
    silent = [where(path) for path, tree in everything().items() if len((ast.get_docstring(tree) or "").split()) < 3]
    assert silent == []
    assert len(structure.docstrings_that_ask(modules())) < 20


def calls(tree: ast.Module, name: str) -> Iterator[int]:
    """Lines on which a function is called by its bare name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node.lineno


def test_the_package_does_not_print() -> None:
    assert {where(path): lines for path, tree in modules().items() if (lines := list(calls(tree, "print")))} == {}


def test_no_module_imports_the_face() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir()}
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert "neurodeploy" not in {alias.name for alias in node.names}, f"{where(path)}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.module == "neurodeploy":
                assert {alias.name for alias in node.names} <= rooms, f"{where(path)}:{node.lineno}"


def test_no_handler_hides_every_error() -> None:
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                catches_all = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                assert raises or not catches_all, f"{where(path)}:{node.lineno} hides every error"


def test_the_figures_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    structure.main(structure.PACKAGE)
    assert f"files {len(modules())}" in capsys.readouterr().out
