"""Spiking network with float weights: neuron kinds, synapse kinds, layers.

`neurodeploy.ir.quantized` has the same network in a chip's integers. Both follow the chip's recurrence. With a the sum of the
weights of the step's input spikes::

    u <- (1 - current_decay) u + a
    v <- (1 - voltage_decay) v + u + bias
    LIF: a neuron fires where v > threshold, and v <- 0 there
    LI: a neuron never fires; its v is the output
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError
from neurodeploy.ir.arrays import ByValue, check_range, freeze
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring
from neurodeploy.ir.graph import LayerGraph, Population


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LIF(ByValue):
    """Leaky integrate-and-fire neurons with a synaptic current, reset to zero.

    Attributes
    ----------
    threshold : array () or (n,)
        Above 0; a neuron fires if v is strictly above it.
    current_decay, voltage_decay : array () or (n,)
        Share lost in a step, 0..1: 1 for a current that lasts one step (LIFBox), 0 for a membrane without leak (IAF).
    rest : array () or (n,)
        Offset of the model's membrane potential: it is v + rest. The recurrence does not use it; outputs do.
    """

    # Lava and Norse fire at v > threshold; lava-dl's slayer trains with v >= threshold.
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
    """Leaky integrators: they never fire, and their membrane potential is the output.

    Attributes
    ----------
    current_decay, voltage_decay, rest : array () or (n,)
        As in `LIF`.
    """

    current_decay: NDArray[np.float64]
    voltage_decay: NDArray[np.float64]
    rest: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("current_decay", "voltage_decay", "rest"):
            freeze(self, name, np.float64)
        check_range(self, "current_decay", 0.0, 1.0)
        check_range(self, "voltage_decay", 0.0, 1.0)


# Norse multiplies the current by dt * tau_mem_inv on its way to v. Frontends fold that factor into the weights, which is why
# they are in units of v.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dense(DenseWiring):
    """Dense connectivity with float64 weights (n_out, n_in): what a spike adds to u, in units of v. Zeros are no synapses."""

    def __post_init__(self) -> None:
        freeze(self, "weight", np.float64)
        self._check()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sparse(SparseWiring):
    """Sparse connectivity with float64 weights (n_synapses,), in units of v."""

    def __post_init__(self) -> None:
        freeze(self, "weight", np.float64)
        self._check()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conv(ConvWiring):
    """Convolution with float64 weights (out_channels, in_channels / groups, rows, columns), in units of v."""

    def __post_init__(self) -> None:
        freeze(self, "weight", np.float64)
        self._check()


Neuron: TypeAlias = "LIF | LI"
Synapse: TypeAlias = "Dense | Sparse | Conv"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer(Population["Neuron", "Synapse"]):
    """A layer with float parameters; attributes as in `Population`.

    Attributes
    ----------
    neuron : LIF | LI
    connections : tuple of Connection
        Into this layer, at least one.
    bias : array () or (n,), float64
        Added to v at every step.
    """

    def __post_init__(self) -> None:
        freeze(self, "bias", np.float64)
        self._check()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network(LayerGraph[Layer]):
    """A spiking network with float weights.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of the spikes of one step, without batch and time.
    layers : tuple of Layer
        In topological order: each receives spikes from `INPUT`, from layers before it, or from itself (recurrence).
    timestep_s : float
        Length of a step, in seconds; above 0.
    """

    timestep_s: float

    def __post_init__(self) -> None:
        # Not super(): slots=True replaces the class, and super() without arguments still refers to the one before.
        LayerGraph.__post_init__(self)
        # False for NaN as well.
        if not 0 < self.timestep_s < np.inf:
            raise NetworkError("network", f"has a timestep of {self.timestep_s} s")
