"""What README promises, run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neurodeploy.__main__ import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(r"^neurodeploy ([a-z]+)(.*)$", README, flags=re.MULTILINE)


def test_the_python_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = PYTHON
    names: dict[str, object] = {}
    exec(compile(program, "README.md", "exec"), names)
    assert (tmp_path / "model.net").is_file()
    assert "Now: fits. " in capsys.readouterr().out


@pytest.mark.parametrize(("command", "rest"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_every_command_line_names_options_that_exist(command: str, rest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    taught = capsys.readouterr().out
    for option in re.findall(r"--[a-z-]+", rest):
        assert option in taught


def test_all_eight_commands_are_told_of() -> None:
    assert {command for command, _ in COMMANDS} == {
        "profiles", "inspect", "deploy", "compress", "simulate", "verify", "export", "demo",
    }  # fmt: skip
