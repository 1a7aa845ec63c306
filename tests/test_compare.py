"""`neurodeploy compare`: one network on several chips, as a table, as JSON and as a page that is whole in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_page import Reader

from neurodeploy.__main__ import main

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


def test_the_table_says_what_is_not_published_and_what_is_counted_alone(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", f"{models}:model", "--targets", "loihi1,odin"]) == 0
    loihi1, odin = (line for line in capsys.readouterr().out.splitlines() if line.strip().startswith(("loihi1", "odin")))
    assert "uJ" in loihi1
    assert "1 of 128" in loihi1
    assert odin.count("not published") == 2
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
        "not published",
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
