"""What is to run: layers of neurons and the connections into them, in floats.

Floats here and the chip's integers (`neurodeploy.ir.quantized`) follow one recurrence, the chip's. With a the weighted
input spikes of the step::

    u <- (1 - current_decay) u + a
    v <- (1 - voltage_decay) v + u + bias
    an LIF fires where v > threshold, and v <- 0 there; an LI never fires and is read
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError
from neurodeploy.ir.arrays import ByValue, check_range, freeze
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring
from neurodeploy.ir.graph import Graph, Population


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LIF(ByValue):
    """Leaky integrate-and-fire with a current, reset to zero; floats, each a scalar or one value a neuron.

    Attributes
    ----------
    threshold : array () or (n,)
        Above zero; the neuron fires strictly above it.
    current_decay, voltage_decay : array () or (n,)
        Share forgotten in a step, 0..1; 1 for a current that lasts one step (LIFBox), 0 for a membrane without leak (IAF).
    rest : array () or (n,)
        What the model's own membrane potential is more than v: 0 here is `rest` there.
    """

    threshold: NDArray[np.float64]
    current_decay: NDArray[np.float64]
    voltage_decay: NDArray[np.float64]
    rest: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("threshold", "current_decay", "voltage_decay", "rest"):
            freeze(self, name, np.float64)
        check_range(self, "current_decay", 0.0, 1.0)
        check_range(self, "voltage_decay", 0.0, 1.0)
        if not (self.threshold > 0).all():
            raise NetworkError(
                "LIF.threshold", f"{self.threshold.min()} is not above the reset potential",
                remedy="A neuron at rest would fire at every step; raise v_th above v_reset.",
            )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LI(ByValue):
    """Leaky integrator: an LIF that never fires and whose membrane is read."""

    current_decay: NDArray[np.float64]
    voltage_decay: NDArray[np.float64]
    rest: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("current_decay", "voltage_decay", "rest"):
            freeze(self, name, np.float64)
        check_range(self, "current_decay", 0.0, 1.0)
        check_range(self, "voltage_decay", 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dense(DenseWiring):
    """All-to-all weights (n_out, n_in), float64, in units of v a spike; a zero is a synapse that does not exist."""

    def __post_init__(self) -> None:
        freeze(self, "weight", np.float64)
        self._check()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sparse(SparseWiring):
    """The synapses that exist, with weights (n_synapses,), float64, in units of v a spike."""

    def __post_init__(self) -> None:
        freeze(self, "weight", np.float64)
        self._check()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conv(ConvWiring):
    """A convolution, weights (out_channels, in_channels / groups, rows, columns), float64, in units of v a spike."""

    def __post_init__(self) -> None:
        freeze(self, "weight", np.float64)
        self._check()


Neuron: TypeAlias = "LIF | LI"
Synapse: TypeAlias = "Dense | Sparse | Conv"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer(Population["Neuron", "Synapse"]):
    """A population in floats.

    Attributes
    ----------
    name : str
        Unique in its network; not ``"input"``.
    shape : tuple of int
    neuron : LIF | LI
    connections : tuple of Connection
        At least one.
    bias : array () or (n,), float64
        Added to v at every step.
    """

    def __post_init__(self) -> None:
        freeze(self, "bias", np.float64)
        self._check()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network(Graph[Layer]):
    """A spiking network in floats.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of the spikes of one step, without batch and time.
    layers : tuple of Layer
        In the order of their spikes: each hears `INPUT`, layers before it, or itself (recurrence).
    timestep_s : float
        Length of a step, in seconds.
    """

    timestep_s: float

    def __post_init__(self) -> None:
        Graph.__post_init__(self)
        if not 0 < self.timestep_s < np.inf:
            raise NetworkError("network", f"has a timestep of {self.timestep_s} s")
