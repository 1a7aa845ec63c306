"""SpikingJelly and Rockpool, which are not installed beside Lava: what stands in their NIR files, and what they simulate.

SpikingJelly 2.0.0 asks for Python 3.11 and torch 2.6. In an environment of its own (Python 3.11.7, torch 2.15, nir 1.0.8,
nirtorch 2.6) it exported eleven networks of IFNode, LIFNode, ParametricLIFNode and CUBALIFNode behind Linear, Conv1d, Conv2d,
AvgPool2d and Flatten, some steps one by one, some all at once; `read_nir` took each as it was, and of their 13,494 spikes,
layer by layer, none differed. Rockpool 3.1.0 was tried likewise (Python 3.10, torch 2.3.1, the same nir). Here are the nodes
that they write and the steps that their neurons take, which were held against both libraries: the nodes are equal, and so are
the spikes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_nir import graph, written
from torch import nn

import neurodeploy as nd
from neurodeploy.errors import ExtractError, RequestError
from neurodeploy.frontends.nir.reading import read_nir

N_STEPS = 40


class Jelly(nn.Module):
    """A neuron of SpikingJelly (activation_based/functional/neuron.py): it fires at the threshold too, then is `v_reset`.

    Parameters
    ----------
    charged : function of (x, c, v, v_reset)
        The next current and membrane.
    said : function of (dt, v_reset)
        The node that nir_exchange/to_nir.py writes, by its kind and the numbers of a neuron.
    """

    def __init__(self, charged: Callable[..., Any], said: Callable[..., Any], v_threshold: float = 1.0, v_reset: float = 0.0):
        super().__init__()
        self.charged, self.said, self.v_threshold, self.v_reset = charged, said, v_threshold, v_reset
        self.c: Any = 0.0
        self.v: Any = v_reset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.c, v = self.charged(x, self.c, self.v, self.v_reset)
        fired = (v >= self.v_threshold).float()
        self.v = torch.where(fired > 0, self.v_reset, v)
        self.shape = x.shape[1:]
        return fired

    def node(self, dt: float) -> Any:
        kind, numbers = self.said(dt, self.v_reset)
        numbers |= {"v_threshold": self.v_threshold, "v_reset": self.v_reset}
        return getattr(nir, kind)(**{key: np.full(self.shape, number) for key, number in numbers.items()})


def if_node(**more: float) -> Jelly:
    return Jelly(lambda x, c, v, _: (c, v + x), lambda dt, _: ("IF", {"r": 1 / dt}), **more)


def lif_node(tau: float = 2.0, *, decay_input: bool = True, **more: float) -> Jelly:
    """LIFNode; and ParametricLIFNode, whose tau is trained."""
    return Jelly(
        lambda x, c, v, reset: (c, v + (x - (v - reset)) / tau if decay_input else v - (v - reset) / tau + x),
        lambda dt, reset: ("LIF", {"tau": tau * dt, "r": 1.0 if decay_input else tau, "v_leak": reset}),
        **more,
    )


def cuba_lif_node(c_decay: float, v_decay: float) -> Jelly:
    def said(dt: float, _: float) -> Any:
        times = {"tau_syn": dt / (1 - c_decay), "tau_mem": dt / (1 - v_decay)}
        return "CubaLIF", times | {"w_in": times["tau_syn"] / dt, "r": times["tau_mem"] / dt, "v_leak": 0.0}

    def charged(x: Any, c: Any, v: Any, _: float) -> Any:
        c = c_decay * c + x
        return c, v_decay * v + c

    return Jelly(charged, said)


def node_of(module: nn.Module, shape: torch.Size, dt: float) -> Any:
    """What the exporter makes of a module that hears something of this shape."""
    numbers = {key: value.detach().numpy() for key, value in module.named_parameters()}
    match module:
        case Jelly():
            return module.node(dt)
        case nn.Linear():
            return nir.Affine(**numbers) if "bias" in numbers else nir.Linear(**numbers)
        case nn.Conv2d():
            numbers.setdefault("bias", np.zeros(module.out_channels, dtype=np.float32))
            return nir.Conv2d(
                input_shape=tuple(shape[1:]), stride=module.stride, padding=module.padding, dilation=module.dilation,
                groups=module.groups, **numbers,
            )  # fmt: skip
        case nn.AvgPool2d():
            return nir.AvgPool2d(kernel_size=module.kernel_size, stride=module.stride, padding=module.padding)
        case nn.Flatten():
            return nir.Flatten(input_type=tuple(shape), start_dim=0, end_dim=-1)
    raise AssertionError(module)


JELLIES: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...], float]] = {
    "IFNode": (lambda: [nn.Linear(20, 30), if_node(), nn.Linear(30, 6, bias=False), if_node()], (20,), 2.5),
    "LIFNode": (lambda: [nn.Linear(20, 30), lif_node(3.0), nn.Linear(30, 6), lif_node()], (20,), 5),
    "LIFNode, decay_input=False": (
        lambda: [nn.Linear(20, 30), lif_node(3.0, decay_input=False), nn.Linear(30, 6), lif_node(decay_input=False)], (20,), 3,
    ),
    "LIFNode, v_reset": (
        lambda: [nn.Linear(20, 30), lif_node(3.0, v_threshold=0.7, v_reset=-0.2), nn.Linear(30, 6), lif_node(v_reset=0.1)],
        (20,), 5,
    ),
    "CUBALIFNode": (lambda: [nn.Linear(20, 30), cuba_lif_node(0.5, 0.75), nn.Linear(30, 6), cuba_lif_node(0.6, 0.8)], (20,), 1.5),
    "images": (
        lambda: [
            nn.Conv2d(2, 6, 3, padding=1), lif_node(), nn.AvgPool2d(2), nn.Conv2d(6, 4, 3, bias=False), if_node(), nn.Flatten(),
            nn.Linear(16, 5), lif_node(2.5),
        ],
        (2, 8, 8), 5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JELLIES)
@pytest.mark.parametrize("dt", [1e-4, 1e-3])
def test_spikingjelly(name: str, dt: float, tmp_path: Path) -> None:
    make, shape, louder = JELLIES[name]
    torch.manual_seed(1)
    modules, heard = make(), []
    given = (np.random.default_rng(11).random((3, *shape, N_STEPS)) < 0.35).astype(np.uint8)
    steps = []
    with torch.no_grad():
        for module in modules:
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.weight *= louder
        for t in range(N_STEPS):
            x = torch.tensor(given[..., t]).float()
            heard = []
            for module in modules:
                heard.append(x.shape[1:])
                x = module(x)
            steps.append(x)
    nodes = [node_of(module, at, dt) for module, at in zip(modules, heard, strict=True)]
    path = written(graph(*nodes, input_shape=shape), tmp_path)
    network = read_nir(path, discretisation="spikingjelly", dt=None if dt == 1e-4 else dt)
    ours = nd.simulate(network, given)
    np.testing.assert_array_equal(ours.spikes[network.output.name], torch.stack(steps, dim=-1).numpy())
    assert torch.stack(steps).any()


def test_spikingjelly_fires_at_its_threshold_too(tmp_path: Path) -> None:
    node = nir.IF(r=np.full(1, 1e4), v_threshold=np.ones(1), v_reset=np.zeros(1))
    path = written(graph(nir.Linear(np.full((1, 2), 0.5)), node, input_shape=(2,)), tmp_path)
    network = read_nir(path, discretisation="spikingjelly")
    assert nd.simulate(network, np.ones((2, 5), dtype=np.uint8)).spikes["n1"].all()


# ---------------------------------------------------------------------------------------------- Rockpool


def rockpool_says(weight: Any, given: NDArray[np.uint8], decays: tuple[float, float]) -> NDArray[Any]:
    """Rockpool's LIFTorch (nn/modules/torch/lif_torch.py) behind a LinearTorch."""
    beta, alpha = decays
    isyn = vmem = np.zeros((len(given), len(weight)))
    steps = []
    for t in range(N_STEPS):
        isyn = beta * (isyn + given[..., t] @ weight.T)
        vmem = alpha * vmem + isyn
        steps.append(np.floor(np.maximum(vmem, 0)))
        vmem = vmem - steps[-1]
    return np.stack(steps, axis=-1)


def rockpool_file(
    weights: list[NDArray[Any]], dt: float, taus: tuple[float, float], folder: Path, read_out: bool = False
) -> Path:
    """Nodes that Rockpool's to_nir writes (nn/modules/torch/nir.py) of LinearTorch, LIFTorch, and at the end ExpSynTorch."""
    nodes: list[Any] = []
    for weight in weights:
        n = len(weight)
        tau_mem, tau_syn = np.full(n, taus[0], np.float32), np.full(n, taus[1], np.float32)
        r = tau_mem / dt * np.exp(-dt / tau_mem)
        neurons = nir.CubaLIF(tau_syn=tau_syn, tau_mem=tau_mem, r=r, v_leak=0 * r, v_threshold=np.ones(n, np.float32))
        nodes += [nir.Linear(weight), neurons]
    if read_out:
        tau = np.full(len(weights[-1]), taus[1], np.float32)
        nodes[-1] = nir.LI(tau=tau, v_leak=0 * tau, r=tau * np.exp(-dt / tau) / dt)
    return written(graph(*nodes, input_shape=(weights[0].shape[1],)), folder)


@pytest.mark.parametrize("dt", [1e-3, 2.5e-4])
@pytest.mark.parametrize("says_dt", [True, False])
def test_rockpool(dt: float, says_dt: bool, tmp_path: Path) -> None:
    """It writes no step, but its resistances say it."""
    draw, taus = np.random.default_rng(3), (20e-3, 10e-3)
    weights = [draw.normal(0.1, 0.2, size=(12, 6)), draw.normal(0.05, 0.3, size=(4, 12))]
    given = (np.random.default_rng(4).random((3, 6, N_STEPS)) < 0.35).astype(np.uint8)
    path = rockpool_file(weights, dt, taus, tmp_path)
    network = read_nir(path, discretisation="rockpool", dt=dt if says_dt else None)
    assert network.timestep_s == dt
    assert "leave out biases and recurrent weights" in network.notes[0]
    beta, alpha = (np.exp(-dt / np.float64(np.float32(tau))) for tau in reversed(taus))
    theirs = [given]
    for weight in weights:
        theirs.append(rockpool_says(weight, theirs[-1], (beta, alpha)))
    ours = nd.simulate(network, given, record="all")
    for layer, spikes in zip(network, theirs[1:], strict=True):
        np.testing.assert_array_equal(ours.spikes[layer.name], spikes)
    assert theirs[1].max() > 1
    assert theirs[2].any()


def test_rockpools_readout(tmp_path: Path) -> None:
    """ExpSynTorch: isyn = beta (isyn + input)."""
    weights = [np.random.default_rng(5).normal(0.2, 0.3, size=(8, 6)), np.random.default_rng(6).normal(size=(3, 8))]
    given = (np.random.default_rng(4).random((2, 6, N_STEPS)) < 0.35).astype(np.uint8)
    network = read_nir(rockpool_file(weights, 1e-3, (20e-3, 10e-3), tmp_path, read_out=True), discretisation="rockpool")
    ours, beta = nd.simulate(network, given, record="all"), np.exp(-1e-3 / np.float64(np.float32(10e-3)))
    isyn = np.zeros((2, 3))
    for t in range(N_STEPS):
        isyn = beta * (isyn + ours.spikes["n1"][..., t] @ weights[1].T)
        np.testing.assert_allclose(ours.v[network.output.name][..., t], isyn, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"dt": 2e-3}, ExtractError, r"node 'n1' \(CubaLIF\): its r is not that of a step of 0\.002"),
        ({"reset": "zero"}, RequestError, r"reset: is by subtraction alone in rockpool"),
        ({"reset": "to zero"}, RequestError, r"reset: 'to zero' is not known\. Choose from zero, subtract\."),
        ({"max_spikes": 0}, RequestError, r"max_spikes: 0 is not a whole number 1\.\.255"),
    ],
)
def test_what_is_not_rockpools_is_refused(more: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    path = rockpool_file([np.ones((4, 6))], 1e-3, (20e-3, 10e-3), tmp_path)
    with pytest.raises(error, match=message):
        read_nir(path, discretisation="rockpool", **more)


@pytest.mark.parametrize("kind", ["IF", "LIF"])
def test_spikingjelly_with_a_soft_reset(kind: str, tmp_path: Path) -> None:
    """Its files say 0 where v_reset is None (2.0, nir_exchange/to_nir.py)."""
    draw, share = np.random.default_rng(8), 0.4 if kind == "LIF" else 0.0
    weights = [draw.integers(-2, 5, size=(12, 6)) / 4, draw.integers(-2, 5, size=(4, 12)) / 4]
    given = (draw.random((3, 6, N_STEPS)) < 0.35).astype(np.uint8)
    nodes: list[Any] = []
    for weight in weights:
        ones = np.ones(len(weight))
        p = {"v_threshold": ones, "v_reset": 0 * ones}
        neurons = nir.IF(r=ones / 1e-4, **p) if kind == "IF" else nir.LIF(tau=1e-4 / share * ones, r=ones, v_leak=0 * ones, **p)
        nodes += [nir.Linear(weight), neurons]
    path = written(graph(*nodes, input_shape=(6,)), tmp_path)
    network = read_nir(path, discretisation="spikingjelly", reset="subtract")
    assert network.notes == ()
    theirs = given.astype(float)
    for weight in weights:
        v, steps = np.zeros((3, len(weight))), []
        for t in range(N_STEPS):
            x = theirs[..., t] @ weight.T
            v = v + x if kind == "IF" else v + (x - v) * share
            steps.append((v >= 1).astype(float))  # whole quarters often meet the threshold
            v = v - steps[-1]
        theirs = np.stack(steps, axis=-1)
    np.testing.assert_array_equal(nd.simulate(network, given).spikes[network.output.name], theirs)
    assert theirs.any()
