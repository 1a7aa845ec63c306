"""Several sizes in one run: each fits, each is deployed whole, and is compressed from the one before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.errors import BudgetError, RequestError
from neurodeploy.report.text import as_text, size_table

OPTIONS = nd.FitOptions(epochs_dense=4, epochs_compress=2, epochs_finetune=1, n_steps=8)
MODEL = """
import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState

def model():
    torch.manual_seed(0)
    lif = LIFParameters(tau_mem_inv=torch.tensor(300.0), v_th=torch.tensor(0.3))
    return SequentialState(torch.nn.Linear(64, 48, bias=False), LIFCell(lif), torch.nn.Linear(48, 10, bias=False), LICell())
"""


def model() -> SequentialState:
    scope: dict[str, Any] = {}
    exec(MODEL, scope)  # as the file that a command is given
    made: SequentialState = scope["model"]()
    return made


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[nd.Deployment, ...], Path]:
    out = tmp_path_factory.mktemp("sizes")
    made = nd.compress_to(
        model(),
        torch.zeros(1, 64),
        nd.load_profile("tiny"),
        nd.load_data("digits"),
        OPTIONS,
        cores=(1, 3),
        out=out,
        lava_samples=0,
    )
    return made, out


def test_each_size_fits_and_lies_in_a_folder_of_its_own(sizes: tuple[tuple[nd.Deployment, ...], Path]) -> None:
    made, out = sizes
    assert [deployment.placement.cores_available for deployment in made] == [3, 1]
    for deployment in made:
        assert deployment.placement.fits
        folder = out / f"{deployment.placement.cores_available}-cores"
        assert nd.read_netx(folder / "model.net") == deployment.quantized
        assert (folder / "report.html").exists()


def test_all_come_from_one_dense_network(sizes: tuple[tuple[nd.Deployment, ...], Path]) -> None:
    """It is trained once: a smaller size begins where the larger ended."""
    (large, small), out = sizes
    assert large.report.accuracy.dense == small.report.accuracy.dense
    assert {record.phase for record in large.report.history} == {"dense", "compress", "finetune"}
    assert {record.phase for record in small.report.history} == {"compress", "finetune"}
    assert small.quantized.n_synapses < large.quantized.n_synapses
    begun, ended = model(), model()
    nd.load_weights(begun, out / "3-cores" / "weights.safetensors")
    nd.load_weights(ended, out / "1-cores" / "weights.safetensors")
    kept = ended[0].weight != 0
    apart = (ended[0].weight - begun[0].weight)[kept].norm()
    assert apart < (ended[0].weight - model()[0].weight)[kept].norm()


def test_the_table_of_sizes_has_a_row_each(sizes: tuple[tuple[nd.Deployment, ...], Path]) -> None:
    text = as_text(size_table((made.placement, made.report.accuracy) for made in sizes[0]))
    for made in sizes[0]:
        assert made.report.accuracy.emulated is not None
        assert f"{made.report.accuracy.emulated:.2%}" in text


def test_a_size_that_nothing_fits_is_refused_before_training(tmp_path: Path) -> None:
    told = (model(), torch.zeros(1, 64), nd.load_profile("tiny"), nd.load_data("digits"), OPTIONS)
    with pytest.raises(RequestError, match=r"^cores: are none\."):
        nd.compress_to(*told, cores=(), out=tmp_path)
    lif = LIFCell(LIFParameters())
    wide = SequentialState(torch.nn.Linear(64, 10, bias=False), lif, torch.nn.Linear(10, 100, bias=False), LICell())
    with pytest.raises(BudgetError, match="neurons of the network on 1 core "):
        nd.compress_to(wide, *told[1:], cores=(4, 1), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_takes_sizes_with_commas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(MODEL)
    words = ["compress", f"{tmp_path / 'mine.py'}:model", "--target", "tiny", "--data", "digits", "--out", str(tmp_path / "made")]
    short = ["--epochs", "1", "1", "0", "--steps", "6", "--lava-samples", "0", "--quiet"]
    assert main([*words, *short, "--cores", "2,1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [report["cores"]["available"] for report in told] == [2, 1]
    assert main([*words, *short, "--cores", "2;1"]) == 2
    assert "'2;1' is not a core count, nor several separated by commas, such as 4,2,1." in capsys.readouterr().err


def test_a_seed_decides_on_the_weights_that_a_factory_draws(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODEL.replace("    torch.manual_seed(0)\n", ""))
    words = ["compress", f"{tmp_path / 'mine.py'}:model", "--target", "tiny", "--cores", "2", "--data", "digits", "--quiet"]
    short = ["--epochs", "1", "1", "0", "--steps", "4", "--lava-samples", "0"]
    for name in ("one", "two"):
        assert main([*words, *short, "--out", str(tmp_path / name)]) == 0
    one, two = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
