"""Do the emulator and Lava agree on a network?"""

from __future__ import annotations

import numpy as np

from neurodeploy.errors import RequestError
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.records import Comparison, compare
from neurodeploy.simulation import DEFAULT_TIME_LIMIT_S, simulate

RATE = 0.3
"""Probability of an input spike."""


def verify(
    network: QuantizedNetwork, *, n_steps: int = 32, n_samples: int = 2, seed: int = 0, time_limit_s: float = DEFAULT_TIME_LIMIT_S
) -> Comparison:
    """Run random input spikes at both ends and compare spikes and membranes of every layer at every step.

    Parameters
    ----------
    n_steps, n_samples : int
        Samples of so many steps each, at least 1.
    seed : int
        Of the input spikes, each of which is there with probability `RATE`.
    """
    if n_steps < 1 or n_samples < 1:
        raise RequestError("verify", f"{n_samples} samples of {n_steps} steps are nothing to run")
    rng = np.random.default_rng(seed)
    spikes = (rng.random((n_samples, *network.input_shape, n_steps)) < RATE).astype(np.uint8)
    emulator = simulate(network, spikes, record="all")
    lava = simulate(network, spikes, end="lava", record="all", time_limit_s=time_limit_s)
    return compare(emulator, lava)
