"""A layer of neurons through all its steps in compiled loops: on a CPU, in single precision.

Sums are those of Norse's cells, in the same order and without fusing a product into a sum, so that spikes and membranes are the
cells' bit for bit. A sample's neurons stay in the first-level cache from the first step to the last.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from neurodeploy.simulation.kernels import Array, compiled
from neurodeploy.simulation.layer_schedule import PARALLEL_UPDATES, WorkerPool
from neurodeploy.training.neuron_cells import Neurons

_ZERO, _ONE = np.float32(0), np.float32(1)


def forward(neurons: Neurons, inputs: torch.Tensor, answers: torch.Tensor, membranes: torch.Tensor | None) -> None:
    """All steps of some samples into `answers`; `membranes`, where they are kept, gets v before its reset."""
    gain, leak, decay, threshold, reset = _of_each(neurons, inputs)
    given = _flat(inputs[:1] if len(inputs) and inputs.stride(0) == 0 else inputs)
    filled, kept = _flat(answers), None if membranes is None else _flat(membranes)

    def some(start: int, stop: int) -> None:
        _forward(given, filled, kept, gain, leak, decay, threshold, reset, neurons.adds_leak, start, stop)

    WorkerPool(torch.get_num_threads()).map_ranges(some, filled.shape[1], parallel=filled.size > PARALLEL_UPDATES)


def backward(neurons: Neurons, answers: torch.Tensor, membranes: torch.Tensor, inputs: torch.Tensor) -> None:
    """Gradients by the inputs, into `inputs`, from those by the answers; `membranes` holds v before its reset."""
    gain, _, decay, threshold, reset = _of_each(neurons, answers)
    given, kept, filled = _flat(answers), _flat(membranes), _flat(inputs)

    def some(start: int, stop: int) -> None:
        _backward(given, kept, filled, gain, decay, threshold, reset, start, stop)

    WorkerPool(torch.get_num_threads()).map_ranges(some, filled.shape[1], parallel=filled.size > PARALLEL_UPDATES)


def _of_each(neurons: Neurons, inputs: torch.Tensor) -> list[Any]:
    """Gain, leak, decay, threshold and reset of each neuron of a sample, arrays (n,), or None as there."""
    numbers = (neurons.gain, neurons.leak, neurons.decay, neurons.threshold, neurons.reset)
    shape = inputs.shape[2:]
    return [None if number is None else number.float().expand(shape).reshape(-1).numpy() for number in numbers]


def _flat(tensor: torch.Tensor) -> Array:
    """(n_steps, batch, n), in a row; the tensor's own memory where that is so already."""
    array: Array = tensor.detach().contiguous().view(*tensor.shape[:2], math.prod(tensor.shape[2:])).numpy()
    return array


# ---------------------------------------------------------------------------------------------- compiled


@compiled
def _forward(
    inputs: Array, answers: Array, membranes: Array | None, gain: Array, leak: Array, decay: Array | None,
    threshold: Array | None, reset: Array | None, adds_leak: bool, start: int, stop: int,
) -> None:  # fmt: skip
    """Answer to inputs of samples start..stop - 1, from the initial state.

    Parameters
    ----------
    inputs : array (n_steps or 1, batch, n)
        One step stands for all of them.
    answers : array (n_steps, batch, n)
        Filled with spikes, or with membranes where there is no threshold.
    membranes : array (n_steps, batch, n) or None
        Filled with membranes before their reset.
    gain, leak, decay, threshold, reset : array (n,) or None
        Of each neuron, as `Neurons` has them.
    """
    n_steps, _, n = answers.shape
    v, current = np.empty(n, np.float32), np.empty(n, np.float32)
    for sample in range(start, stop):
        v[:] = leak
        current[:] = _ZERO
        for step in range(n_steps):
            drives, answer = inputs[min(step, inputs.shape[0] - 1), sample], answers[step, sample]
            for i in range(n):
                drive = drives[i]
                if decay is not None:
                    drive = current[i] + drive
                    current[i] = drive + drive * decay[i]
                pull = (drive + leak[i]) - v[i] if adds_leak else (leak[i] - v[i]) + drive
                before = v[i] + pull * gain[i]
                if threshold is None or reset is None:
                    v[i] = before
                    answer[i] = before
                else:
                    if membranes is not None:
                        membranes[step, sample, i] = before
                    fired = _ONE if before - threshold[i] > _ZERO else _ZERO
                    v[i] = (_ONE - fired) * before + fired * reset[i]
                    answer[i] = fired


@compiled
def _backward(
    gradients: Array, membranes: Array, by_inputs: Array, gain: Array, decay: Array | None,
    threshold: Array | None, reset: Array | None, start: int, stop: int,
) -> None:  # fmt: skip
    """Gradients by the inputs, (n_steps, batch, n), into `by_inputs`, from those by the answers; else as `_forward`."""
    n_steps, _, n = gradients.shape
    v, current = np.empty(n, np.float32), np.empty(n, np.float32)
    for sample in range(start, stop):
        v[:] = _ZERO
        current[:] = _ZERO
        for step in range(n_steps - 1, -1, -1):
            gradient, out = gradients[step, sample], by_inputs[step, sample]
            for i in range(n):
                by_v = v[i] + gradient[i]
                if threshold is not None and reset is not None:
                    above = membranes[step, sample, i] - threshold[i]
                    by_spike = (reset[i] - membranes[step, sample, i]) * v[i] + gradient[i]
                    steepness = np.abs(above) + _ONE
                    by_v = (v[i] if above <= _ZERO else _ZERO) + by_spike / (steepness * steepness)
                by_drive = by_v * gain[i]
                v[i] = by_v - by_drive
                if decay is not None:
                    by_drive = (current[i] + current[i] * decay[i]) + by_drive
                    current[i] = by_drive
                out[i] = by_drive
