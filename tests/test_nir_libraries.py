"""Networks that snnTorch, sinabs and Norse export to NIR spike in the reference as in their authors' own simulators.

They simulate in single precision, the reference in double: spikes are compared one by one on inputs of a fixed seed, on which
no membrane comes so close to its threshold that the difference shows; membranes to 1e-4 of the threshold.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from nir_runs import run_nir
from numpy.typing import NDArray
from torch import nn

import neurodeploy as nd
from neurodeploy.frontends.nir.reading import read_nir
from neurodeploy.frontends.nir.writing import write_nir
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork

N_STEPS = 40

pytestmark = pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph is being deprecated")  # all of them call it


@pytest.fixture
def snn() -> Any:
    return pytest.importorskip("snntorch", reason="snnTorch is in the dependency group nir")


@pytest.fixture
def sl() -> Any:
    return pytest.importorskip("sinabs.layers", reason="sinabs is in the dependency group nir")


def spikes(*shape: int, batch: int = 3) -> NDArray[np.uint8]:
    return (np.random.default_rng(11).random((batch, *shape, N_STEPS)) < 0.35).astype(np.uint8)


def assert_spikes_alike(network: Network | QuantizedNetwork, given: NDArray[np.uint8], theirs: NDArray[Any]) -> None:
    """Every spike of the last layer, of which there are some."""
    ours = nd.simulate(network, given)
    np.testing.assert_array_equal(ours.spikes[network.output.name], theirs)
    assert theirs.any()


# ---------------------------------------------------------------------------------------------- snnTorch


def of(snn: Any, kind: str, *shape: int, beta: float = 0.85, **more: Any) -> Any:
    """Neurons with a size of their own that reset to zero at once, as NIR states it, unless `more` says otherwise."""
    more = {"reset_mechanism": "zero", "reset_delay": False} | more
    more = {key: value * torch.ones(shape) if key == "alpha" else value for key, value in more.items()}
    return getattr(snn, kind)(beta=beta * torch.ones(shape), threshold=torch.ones(shape), **more)


class Stepped(nn.Module):
    """Modules in a row, of which those with a state give (spikes, state)."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.row = nn.ModuleList(modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in self.row:
            y = module(x)
            x = y[0] if isinstance(y, tuple) else y
        return x


def louder(model: nn.Module, factor: float) -> None:
    """Larger weights: so small a network spikes seldom with those that torch draws."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.weight *= factor


def snntorch_says(model: nn.Module, given: NDArray[np.uint8]) -> NDArray[Any]:
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "reset_mem"):
                module.reset_mem()
        steps = [model(torch.as_tensor(given[..., t], dtype=torch.float32)) for t in range(N_STEPS)]
    return torch.stack(steps, dim=-1).numpy()


def exported_by_snntorch(model: nn.Module, given: NDArray[np.uint8], folder: Path, **more: Any) -> Network:
    from snntorch.export_nir import export_to_nir

    graph = export_to_nir(model, torch.as_tensor(given[:1, ..., 0], dtype=torch.float32), ignore_dims=[0])
    nir.write(folder / "made.nir", graph)
    return read_nir(folder / "made.nir", discretisation="snntorch", **more)


def test_snntorch_leaky(snn: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = Stepped(nn.Linear(20, 30), of(snn, "Leaky", 30), nn.Linear(30, 6, bias=False), of(snn, "Leaky", 6, beta=0.7))
    louder(model, 3)
    given = spikes(20)
    assert_spikes_alike(exported_by_snntorch(model, given, tmp_path), given, snntorch_says(model, given))


def test_snntorch_convolutions(snn: Any, tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = Stepped(
        nn.Conv2d(2, 6, 3, padding=1), of(snn, "Leaky", 6, 8, 8), nn.AvgPool2d(2), nn.Conv2d(6, 4, 3, stride=2),
        of(snn, "Leaky", 4, 1, 1, beta=0.5), nn.Flatten(), nn.Linear(4, 5), of(snn, "Leaky", 5, beta=0.9),
    )  # fmt: skip
    louder(model, 3)
    given = spikes(2, 8, 8)
    assert_spikes_alike(exported_by_snntorch(model, given, tmp_path), given, snntorch_says(model, given))


def test_snntorch_recurrence(snn: Any, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = Stepped(
        nn.Linear(20, 12), of(snn, "RLeaky", 12, linear_features=12), nn.Linear(12, 6), of(snn, "Leaky", 6),
    )  # fmt: skip
    louder(model, 2)
    given = spikes(20)
    network = exported_by_snntorch(model, given, tmp_path)
    assert network.layers[0].name in {c.source for c in network.layers[0].connections}
    assert_spikes_alike(network, given, snntorch_says(model, given))


def test_snntorch_synaptic_that_hear_themselves_come_in(snn: Any, tmp_path: Path) -> None:
    """SnnTorch 1.0 cannot run RSynaptic with a reset at once, so this compares with NIR's equations."""
    torch.manual_seed(9)
    neurons = snn.RSynaptic(
        alpha=torch.full((8,), 0.6),
        beta=torch.full((8,), 0.8),
        threshold=torch.ones(8),
        linear_features=8,
        reset_mechanism="zero",
    )
    model = Stepped(nn.Linear(10, 8), neurons)
    given = spikes(10)
    network = exported_by_snntorch(model, given, tmp_path)
    theirs = run_nir(nir.read(tmp_path / "made.nir"), given, 1e-4)
    assert_spikes_alike(network, given, theirs[network.output.name])


@pytest.mark.parametrize("rounded", [False, True])
def test_snntorch_reads_what_is_written_for_its_step(snn: Any, rounded: bool, tmp_path: Path) -> None:
    """Integers too: of those it reads the floats that they stand for, which fire as the chip does."""
    from snntorch.import_nir import import_from_nir

    torch.manual_seed(3)
    model = Stepped(nn.Linear(20, 30), of(snn, "Leaky", 30), nn.Linear(30, 6), of(snn, "Leaky", 6, beta=0.7))
    louder(model, 3)
    given = spikes(20)
    network = replace(exported_by_snntorch(model, given, tmp_path), timestep_s=2e-3)
    to_run = nd.quantize(network, nd.load_profile("loihi2")) if rounded else network
    write_nir(to_run, tmp_path / "ours.nir", dt=1e-4)
    assert read_nir(tmp_path / "ours.nir") == (nd.dequantize(to_run) if rounded else network)
    imported = import_from_nir(nir.read(tmp_path / "ours.nir"))
    state: Any = None
    steps = []
    for t in range(N_STEPS):
        said, state = imported(torch.as_tensor(given[..., t], dtype=torch.float32), state)
        steps.append(said.detach())
    assert_spikes_alike(to_run, given, torch.stack(steps, dim=-1).numpy())


# ---------------------------------------------------------------------------------------------- sinabs


def at_most_one(**more: Any) -> dict[str, Any]:
    """Neurons that fire once a step and reset to zero, as NIR states it; sinabs' own defaults do neither."""
    from sinabs.activation import MembraneReset, SingleSpike

    return {"spike_fn": SingleSpike, "reset_fn": MembraneReset(), "batch_size": 3, **more}


def at_rest(model: nn.Module) -> nn.Module:
    """A sinabs model whose neurons have forgotten all."""
    for module in model.modules():
        if hasattr(module, "reset_states"):
            module.reset_states()
    return model


def sinabs_says(model: nn.Module, given: NDArray[np.uint8]) -> NDArray[Any]:
    """From rest; squeezed layers take (batch * time, *shape), a sample's steps one after another."""
    steps = np.moveaxis(given, -1, 1)
    with torch.no_grad():
        out = at_rest(model)(torch.as_tensor(steps.reshape(-1, *steps.shape[2:]), dtype=torch.float32)).numpy()
    return np.moveaxis(out.reshape(len(given), N_STEPS, *out.shape[1:]), 1, -1)


def exported_by_sinabs(model: nn.Module, given: NDArray[np.uint8], folder: Path, **more: Any) -> Network:
    import sinabs.nir

    sample = torch.as_tensor(np.moveaxis(given, -1, 1).reshape(-1, *given.shape[1:-1]), dtype=torch.float32)
    graph = sinabs.nir.to_nir(at_rest(model), sample)
    for node in graph.nodes.values():  # sinabs leaves tensors, and shapes unsaid, that nir.write takes no more
        for key, value in vars(node).items():
            if isinstance(value, (torch.Tensor, np.ndarray)):
                setattr(node, key, np.atleast_1d(np.asarray(value)))
        if isinstance(node, nir.Flatten):
            node.input_type = {"input": np.zeros(0)}
        if isinstance(node, nir.Conv2d):
            node.input_shape = np.zeros(0)
    nir.write(folder / "made.nir", graph)
    return read_nir(folder / "made.nir", discretisation="sinabs", **more)


def test_sinabs_integrate_and_fire_convolutions(sl: Any, tmp_path: Path) -> None:
    torch.manual_seed(6)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), sl.IAFSqueeze(**at_most_one(min_v_mem=None)), sl.SumPool2d(2), nn.Flatten(),
        nn.Linear(36, 5), sl.IAFSqueeze(**at_most_one(min_v_mem=None)),
    )  # fmt: skip
    louder(model, 5)
    given = spikes(2, 8, 8)
    network = exported_by_sinabs(model, given, tmp_path)
    assert_spikes_alike(network, given, sinabs_says(model, given))


def test_sinabs_leaky_neurons(sl: Any, tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = nn.Sequential(
        nn.Linear(20, 30), sl.LIFSqueeze(tau_mem=12.0, **at_most_one()),
        nn.Linear(30, 6), sl.LIFSqueeze(tau_mem=5.0, **at_most_one()),
    )  # fmt: skip
    louder(model, 25)
    given = spikes(20)
    network = exported_by_sinabs(model, given, tmp_path)
    assert_spikes_alike(network, given, sinabs_says(model, given))


def test_sinabs_fires_at_its_threshold_too(sl: Any, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), sl.IAFSqueeze(**at_most_one(min_v_mem=None)))
    with torch.no_grad():
        model[0].weight.fill_(0.5)
    given = np.ones((3, 2, N_STEPS), dtype=np.uint8)
    network = exported_by_sinabs(model, given, tmp_path)
    assert nd.simulate(network, given).spikes[network.output.name].all()
    assert sinabs_says(model, given).all()
