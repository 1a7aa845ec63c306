"""What README promises, run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neurodeploy.__main__ import main
from neurodeploy.frontends.nir import reading
from neurodeploy.frontends.torch import functions as supported

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(r"^neurodeploy ([a-z]+)(.*)$", README, flags=re.MULTILINE)


def test_the_python_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program, _ = PYTHON
    names: dict[str, object] = {}
    exec(compile(program, "README.md", "exec"), names)
    assert (tmp_path / "model.net").is_file()
    assert "Now: fits. " in capsys.readouterr().out


def test_the_file_with_a_model_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PYTHON[1])
    assert main(["inspect", "mine.py:model", "--target", "loihi1", "--cores", "2"]) == 1
    assert "6 cores for the network > 2" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "rest"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_every_command_line_names_options_that_exist(command: str, rest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    taught = capsys.readouterr().out
    for option in re.findall(r"--[a-z-]+", rest):
        assert option in taught


TABLES = {"norse": supported.rows, "nir": reading.rows}
"""Which frontend has which table: between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""


@pytest.mark.parametrize("name", TABLES)
def test_the_table_of_what_goes_in_is_the_codes(name: str) -> None:
    shown = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, flags=re.DOTALL)
    assert shown is not None
    rows = "".join(f"| {names} | {becomes} |\n" for names, becomes in TABLES[name]())
    assert shown[1] == f"| goes in | what becomes of it |\n|---|---|\n{rows}"


def test_all_nine_commands_are_told_of() -> None:
    assert {command for command, _ in COMMANDS} == {
        "profiles", "inspect", "deploy", "compress", "simulate", "verify", "evaluate", "export", "demo",
    }  # fmt: skip
