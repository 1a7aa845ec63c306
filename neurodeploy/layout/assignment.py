"""Which core takes a layer that cannot be cut, on a chip whose cores may differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from neurodeploy.hardware import HardwareProfile
from neurodeploy.resources.usage import limited

_FAR_TOO_MUCH = 1e6
"""What a broken limit costs in the choice: more than any difference between cores that hold the layer."""


def assigned(needs: NDArray[np.int64], profile: HardwareProfile) -> NDArray[np.int64]:
    """The core of each layer (n_layers,): one that holds it, the smallest such; where there is none, the least too small.

    Layers with a core to themselves (``slices_per_core: 1``) are matched to cores at once, the best way for all of them
    (the assignment problem, by SciPy). Others share: the last layer chooses first, each the fullest core that still holds it.

    Parameters
    ----------
    needs : array (n_layers, n_resources)
        What each layer takes of the resources in the order of `limited`.

    Returns
    -------
    array (n_layers,), int64
        Layers beyond the chip's cores get numbers beyond them.
    """
    names = limited(profile)
    cores = np.array([[profile.capacity(name, core) for name in names] for core in range(profile.cores)], dtype=np.float64)
    if profile.capacity("slices") == 1:
        more = max(0, len(needs) - len(cores))
        cores = np.concatenate([cores, np.repeat(cores.max(axis=0)[None], more, axis=0)])
        cost = _cost(needs[:, None, :], cores)
        cost[:, len(cores) - more :] += _FAR_TOO_MUCH * len(needs)
        rows, columns = linear_sum_assignment(cost)
        return np.asarray(columns[np.argsort(rows)], dtype=np.int64)
    left, chosen = cores.copy(), np.zeros(len(needs), dtype=np.int64)
    for layer in reversed(range(len(needs))):
        chosen[layer] = int(_cost(needs[layer], left).argmin())
        left[chosen[layer]] -= needs[layer]
    return chosen


def _cost(needs: NDArray[np.int64], cores: NDArray[np.float64]) -> NDArray[np.float64]:
    """What putting a layer on a core costs: the room that it leaves, and far more for every share of a limit that it breaks."""
    over = np.maximum(needs - cores, 0) / np.maximum(cores, 1)
    room = np.maximum(cores - needs, 0) / np.maximum(cores, 1)
    cost: NDArray[np.float64] = (
        over.sum(axis=-1) * _FAR_TOO_MUCH + room.mean(axis=-1) + np.log2(np.maximum(cores, 1)).mean(axis=-1) * 1e-3
    )
    return cost
