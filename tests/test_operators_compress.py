"""Every row of the tables of supported modules and functions: extracted, counted, compressed, quantised, placed and emulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import norse.torch as norse
import numpy as np
import pytest
import torch
from support_tables import nir_support_table, torch_support_table
from torch import nn
from torch.nn import functional as F  # noqa: N812  (as everybody calls it)

import neurodeploy as nd
from neurodeploy.ir.network import nearly_equal
from neurodeploy.pipeline.compress import in_integers
from neurodeploy.training.encoders import simulator_spikes

IMAGE, LINE, FLAT = (2, 4, 4), (2, 8), (12,)
PROFILE = nd.load_profile("loihi2")
Step = Callable[[torch.Tensor], torch.Tensor]


class Around(nn.Module):
    """Weights and neurons, `between`, and a readout of three classes."""

    def __init__(self, shape: tuple[int, ...], between: Step | nn.Module) -> None:
        super().__init__()
        kinds = {1: nn.Identity(), 2: nn.Conv1d(2, 4, 3, padding=1, bias=False), 3: nn.Conv2d(2, 4, 3, padding=1, bias=False)}
        self.first, self.between, self.cell, self.out = kinds[len(shape)], between, norse.LIFCell(), norse.LICell()
        if len(shape) == 1:
            self.first = nn.Linear(12, 12, bias=False)
        with torch.no_grad():
            n = self.between(torch.zeros(1, *(self.first(torch.zeros(1, *shape))).shape[1:])).flatten(1).shape[1]
        self.last = nn.Linear(n, 3, bias=False)

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        one, two = state or (None, None)
        spikes, one = self.cell(3 * self.first(x), one)
        out, two = self.out(self.last(self.between(spikes).flatten(1)), two)
        return out, (one, two)


def fires(module: nn.Module | Step, shape: tuple[int, ...] = FLAT) -> nn.Module:
    """Weights of a function's own, with neurons and a readout behind them."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights, self.cell, self.out = module, norse.LIFCell(), norse.LICell()
            with torch.no_grad():
                self.last = nn.Linear(module(torch.zeros(1, *shape)).flatten(1).shape[1], 3, bias=False)

        def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
            one, two = state or (None, None)
            spikes, one = self.cell(3 * self.weights(x), one)
            out, two = self.out(self.last(spikes.flatten(1)), two)
            return out, (one, two)

    return Own()


def cells(cell: nn.Module, readout: nn.Module | None = None) -> nn.Module:
    first = [] if isinstance(cell, (norse.LIFRecurrent, norse.LIFRecurrentCell)) else [nn.Linear(12, 6)]
    rest = [readout] if isinstance(readout, norse.LILinearCell) else [nn.Linear(6, 3), readout or norse.LICell()]
    return norse.SequentialState(*first, cell, *rest)


class Product(nn.Module):
    def __init__(self, function: str) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.rand(12, 8) - 0.3), getattr(torch, function)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)  # type: ignore[no-any-return]


def silent(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, 1 - x], 1)


def rearranged(x: torch.Tensor) -> torch.Tensor:
    x = torch.cat([x.flip(1), x.roll(1, 1)], 1).transpose(2, 3)
    return F.pad(x.permute(0, 1, 3, 2)[:, ::2], (0, 0, 0, 0, 1, 0)).reshape(len(x), -1).unsqueeze(1).squeeze(1)


def unchanged(x: torch.Tensor) -> torch.Tensor:
    return F.dropout(x.clone().contiguous().to(x), training=False)


SEQUENCE = (5, 1, 12)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LIF": (lambda: cells(norse.LIF(), norse.LI()), SEQUENCE), "LIFCell": (lambda: cells(norse.LIFCell()), FLAT),
    "LIFRecurrent": (lambda: cells(norse.LIFRecurrent(12, 6), norse.LI()), SEQUENCE),
    "LIFRecurrentCell": (lambda: cells(norse.LIFRecurrentCell(12, 6)), FLAT),
    "LIFBoxCell": (lambda: cells(norse.LIFBoxCell()), FLAT), "IAFCell": (lambda: cells(norse.IAFCell()), FLAT),
    "LIBoxCell": (lambda: cells(norse.LIFCell(), norse.LIBoxCell()), FLAT),
    "LILinearCell": (lambda: cells(norse.LIFCell(), norse.LILinearCell(6, 3)), FLAT),
    "linear": (lambda: fires(nn.Linear(12, 8)), FLAT), "matmul": (lambda: fires(Product("matmul")), FLAT),
    "mm": (lambda: fires(Product("mm")), FLAT), "conv2d": (lambda: fires(nn.Conv2d(2, 4, 3, 2, 1), IMAGE), IMAGE),
    "conv1d": (lambda: fires(nn.Conv1d(2, 4, 3), LINE), LINE),
    "conv_transpose2d": (lambda: fires(nn.ConvTranspose2d(2, 4, 2, 2), IMAGE), IMAGE),
    "conv_transpose1d": (lambda: fires(nn.ConvTranspose1d(2, 4, 3, 2, 1), LINE), LINE),
    "interpolate": (lambda: Around(IMAGE, nn.Upsample(scale_factor=2, mode="bilinear")), IMAGE),
    "batch_norm": (lambda: fires(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)), IMAGE), IMAGE),
    "avg_pool2d": (lambda: Around(IMAGE, nn.AvgPool2d(2)), IMAGE), "avg_pool1d": (lambda: Around(LINE, nn.AvgPool1d(2)), LINE),
    "lp_pool2d": (lambda: Around(IMAGE, nn.LPPool2d(1, 2)), IMAGE),
    "adaptive_avg_pool2d": (lambda: Around(IMAGE, nn.AdaptiveAvgPool2d(2)), IMAGE),
    "adaptive_avg_pool1d": (lambda: Around(LINE, nn.AdaptiveAvgPool1d(2)), LINE),
    "mean": (lambda: Around(IMAGE, lambda x: x.mean((2, 3))), IMAGE),
    "sum": (lambda: Around(IMAGE, lambda x: x.sum((2, 3))), IMAGE),
    "add": (lambda: Around(FLAT, lambda x: x + x.flip(1)), FLAT), "sub": (lambda: Around(FLAT, lambda x: x - x.flip(1)), FLAT),
    "mul": (lambda: Around(FLAT, lambda x: 0.5 * x), FLAT), "div": (lambda: Around(FLAT, lambda x: x / 2), FLAT),
    "neg": (lambda: Around(FLAT, lambda x: -x), FLAT), "logical_not": (lambda: Around(FLAT, silent), FLAT),
    "max_pool2d": (lambda: Around(IMAGE, nn.MaxPool2d(2)), IMAGE), "max_pool1d": (lambda: Around(LINE, nn.MaxPool1d(2)), LINE),
    "adaptive_max_pool2d": (lambda: Around(IMAGE, nn.AdaptiveMaxPool2d(2)), IMAGE),
    "adaptive_max_pool1d": (lambda: Around(LINE, nn.AdaptiveMaxPool1d(2)), LINE),
    "logical_and": (lambda: Around(FLAT, lambda x: x * (1 - x.flip(1))), FLAT),
    "maximum": (lambda: Around(FLAT, lambda x: torch.maximum(x, x.flip(1))), FLAT),
    "clamp": (lambda: Around(FLAT, lambda x: (x + x.flip(1)).clamp(max=1)), FLAT),
    "reshape": (lambda: Around(IMAGE, rearranged), IMAGE), "clone": (lambda: Around(FLAT, unchanged), FLAT),
}  # fmt: skip


ONES, ROWS = np.ones(3), np.random.default_rng(0).normal(0.2, 0.5, (3, 12))
KERNELS = np.random.default_rng(1).normal(0.2, 0.5, (3, 2, 2, 2))
FIRES = {"v_threshold": 0.3 * ONES, "v_reset": 0 * ONES}
LEAKS = {"tau": 0.004 * ONES, "r": 4 * ONES, "v_leak": 0 * ONES}
CURRENT = {"tau_mem": 0.004 * ONES, "tau_syn": 0.002 * ONES, "r": 4 * ONES, "v_leak": 0 * ONES}


def as_nir(*nodes: Any, shape: tuple[int, ...] = FLAT) -> Callable[[], nir.NIRGraph]:
    return lambda: nir.NIRGraph.from_list(nir.Input(np.array(shape)), *nodes, nir.Output(np.array([3])))


def fires_at(*shape: int) -> nir.LIF:
    return nir.LIF(**{name: value[0] * np.ones(shape) for name, value in {**LEAKS, **FIRES}.items()})


def flattened(shape: tuple[int, ...]) -> list[Any]:
    n = int(np.prod(shape))
    weights = np.random.default_rng(3).normal(0.2, 0.5, (3, n))
    return [nir.Flatten(np.array(shape), 0, -1), nir.Linear(weight=weights), nir.LIF(**LEAKS, **FIRES)]


DENSE, LIF = nir.Linear(weight=ROWS), nir.LIF(**LEAKS, **FIRES)
GRAPHS: dict[str, Callable[[], nir.NIRGraph]] = {
    "Affine": as_nir(nir.Affine(weight=ROWS, bias=0.1 * ONES), LIF),
    "Conv1d": as_nir(nir.Conv1d(8, KERNELS[:, :, 0], 1, 0, 1, 1, np.zeros(3)), fires_at(3, 7), *flattened((3, 7)), shape=LINE),
    "Conv2d": as_nir(nir.Conv2d((4, 4), KERNELS, 1, 0, 1, 1, np.zeros(3)), fires_at(3, 3, 3), *flattened((3, 3, 3)), shape=IMAGE),
    "AvgPool2d": as_nir(nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), *flattened((2, 2, 2)), shape=IMAGE),
    "Flatten": as_nir(*flattened(IMAGE), shape=IMAGE),
    "Scale": as_nir(nir.Scale(np.full(12, 0.5)), DENSE, LIF),
    "Delay": as_nir(DENSE, nir.Delay(0.002 * ONES), LIF),
    "LIF": as_nir(DENSE, LIF),
    "CubaLIF": as_nir(DENSE, nir.CubaLIF(**CURRENT, **FIRES)),
    "IF": as_nir(DENSE, nir.IF(r=ONES / 0.001, v_threshold=ONES, v_reset=0 * ONES)),
    "LI": as_nir(DENSE, nir.LI(**LEAKS)),
    "CubaLI": as_nir(DENSE, nir.CubaLI(**CURRENT)),
    "I": as_nir(DENSE, nir.I(r=ONES / 0.001)),
    "Threshold": as_nir(DENSE, nir.Threshold(0.5 * ONES)),
}


def test_every_row_of_the_tables_has_a_model() -> None:
    for table, models in ((torch_support_table(), MODELS), (nir_support_table(), GRAPHS)):
        assert [names for names, _ in table if not any(f"`{name}`" in names.split(", ") for name in models)] == []


def goes_the_whole_way(network: nd.TrainableNetwork) -> None:
    inputs = torch.rand(6, *network.network.input_shape, generator=torch.Generator().manual_seed(0))
    options = nd.FitOptions(n_steps=3, epochs_dense=1, epochs_compress=1, epochs_finetune=0, encoder="direct")
    budget = nd.narrow_budget(network.network, PROFILE, cores=1)
    before = network.to_network()
    nd.fit(network, budget, [(inputs, torch.arange(6) % 3)], options)
    trained = network.to_network()
    spikes = simulator_spikes(inputs, 3)
    _, quantized, plan, _ = in_integers(trained, budget, {}, spikes)
    assert nd.place(quantized, PROFILE, plan=plan.cuts).fits
    assert nd.simulate(quantized, spikes).n_samples == 6
    assert not nearly_equal(before, trained)


SECOND = (
    "LIFRecurrent", "IAFCell", "LIBoxCell", "mm", "conv_transpose1d", "avg_pool1d", "lp_pool2d", "adaptive_avg_pool1d", "sum",
    "sub", "div", "neg", "max_pool1d", "adaptive_max_pool1d", "maximum", "clone",
)  # fmt: skip
"""Models that become the same kinds of layers as another row's, by another name or along a line: run with the slow tests."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SECOND else name for name in MODELS])
def test_a_model_with_it_goes_the_whole_way(name: str) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    goes_the_whole_way(nd.trainable(make(), torch.zeros(shape) if shape == SEQUENCE else torch.zeros(1, *shape)))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_with_it_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    nir.write(tmp_path / "model.nir", GRAPHS[name]())
    goes_the_whole_way(nd.TrainableNetwork(nd.read_nir(tmp_path / "model.nir", dt=1e-3)))
