"""Code of the user's that ends, raises or gives something else, in a model or in its data: one line, and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import neurodeploy as nd
from neurodeploy.__main__ import main

CODE = """
import sys
import torch
from norse.torch import LICell, SequentialState

class Own(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")

def throw(error):
    raise error

class Ends(torch.nn.Module):
    def __init__(self, ends):
        super().__init__()
        self.layer, self.ends = torch.nn.Linear(64, 10), ends

    def forward(self, x, state=None):
        self.ends()
        return self.layer(x), state

class Batches:
    def __init__(self, ends, at=2):
        self.ends, self.at, self.times = ends, at, 0

    def __iter__(self):
        self.times += 1
        yield torch.rand(4, 64), torch.tensor([0, 1, 2, 9])
        if self.times >= self.at:
            self.ends()

def model():
    return SequentialState(torch.nn.Linear(64, 10), LICell()), torch.zeros(1, 64)

def batch(inputs, labels):
    return lambda: ([(inputs, labels)], [(torch.rand(4, 64), torch.tensor([0, 1, 2, 9]))])

for name, error in {"exit": SystemExit(0), "own": Own("x"), "mute": Mute(), "closed": GeneratorExit()}.items():
    globals()[f"forward_{name}"] = lambda error=error: (Ends(lambda: throw(error)), torch.zeros(1, 64))
    globals()[f"factory_{name}"] = lambda error=error: throw(error)
    if name != "closed":
        globals()[f"data_{name}"] = lambda error=error: (Batches(lambda: throw(error)), Batches(lambda: None))
        globals()[f"early_{name}"] = lambda error=error: (Batches(lambda: throw(error), 1), Batches(lambda: None))
batch_sparse = batch(torch.rand(4, 64).to_sparse(), torch.tensor([0, 1, 2, 9]))
batch_of_none = batch(torch.tensor(1.0), torch.tensor(0))
batch_without_numbers = batch(torch.empty(4, 64, device="meta"), torch.tensor([0, 1, 2, 9]))
"""
MODELS = [f"{place}_{how}" for place in ("forward", "factory") for how in ("exit", "own", "mute", "closed")]
DATA = [
    *(f"{place}_{how}" for place in ("data", "early") for how in ("exit", "own", "mute")),
    "batch_sparse", "batch_of_none", "batch_without_numbers",
]  # fmt: skip


@pytest.fixture
def code(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return str(path)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_ends_or_raises_is_one_line(name: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"{code}:{name}", "--target", "loihi2", "--json"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_a_model_that_leaves_the_folder_leaves_the_outputs_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.py").write_text(f"import os\n{CODE}\ndef goes():\n    os.chdir('elsewhere')\n    return model()\n")
    monkeypatch.chdir(tmp_path)
    assert main(["deploy", "mine.py:goes", "--target", "loihi2", "--out", "made"]) == 0
    assert (tmp_path / "made" / "report.html").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert capsys.readouterr().err == ""


def test_a_model_that_closes_stdout_has_its_result_printed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"{CODE}\ndef closes():\n    sys.stdout.close()\n    return model()\n")
    command = [sys.executable, "-m", "neurodeploy", "inspect", "mine.py:closes", "--target", "loihi2", "--json"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    said = [line for line in done.stderr.splitlines() if not line.endswith(" ...")]  # of a slow machine, what is being done
    assert (done.returncode, said) == (0, [])
    assert json.loads(done.stdout)["fits"]


@pytest.mark.parametrize("name", DATA)
def test_data_that_ends_raises_or_is_no_array_is_one_error(name: str, code: str) -> None:
    def read_twice() -> None:
        data = nd.load_data(f"{code}:{name}")
        for _ in range(2):
            list(data.train)

    with pytest.raises(nd.NeurodeployError, match=r"raised|gave tensors"):
        read_twice()


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "--bits", "0"], ["inspect", "--bits", "40"],
        ["inspect", "--bits", "-1"], ["compress", "--data", "digits", "--bits", "0", "--out", "o"],
        ["compress", "--data", "digits", "--seed", str(1 << 64), "--out", "o"],
        ["compress", "--data", "digits", "--steps", str(1 << 63), "--out", "o"],
        ["compress", "--data", "digits", "--cores", "9" * 5000, "--out", "o"], ["deploy", "--out", "a\0b"],
    ],
)  # fmt: skip
def test_numbers_and_names_that_no_library_takes(arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, *options = arguments
    assert main([command, f"{code}:model", "--target", "loihi2", *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("options", [{"bits": -1}, {"bits": 1.5}, {"connectivity": -1.0}, {"connectivity": 1.5}, {"cores": 1.5}])
def test_inspect_refuses_what_counts_nothing(options: dict[str, float], make_network: Callable[..., nd.Network]) -> None:
    with pytest.raises(nd.NeurodeployError, match=next(iter(options))):
        nd.inspect(make_network([4, 3]), "loihi2", **options)


def test_a_profile_is_an_input_that_is_not_replaced(code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = tmp_path / "report.txt"
    profile.write_text("name: mine\ndescription: A toy.\nextends: loihi2\n")
    assert main(["deploy", f"{code}:model", "--target", str(profile), "--out", str(tmp_path)]) == 2
    assert "is an input of this command" in capsys.readouterr().err
    assert profile.read_text().startswith("name: mine")
    np.save(tmp_path / "s.npy", np.ones((64, 5)))
    assert main(["export", f"{code}:model", "--to", str(tmp_path / "m.nir")]) == 0
    arguments = ["--input", str(tmp_path / "s.npy"), "--target", str(profile), "--out", str(profile)]
    assert main(["simulate", str(tmp_path / "m.nir"), *arguments]) == 2
    assert "is an input of this command" in capsys.readouterr().err
