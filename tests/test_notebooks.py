"""Notebooks as they are kept: without outputs, with their data's source and something to try. `.ci/run` executes them."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cells(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = json.loads(request.param.read_text(encoding="utf-8"))["cells"]
    return made


def text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_they_are_numbered_from_one() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{i:02d}" for i in range(1, len(NOTEBOOKS) + 1)]


def test_nothing_that_a_run_left_is_kept(cells: list[dict[str, Any]]) -> None:
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_it_says_what_it_is_about_and_where_its_data_is_from(cells: list[dict[str, Any]]) -> None:
    assert text(cells[0]).startswith("# ")
    assert "*Data: " in text(cells[0])


def test_it_ends_with_something_to_try(cells: list[dict[str, Any]]) -> None:
    assert "## Try\n\n- " in text(cells[-1])


def test_its_code_reads_in_the_line_width_of_the_house(cells: list[dict[str, Any]]) -> None:
    for cell in cells:
        if cell["cell_type"] == "code":
            ast.parse(text(cell))
            assert max(map(len, text(cell).splitlines())) <= 130
