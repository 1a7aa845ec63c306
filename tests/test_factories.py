"""Model files that the command line names: what they may contain, what of the process they change, how they fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from neurodeploy.__main__ import main
from neurodeploy.errors import RequestError
from neurodeploy.frontends import call_factory, load_model

DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from norse.torch import LIFCell, SequentialState

@dataclass
class Config:
    hidden: int = 5

def model():
    @dataclass
    class Local:
        n_in: int = 3

    return SequentialState(torch.nn.Linear(Local().n_in, Config().hidden, bias=False), LIFCell())
"""


def file(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text)
    return f"{folder / name}:model"


def test_dataclasses_with_postponed_annotations_load(tmp_path: Path) -> None:
    model, sample = load_model(file(tmp_path, DATACLASS))
    assert (type(model).__name__, tuple(sample.shape)) == ("SequentialState", (1, 3))


def test_neighbours_can_be_imported_then_and_not_afterwards(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("def made():\n    return 7\n")
    before = list(sys.path)
    spec = file(
        tmp_path,
        "import sys\nsys.path.insert(0, 'own')\ndef model():\n    from neighbour_of_mine import made\n    return made()\n",
    )
    try:
        assert call_factory(spec) == 7
        assert sys.path == ["own", *before]  # what the file does itself stays; the folder leaves
    finally:
        sys.path[:] = before


def test_the_import_path_is_restored_after_an_error(tmp_path: Path) -> None:
    path, modules = list(sys.path), set(sys.modules)
    with pytest.raises(RequestError):
        call_factory(file(tmp_path, "raise ValueError\n"))
    assert sys.path == path
    assert set(sys.modules) == modules


def test_a_file_named_like_a_library_does_not_hide_it(tmp_path: Path) -> None:
    import torch

    assert call_factory(file(tmp_path, "import torch\ndef model():\n    return torch\n", "torch.py")) is torch
    assert sys.modules["torch"] is torch


FAILS = {
    "exit": ("raise SystemExit('no\\ndata')\n", "importing {path} raised SystemExit: no data (mine.py, line 1)."),
    "exit in the factory": ("import sys\ndef model():\n    sys.exit(3)\n", "raised SystemExit: 3 (mine.py, line 3)."),
    "several lines": (
        "def model():\n    raise ValueError('one.\\n\\n  two.')\n",
        "raised ValueError: one. two (mine.py, line 2).",
    ),
    "in a library": (
        "import json\ndef model():\n    return json.loads('{')\n",
        "raised JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) (mine.py, line 3).",
    ),
    "another name": ("def made():\n    pass\nclass Net:\n    pass\n", "has no 'model'. It defines Net, made."),
    "syntax": ("def model(:\n", "importing {path} raised SyntaxError: invalid syntax (mine.py, line 1)."),
}


@pytest.mark.parametrize("name", FAILS)
def test_a_file_that_fails_is_quoted_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = FAILS[name]
    spec = file(tmp_path, text)
    assert main(["inspect", spec, "--target", "loihi2"]) == 2
    assert capsys.readouterr().err == f"RequestError: {spec}: {message.format(path=tmp_path / 'mine.py')}\n"


def test_a_model_that_the_file_has_made_is_one(tmp_path: Path) -> None:
    text = "import torch\nfrom norse.torch import LIFCell, SequentialState\n"
    model, sample = load_model(file(tmp_path, f"{text}model = SequentialState(torch.nn.Linear(3, 2), LIFCell())\n"))
    assert (type(model).__name__, tuple(sample.shape)) == ("SequentialState", (1, 3))


def test_a_factory_that_takes_arguments_is_refused_with_a_function_that_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = "import torch\n\ndef net(hidden, *, beta, gain=1):\n    return torch.nn.Linear(hidden, beta)\n"
    file = tmp_path / "models.py"
    file.write_text(made)
    assert main(["inspect", f"{file}:net", "--target", "tiny"]) == 2
    said = capsys.readouterr().err
    assert "'net' needs 2 arguments: hidden, beta. Name a function without any, such as: def model(): return net(" in said
    remedy = said.partition("such as: ")[2].strip().rstrip(".").replace("hidden=...", "hidden=4").replace("beta=...", "beta=2")
    file.write_text(f"{made}\n{remedy}\n")
    assert type(call_factory(f"{file}:model")).__name__ == "Linear"
