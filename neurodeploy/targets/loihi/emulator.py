"""How neurons answer to what arrives.

In which type of number a layer's sums are exact: shown from its weights, before any spike comes.

What works the emulator's integers: compiled loops by default, or whatever else offers the same.

What the chip would do: every layer in its own integers, bit for bit as Lava's simulator.

A network is made ready once (`Prepared`), then an `Emulator` runs a batch of samples on it, one stretch of input after the other.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError, SimulationError
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import QuantizedConv, QuantizedLayer, QuantizedLIF, QuantizedNetwork, QuantizedSynapse
from neurodeploy.simulation import kernels as inputs
from neurodeploy.simulation.execution import (
    SHARED_STATES,
    Host,
    Memory,
    Rooms,
    Run,
    SharedSynapses,
    Stage,
    Synapses,
    Team,
    sizes_of_parts,
    useful_threads,
)
from neurodeploy.simulation.kernel_dispatch import Graded, Passing
from neurodeploy.simulation.kernels import Array, compiled
from neurodeploy.simulation.records import Recorded, SpikeRecord, recorded_layers
from neurodeploy.simulation.reference import Number
from neurodeploy.targets.loihi.arithmetic import DECAY_UNITY, MANTISSA_SHIFT, STATE_MAX

# -------------------- simulation.kernels.neurons

BLOCK = 2048
"""So many neurons at a time stay in the first-level cache."""


@compiled
def answer(
    arriving: Array,
    u: Array,
    v: Array,
    registers: Array,
    fired: Array,
    membranes: Array,
    counts: Array,
    first_rest: int,
    rest: int,
    start: int,
    stop: int,
) -> int:
    """Move neurons start..stop - 1 on by some steps; how often currents wrapped and membranes saturated in them.

    `arriving` (n_steps, batch, n) is in weight units, and zeros are left in it. `registers` (4, n) are what a step keeps of u and
    of v in 4096ths, the bias and the threshold. `membranes` is filled where it has room. The states go back to rest before step
    `first_rest` and every `rest` steps from there on, unless `rest` is 0. Arithmetic as in
    `neurodeploy.targets.loihi.arithmetic`.
    """
    n_steps, batch = arriving.shape[:2]
    overflows = 0
    for b in range(batch):
        for first in range(start, stop, BLOCK):
            here = slice(first, min(first + BLOCK, stop))
            of_u, of_v, bias, threshold = registers[0, here], registers[1, here], registers[2, here], registers[3, here]
            for t in range(n_steps):
                if rest and t >= first_rest and (t - first_rest) % rest == 0:
                    u[b, here] = 0
                    v[b, here] = 0
                overflows += _hear(u[b, here], arriving[t, b, here], of_u)
                overflows += _leak(v[b, here], u[b, here], of_v, bias)
                _fire(v[b, here], threshold, fired[t, b, here], counts[b, here])
                if membranes.shape[0]:
                    membranes[t, b, here] = v[b, here]
    return overflows


@compiled
def _decayed(state: Any, kept: Any) -> Any:
    """Towards zero, ``|state| * kept >> 12``, in two halves of 12 bits: no product leaves 32 bits, and nothing branches."""
    sign = np.int32(state >> 31)
    size = np.int32(np.int32(state ^ sign) - sign)
    high, low = np.int32(size >> 12), np.int32(size & 4095)
    rest = np.int32(np.int32(high * kept) + np.int32(np.int32(low * kept) >> 12))
    return np.int32(np.int32(rest ^ sign) - sign)


@compiled
def _hear(u: Array, arriving: Array, kept: Array) -> Any:
    wraps = np.int32(0)
    for j in range(u.shape[0]):
        current = np.int32(_decayed(u[j], kept[j]) + np.int32(arriving[j] << MANTISSA_SHIFT))
        turn = np.int32(np.int32(current > STATE_MAX) - np.int32(current <= -STATE_MAX))
        wraps = np.int32(wraps + np.int32(turn * turn))
        u[j] = np.int32(current - np.int32(turn * np.int32(2 * STATE_MAX)))
        arriving[j] = 0
    return wraps


@compiled
def _leak(v: Array, u: Array, kept: Array, bias: Array) -> Any:
    stops = np.int32(0)
    for j in range(v.shape[0]):
        membrane = np.int32(np.int32(_decayed(v[j], kept[j]) + u[j]) + bias[j])
        within = np.int32(min(max(membrane, np.int32(1 - STATE_MAX)), np.int32(STATE_MAX - 1)))
        stops = np.int32(stops + np.int32(within != membrane))
        v[j] = within
    return stops


@compiled
def _fire(v: Array, threshold: Array, fired: Array, counts: Array) -> None:
    for j in range(v.shape[0]):
        fired[j] = v[j] > threshold[j]
        v[j] = 0 if v[j] > threshold[j] else v[j]
    for j in range(v.shape[0]):
        counts[j] = np.int32(counts[j] + fired[j])


# -------------------- simulation.exactness

ACCUMULATOR_MAX = ((1 << 31) - 1 - STATE_MAX) >> MANTISSA_SHIFT
"""What may arrive at a neuron: shifted left and added to a current of 24 bits, it stays within Lava's 32 (proc/lif/models.py)."""
CONVOLUTION_MAX = (1 << 23) - 1
"""What may arrive through a convolution: Lava holds it in 24 bits (proc/conv/models.py: PyConvModelFixed)."""


def exact_number(layer: QuantizedLayer, input_max: int = 1) -> Number:
    """The smallest type in which no sum of the layer's weights is rounded: every partial sum is a whole number below.

    Whole numbers of 32 bits hold them all.

    Parameters
    ----------
    input_max : int
        The largest magnitude in the network's input.

    Raises
    ------
    SimulationError
        The weights can add up to more than Lava's registers hold, which go round then.
    """
    where, largest = f"layer {layer.name!r}", np.zeros(layer.n_neurons, dtype=np.int64)
    for connection in layer.connections:
        synapse = connection.synapse
        total: NDArray[np.int64] = synapse.total(np.abs(synapse.weight.astype(np.int64)))
        total = total * (input_max if connection.source == INPUT else 1)
        if isinstance(synapse, QuantizedConv) and total.max() > CONVOLUTION_MAX:
            raise SimulationError(
                where, "its convolution can add up to more than the 24 bits that Lava holds it in",
                remedy="Give its window fewer weights." if input_max == 1 else "Scale its input down.",
            )  # fmt: skip
        largest += total
    if largest.max() > ACCUMULATOR_MAX:
        raise SimulationError(
            where,
            "its weights can add up to more than Lava's 32-bit accumulator holds",
            remedy="Give its neurons fewer synapses." if input_max == 1 else "Scale its input down.",
        )
    return np.float32 if largest.max() < 1 << 24 else np.float64


# -------------------- simulation.engine


class Engine(Memory, Protocol):
    """Where the emulator's arrays lie, and who sums up and answers there: bit for bit as every other engine."""

    def synapses(self, synapse: QuantizedSynapse, number: Number, way: str | None, *, graded: bool) -> WaySynapses:
        """The synapses of a connection, whose sums are exact in `number`; `graded`: they may hear more than 0 and 1."""

    def answer(
        self, arriving: Any, u: Any, v: Any, registers: Any, fired: Any, membranes: Any, counts: Any,
        first_rest: int, rest: int, start: int, stop: int,
    ) -> Any:  # fmt: skip
        """Move neurons start..stop - 1 on, and leave zeros in `arriving`; how often states left their 24 bits.

        See `neurodeploy.targets.loihi.emulator.answer`.
        """


class WaySynapses(Synapses, Protocol):
    """Synapses that tell by what way spikes go through them; None before any came."""

    @property
    def way(self) -> str | None:
        """A name."""


class Loops(Host):
    """Compiled loops, in this machine's memory."""

    answer = staticmethod(answer)

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
    from neurodeploy.simulation.torch_engine import Tensors

    return Tensors(device)


# -------------------- simulation.emulator

OnOverflow: TypeAlias = Literal["wrap", "raise", "warn"]


class Prepared:
    """A network whose sums are exact, and whose synapses know how spikes pass them; many emulators may share it.

    Parameters
    ----------
    way : str, optional
        How spikes pass synapses, where these allow it (see `neurodeploy.simulation.kernel_dispatch`); measured by default.
    input_max : int
        Largest magnitude of the input's numbers: 1 for spikes.
    device : str, optional
        A torch device, ``"cpu"`` or ``"cuda"``, on which it is to run; by default it runs in compiled loops, which are faster on
        a processor.

    Raises
    ------
    SimulationError
        A layer's weights can add up to more than Lava's registers hold, which go round then.
    RequestError
        No such device.
    """

    def __init__(
        self, network: QuantizedNetwork, *, way: str | None = None, input_max: int = 1, device: str | None = None
    ) -> None:
        self.network, self.input_max, self.device = network, input_max, device
        self.engine = engine_of(device)
        self.rooms = Rooms(self.engine)
        self.synapses: dict[str, tuple[WaySynapses, ...]] = {}
        for layer in network:
            number = exact_number(layer, input_max)
            self.synapses[layer.name] = tuple(
                self.engine.synapses(c.synapse, number, way, graded=input_max > 1 and c.source == INPUT)
                for c in layer.connections
            )

    def synapses_for(self, layer: QuantizedLayer, team: Team) -> tuple[Synapses, ...]:
        """The synapses onto a layer, ready to be passed by a team of threads."""
        synapses = self.synapses[layer.name]
        if team.size == 1:
            return synapses
        pairs = [c.synapse.n_pairs for c in layer.connections]
        return tuple(SharedSynapses(s, n, team) for s, n in zip(synapses, pairs, strict=True))

    @property
    def ways(self) -> dict[tuple[str, str], str | None]:
        """By what way spikes go from (source, to layer); None where none came yet."""
        pairs = {layer.name: zip(layer.connections, self.synapses[layer.name], strict=True) for layer in self.network}
        return {(connection.source, name): synapses.way for name, both in pairs.items() for connection, synapses in both}


class Emulator:
    """A batch of samples on its way through a network, from rest.

    Parameters
    ----------
    network : QuantizedNetwork or Prepared
        `Prepared`, where many batches are to go through it, on a torch device, or the input is graded: whole numbers, as Lava's
        synapses take them with ``num_message_bits``.
    n_samples : int
        Samples that run beside each other.
    record : "output" | "all" | sequence of layer names
        Whose spikes and membranes are recorded; none for ``()``. Spikes are counted in all layers.
    reset_interval, reset_offset : int
        Before step `reset_offset`, and every `reset_interval` from there on, all neurons go back to rest, and spikes under way
        go on: what netx's arguments of these names do, on the network's clock. 0 for never.
    on_overflow : "wrap" | "raise" | "warn"
        What to do after steps in which a state left its 24 bits, beside counting it and what the chip does: nothing,
        `SimulationError`, or a `RuntimeWarning`.
    threads : int, optional
        That run parts of the batch, or share a sample; by default as many as there are cores, where there is work for them. A
        torch device has threads of its own.
    """

    def __init__(
        self,
        network: QuantizedNetwork | Prepared,
        *,
        n_samples: int = 1,
        record: Recorded = "output",
        reset_interval: int = 0,
        reset_offset: int = 0,
        on_overflow: OnOverflow = "wrap",
        threads: int | None = None,
    ) -> None:
        if on_overflow not in ("wrap", "raise", "warn"):
            raise RequestError("on_overflow", f"{on_overflow!r} is none of 'wrap', 'raise' and 'warn'")
        check_resets(reset_interval, reset_offset)
        self.prepared = network if isinstance(network, Prepared) else Prepared(network)
        engine, on_device = self.prepared.engine, self.prepared.device is not None
        if on_device and threads not in (None, 1):
            raise RequestError("threads", f"{threads} are not the device's, which has its own", remedy="Leave them out.")
        self.network, self.n_samples, self.on_overflow = self.prepared.network, n_samples, on_overflow
        recorded = recorded_layers(self.network, record)
        given = np.uint8 if self.prepared.input_max == 1 else np.int32
        self._threads = threads or (1 if on_device else useful_threads(n_samples * self.network.n_neurons))
        self._parts = []
        sizes = [n_samples] if on_device else sizes_of_parts(n_samples, self.network, self._threads)
        for size in sizes:
            team = Team(self._threads // len(sizes))
            neurons = [_IntegerNeurons(layer, size, reset_interval, reset_offset, engine, team) for layer in self.network]
            stages = [Stage(n.layer, n, self.prepared.synapses_for(n.layer, team), np.int32) for n in neurons]
            run = Run(
                self.network,
                stages,
                size,
                recorded=recorded,
                membrane=np.int32,
                given=given,
                memory=engine,
                rooms=self.prepared.rooms,
            )
            self._parts.append((run, neurons))

    def advance(self, spikes: NDArray[Any]) -> SpikeRecord:
        """Run the next steps, and tell of them; counts and overflows are of all steps since the start.

        Parameters
        ----------
        spikes : array (n_samples, \\*input_shape, n_steps), uint8, 0 or 1; whole numbers, where the network was prepared for them

        Raises
        ------
        DataError
            Another number of samples, or a larger number, than the emulator was made for.
        SimulationError
            A state left its 24 bits, and `on_overflow` is ``"raise"``.
        """
        if len(spikes) != self.n_samples or _reach(spikes) > self.prepared.input_max:
            raise DataError("input spikes", f"are of {len(spikes)} samples, up to {spikes.max()}; not what was prepared for")
        before = self._overflows()
        ends = np.cumsum([run.batch for run, _ in self._parts])
        some = np.split(spikes, ends[:-1])
        if self._threads == 1 or len(self._parts) == 1:
            records = [part[0].advance(given) for part, given in zip(self._parts, some, strict=True)]
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                records = list(pool.map(lambda part, given: part[0].advance(given), self._parts, some))
        self._tell(before)
        fired, v = ({name: np.concatenate([r[k][name] for r in records]) for name in records[0][k]} for k in (0, 1))
        return SpikeRecord(
            end="emulator", spikes=fired, v=v, overflows=self._overflows(), counts=self._counts(), steps=spikes.shape[-1]
        )

    def _overflows(self) -> dict[str, int]:
        names = [layer.name for layer in self.network]
        return dict(
            zip(names, np.sum([[int(n.overflows) for n in neurons] for _, neurons in self._parts], axis=0).tolist(), strict=True)
        )

    def _counts(self) -> dict[str, NDArray[np.int32]]:
        counts, told = {}, self.prepared.engine.told
        for k, layer in enumerate(self.network):
            counts[layer.name] = np.concatenate([told(n[k].counts) for _, n in self._parts]).reshape(-1, *layer.shape)
        return counts

    def _tell(self, before: dict[str, int]) -> None:
        """Of states that left their 24 bits in the last steps, to who wants to know."""
        for name, times in self._overflows().items():
            if times > before[name] and self.on_overflow != "wrap":
                said = SimulationError(
                    f"layer {name!r}", f"left 24 bits {times - before[name]:,} times: currents wrapped or membranes saturated",
                    remedy="Scale its weights down, or give on_overflow='wrap' to have what the chip does.",
                )  # fmt: skip
                if self.on_overflow == "raise":
                    raise said
                warnings.warn(str(said), RuntimeWarning, stacklevel=3)


def check_resets(reset_interval: int, reset_offset: int) -> None:
    """`RequestError` for what tells no steps."""
    if reset_interval < 0 or not 0 <= reset_offset < max(reset_interval, 1):
        raise RequestError(
            "reset_interval", f"{reset_interval} with an offset of {reset_offset} tells no steps",
            remedy="Give an interval of at least 1, and an offset from 0 to below it; an interval of 0 for never.",
        )  # fmt: skip


class _IntegerNeurons:
    """The state of a layer in the chip's integers, and what has happened to it."""

    def __init__(
        self, layer: QuantizedLayer, batch: int, reset_interval: int, reset_offset: int, engine: Engine, team: Team
    ) -> None:
        self.layer, neuron, self.engine, self.team = layer, layer.neuron, engine, team
        threshold = neuron.vth << MANTISSA_SHIFT if isinstance(neuron, QuantizedLIF) else STATE_MAX
        registers = (DECAY_UNITY - neuron.du, DECAY_UNITY - neuron.dv, layer.bias << MANTISSA_SHIFT, threshold)
        stacked = np.stack([np.broadcast_to(r, layer.n_neurons) for r in registers]).astype(np.int32)
        self.registers, self.nothing = engine.brought(stacked), engine.zeros((0, 1, 1), np.int32)
        self.u, self.v, self.counts = engine.zeros((3, batch, layer.n_neurons), np.int32)
        self.reset_interval, self.to_reset = reset_interval, reset_offset
        self.overflows: Any = 0  # on a device until it is asked for

    def answer(self, arriving: Any, fired: Any, v: Any | None) -> None:
        membranes = self.nothing if v is None else v
        states, resets = (self.u, self.v, self.registers), (self.to_reset, self.reset_interval)

        def some(first: int, last: int) -> Any:
            return self.engine.answer(arriving, *states, fired, membranes, self.counts, *resets, first, last)

        many = int(np.prod(arriving.shape)) >= SHARED_STATES
        self.overflows += sum(self.team.share(some, self.layer.n_neurons, worth_it=many))
        if self.reset_interval:
            self.to_reset = (self.to_reset - len(arriving)) % self.reset_interval


_latest: list[Prepared] = []
"""The network that ran last stays prepared: whoever runs it batch by batch has it measured once."""


def run_emulator(
    network: QuantizedNetwork, spikes: NDArray[Any], *, record: Recorded = "output", device: str | None = None, **options: Any
) -> SpikeRecord:
    """Run each sample from rest; see `neurodeploy.targets.simulate.simulate`, which checks what it is given.

    Parameters
    ----------
    spikes : array (batch, \\*input_shape, n_steps), uint8, 0 or 1; whole numbers of more bits are graded input
    device : str, optional
        Of `Prepared`.
    **options
        Of `Emulator`.

    Raises
    ------
    SimulationError
        A layer's weights can add up to more than Lava's registers hold, which go round then.
    """
    input_max = _reach(spikes)
    if not (_latest and _latest[0].network is network and (_latest[0].input_max, _latest[0].device) == (input_max, device)):
        _latest[:] = [Prepared(network, input_max=input_max, device=device)]
    return Emulator(_latest[0], n_samples=len(spikes), record=record, **options).advance(spikes)


def _reach(spikes: NDArray[Any]) -> int:
    """How far numbers that spikes carry go, up or down; 1 where all are 0 or 1, so that -1 goes to 2."""
    lowest = int(spikes.min())
    return max(1, int(spikes.max()), 2 if lowest == -1 else -lowest)
