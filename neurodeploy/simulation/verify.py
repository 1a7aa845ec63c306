"""Do the emulator and Lava agree on a network?"""

from __future__ import annotations

from neurodeploy.errors import RequestError
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.records import Comparison, compare
from neurodeploy.simulation import DEFAULT_TIME_LIMIT_S, random_spikes, simulate


def verify(
    network: QuantizedNetwork, *, n_steps: int = 32, n_samples: int = 2, seed: int = 0, device: str | None = None,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
) -> Comparison:  # fmt: skip
    """Run random input spikes at both ends and compare spikes and membranes of every layer at every step.

    Parameters
    ----------
    n_steps, n_samples : int
        Samples of so many steps each, at least 1.
    seed : int
        Of the input spikes.
    device : str, optional
        Of torch's, on which the emulator is to run; by default it runs in compiled loops.
    """
    if n_steps < 1 or n_samples < 1:
        raise RequestError("verify", f"{n_samples} samples of {n_steps} steps are nothing to run")
    spikes = random_spikes(network.input_shape, n_samples=n_samples, n_steps=n_steps, seed=seed)
    emulator = simulate(network, spikes, record="all", device=device)
    lava = simulate(network, spikes, end="lava", record="all", time_limit_s=time_limit_s)
    return compare(emulator, lava)
