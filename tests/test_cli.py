"""The command line as a user meets it: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from neurodeploy.__main__ import main
from neurodeploy.cli import cli
from neurodeploy.cli.options import DATA_SETS
from neurodeploy.hardware.loading import load_profile
from neurodeploy.targets.loihi.target import LOIHI
from neurodeploy.training.data_loading import CATALOGUE
from neurodeploy.training.options import FitOptions

MODELS = """
import torch
from norse.torch import LICell, LIFBoxCell, LIFCell, LIFParameters, SequentialState
from norse.torch.functional.lif_box import LIFBoxParameters
from norse.torch.functional.reset import reset_subtract

def chain(*cells, sizes):
    layers = []
    for cell, n_in, n_out in zip(cells, sizes, sizes[1:]):
        layers += [torch.nn.Linear(n_in, n_out, bias=False), cell]
    return SequentialState(*layers)

def small():
    torch.manual_seed(0)
    lif = LIFCell(LIFParameters(tau_mem_inv=torch.tensor(300.0), v_th=torch.tensor(0.2)))
    return chain(lif, LICell(), sizes=(64, 32, 10))

def wide():
    torch.manual_seed(0)
    return chain(LIFCell(), LICell(), sizes=(64, 100, 10))

def hopeless():
    return chain(LIFCell(), LICell(), sizes=(8, 10, 300))

def subtracts():
    return chain(LIFBoxCell(LIFBoxParameters(reset_method=reset_subtract)), LICell(), sizes=(8, 4, 2))

def convolution():
    return SequentialState(torch.nn.Conv3d(1, 2, 3), LIFCell()), torch.zeros(1, 1, 8, 8, 8)

def no_model():
    return 3

def fails():
    raise ValueError("no such luck")

not_a_function = 3
"""

DATA = """
import torch

def tiny_set():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 64, generator=generator)
    y = torch.arange(20) % 10
    return [(x, y)], [(x, y)]

def not_a_pair():
    return 3

def wrong_width():
    return [(torch.rand(4, 9), torch.arange(4))], [(torch.rand(4, 9), torch.arange(4))]

def too_bright():
    return [(2 + torch.rand(4, 64), torch.arange(4))], [(torch.rand(4, 64), torch.arange(4))]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with models and data in it, and the place where commands run."""
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "broken.py").write_text("import torch\ndef factory(:\n")
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "weights.safetensors").write_text("hello")
    (tmp_path / "bad.net").write_bytes(b"\x89HDF\r\n\x1a\nnothing")
    np.save(tmp_path / "spikes.npy", np.zeros((64, 5), dtype=np.uint8))
    np.save(tmp_path / "analogue.npy", np.full((64, 5), 0.5))
    np.save(tmp_path / "narrow.npy", np.zeros((9, 5), dtype=np.uint8))
    np.save(tmp_path / "empty.npy", np.zeros((64, 0), dtype=np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes of a model, made once."""
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "models.py").write_text(MODELS)
    assert main(["deploy", f"{folder / 'models.py'}:small", "--target", "loihi2", "--out", str(folder / "made")]) == 0
    return folder / "made"


@pytest.fixture
def net(here: Path, deployed: Path) -> str:
    """The network file of that, in the place where commands run."""
    shutil.copytree(deployed, here / "made")
    return "made/model.net"


def test_profiles_are_listed_and_shown_with_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles"]) == 0
    listed = capsys.readouterr().out
    assert "loihi1" in listed
    assert "hala_point" in listed
    assert main(["profiles", "loihi1"]) == 0
    assert "nengo-loihi, block.py: MAX_IN_AXONS" in capsys.readouterr().out
    assert main(["profiles", "--json"]) == 0
    assert {"name": "tiny", "description": load_profile("tiny").description, "cores": 4} in json.loads(capsys.readouterr().out)
    assert main(["profiles", "kapoho_point", "--json"]) == 0
    limits = json.loads(capsys.readouterr().out)["limits"]
    source = "Intel, Loihi 2 technology brief (2021): up to 8192 neurons a core, 1 million a chip"
    assert limits["neurons_per_core"] == {
        "value": 8192, "unit": "neurons", "source": source, "assumed": False, "profile": "loihi2",
    }  # fmt: skip


def test_the_chip_that_contributing_shows_is_inspected(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (here / "example.yaml").write_text(guide.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    assert main(["profiles", "example.yaml"]) == 0
    assert "Author et al. 2024, table 1: 32 KB" in capsys.readouterr().out
    assert main(["inspect", "models.py:small", "--target", "example.yaml"]) == 0
    assert "example (counting only): Example Chip, 16 cores in a mesh." in capsys.readouterr().out


def test_inspect_says_that_a_network_fits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "models.py:small", "--target", "loihi2", "--cores", "1"]) == 0
    assert "fits. 1 of 1 core used" in capsys.readouterr().out


def test_inspect_says_what_binds_and_what_each_layer_may_use(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "models.py:wide", "--target", "tiny", "--cores", "2", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["fits"] is False
    assert said["cores"]["used"] > said["cores"]["available"] == 2
    assert said["binding"][0]["limit"] == 2
    budget = said["layers"][0]["budget"]
    assert budget["binds"] == "synapse_memory_bits"
    assert budget["synapse_memory_bits"] < said["layers"][0]["synapse_memory_bits"]


def test_inspect_says_when_no_compression_helps(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "models.py:hopeless", "--target", "tiny"]) == 1
    assert "Pruning synapses does not help" in " ".join(capsys.readouterr().out.split())


def test_deploy_writes_a_network_and_its_report(here: Path, net: str) -> None:
    report = json.loads((here / "made/report.json").read_text())
    assert report["fits"] == {"before": True, "after": True}
    assert report["accuracy"]["emulated"] is None
    assert report["seed"] is None
    assert {Path(path).name for path in report["files"].values()} == {"model.net", "report.html", "report.json", "report.txt"}
    assert "fits" in (here / "made/report.txt").read_text()


def test_deploy_of_what_does_not_fit_says_so_and_ends_with_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "models.py:wide", "--target", "tiny", "--out", "d", "--cores", "1"]) == 1
    assert "does not fit" in capsys.readouterr().out
    assert json.loads((here / "d/report.json").read_text())["fits"]["after"] is False


def test_a_net_file_is_deployed_again(here: Path, net: str) -> None:
    assert main(["deploy", net, "--target", "loihi1", "--out", "again"]) == 0
    assert (here / "again/model.net").is_file()


def test_simulate_records_the_last_layer(here: Path, net: str) -> None:
    np.save(here / "batch.npy", np.ones((3, 64, 7), dtype=np.uint8))
    assert main(["simulate", net, "--input", "batch.npy", "--out", "record.npz"]) == 0
    with np.load(here / "record.npz") as record:
        assert record["spikes"].shape == record["v"].shape == (3, 10, 7)
        assert record["v"].any()
        assert json.loads(str(record["meta"]))["end"] == "emulator"


def test_compress_leaves_a_network_that_fits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compress", "models.py:wide", "--target", "tiny", "--cores", "2", "--data", "data.py:tiny_set", "--out", "c",
               "--epochs", "1", "2", "1", "--lava-samples", "0", "--steps", "4"]  # fmt: skip
    assert main(command) == 0
    report = json.loads((here / "c/report.json").read_text())
    assert report["fits"] == {"before": False, "after": True}
    assert report["cores"]["used"] <= 2
    assert report["accuracy"]["test_samples"] == 20
    assert report["lava"] == {"steps": None, "mismatches": None, "spikes": None, "simulator": None}
    for layer in report["layers"]:
        assert layer["synapse_memory_bits"] <= layer["budget"]["synapse_memory_bits"]
        assert layer["synapses"] <= layer["before"]["synapses"]
    again = ["models.py:wide", "--target", "tiny", "--cores", "2", "--weights", "c/weights.safetensors"]
    assert main(["inspect", *again]) == 0
    assert main(["deploy", *again, "--out", "d"]) == 0
    assert LOIHI.read(here / "c/model.net") == LOIHI.read(here / "d/model.net")
    deployed = json.loads((here / "d/report.json").read_text())
    assert deployed["cores"]["used"] == report["cores"]["used"]
    kept = [[(layer["name"], layer["connectivity"]) for layer in each["layers"]] for each in (deployed, report)]
    assert kept[0] == kept[1]  # of the weights before compression, in both
    assert main(["deploy", *again, "--bits", "8", "--out", "e"]) in (0, 1)
    assert all(c.synapse.weight_bits == 8 for layer in LOIHI.read(here / "e/model.net") for c in layer.connections)


def test_compress_of_what_can_never_fit_ends_with_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "models.py:hopeless", "--target", "tiny", "--data", "data.py:tiny_set", "--out", "c"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("BudgetError: layer 'layer2'")


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_help_that_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 5


def test_compress_names_every_data_set_of_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "--help"]) == main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(", ".join(CATALOGUE)) == 2


def test_defaults_of_the_command_line_are_those_of_the_options() -> None:
    """They are typed twice, for no help text should wait for torch."""
    options = FitOptions()
    found = {parameter.name: parameter.default for parameter in cli.commands["compress"].params}
    assert (found["steps"], found["encoder"], found["readout"]) == (options.n_steps, options.encoder, options.readout)
    assert found["epochs"] == (options.epochs_dense, options.epochs_compress, options.epochs_finetune)
    assert found["learning_rate"] == options.learning_rate
    assert options.learn_decays is False  # a flag that is not typed
    evaluated = {parameter.name: parameter.default for parameter in cli.commands["evaluate"].params}
    assert all(evaluated[name] == found[name] for name in ("steps", "encoder", "readout"))
    assert tuple(CATALOGUE) == DATA_SETS


MODEL = ["--target", "loihi2"]
TRAIN = ["--target", "loihi2", "--out", "c"]
BAD = {
    "unknown command": (["fly"], "No such command 'fly'"),
    "missing option": (["inspect", "models.py:small"], "Missing option '--target'"),
    "unknown option": (["inspect", "models.py:small", *MODEL, "--colour"], "No such option"),
    "cores not a number": (["inspect", "models.py:small", *MODEL, "--cores", "two"], "'two' is not a valid integer"),
    "no cores": (["inspect", "models.py:small", *MODEL, "--cores", "0"], "cores: 0 is outside 1..128"),
    "more cores than the chip has": (["inspect", "models.py:small", *MODEL, "--cores", "129"], "cores: 129 is outside 1..128"),
    "unknown chip": (["inspect", "models.py:small", "--target", "loihi9"], "loihi9: no such hardware profile"),
    "chip file is no mapping": (["inspect", "models.py:small", "--target", "list.yaml"], "not a mapping"),
    "chip file is a folder": (["profiles", "."], ".: is a folder. Give one of"),
    "unknown chip to show": (["profiles", "loihi9"], "no such hardware profile"),
    "model without factory": (["inspect", "models.py", *MODEL], "not of the form file.py:factory"),
    "no model file": (["inspect", "missing.py:small", *MODEL], "no file missing.py"),
    "no such factory": (["inspect", "models.py:large", *MODEL], "has no 'large'"),
    "factory is no function": (["inspect", "models.py:not_a_function", *MODEL], "is of type int (3), not a function"),
    "factory raises": (["inspect", "models.py:fails", *MODEL], "raised ValueError: no such luck"),
    "factory returns no model": (
        ["inspect", "models.py:no_model", *MODEL],
        "returned a value of type int (3), not a torch module",
    ),
    "model file is broken": (["inspect", "broken.py:factory", *MODEL], "raised SyntaxError"),
    "no such module": (["inspect", "nowhere.models:small", *MODEL], "raised ModuleNotFoundError"),
    "unsupported layer": (["inspect", "models.py:convolution", *MODEL], "0 (Conv3d): conv3d is not supported"),
    "reset by subtraction": (
        ["deploy", "models.py:subtracts", *MODEL, "--out", "d"],
        "layer 'layer0': resets by subtraction, and neurons of target 'loihi' to zero",
    ),
    "no weights file": (["inspect", "models.py:small", *MODEL, "--weights", "none.safetensors"], "none.safetensors"),
    "weights are none": (["inspect", "models.py:small", *MODEL, "--weights", "weights.safetensors"], "weights.safetensors"),
    "weights of an unknown kind": (["inspect", "models.py:small", *MODEL, "--weights", "text.txt"], "text.txt"),
    "a width the chip has not": (
        ["deploy", "models.py:small", "--target", "loihi1", "--out", "d", "--bits", "7"],
        "7 bits do not exist on loihi1",
    ),
    "out is a file": (["deploy", "models.py:small", *MODEL, "--out", "text.txt"], "text.txt: is no folder"),
    "unknown data": (["compress", "models.py:small", *TRAIN, "--data", "letters"], "letters"),
    "no mnist file": (["compress", "models.py:small", *TRAIN, "--data", "mnist:none.npz"], "none.npz"),
    "mnist file is none": (["compress", "models.py:small", *TRAIN, "--data", "mnist:text.txt"], "text.txt"),
    "data factory returns no pair": (["compress", "models.py:small", *TRAIN, "--data", "data.py:not_a_pair"], "(train, test)"),
    "data of another width": (["compress", "models.py:small", *TRAIN, "--data", "data.py:wrong_width"], "takes 64 values"),
    "intensities out of range": (["compress", "models.py:small", *TRAIN, "--data", "data.py:too_bright"], "leave 0..1"),
    "negative learning rate": (
        ["compress", "models.py:small", *TRAIN, "--data", "data.py:tiny_set", "--learning-rate", "-1"],
        "learning_rate",
    ),
    "negative epochs": (
        ["compress", "models.py:small", *TRAIN, "--data", "data.py:tiny_set", "--epochs", "-1", "0", "0"],
        "not in the range",
    ),
    "no network file": (["verify", "none.net"], "none.net: does not exist"),
    "network file is damaged": (["verify", "bad.net"], "bad.net"),
    "network file is text": (["inspect", "text.net", *MODEL], "text.net: does not exist"),
    "no input file": (["simulate", "NET", "--input", "none.npy", "--out", "r.npz"], "none.npy: no such file"),
    "input file is text": (["simulate", "NET", "--input", "text.txt", "--out", "r.npz"], "text.txt: is not a NumPy file"),
    "input not 0 or 1": (["simulate", "NET", "--input", "analogue.npy", "--out", "r.npz"], "other values than 0 and 1"),
    "input of another shape": (
        ["simulate", "NET", "--input", "narrow.npy", "--out", "r.npz"],
        "have shape (9, 5), not (64, n_steps)",
    ),
    "input without steps": (["simulate", "NET", "--input", "empty.npy", "--out", "r.npz"], "nothing to run"),
    "unknown end": (["simulate", "NET", "--input", "spikes.npy", "--out", "r.npz", "--end", "moon"], "'moon' is not one of"),
    "record into nowhere": (
        ["simulate", "NET", "--input", "spikes.npy", "--out", "no/where.npz"],
        "no/where.npz: is no path to write to: there is no folder no.",
    ),
    "no steps to verify": (["verify", "NET", "--steps", "0"], "0 is not in the range"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_line_and_2(case: str, here: Path, net: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, text = BAD[case]
    assert main([net if argument == "NET" else argument for argument in arguments]) == 2
    said = capsys.readouterr()
    *news, error = said.err.strip().splitlines()
    assert text in error
    known = ("Fits", "Checkpoints go to")  # what `compress` had to say before it met the data
    assert all(line.startswith(known) for line in news)
    assert said.out == ""


def test_a_bug_of_ours_is_said_and_not_thrown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("neurodeploy.cli.commands.profile_paths", lambda: 1 // 0)
    assert main(["profiles"]) == 70
    assert "A bug in neurodeploy: ZeroDivisionError" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neurodeploy.cli.commands.profile_paths", interrupted)
    assert main(["profiles"]) == 130
