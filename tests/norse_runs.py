"""Norse's own simulation of a chain, step by step, beside the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from norse.torch import IAFCell, LIBoxCell, LICell, LIFBoxCell, LIFCell, LIFRecurrentCell, SequentialState
from numpy.typing import NDArray
from torch.nn import MaxPool2d

from neurodeploy.frontends.norse import extract
from neurodeploy.network import LI
from neurodeploy.simulation.reference import run_reference

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
    for layer, theirs in zip(network, norse(model, spikes), strict=True):
        theirs = theirs.reshape(record.v[layer.name].shape)
        if isinstance(layer.neuron, LI):
            np.testing.assert_allclose(record.v[layer.name], theirs, rtol=atol, atol=atol)
        else:
            np.testing.assert_array_equal(record.spikes[layer.name], theirs, err_msg=layer.name)
            fired += int(theirs.sum())
    return fired
