"""Accuracy of a network at each pipeline stage, from the trained floats to Lava, and what each layer uses of the chip."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import unsupported_kind
from neurodeploy.ir.network import LI, LIF, Network
from neurodeploy.ir.quantized import COUNTING_ONLY, QuantizedLI, QuantizedLIF, QuantizedNetwork
from neurodeploy.mapping.budget.budget import LayerBudget
from neurodeploy.mapping.placement import LayerUse, Placement
from neurodeploy.passes.quantize import RateChange, changed_rates, dequantize, with_rounded_weights
from neurodeploy.simulation.records import Comparison, SpikeRecord, compare
from neurodeploy.targets import arithmetic_named, target_named
from neurodeploy.targets.simulate import random_spikes, simulate
from neurodeploy.training.encoders import decide, for_simulators, levels_of
from neurodeploy.training.forward import Data, spikes_of
from neurodeploy.training.options import FitOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Share of test samples classified correctly, 0..1, at each pipeline stage; None where a stage was not run.

    Attributes
    ----------
    dense, compressed : float or None
        The torch model before and after compression.
    quantized : float or None
        Weights, thresholds, biases and decays rounded to the chip's, with arithmetic in floats.
    emulated : float or None
        The chip's integers throughout.
    lava : float or None
        Lava's simulator, on the first `lava_samples` of the test data.
    test_samples, lava_samples : int or None
    """

    dense: float | None = None
    compressed: float | None = None
    quantized: float | None = None
    emulated: float | None = None
    lava: float | None = None
    test_samples: int | None = None
    lava_samples: int | None = None

    def stages(self) -> tuple[tuple[str, str, float | None, int | None], ...]:
        """Name, what runs there, accuracy and number of samples of each stage, from the trained floats to Lava."""
        lava = f"Lava's simulator, {self.lava_samples or 0} samples"
        return (
            ("dense", "trained floats, no limits", self.dense, self.test_samples),
            ("compressed", "floats within the budget", self.compressed, self.test_samples),
            ("quantised", "weights, thresholds, decays rounded", self.quantized, self.test_samples),
            ("emulated", "the chip's integers throughout", self.emulated, self.test_samples),
            ("Lava", lava, self.lava, self.lava_samples),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Result of running a quantised network next to its float network.

    Attributes
    ----------
    of : str
        The input, for messages: ``"on the test data"``.
    accuracy : Accuracy
        `quantized` and `emulated`.
    rates : mapping of layer to mean spikes per neuron and step in the emulator
    changed : tuple of RateChange
        Layers that quantisation silenced or saturated.
    overflows : mapping of layer to the number of times that a state overflowed 24 bits
    """

    of: str
    accuracy: Accuracy
    rates: dict[str, float]
    changed: tuple[RateChange, ...]
    overflows: dict[str, int]


def as_simulated(network: Network, quantized: QuantizedNetwork) -> Network | QuantizedNetwork:
    """Return the network to simulate: the quantised one, or floats with its weights where no target runs it."""
    return with_rounded_weights(network, quantized) if quantized.target == COUNTING_ONLY else quantized


def measure(
    model: torch.nn.Module, network: Network, quantized: QuantizedNetwork, data: Data, options: FitOptions
) -> Measurement:
    """Run test data through the network in floats, with rounded parameters, and in the chip's integers.

    Where no target runs the integers, weights alone are rounded, the arithmetic stays in floats, and `Accuracy.emulated` is None.

    Parameters
    ----------
    network : Network
        In the input levels of the options' encoder; see `in_levels`.
    """
    runs, graded = quantized.target != COUNTING_ONLY, levels_of(options.encoder) > 1
    runnable = as_simulated(network, quantized)
    # without a target only weights have a width to be rounded to
    rounded = dequantize(quantized, network.timestep_s) if runs else with_rounded_weights(network, quantized)
    right, samples = Counter[str](), 0
    before, after, overflows = Counter[str](), Counter[str](), Counter[str]()
    for inputs, target in data:
        labels = np.asarray(target)
        # one encoding for all three runs: they differ in arithmetic alone
        spikes = for_simulator(inputs, model, options)
        emulated = simulate(runnable, spikes, record="all", graded=graded)
        samples += len(labels)
        right["emulated"] += count_correct(emulated, runnable, network, labels, options)
        right["quantized"] += count_correct(simulate(rounded, spikes, graded=graded), rounded, network, labels, options)
        # Counter.update adds; rates are means, so each batch counts by its samples
        before.update(
            {name: rate * len(labels) for name, rate in simulate(network, spikes, record="all", graded=graded).rates().items()}
        )
        after.update({name: rate * len(labels) for name, rate in emulated.rates().items()})
        overflows.update(emulated.overflows)
    rates = {name: total / samples for name, total in after.items()}
    return Measurement(
        of="on the test data",
        accuracy=Accuracy(
            quantized=right["quantized"] / samples, emulated=right["emulated"] / samples if runs else None, test_samples=samples
        ),
        rates=rates,
        changed=changed_rates({name: total / samples for name, total in before.items()}, rates),
        overflows=dict(overflows),
    )


def measure_on_random_input(network: Network, quantized: QuantizedNetwork) -> Measurement:
    """Run random spikes through the network in floats and in the chip's integers, where there is no test data."""
    spikes = random_spikes(network.input_shape, n_samples=8, n_steps=32)
    emulated = simulate(quantized, spikes, record="all")
    before = simulate(network, spikes, record="all").rates()
    return Measurement(
        of="on random input spikes",
        accuracy=Accuracy(),
        rates=emulated.rates(),
        changed=changed_rates(before, emulated.rates()),
        overflows=dict(emulated.overflows),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedSamples:
    """Test samples whose spikes are recorded, and compared with Lava.

    Attributes
    ----------
    spikes : array (n_samples, \\*input_shape, n_steps)
        uint8, 0 or 1; graded input is int32.
    labels : array (n_samples,)
        Class indices.
    """

    spikes: NDArray[Any]
    labels: NDArray[np.int64]

    @property
    def rate(self) -> float:
        """Share of inputs and steps with a spike, 0..1."""
        return float((self.spikes != 0).mean())


def first_samples(model: torch.nn.Module, data: Data, options: FitOptions, n_samples: int) -> RecordedSamples:
    """Return the first `n_samples` of the data as spikes, or all where there are fewer."""
    inputs, labels = [], []
    for x, y in data:
        inputs.append(torch.as_tensor(x))
        labels.append(np.asarray(y))
        if sum(map(len, labels)) >= n_samples:  # batches may be slow to read
            break
    spikes = for_simulator(torch.cat(inputs)[:n_samples], model, options)
    return RecordedSamples(spikes=spikes, labels=np.concatenate(labels)[:n_samples])


def check_in_lava(
    samples: RecordedSamples,
    emulated: SpikeRecord,
    network: Network,
    quantized: QuantizedNetwork,
    options: FitOptions,
    time_limit_s: float,
) -> tuple[float, Comparison, SpikeRecord]:
    """Run recorded samples in Lava: their accuracy, the comparison with the emulator, and Lava's record."""
    graded = levels_of(options.encoder) > 1
    end = target_named(quantized.target).simulators[0]
    lava = simulate(quantized, samples.spikes, end=end, record="all", graded=graded, time_limit_s=time_limit_s)
    return count_correct(lava, quantized, network, samples.labels, options) / len(samples.labels), compare(emulated, lava), lava


def for_simulator(inputs: torch.Tensor, model: torch.nn.Module, options: FitOptions) -> NDArray[Any]:
    """A batch of training inputs as a simulator takes them: spikes (batch, \\*shape, n_steps); see `for_simulators`."""
    return for_simulators(spikes_of(inputs, model, options), levels_of(options.encoder))


def outputs(record: SpikeRecord, network: Network | QuantizedNetwork, rest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Output of the last layer in the trained model's units: membranes of a readout, spikes of firing neurons.

    Parameters
    ----------
    rest : array () or (n_out,)
        Offset from the chip's membrane potential to the model's.

    Returns
    -------
    array (batch, n_out, n_steps)
    """
    layer = network.output
    match layer.neuron:
        case LIF() | QuantizedLIF():
            return record.spikes[layer.name].reshape(record.n_samples, -1, record.n_steps).astype(np.float64)
        case LI() | QuantizedLI():
            pass
        case _:
            raise unsupported_kind(layer.neuron)
    v = record.v[layer.name].reshape(record.n_samples, -1, record.n_steps).astype(np.float64)
    if isinstance(network, QuantizedNetwork):
        scale = np.where(network.output.scale > 0, network.output.scale, 1.0)  # a file by another tool has no scale
        exponent = arithmetic_named(network.target).registers.weight_exponent
        # the target shifts weights left by this exponent before it adds them to the current
        v = v / np.reshape(scale * (1 << exponent), (-1, 1))
    # the chip's membranes rest at 0
    return v + np.reshape(rest, (-1, 1))


def count_correct(
    record: SpikeRecord, network: Network | QuantizedNetwork, model: Network, labels: NDArray[np.int64], options: FitOptions
) -> int:
    """Number of samples of a record that the options' readout classifies correctly; `model` has the output's rest potential."""
    return int(np.count_nonzero(decide(outputs(record, network, model.output.neuron.rest), options.readout) == labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class LavaCheck:
    """Comparison of Lava's simulator with the emulator.

    Attributes
    ----------
    steps : int
        Steps run, over all samples.
    mismatches : int
        Number of spikes and membranes, of any layer, that differed.
    """

    steps: int
    mismatches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """Resources of a layer: used now, allowed by its budget, and needed before compression."""

    now: LayerUse
    connectivity: float
    budget: LayerBudget | None = None
    before: LayerUse | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of an entry of ``layers``."""
        names = (
            "neurons", "synapses", "weight_bits", "encoding", "fan_in", "delay_steps", "synapse_memory_bits", "input_axons",
            "output_axons", "cores", "slices",
        )  # fmt: skip
        use, before = ({name: getattr(of, name) for name in names} if of is not None else None for of in (self.now, self.before))
        assert use is not None
        return {
            "name": self.now.layer,
            "neurons": use.pop("neurons"),
            "synapses": use.pop("synapses"),
            "connectivity": self.connectivity,
            **use,
            "before": before,
            "budget": None if self.budget is None else {k: v for k, v in asdict(self.budget).items() if k != "layer"},
        }


def board_json(placement: Placement) -> dict[str, Any]:
    """Cores, utilisation, traffic and cost of a placement as JSON keys; None where unknown."""
    mean = placement.mean_utilization()
    fullest = dict(zip(placement.resources, placement.utilizations().max(axis=0).tolist(), strict=True))
    traffic, estimate = placement.traffic(), None
    if traffic is not None:
        estimate = traffic.estimate()
    return {
        "cores": {
            "used": placement.cores_used,
            "available": placement.cores_available,
            "lower_bound": placement.cores_lower_bound,
            "chips": placement.chips_used,
        },
        "utilization": {
            name: {"mean": mean[name], "fullest": fullest[name], "limit": limit.number, "source": limit.where}
            for name in mean
            for limit in (placement.profile[f"{name}_per_core"],)
        },
        "traffic": None if traffic is None else {
            "rates": "measured" if traffic.links.measured else "assumed",
            "spikes": float(traffic.links.spikes.sum()),
            "spike_hops": traffic.spike_hops(),
            "between_chips": traffic.between_chips(),
            "busiest_link": float(traffic.on_links().max(initial=0.0)),
        },
        "estimate": None if estimate is None else {
            "energy_j": estimate.energy_j,
            "time_s": estimate.time_s,
            "energy_j_by_kind": estimate.energy_j_by_kind,
            "source": placement.profile["synop_sparse_energy"].source,
        },
    }  # fmt: skip
