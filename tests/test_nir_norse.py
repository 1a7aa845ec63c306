"""NIR files that Norse exports, and one that it ships, spike as they should; see test_nir_libraries."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from nir_runs import run_nir
from norse.torch import (
    IAFCell,
    IAFParameters,
    LIBoxCell,
    LIBoxParameters,
    LIFBoxCell,
    LIFBoxParameters,
    LIFCell,
    LIFParameters,
    SequentialState,
)
from norse.torch.utils.export_nir import to_nir
from norse.torch.utils.import_nir import from_nir
from norse_runs import norse
from test_nir_libraries import assert_spikes_alike, louder, spikes
from torch import nn

import neurodeploy as nd
from benchmarks.interop.cases import Drawer, chain
from neurodeploy.errors import RequestError
from neurodeploy.frontends.nir.reading import read_nir
from neurodeploy.frontends.nir.writing import write_nir
from neurodeploy.ir.network import LIF


def test_a_file_of_the_paper_on_nir_comes_in(tmp_path: Path) -> None:
    """The recurrent network of snnTorch that reads Braille, as Norse ships it for its own tests."""
    path = Path(str(files("norse"))) / "torch/utils/test/braille.nir"
    network = read_nir(path, discretisation="snntorch")
    assert [(layer.name, layer.shape) for layer in network] == [("bias", (1,)), ("lif1.lif", (38,)), ("lif2", (7,))]
    given = spikes(12)
    theirs = run_nir(nir.read(path), given, 1e-4)
    assert_spikes_alike(network, given, theirs["lif2"])
    write_nir(network, tmp_path / "again.nir", dt=1e-4)
    assert read_nir(tmp_path / "again.nir") == network


@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph is being deprecated")
def test_norse(tmp_path: Path) -> None:
    """What Norse 1.1 exports is right as far as its own way of writing goes: tau times dt, and no dt in front of spikes."""
    torch.manual_seed(8)
    model = SequentialState(
        nn.Linear(20, 30), LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.full((30,), 100.0), v_th=torch.full((30,), 0.2),
                                                       v_leak=torch.zeros(30))),
        nn.Linear(30, 10, bias=False), IAFCell(IAFParameters(v_th=torch.full((10,), 0.7))),
        nn.Linear(10, 8, bias=False), LIFCell(LIFParameters(
            tau_syn_inv=torch.full((8,), 200.0), tau_mem_inv=torch.full((8,), 150.0), v_th=torch.full((8,), 0.1),
            v_leak=torch.zeros(8),
        )),
        nn.Linear(8, 3), LIBoxCell(LIBoxParameters(tau_mem_inv=torch.full((3,), 80.0), v_leak=torch.zeros(3))),
    )  # fmt: skip
    louder(model, 3)
    given = spikes(20)
    sample = torch.as_tensor(given[..., 0], dtype=torch.float32)
    graph = to_nir(model, sample[:1])
    for node in graph.nodes.values():
        for key, value in vars(node).items():
            if isinstance(value, torch.Tensor):
                setattr(node, key, value.numpy())
    nir.write(tmp_path / "made.nir", graph)
    network = read_nir(tmp_path / "made.nir", discretisation="norse")
    ours, theirs = nd.simulate(network, given, record="all"), norse(model, given)
    neurons = [layer.name for layer in network if layer.name != "bias"]  # and the neuron that carries the first bias
    assert len(neurons) == len(theirs) == 4
    for name, said in zip(neurons[:-1], theirs[:-1], strict=True):
        np.testing.assert_array_equal(ours.spikes[name], said)
        assert said.any()
    np.testing.assert_allclose(ours.v[neurons[-1]], theirs[-1], atol=1e-5)


@pytest.mark.filterwarnings("ignore:nirtorch.load is being deprecated")
def test_norse_reads_what_is_written_for_it(tmp_path: Path) -> None:
    """It ignores the resistance of a LIF, which `library="norse"` writes as 1; the same spikes are read again."""
    draw = Drawer(1)
    neuron = LIF(threshold=np.array(1.0), current_decay=np.array(1.0), voltage_decay=np.array(0.25), rest=np.array(0.0))
    network = chain([draw.dense(16, 20, 2), draw.dense(5, 16, 2)], [(16,), (5,)], neuron, (20,))
    write_nir(network, tmp_path / "made.nir", library="norse")
    graph = nir.read(tmp_path / "made.nir", type_check=False)
    assert {float(r) for node in graph.nodes.values() if isinstance(node, nir.LIF) for r in node.r} == {1.0}
    given, model, steps, state = spikes(20), from_nir(graph), [], None
    with torch.no_grad():
        for t in range(given.shape[-1]):
            fired, state = model(torch.tensor(given[..., t], dtype=torch.float32), state)
            steps.append(fired)
    assert_spikes_alike(network, given, torch.stack(steps, dim=-1).numpy())
    assert_spikes_alike(read_nir(tmp_path / "made.nir"), given, torch.stack(steps, dim=-1).numpy())


def test_libraries_have_their_steps(tmp_path: Path) -> None:
    neuron = LIF(threshold=np.array(1.0), current_decay=np.array(1.0), voltage_decay=np.array(0.25), rest=np.array(0.5))
    network = chain([Drawer(1).dense(4, 3)], [(4,)], neuron, (3,))
    for library, dt in (("snntorch", 1e-4), ("spikingjelly", 1e-4), ("norse", 1e-3)):
        write_nir(network, tmp_path / "made.nir", library=library)
        assert float(nir.read(tmp_path / "made.nir", type_check=False).metadata["dt"]) == dt
        if library != "norse":  # whose voltages are in other units
            assert read_nir(tmp_path / "made.nir") == network
    write_nir(network, tmp_path / "made.nir", library="norse", dt=1.0)
    assert float(nir.read(tmp_path / "made.nir", type_check=False).metadata["dt"]) == 1.0
    with pytest.raises(RequestError, match=r"library.*has to be 'norse', 'snntorch', 'spikingjelly' or None"):
        write_nir(network, tmp_path / "made.nir", library="sinabs")  # type: ignore[arg-type]
