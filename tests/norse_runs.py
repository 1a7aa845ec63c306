"""Norse's own simulation of a chain, step by step, beside the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from norse.torch import IAFCell, LIBoxCell, LICell, LIFBoxCell, LIFCell, LIFRecurrentCell, SequentialState
from numpy.typing import NDArray
from torch.nn import MaxPool2d

from neurodeploy.frontends.assembly import BIAS
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.ir.network import LI, Network
from neurodeploy.simulation.layer_schedule import run_reference

SPIKING, READOUTS = (LIFCell, LIFBoxCell, IAFCell, LIFRecurrentCell), (LICell, LIBoxCell)


def norse(model: SequentialState, spikes: NDArray[np.uint8]) -> list[NDArray[Any]]:
    """What each cell, and max pooling, of a chain answers in Norse: arrays (batch, *shape, n_steps), first cell first."""
    dtype = next(model.parameters()).dtype
    states: dict[int, Any] = {}
    said: dict[int, list[torch.Tensor]] = {}
    with torch.no_grad():
        for t in range(spikes.shape[-1]):
            x = torch.as_tensor(spikes[..., t], dtype=dtype)
            for index, module in enumerate(model):
                if isinstance(module, (*SPIKING, *READOUTS)):
                    x, states[index] = module(x, states.get(index))
                else:
                    x = module(x)
                if isinstance(module, (*SPIKING, *READOUTS, MaxPool2d)):
                    said.setdefault(index, []).append(x.clone())
    return [torch.stack(steps, dim=-1).numpy() for steps in said.values()]


def assert_alike(model: SequentialState, spikes: NDArray[np.uint8], atol: float) -> int:
    """Spikes of every layer are equal, membranes of a readout close; returns how many spikes there were."""
    network = extract(model, torch.as_tensor(spikes[..., 0]))
    record = run_reference(network, spikes, record="all")
    fired = 0
    heard = [layer for layer in network if layer.name != BIAS]  # Norse has no neuron that always fires
    for layer, theirs in zip(heard, norse(model, spikes), strict=True):
        theirs = theirs.reshape(record.v[layer.name].shape)
        if isinstance(layer.neuron, LI):
            np.testing.assert_allclose(record.v[layer.name], theirs, rtol=atol, atol=atol)
        else:
            np.testing.assert_array_equal(record.spikes[layer.name], theirs, err_msg=layer.name)
            fired += int(theirs.sum())
    return fired


def drive(model: torch.nn.Module, seed: int = 0) -> Any:
    """The model in doubles, with weights that make neurons fire and let no membrane meet its threshold exactly."""
    rng = np.random.default_rng(seed)
    model = model.double()
    for parameter in model.parameters():
        parameter.data = torch.as_tensor(rng.normal(0.3, 1, tuple(parameter.shape)) * 2)
    return model


# ---------------------------------------------------------------------------------------------- models of one step

N_STEPS = 24


def given(*shape: int, seed: int = 0) -> torch.Tensor:
    """Spikes (time, batch, *shape), in doubles."""
    return (torch.rand(N_STEPS, 2, *shape, generator=torch.Generator().manual_seed(seed)) < 0.4).double()


def answers(model: torch.nn.Module, spikes: torch.Tensor) -> NDArray[Any]:
    """What a model of one step says, (batch, ..., time), called as its user calls it."""
    said, rest = [], ()
    with torch.no_grad():
        for x in spikes:
            out = model(x, *rest)
            out, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, ())
            said.append(out)
    return torch.stack(said, dim=-1).numpy()


def read(model: torch.nn.Module, spikes: torch.Tensor) -> tuple[Network, NDArray[Any]]:
    """The network, and what its last layer answers: membranes of a readout, else spikes."""
    network = extract(model, spikes[0])
    record = run_reference(network, np.moveaxis(spikes.numpy(), 0, -1).astype(np.uint8))
    last = network.output.name
    return network, record.spikes[last] if hasattr(network.output.neuron, "threshold") else record.v[last]


def assert_read(model: torch.nn.Module, *shape: int) -> Network:
    """The model's answers are the reference's, and not all silence."""
    spikes = given(*shape)
    model = drive(model)
    network, ours = read(model, spikes)
    theirs = answers(model, spikes)
    assert np.ptp(theirs) > 0
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-5)
    return network


def hears(network: Network) -> dict[str, list[str]]:
    return {layer.name: [c.source for c in layer.connections] for layer in network}
