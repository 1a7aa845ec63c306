"""What works the emulator's integers: compiled loops by default, or whatever else offers the same."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from neurodeploy.quantized import QuantizedSynapse
from neurodeploy.simulation.clock import Host, Memory, Synapses
from neurodeploy.simulation.kernels import inputs, neurons
from neurodeploy.simulation.passing import Graded, Passing
from neurodeploy.simulation.products import Number


class Engine(Memory, Protocol):
    """Where the emulator's arrays lie, and who sums up and answers there: bit for bit as every other engine."""

    def synapses(self, synapse: QuantizedSynapse, number: Number, way: str | None, *, graded: bool) -> WaySynapses:
        """The synapses of a connection, whose sums are exact in `number`; `graded`: they may hear more than 0 and 1."""

    def answer(
        self, arriving: Any, u: Any, v: Any, registers: Any, fired: Any, membranes: Any, counts: Any,
        first_rest: int, rest: int, start: int, stop: int,
    ) -> Any:  # fmt: skip
        """Move neurons start..stop - 1 on, and leave zeros in `arriving`; how often states left their 24 bits.

        See `neurodeploy.simulation.kernels.neurons.answer`.
        """


class WaySynapses(Synapses, Protocol):
    """Synapses that tell by what way spikes go through them; None before any came."""

    @property
    def way(self) -> str | None:
        """A name."""


class Loops(Host):
    """Compiled loops, in this machine's memory."""

    answer = staticmethod(neurons.answer)

    def turn(self, given: NDArray[Any], start: int, into: NDArray[Any]) -> None:
        inputs.turn(given, start, into)

    def synapses(self, synapse: QuantizedSynapse, number: Number, way: str | None, *, graded: bool) -> Passing | Graded:
        return Graded(synapse, number) if graded else Passing(synapse, number, way)


def engine_of(device: str | None) -> Engine:
    """Compiled loops, or a torch device by its name.

    Raises
    ------
    RequestError
        Torch knows no such device, or there is none here.
    """
    if device is None:
        return Loops()
    from neurodeploy.simulation.tensors import Tensors

    return Tensors(device)
