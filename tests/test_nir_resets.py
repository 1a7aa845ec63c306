"""NIR files of neurons that subtract their threshold: read with the reset that the library has, which files do not tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from test_nir import graph, lif, written
from test_nir_libraries import (
    Stepped,
    assert_spikes_alike,
    exported_by_sinabs,
    exported_by_snntorch,
    louder,
    of,
    sinabs_says,
    sl,
    snn,
    snntorch_says,
    spikes,
)
from test_subtractive import NETWORK, subtractive
from torch import nn

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.frontends.nir.reading import check_nir, read_nir
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import LIF, Dense, Network, SubtractiveLIF, reset_of

__all__ = ["sl", "snn"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph is being deprecated")

DEFAULTS: dict[str, Any] = {"reset_mechanism": "subtract", "reset_delay": True}
"""snnTorch's."""


def resets(network: Network) -> set[str]:
    return {reset_of(layer.neuron) for layer in network}


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "RLeaky"])
def test_snntorchs_default(snn: Any, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    more = {"Leaky": {}, "Synaptic": {"alpha": 0.6}, "RLeaky": {"linear_features": 14}}[kind]
    first, last = of(snn, kind, 14, **more, **DEFAULTS), of(snn, "Leaky", 6, beta=0.7, **DEFAULTS)
    model = Stepped(nn.Linear(20, 14, bias=False), first, nn.Linear(14, 6, bias=False), last)
    louder(model, 3)
    given = spikes(20)
    network = exported_by_snntorch(model, given, tmp_path, reset="subtract")
    assert resets(network) == {"by subtraction"}
    assert network.notes == ()
    assert_spikes_alike(network, given, snntorch_says(model, given))
    # what leaves a step late goes through connections of the neurons to themselves, and a current keeps some of it
    own = [c for c in network.layers[0].connections if c.source == network.layers[0].name and c.is_fixed]
    assert [c.delay_steps for c in own] == ([0, 1] if kind == "Synaptic" else [0])


def multi(sl: Any, kind: str, **more: Any) -> Any:
    """Neurons as sinabs has them by default; IAF without its lower limit, which no file holds."""
    more = more if kind == "LIFSqueeze" else {"min_v_mem": None} | more
    return getattr(sl, kind)(batch_size=3, **more)


@pytest.mark.parametrize("is_single", [False, True])
@pytest.mark.parametrize("kind", ["LIFSqueeze", "IAFSqueeze"])
def test_sinabs_defaults(sl: Any, kind: str, is_single: bool, tmp_path: Path) -> None:
    from sinabs.activation import SingleSpike

    torch.manual_seed(7)
    more = ({"tau_mem": 12.0} if kind == "LIFSqueeze" else {}) | ({"spike_fn": SingleSpike} if is_single else {})
    model = nn.Sequential(
        nn.Linear(20, 30), multi(sl, kind, **more), nn.Linear(30, 6, bias=False), multi(sl, kind, **more)
    )  # fmt: skip
    louder(model, 25 if kind == "LIFSqueeze" else 4)
    given = spikes(20)
    network = exported_by_sinabs(model, given, tmp_path, reset="subtract", max_spikes=1 if is_single else None)
    assert resets(network) == {"by subtraction"}
    theirs = sinabs_says(model, given)
    assert_spikes_alike(network, given, theirs)
    assert (theirs.max() > 1) is not is_single


def test_sinabs_fires_once_for_each_whole_threshold(sl: Any, tmp_path: Path) -> None:
    """Sums of whole quarters that meet multiples of the threshold."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False), multi(sl, "IAFSqueeze"))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0, -0.5], [0.25, 3.0, -1.0]]))
    given = spikes(3)
    network = exported_by_sinabs(model, given, tmp_path, reset="subtract")
    theirs = sinabs_says(model, given)
    assert_spikes_alike(network, given, theirs)
    assert theirs.max() > 2


# ---------------------------------------------------------------------------------------------- our own files


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    """The reset too, in the metadata, with the most spikes of each layer; NETWORK has 31."""
    own = Connection(source="layer0", synapse=Dense(weight=-0.25 * np.eye(3)), delay_steps=1)
    first = replace(NETWORK.layers[0], connections=(*NETWORK.layers[0].connections, own))
    last = replace(NETWORK.layers[1], neuron=subtractive(threshold=0.7, current=1.0, voltage=0.0, most=[5]))
    network = replace(NETWORK, layers=(first, last))
    nd.write_nir(network, tmp_path / "model.nir")
    back = read_nir(tmp_path / "model.nir")
    assert back == network
    assert back.notes == ()
    zero = read_nir(tmp_path / "model.nir", reset="zero")
    assert resets(zero) == {"to zero"}


def test_other_libraries_read_it_as_they_reset(snn: Any, tmp_path: Path) -> None:
    """NIR itself has no place for it."""
    nd.write_nir(NETWORK, tmp_path / "model.nir")
    node = nir.read(tmp_path / "model.nir").nodes["layer0"]
    assert isinstance(node, nir.CubaLIF)
    assert (node.metadata["reset"], float(node.metadata["max_spikes"])) == ("subtract", 31.0)


# ---------------------------------------------------------------------------------------------- what the file does not tell


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    weight = np.random.default_rng(0).normal(0.2, 0.4, size=(3, 5))
    return written(graph(nir.Linear(weight), lif(3), input_shape=(5,)), tmp_path)


def test_a_note_says_that_the_file_does_not_tell_the_reset(foreign: Path) -> None:
    network = read_nir(foreign, dt=1e-3)
    assert isinstance(network.output.neuron, LIF)
    (note,) = network.notes
    assert "does not tell how its neurons reset: read as to v_reset" in note
    for reset, kind in (("zero", LIF), ("subtract", SubtractiveLIF)):
        known = read_nir(foreign, dt=1e-3, reset=reset)
        assert isinstance(known.output.neuron, kind)
        assert known.notes == ()
        nodes, checked = check_nir(foreign, dt=1e-3, reset=reset)
        assert checked == known
        assert all(node.verdict == "exact" for node in nodes)


def test_commands_ask_for_the_reset_and_reports_have_the_note(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(foreign), "--dt", "0.001", "--target", "loihi2"]
    assert main(["inspect", *asked]) == 0
    assert "does not tell how its neurons reset" in " ".join(capsys.readouterr().out.split())
    assert main(["deploy", *asked, "--out", str(tmp_path / "made")]) == 0
    assert "Note: The file does not tell how its neurons reset" in " ".join(capsys.readouterr().out.split())
    for name in ("report.txt", "report.html"):
        assert "does not tell how its neurons reset" in " ".join((tmp_path / "made" / name).read_text(encoding="utf-8").split())
    assert main(["inspect", *asked, "--reset", "zero"]) == 0
    assert "how its neurons reset" not in " ".join(capsys.readouterr().out.split())
    assert main(["inspect", *asked, "--reset", "subtract"]) == 1
    assert "resets by subtraction, and neurons of target 'loihi' to zero" in " ".join(capsys.readouterr().out.split())
    assert main(["inspect", *asked, "--reset", "none"]) == 2
    capsys.readouterr()
    again = ["export", str(foreign), "--dt", "0.001", "--to", str(tmp_path / "again.nir"), "--reset"]
    for reset, expected in (("subtract", True), ("zero", False)):
        assert main([*again, reset]) == 0
        assert ("Note: Neurons subtract their threshold, which NIR does not state" in capsys.readouterr().out) is expected


def test_options_of_nir_files_are_for_them_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models.py").write_text("", encoding="utf-8")
    assert main(["inspect", f"{tmp_path / 'models.py'}:model", "--target", "loihi2", "--reset", "subtract"]) == 2
    assert "--dt, --discretisation, --reset and --max-spikes: are for .nir files" in " ".join(capsys.readouterr().err.split())
