"""The recipes of docs/how-to/recipes.md: their blocks are written to files, and their commands run, with fewer epochs."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from neurodeploy.__main__ import main

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "how-to" / "recipes.md").read_text(encoding="utf-8")
RECIPES = {section.splitlines()[0]: section for section in PAGE.split("\n## From ")[1:]}
SHORT = ["--epochs", "1", "1", "0", "--steps", "4", "--lava-samples", "0"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_ends_in_a_report(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = re.search(r"^(?:from|import) (snntorch|spikingjelly|sinabs)", RECIPES[name], re.MULTILINE)
    if library:
        pytest.importorskip(library[1])
    monkeypatch.chdir(tmp_path)
    # the last recipe takes up the model of the one before
    for block in re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        Path(block[0]).write_text(block[1], encoding="utf-8")
    commands = re.findall(r"```\n((?:neurodeploy|python) .*?)```", RECIPES[name], re.DOTALL)
    for line in "\n".join(commands).splitlines():
        program, *arguments = shlex.split(line)
        if program == "python":
            runpy.run_path(arguments[0])
        elif program == "neurodeploy":
            assert main([*arguments, *(SHORT if arguments[0] == "compress" else [])]) == 0
    assert (tmp_path / "made" / "report.html").stat().st_size > 10_000
