"""Records of simulations, comparisons of them, records of training epochs, and spikes in .npy files."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError, SimulationError, check_arguments, counted
from neurodeploy.ir.arrays import load_numpy
from neurodeploy.ir.files import in_memory
from neurodeploy.ir.graph import LayerGraph


@check_arguments
@dataclass(frozen=True, kw_only=True, eq=False)
class SpikeRecord:
    """Spikes, membranes and counts of a run; the same from the reference, the emulator and Lava, on the same clock.

    Time is the network's own: step t of layer k (1, 2, ... from the input) is its response to the input of step t. On the chip,
    and in Lava, that happens k steps later; a simulator that runs on the chip's clock removes the shift.

    Attributes
    ----------
    end : str
        ``"reference"``, ``"emulator"`` or ``"lava"``.
    spikes : mapping of layer name to array (batch, \\*shape, n_steps), uint8 or int32
        For each recorded layer, spikes of each neuron: 1 where it fired, or more where its kind fires several a step.
        Graded spikes of sigma-delta neurons are int32: the numbers that they send, 0 where none.
    v : mapping of layer name to array (batch, \\*shape, n_steps)
        Membrane potentials after the step (so reset, where a neuron fired): the chip's integers, or floats from
        the reference. Of sigma-delta neurons, sigma.
    overflows : mapping of layer name to int
        How often a state left its 24 bits: currents that wrapped and membranes that saturated; of sigma-delta neurons,
        numbers that wrapped in Lava's 32 bits, or in its 24 behind a convolution. Empty where not counted.
    counts : mapping of layer name to array (batch, \\*shape), int32
        How often each neuron fired, of every layer whether recorded or not. Empty where not counted.
    steps : int
        Steps that were run; needed where no layer was recorded.
    """

    end: str
    spikes: Mapping[str, NDArray[np.uint8]]
    v: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    overflows: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)
    steps: int = 0

    def __post_init__(self) -> None:
        # Batch and steps; what lies between them is the layer's own shape.
        shapes = {array.shape[:1] + array.shape[-1:] for array in (*self.spikes.values(), *self.v.values())}
        # A run that records no layer has counts alone.
        if len(shapes) != 1 and not (self.counts and not shapes):
            raise DataError("SpikeRecord", f"layers differ in batch and steps: {sorted(shapes)}")
        for name in ("spikes", "v", "overflows", "counts"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def output(self) -> str:
        """Name of the last layer that was recorded, or else counted."""
        # Records are in the network's order, and its last layer is the output.
        return list(self.spikes or self.counts)[-1]

    @property
    def n_samples(self) -> int:
        return len((self.spikes or self.counts)[self.output])

    @property
    def n_steps(self) -> int:
        return int(self.spikes[self.output].shape[-1]) if self.spikes else self.steps

    def rates(self) -> dict[str, float]:
        """Mean spikes a neuron and step, by recorded layer; a graded spike is one, whatever its number."""
        fired = {name: array != 0 if array.dtype == np.int32 else array for name, array in self.spikes.items()}
        return {name: float(array.mean()) for name, array in fired.items()}


OnOverflow: TypeAlias = Literal["wrap", "raise", "warn"]
Recorded: TypeAlias = "str | Sequence[str]"
"""Layers that are recorded: "output", "all", or their names."""


def recorded_layers(network: LayerGraph[Any], record: Recorded) -> tuple[str, ...]:
    """Names of the layers to record, in the network's order.

    Raises
    ------
    RequestError
        The network has no layer of that name.
    """
    names = [layer.name for layer in network]
    if record in ("output", "all"):
        return tuple(names) if record == "all" else (names[-1],)
    if isinstance(record, str) or set(record) - set(names):
        raise RequestError("record", f"{record!r} is neither 'output' nor 'all'", remedy=f"Or list some of {', '.join(names)}.")
    return tuple(name for name in names if name in record)


def samples_first(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A simulator's (n_steps, batch, n) in the axes of a record, (batch, \\*shape, n_steps)."""
    n_steps, batch, _ = array.shape
    return np.moveaxis(array, 0, -1).reshape(batch, *shape, n_steps)


def measured_rates(record: SpikeRecord) -> dict[str, NDArray[np.float64]]:
    """Spikes a step of every neuron in a record, over all its samples and steps."""
    # Records are (batch, *shape, n_steps).
    return {name: np.moveaxis(spikes, -1, 1).mean(axis=(0, 1)).reshape(-1) for name, spikes in record.spikes.items()}


def save_record(record: SpikeRecord, path: str | os.PathLike[str], **meta: Any) -> None:
    """Write the output layer's record as .npz: ``spikes`` and ``v``, time last, and a JSON string ``meta``.

    Parameters
    ----------
    **meta
        Further entries of the JSON, besides end, layer, samples, steps, rates and overflows.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    facts = {
        "end": record.end,
        "layer": record.output,
        "n_samples": record.n_samples,
        "n_steps": record.n_steps,
        "rates": record.rates(),
        "overflows": dict(record.overflows),
    }
    # As an array of text, which np.load reads without pickle.
    metadata = np.array(json.dumps(facts | meta))
    try:
        with in_memory(path) as file:
            np.savez_compressed(file, spikes=record.spikes[record.output], v=record.v[record.output], meta=metadata)
    except OSError as error:
        raise DataError(str(path), f"cannot be written: {error.strerror}") from error


def load_spikes(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an array of input spikes from an .npy file.

    Raises
    ------
    DataError
        No such file, or no array of numbers in it.
    """
    array = load_numpy(path)
    if not isinstance(array, np.ndarray):  # .npz gives several by name
        raise DataError(str(path), "holds several arrays", remedy="Save one array with numpy.save.")
    return array


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """The first value in which two records differ."""

    layer: str
    neuron: int
    step: int
    sample: int
    quantity: str
    emulator: int
    lava: int


SIMULATOR_NAMES = {"lava": "Lava", "loihi2": "the board", "xylosim": "XyloSim"}
"""Names, in texts, of what makes records besides reference and emulator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Result of comparing two records.

    Attributes
    ----------
    n_steps : int
    mismatches : int
        Number of values that differ.
    first : Mismatch or None
        The earliest of them, by step, then layer.
    n_spikes : int
        Spikes in the layers that were compared; records without any are equal in them whatever made them.
    end : str
        What made the second record: ``"lava"``, or another vendor's simulator.
    """

    n_steps: int
    mismatches: int
    first: Mismatch | None
    n_spikes: int
    end: str = "lava"

    @property
    def equal(self) -> bool:
        return self.mismatches == 0

    @property
    def sentence(self) -> str:
        """The answer of ``neurodeploy verify``."""
        if (at := self.first) is not None:
            return (
                f"Not equal: {counted(self.mismatches, 'different value')}. First mismatch: {at.quantity} of neuron {at.neuron} "
                f"of {at.layer!r} at step {at.step}: {at.emulator:,} in the emulator, {at.lava:,} in "
                f"{SIMULATOR_NAMES.get(self.end, self.end)}."
            )
        what = "spikes and membranes" if self.n_spikes else "membranes"
        nothing = "" if self.n_spikes else " No neuron fired on this input: no spikes were compared."
        return f"Equal: {what} of every layer in {counted(self.n_steps, 'step')}.{nothing}"

    def to_json(self) -> dict[str, Any]:
        """The keys of ``neurodeploy verify --json``."""
        keys = {key: key for key in ("layer", "neuron", "step", "emulator")} | {self.end: "lava"}
        first = None if self.first is None else {key: getattr(self.first, field) for key, field in keys.items()}
        found = {"equal": self.equal, "steps": self.n_steps, "mismatches": self.mismatches}
        return {**found, "spikes": self.n_spikes, "first": first}


def report_overflows(overflows: Mapping[str, int], on_overflow: OnOverflow, register: str, what: str) -> None:
    """Raise or warn, if asked to, where states of a layer left their register of some bits; `what` then happened to them."""
    for name, times in overflows.items():
        if times and on_overflow != "wrap":
            error = SimulationError(
                f"layer {name!r}", f"left {register} {counted(times, 'time')}: {what}",
                remedy="Scale its weights down, or give on_overflow='wrap' to have what the chip does.",
            )  # fmt: skip
            if on_overflow == "raise":
                raise error
            warnings.warn(str(error), RuntimeWarning, stacklevel=3)  # the line that called the emulator


@check_arguments
def compare(emulator: SpikeRecord, lava: SpikeRecord) -> Comparison:
    """Compare spikes and membranes of the layers that both records hold.

    Raises
    ------
    DataError
        The records hold no layer in common, or arrays of different shape.
    """
    mismatches = n_spikes = 0
    firsts = []
    pairs = [("spikes", emulator.spikes, lava.spikes), ("v", emulator.v, lava.v)]
    if not set(emulator.spikes) & set(lava.spikes):
        raise DataError("compare", "the records hold no layer in common")
    for quantity, ours, theirs in pairs:
        for depth, layer in enumerate(ours):
            if layer not in theirs:
                continue
            if ours[layer].shape != theirs[layer].shape:
                raise DataError(layer, f"records differ in shape: {ours[layer].shape} and {theirs[layer].shape}")
            if quantity == "spikes":
                n_spikes += int(max(np.count_nonzero(ours[layer]), np.count_nonzero(theirs[layer])))
            differ = ours[layer] != theirs[layer]
            if not differ.any():
                continue
            mismatches += int(differ.sum())
            flat = differ.reshape(differ.shape[0], -1, differ.shape[-1])
            step = int(flat.any(axis=(0, 1)).argmax())
            sample, neuron = (int(i) for i in np.argwhere(flat[..., step])[0])
            values = [int(a[layer].reshape(flat.shape)[sample, neuron, step]) for a in (ours, theirs)]
            # Sorted by step, then layer; within a layer spikes come before membranes.
            firsts.append((step, depth, quantity == "v", Mismatch(
                layer=layer, neuron=neuron, step=step, sample=sample, quantity=quantity,
                emulator=values[0], lava=values[1],
            )))  # fmt: skip
    first = min(firsts, key=lambda item: item[:3])[-1] if firsts else None
    return Comparison(n_steps=emulator.n_steps, mismatches=mismatches, first=first, n_spikes=n_spikes, end=lava.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateChange:
    """A layer that quantising silenced or drove to fire at nearly every step; rates in spikes per neuron and step."""

    layer: str
    before: float
    after: float

    def __str__(self) -> str:
        kind = "silent" if self.after < self.before else "saturated"
        rates = f"{self.before:.4f} spikes a neuron and step before, {self.after:.4f} after"
        return f"Layer {self.layer!r} went {kind} by quantising: {rates}"


def changed_rates(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[RateChange, ...]:
    """Layers that went silent (no spike, where there were some) or saturated (above 0.9, from below 0.5) by quantising."""
    return tuple(
        RateChange(layer=name, before=rate, after=after[name])
        for name, rate in before.items()
        if (rate > 0 and after[name] == 0) or (rate < 0.5 and after[name] > 0.9)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One epoch of training.

    Attributes
    ----------
    phase : str
        ``"dense"``, ``"compress"`` or ``"finetune"``.
    epoch : int
        Counted from 0 within the phase.
    loss, train_accuracy : float
        Means over the epoch's training batches; accuracy in 0..1.
    test_accuracy : float or None
        On held-out data, if it was evaluated.
    connectivity : float
        Share of all weights that are not pruned, 0..1.
    overruns : mapping of constraint to float
        Usage over budget less one; at most 0 where the budget is kept. A constraint is named ``layer[start:stop] resource``.
    multipliers : mapping of constraint to float
        The price of each constraint (z of the minimax form), in squared weight of mean curvature per unit of the resource.
    seconds : float
        Wall time of the epoch.
    """

    phase: str
    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float | None
    connectivity: float
    overruns: Mapping[str, float]
    multipliers: Mapping[str, float]
    seconds: float

    def __str__(self) -> str:
        test = "" if self.test_accuracy is None else f", {self.test_accuracy:.1%} on test data"
        worst = max(self.overruns, key=self.overruns.__getitem__, default="")
        over = f"; most over budget: {worst}, {self.overruns[worst]:+.1%}" if worst and self.overruns[worst] > 0 else ""
        return (
            f"{self.phase} {self.epoch + 1}: loss {self.loss:.4f}, accuracy {self.train_accuracy:.1%} on training data{test}, "
            f"{self.connectivity:.1%} of weights kept{over} ({self.seconds:.1f} s)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPrice:
    """Price of a core's synapse memory: the loss before and after its least valuable synapses were removed.

    Attributes
    ----------
    core : int
        Numbered from 0 through all chips, as in the placement.
    layers : tuple of str
        Layers with synapses on the core.
    bits_less : int
        Memory of the removed synapses.
    loss, loss_with_less : float
        Mean loss on the same samples, before and after, without training.
    samples : int
    """

    core: int
    layers: tuple[str, ...]
    bits_less: int
    loss: float
    loss_with_less: float
    samples: int

    @property
    def per_kilobit(self) -> float:
        """Increase of the loss per 1,000 bits removed."""
        return (self.loss_with_less - self.loss) / self.bits_less * 1000

    def __str__(self) -> str:
        return (
            f"{self.per_kilobit:+.2g} of loss per kilobit removed from core {self.core} ({', '.join(self.layers)}; "
            f"loss {self.loss:.4f}, and {self.loss_with_less:.4f} with {self.bits_less:,} bits less, on {self.samples:,} samples)"
        )
