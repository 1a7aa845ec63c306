"""What is to run: layers of neurons and the connections into them, in floats.

Floats here and the chip's integers (`neurodeploy.quantized`) follow one recurrence, the chip's. With a the weighted
input spikes of the step::

    u <- (1 - current_decay) u + a
    v <- (1 - voltage_decay) v + u + bias
    an LIF fires where v > threshold, and v <- 0 there; an LI never fires and is read
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError
from neurodeploy.nouns import ByValue, check_range, freeze

INPUT = "input"
"""The name by which connections call the network's input."""


def layer_name(module_path: str) -> str:
    """What the layer of a torch module is called: its dotted path, ``"layer3"`` for a path that is only the number 3."""
    return f"layer{module_path}" if module_path.isdigit() else module_path


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
class Dense(ByValue):
    """All-to-all weights (n_out, n_in), float64, in units of v a spike; a zero is a synapse that does not exist."""

    weight: NDArray[np.float64]

    def __post_init__(self) -> None:
        if freeze(self, "weight", np.float64).ndim != 2:
            raise NetworkError("Dense.weight", f"has shape {self.weight.shape}, not (n_out, n_in)")


Neuron: TypeAlias = "LIF | LI"
Synapse: TypeAlias = "Dense"


class HasFields(Protocol):
    """Any kind of neuron: a dataclass of its parameters."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class HasWeight(Protocol):
    """Any kind of synapse."""

    @property
    def weight(self) -> NDArray[Any]:
        """(n_out, n_in)."""
        ...


N = TypeVar("N", bound="HasFields")
S = TypeVar("S", bound=HasWeight)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Connection(ByValue, Generic[S]):
    """Synapses from one population into the layer that holds this connection.

    Attributes
    ----------
    source : str
        Name of the layer that the spikes come from, or `INPUT`.
    synapse : Dense | QuantizedDense
    delay_steps : int
        Synaptic delay beyond the one step that every synapse takes on the chip; 0 today.
    """

    source: str
    synapse: S
    delay_steps: int = 0

    def __post_init__(self) -> None:
        if self.delay_steps != 0:
            raise NetworkError(f"connection from {self.source!r}", f"has a delay of {self.delay_steps} steps: not supported yet")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Population(ByValue, Generic[N, S]):
    """A population of neurons and the connections into it; `Layer` in floats, `QuantizedLayer` in integers."""

    name: str
    shape: tuple[int, ...]
    neuron: N
    connections: tuple[Connection[S], ...]
    bias: NDArray[Any]

    @property
    def n_neurons(self) -> int:
        return int(np.prod(self.shape))

    @property
    def weight(self) -> NDArray[Any]:
        """The matrix (n_neurons, n_in) of a layer with a single connection."""
        if len(self.connections) != 1:
            raise NetworkError(f"layer {self.name!r}", f"has {len(self.connections)} connections, not one matrix")
        return self.connections[0].synapse.weight

    @property
    def n_synapses(self) -> int:
        return sum(int(np.count_nonzero(c.synapse.weight)) for c in self.connections)

    @property
    def connectivity(self) -> float:
        """Share of the weights that are not zero, 0..1."""
        return self.n_synapses / sum(c.synapse.weight.size for c in self.connections)

    def _check(self) -> None:
        if not self.name or self.name == INPUT or "/" in self.name:
            raise NetworkError(f"layer {self.name!r}", "needs a name of its own, without a slash")
        if not self.shape or any(side < 1 for side in self.shape):
            raise NetworkError(f"layer {self.name!r}", f"has shape {self.shape}: every side must be at least 1")
        if not self.connections:
            raise NetworkError(f"layer {self.name!r}", "has no connection into it")
        per_neuron = {"bias": self.bias} | {f.name: getattr(self.neuron, f.name) for f in fields(self.neuron)}
        for name, array in per_neuron.items():
            if array.shape not in ((), (self.n_neurons,)):
                raise NetworkError(f"layer {self.name!r}", f"{name} has shape {array.shape}, not () or ({self.n_neurons},)")
        for connection in self.connections:
            rows = connection.synapse.weight.shape[0]
            if rows != self.n_neurons:
                raise NetworkError(f"layer {self.name!r}", f"has {self.n_neurons} neurons but weights for {rows}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer(Population["LIF | LI", Dense]):
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


L = TypeVar("L", bound="Population[Any, Any]")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chain(ByValue, Generic[L]):
    """Layers in the order in which spikes pass them."""

    input_shape: tuple[int, ...]
    layers: tuple[L, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise NetworkError("network", "has no layer")
        if not self.input_shape or any(side < 1 for side in self.input_shape):
            raise NetworkError("network", f"has input shape {self.input_shape}: every side must be at least 1")
        sizes = {INPUT: self.n_inputs}
        for layer in self.layers:
            if layer.name in sizes:
                raise NetworkError(f"layer {layer.name!r}", "stands twice in the network")
            previous = next(reversed(sizes))
            for connection in layer.connections:
                if connection.source != previous or len(layer.connections) > 1:
                    raise NetworkError(
                        f"layer {layer.name!r}", f"takes spikes from {connection.source!r}, not only from {previous!r}",
                        remedy="Only chains are supported yet: no skips, no recurrence.",
                    )  # fmt: skip
                n_in = connection.synapse.weight.shape[1]
                if n_in != sizes[connection.source]:
                    raise NetworkError(
                        f"layer {layer.name!r}",
                        f"expects {n_in} inputs, but {connection.source!r} has {sizes[connection.source]}",
                    )
            sizes[layer.name] = layer.n_neurons

    @property
    def n_inputs(self) -> int:
        return int(np.prod(self.input_shape))

    @property
    def n_neurons(self) -> int:
        return sum(layer.n_neurons for layer in self.layers)

    @property
    def n_synapses(self) -> int:
        return sum(layer.n_synapses for layer in self.layers)

    @property
    def output(self) -> L:
        """The last layer."""
        return self.layers[-1]

    @property
    def connectivity(self) -> float:
        """Share of all weights that are not zero, 0..1."""
        n_weights: int = sum(c.synapse.weight.size for layer in self.layers for c in layer.connections)
        return self.n_synapses / n_weights

    def __iter__(self) -> Iterator[L]:
        return iter(self.layers)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network(Chain[Layer]):
    """A spiking network in floats.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of the spikes of one step, without batch and time.
    layers : tuple of Layer
        A chain: each layer takes its spikes from the one before, the first from `INPUT`.
    timestep_s : float
        Length of a step, in seconds.
    """

    timestep_s: float

    def __post_init__(self) -> None:
        Chain.__post_init__(self)
        if not 0 < self.timestep_s < np.inf:
            raise NetworkError("network", f"has a timestep of {self.timestep_s} s")
