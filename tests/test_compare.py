"""`neurodeploy compare`: one network on several chips, as a table, as JSON and as a page that is whole in one file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paper import layer_of
from test_page import Reader

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.frontends import load_model
from neurodeploy.hardware.loading import load_profile, profile_paths
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.targets import default_weight_bits, target_named, weight_widths

MODELS = """
import torch
from norse.torch import LICell, LIFCell, SequentialState


def linear(n_in, n_out):
    return torch.nn.Linear(n_in, n_out, bias=False)


def model():
    torch.manual_seed(0)
    return SequentialState(linear(64, 24), LIFCell(), linear(24, 10), LICell()), torch.zeros(1, 64)


def wide():
    return SequentialState(linear(64, 600), LIFCell(), linear(600, 10), LICell()), torch.zeros(1, 64)


def data():
    images = torch.rand(16, 64, generator=torch.Generator().manual_seed(0))
    batches = [(images, torch.arange(16) % 10)]
    return batches, batches
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "<mine>.py"
    path.write_text(MODELS, encoding="utf-8")
    return path


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the entries of the JSON by profile."""
    code = main(["compare", *arguments, "--json"])
    answer = json.loads(capsys.readouterr().out)
    return code, {one["profile"]: one for one in answer["targets"]}


def test_each_target_has_the_verdict_and_the_counts_of_inspect(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = compared(capsys, f"{models}:model", "--targets", "loihi1,xylo,tiny,loihi1")
    assert (code, list(found)) == (0, ["loihi1", "xylo", "tiny"])
    for chip, one in found.items():
        inspected = main(["inspect", f"{models}:model", "--target", chip, "--json"])
        seen = json.loads(capsys.readouterr().out)
        assert one["fits"] is seen["fits"] is (inspected == 0)
        keys = ("target", "cores", "binding", "estimate", "utilization", "compressible")
        assert {key: one[key] for key in keys} == {key: seen[key] for key in keys}
    assert found["loihi1"]["estimate"]["energy_j"] > 0
    assert found["tiny"]["estimate"] is None
    assert (found["xylo"]["fits"], found["xylo"]["compressible"], found["xylo"]["binds"]) == (False, False, "inputs 64 > 16")


def test_while_it_runs_it_says_where_it_is(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    @contextmanager
    def status(what: str) -> Iterator[None]:
        told.append(what)
        yield

    monkeypatch.setattr("neurodeploy.cli.commands.status", status)
    main(["compare", f"{models}:model", "--targets", "tiny,xylo,odin"])
    assert told[1:] == [
        "Placing on tiny (1 of 3)", "Placing on xylo (2 of 3)", "Placing on odin (3 of 3)",
    ]  # fmt: skip


def test_the_table_says_what_is_not_published_and_what_is_counted_alone(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", f"{models}:model", "--targets", "loihi1,odin"]) == 0
    loihi1, odin = (line for line in capsys.readouterr().out.splitlines() if line.strip().startswith(("loihi1", "odin")))
    assert "uJ" in loihi1
    assert "1 of 128" in loihi1
    assert odin.count("no figures") == 2
    assert "counting only" in odin


def test_accuracy_is_that_of_evaluate_and_only_of_chips_with_a_target(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", f"{models}:data", "--steps", "4"]
    _, found = compared(capsys, f"{models}:model", "--targets", "tiny,odin", *given)
    assert main(["evaluate", f"{models}:model", "--target", "tiny", *given, "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert found["tiny"]["accuracy"] == evaluated["classification_accuracy"]
    assert (found["tiny"]["test_samples"], found["odin"]["accuracy"]) == (16, None)


def test_a_network_that_fits_no_target_ends_with_1_and_names_each_limit_once(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = compared(capsys, f"{models}:wide", "--targets", "tiny,odin")
    assert code == 1
    for one in found.values():
        assert not one["fits"]
        assert one["binds"].startswith("cores ")
        assert one["binds"].count("input_axons") == 1


def test_an_unknown_target_is_refused_with_the_nearest_name(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", f"{models}:model", "--targets", "loihi1,lohi2"]) == 2
    assert "Did you mean 'loihi2'?" in capsys.readouterr().err
    assert main(["compare", f"{models}:model", "--targets", " , "]) == 2
    assert "names no chip" in capsys.readouterr().err
    assert main(["compare", f"{models}:model", "--targets", "tiny", "--data", "mnits"]) == 2
    assert "is no data set" in capsys.readouterr().err


def test_the_page_is_whole_in_one_file_and_has_every_cell(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", f"{models}:model", "--targets", "loihi1,xylo", "--out", str(tmp_path / "made")]) == 0
    assert "compare.html" in capsys.readouterr().out
    page = (tmp_path / "made" / "compare.html").read_text(encoding="utf-8")
    seen = Reader(page)
    assert [link for link in seen.loads if not link.startswith(("#", "data:"))] == []
    assert "default-src 'none'" in page
    assert "<mine>" not in page
    for text in (
        "1 of 2 targets fit",
        "<mine>.py:model",
        "inputs 64 > 16",
        "no figures",
        "Estimate per step",
        "SynSense Xylo",
    ):
        assert text in seen.text


def test_the_model_and_the_data_are_read_once_for_all_targets(tmp_path: Path) -> None:
    noted = MODELS.replace("def model():\n", "def model():\n    note('model')\n").replace(
        "def data():\n", "def data():\n    note('data')\n"
    )
    calls = tmp_path / "calls.txt"
    (tmp_path / "noted.py").write_text(
        f"{noted}\ndef note(what):\n    with open({str(calls)!r}, 'a') as file:\n        file.write(what + ' ')\n"
    )
    spec = f"{tmp_path / 'noted.py'}"
    assert main(["compare", f"{spec}:model", "--targets", "loihi1,loihi2,tiny", "--data", f"{spec}:data", "--steps", "2"]) == 0
    assert calls.read_text().split() == ["model", "data"]


@pytest.mark.parametrize("chip", sorted(profile_paths()))
def test_every_chip_has_a_verdict_that_names_its_target_and_its_widths(
    chip: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Widths are the chip's widest by default; one that it does not have is refused with those that it has."""
    profile, model = load_profile(chip), f"{models}:model"
    code = main(["inspect", model, "--target", chip])
    said = capsys.readouterr().out.split("\n")
    runs = "counting only" if profile.target is None else f"target {profile.target}"
    assert said[0].startswith(f"{chip} ({runs}): ")
    assert code == (chip == "xylo")  # 64 inputs of at most 16, and neurons that reset to zero
    assert [line.startswith("Now: does not fit") for line in said[1:2]] == [chip == "xylo"]
    widest = default_weight_bits(profile)
    assert widest == max(weight_widths(profile)) == max(profile["weight_bits"].choices)
    json_code, found = compared(capsys, model, "--targets", chip)
    assert (json_code, found[chip]["fits"], found[chip]["target"]) == (code, not code, profile.target)
    network = nd.extract(*load_model(model))
    assert {*nd.inspect(network, chip).placement.weight_bits.values()} == {widest}
    if profile.target != "xylo":
        assert {layer.weight_bits for layer in nd.quantize(network, chip)} == {widest}
        assert nd.narrow_budget(network, chip).weight_bits == widest
    wrong = str(min({1, 9} - {*weight_widths(profile)}))
    rest = f"weights of {wrong} bits do not exist on {chip} ({profile['weight_bits'].where}). Choose from "
    for command in (["inspect"], ["check"], ["deploy", "--out", str(tmp_path / "out")]):
        assert main([*command[:1], model, "--target", chip, "--bits", wrong, *command[1:]]) == 2
        assert f"{rest}{', '.join(map(str, weight_widths(profile)))}." in capsys.readouterr().err


def test_what_cannot_be_counted_is_answered_on_stdout_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Integers of 8 bits, on a chip with weights of 4."""
    network = QuantizedNetwork(input_shape=(2,), layers=(layer_of(np.array([[100, 3], [7, 255]]), vth=9),))
    file = target_named("loihi").write(network, tmp_path / "eight.net")
    assert main(["inspect", str(file), "--target", "odin"]) == 1
    said = capsys.readouterr()
    assert said.out == "odin: does not fit.\n"
    assert said.err == "BudgetError: weight: 8 bits > 4 (odin.yaml: weight_bits). Take weights of at most 4 bits.\n"


def test_a_page_that_cannot_be_written_leaves_no_folder(
    models: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "made/deep/compare.html"))

    monkeypatch.setattr("neurodeploy.report.html.write_text", full)
    assert main(["compare", f"{models}:model", "--targets", "tiny", "--out", str(tmp_path / "made/deep")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
