"""A layer of neurons through all its steps in compiled loops: on a CPU, in single precision.

Sums are those of Norse's cells, in the same order and without fusing a product into a sum, so that spikes and membranes are the
cells' bit for bit. A sample's neurons stay in the first-level cache from the first step to the last.
"""

from __future__ import annotations

import numpy as np

from neurodeploy.machine_code import Array, compiled

ZERO, ONE = np.float32(0), np.float32(1)


@compiled
def forward(
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
        current[:] = ZERO
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
                    fired = ONE if before - threshold[i] > ZERO else ZERO
                    v[i] = (ONE - fired) * before + fired * reset[i]
                    answer[i] = fired


@compiled
def backward(
    gradients: Array, membranes: Array, by_inputs: Array, gain: Array, decay: Array | None,
    threshold: Array | None, reset: Array | None, start: int, stop: int,
) -> None:  # fmt: skip
    """Gradients by the inputs, (n_steps, batch, n), into `by_inputs`, from those by the answers; else as `forward`."""
    n_steps, _, n = gradients.shape
    v, current = np.empty(n, np.float32), np.empty(n, np.float32)
    for sample in range(start, stop):
        v[:] = ZERO
        current[:] = ZERO
        for step in range(n_steps - 1, -1, -1):
            gradient, out = gradients[step, sample], by_inputs[step, sample]
            for i in range(n):
                by_v = v[i] + gradient[i]
                if threshold is not None and reset is not None:
                    above = membranes[step, sample, i] - threshold[i]
                    by_spike = (reset[i] - membranes[step, sample, i]) * v[i] + gradient[i]
                    steepness = np.abs(above) + ONE
                    by_v = (v[i] if above <= ZERO else ZERO) + by_spike / (steepness * steepness)
                by_drive = by_v * gain[i]
                v[i] = by_v - by_drive
                if decay is not None:
                    by_drive = (current[i] + current[i] * decay[i]) + by_drive
                    current[i] = by_drive
                out[i] = by_drive
