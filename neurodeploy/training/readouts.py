"""What a network's output over time comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import RequestError, TrainingError

Readout: TypeAlias = "str | Callable[[torch.Tensor], torch.Tensor]"
"""A name from `READOUTS`, or a function (n_steps, batch, n_out) -> (batch, n_out)."""

READOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "max": lambda outputs: outputs.amax(dim=0),
    "last": lambda outputs: outputs[-1],
    "mean": lambda outputs: outputs.mean(dim=0),
    "sum": lambda outputs: outputs.sum(dim=0),
}


def readout_of(readout: Readout) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function behind a readout's name; a function is its own."""
    if callable(readout):
        return readout
    if readout not in READOUTS:
        raise RequestError("readout", f"{readout!r} is unknown", remedy=f"Give one of {', '.join(READOUTS)}, or a function.")
    return READOUTS[readout]


def read_out(outputs: torch.Tensor, readout: Readout) -> torch.Tensor:
    """Outputs over time (n_steps, batch, n_out) as one value an output (batch, n_out).

    Raises
    ------
    TrainingError
        A readout of the user's that returns something else.
    """
    values = readout_of(readout)(outputs)
    if not isinstance(values, torch.Tensor) or values.shape != outputs.shape[1:]:
        found = f"shape {tuple(values.shape)}" if isinstance(values, torch.Tensor) else type(values).__name__
        raise TrainingError("readout", f"returned {found}, not a tensor of shape {tuple(outputs.shape[1:])}")
    return values


def decide(outputs: NDArray[Any], readout: Readout) -> NDArray[np.int64]:
    """The class that a simulator's output stands for.

    Parameters
    ----------
    outputs : array (batch, n_out, n_steps)
        What the trained readout reads: membranes of an LI, spikes of an LIF.

    Returns
    -------
    array (batch,), int64
    """
    in_time = torch.from_numpy(np.array(outputs, dtype=np.float64)).movedim(-1, 0)
    classes: NDArray[np.int64] = read_out(in_time, readout).argmax(dim=1).numpy()
    return classes
