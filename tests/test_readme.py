"""README.md and the documentation pages that are generated: their code runs, their tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support_matrix import COMMANDS as MATRIX_COMMANDS
from support_matrix import HEAD, ROWS, Row, cell, chips, write_models
from support_tables import nir_support_table, torch_support_table

import neurodeploy
from neurodeploy.__main__ import main
from neurodeploy.hardware.loading import load_profile

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(r"^neurodeploy ([a-z]+)(.*)$", README.partition("## Commands")[2], flags=re.MULTILINE)


def marked(text: str, name: str) -> str:
    """What stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, flags=re.DOTALL)
    assert found is not None, f"no part {name!r}"
    return found[1]


def words(text: str) -> str:
    """A text without rules and line breaks: what a terminal of any width shows."""
    return " ".join(re.sub("─+", " ", text).split())


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 160


def test_every_link_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_python_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(PYTHON[1], "README.md", "exec"), names)
    assert (tmp_path / "model.net").is_file()
    printed = capsys.readouterr().out
    assert "Now: fits. 1 of 128 cores used" in printed
    assert re.search(r"finetune 2: .* [3-7]\d\.\d% of weights kept", printed)  # its budget binds
    (table,) = re.findall(r"```\n( module .*?)\n```", README, flags=re.DOTALL)
    assert len(table.splitlines()) == 7
    for line in table.splitlines():
        assert line in printed


def test_the_output_of_inspect_is_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PYTHON[0])
    _, command, *lines, cut, _ = marked(README, "inspect").splitlines()
    assert command.startswith("$ neurodeploy inspect mine.py:model ")
    assert main(command.split()[2:]) == 1
    printed = words(capsys.readouterr().out)
    assert len(lines) == 8
    assert cut == "..."
    for line in lines:
        assert words(line) in printed


@pytest.mark.parametrize(("command", "rest"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_every_command_line_names_options_that_exist(command: str, rest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    taught = capsys.readouterr().out
    for option in re.findall(r"--[a-z-]+", rest):
        assert option in taught


def test_all_commands_are_shown() -> None:
    assert {command for command, _ in COMMANDS} == {
        "profiles", "inspect", "check", "compare", "deploy", "compress", "simulate", "verify", "evaluate", "export", "demo",
        "simulators", "sweep",
    }  # fmt: skip


TABLES = {"norse": ("operators.md", torch_support_table), "nir": ("nir.md", nir_support_table)}
"""Which page of the documentation has the table of which frontend."""


@pytest.mark.parametrize("name", TABLES)
def test_the_table_of_what_goes_in_is_the_codes(name: str) -> None:
    page, rows_of = TABLES[name]
    rows = "".join(f"| {names} | {becomes} |\n" for names, becomes in rows_of())
    shown = marked((ROOT / "docs" / page).read_text(encoding="utf-8"), name)
    assert shown == f"| goes in | what becomes of it |\n|---|---|\n{rows}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models of the support matrix."""
    folder = tmp_path_factory.mktemp("support")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def matrix() -> list[str]:
    """The support matrix of docs/operators.md, line by line."""
    return marked((ROOT / "docs" / "operators.md").read_text(encoding="utf-8"), "support").splitlines()


def test_the_support_matrix_has_every_row_and_the_readme_the_most_common(matrix: list[str]) -> None:
    assert matrix[:2] == list(HEAD)
    assert [line.split(" | ")[0].removeprefix("| ") for line in matrix[2:]] == [row.name for row in ROWS]
    shown = [line for line, row in zip(matrix[2:], ROWS, strict=True) if row.in_readme]
    assert marked(README, "support").splitlines() == [*HEAD, *shown]


ALIKE = ("box", "branches", "snntorch_neurons", "spikingjelly_nodes")
"""Models of rows that other tests run the whole way in every run: tests/test_operators_compress.py and test_recipes.py."""


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.model, marks=[] if row.in_readme and row.model not in ALIKE else pytest.mark.slow) for row in ROWS],
)
def test_a_row_of_the_support_matrix_is_what_the_commands_do(row: Row, models: Path, matrix: list[str]) -> None:
    if row.library:
        pytest.importorskip(row.library)
    shown = matrix[2 + ROWS.index(row)].split("|")[2:-2]
    assert dict(zip(MATRIX_COMMANDS, map(str.strip, shown), strict=True)) == {
        command: cell(command, row, models) for command in MATRIX_COMMANDS
    }
    assert matrix[2 + ROWS.index(row)].rstrip("| ").endswith(row.note or shown[-1].strip())


def test_the_chips_with_a_target_are_those_of_the_profiles() -> None:
    assert marked(README, "chips") == chips()


@pytest.mark.parametrize("chip", ["tiny", "odin"])
def test_deploy_writes_a_network_file_for_a_chip_with_a_target_alone(
    chip: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bits = min(8, load_profile(chip)["weight_bits"].choices[-1])
    arguments = ["deploy", f"{models / 'models.py'}:dense", "--target", chip, "--bits", str(bits), "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "model.net").is_file() is (load_profile(chip).target is not None)


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    shown = {name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: ([\w.]+)$", page, flags=re.MULTILINE)}
    assert {name for name in neurodeploy.__all__ if name not in ("INPUT", "plot")} - shown == set()
    # as users write them
    assert set(re.findall(r"^\.\. autofunction:: neurodeploy::plot\.(\w+)$", page, re.MULTILINE)) == set(dir(neurodeploy.plot))


# ---------------------------------------------------------------------------------------------- ARCHITECTURE.md

ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_the_tree_is_the_real_one() -> None:
    shown, folders = set(), []
    for line in marked(ARCHITECTURE, "tree").splitlines()[1:-1]:
        name, meaning = line.split(maxsplit=1) if line != "neurodeploy/" else (line, "the package")
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name.rstrip("/")]
        assert meaning
        if name.endswith(".py"):
            shown.add("/".join(folders))
    faces = {path for path in (ROOT / "neurodeploy").rglob("__init__.py") if path.parent.name != "neurodeploy"}
    real = {path.relative_to(ROOT).as_posix() for path in set((ROOT / "neurodeploy").rglob("*.py")) - faces}
    assert shown == real


def test_the_order_of_imports_is_the_one_that_is_enforced() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r"^layers = \[\n(.*?)^\]", pyproject, flags=re.DOTALL | re.MULTILINE)
    assert layers is not None
    assert " > ".join(re.findall(r'"(\w+)"', layers[1])) in ARCHITECTURE
