"""How accurate a network is on each rung of the ladder from the trained floats to Lava."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import unsupported_kind
from neurodeploy.ir.network import LI, LIF, Network
from neurodeploy.ir.quantized import QuantizedLI, QuantizedLIF, QuantizedNetwork
from neurodeploy.mapping.budget.budget import LayerBudget
from neurodeploy.mapping.placement import LayerUse, Placement
from neurodeploy.passes.quantize import RateChange, changed_rates, dequantize
from neurodeploy.simulation.records import Comparison, SpikeRecord, compare
from neurodeploy.targets import arithmetic_named
from neurodeploy.targets.simulate import random_spikes, simulate
from neurodeploy.training.encoders import decide, for_simulators, levels_of
from neurodeploy.training.forward import Data, spikes_of
from neurodeploy.training.options import FitOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Share of held-out samples classified rightly, 0..1, on each rung; None where a rung was not run.

    Attributes
    ----------
    dense, compressed : float or None
        The torch model before and after compression.
    quantized : float or None
        Weights, thresholds, biases and decays rounded to the chip's, the arithmetic still in floats.
    emulated : float or None
        The chip's integers throughout.
    lava : float or None
        Lava's simulator, on the first `lava_samples` of the test data.
    """

    dense: float | None = None
    compressed: float | None = None
    quantized: float | None = None
    emulated: float | None = None
    lava: float | None = None
    test_samples: int | None = None
    lava_samples: int | None = None

    def rungs(self) -> tuple[tuple[str, str, float | None, int | None], ...]:
        """Name, what runs there, share classified rightly and of how many samples, from the trained floats to Lava."""
        lava = f"Lava's simulator, {self.lava_samples or 0} samples"
        return (
            ("dense", "trained floats, no limits", self.dense, self.test_samples),
            ("compressed", "floats within the budget", self.compressed, self.test_samples),
            ("quantised", "weights, thresholds, decays rounded", self.quantized, self.test_samples),
            ("emulated", "the chip's integers throughout", self.emulated, self.test_samples),
            ("Lava", lava, self.lava, self.lava_samples),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What running it says of a quantised network.

    Attributes
    ----------
    of : str
        What was run.
    accuracy : Accuracy
        `quantized` and `emulated`.
    rates : mapping of layer to mean spikes a neuron and step in the emulator
    changed : tuple of RateChange
        Layers that quantising silenced or saturated.
    overflows : mapping of layer to how often a state left its 24 bits
    """

    of: str
    accuracy: Accuracy
    rates: dict[str, float]
    changed: tuple[RateChange, ...]
    overflows: dict[str, int]


def measure(model: torch.nn.Module, network: Network, quantized: QuantizedNetwork, data: Data, options: FitOptions) -> Measured:
    """Run held-out data through the network in floats, with rounded parameters, and in the chip's integers.

    The network is in the levels of the options' encoder; see `in_levels`.
    """
    rounded, graded = dequantize(quantized, network.timestep_s), levels_of(options.encoder) > 1
    right, samples = Counter[str](), 0
    before, after, overflows = Counter[str](), Counter[str](), Counter[str]()
    for inputs, target in data:
        labels = np.asarray(target)
        spikes = for_simulator(inputs, model, options)
        emulated = simulate(quantized, spikes, record="all", graded=graded)
        samples += len(labels)
        right["emulated"] += _hits(emulated, quantized, network, labels, options)
        right["quantized"] += _hits(simulate(rounded, spikes, graded=graded), rounded, network, labels, options)
        before.update(
            {name: rate * len(labels) for name, rate in simulate(network, spikes, record="all", graded=graded).rates().items()}
        )
        after.update({name: rate * len(labels) for name, rate in emulated.rates().items()})
        overflows.update(emulated.overflows)
    rates = {name: total / samples for name, total in after.items()}
    return Measured(
        of="on the test data",
        accuracy=Accuracy(quantized=right["quantized"] / samples, emulated=right["emulated"] / samples, test_samples=samples),
        rates=rates,
        changed=changed_rates({name: total / samples for name, total in before.items()}, rates),
        overflows=dict(overflows),
    )


def tried(network: Network, quantized: QuantizedNetwork) -> Measured:
    """Run random spikes through the network in floats and in the chip's integers, where there is no data to ask."""
    spikes = random_spikes(network.input_shape, n_samples=8, n_steps=32)
    emulated = simulate(quantized, spikes, record="all")
    before = simulate(network, spikes, record="all").rates()
    return Measured(
        of="on random input spikes",
        accuracy=Accuracy(),
        rates=emulated.rates(),
        changed=changed_rates(before, emulated.rates()),
        overflows=dict(emulated.overflows),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stretch:
    """The first samples of the held-out data, to be looked at spike by spike.

    Attributes
    ----------
    spikes : array (n_samples, \\*input_shape, n_steps)
        uint8, or in levels, int32.
    labels : array (n_samples,)
    """

    spikes: NDArray[Any]
    labels: NDArray[np.int64]

    @property
    def rate(self) -> float:
        """Share of inputs and steps with a spike, 0..1."""
        return float((self.spikes != 0).mean())


def stretch_of(model: torch.nn.Module, data: Data, options: FitOptions, n_samples: int) -> Stretch:
    """The first `n_samples` of the data, or all where there are fewer."""
    inputs, labels = [], []
    for x, y in data:
        inputs.append(torch.as_tensor(x))
        labels.append(np.asarray(y))
        if sum(map(len, labels)) >= n_samples:  # batches may be slow to read
            break
    spikes = for_simulator(torch.cat(inputs)[:n_samples], model, options)
    return Stretch(spikes=spikes, labels=np.concatenate(labels)[:n_samples])


def check_in_lava(
    stretch: Stretch,
    emulated: SpikeRecord,
    network: Network,
    quantized: QuantizedNetwork,
    options: FitOptions,
    time_limit_s: float,
) -> tuple[float, Comparison, SpikeRecord]:
    """Run a stretch in Lava: its accuracy there, how it compares with the emulator, and its record."""
    graded = levels_of(options.encoder) > 1
    lava = simulate(quantized, stretch.spikes, end="lava", record="all", graded=graded, time_limit_s=time_limit_s)
    return _hits(lava, quantized, network, stretch.labels, options) / len(stretch.labels), compare(emulated, lava), lava


def for_simulator(inputs: torch.Tensor, model: torch.nn.Module, options: FitOptions) -> NDArray[Any]:
    """A batch of training inputs as a simulator takes them: spikes (batch, \\*shape, n_steps); see `for_simulators`."""
    return for_simulators(spikes_of(inputs, model, options), levels_of(options.encoder))


def outputs(record: SpikeRecord, network: Network | QuantizedNetwork, rest: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the last layer says, in the trained model's units: membranes of a readout, spikes of firing neurons.

    Parameters
    ----------
    rest : array () or (n_out,)
        What the model's own membrane is more than the chip's; the reference has it added already.

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
        scale = np.where(network.output.scale > 0, network.output.scale, 1.0)  # of a foreign file nobody knows it
        exponent = arithmetic_named(network.target).registers.weight_exponent
        v = v / np.reshape(scale * (1 << exponent), (-1, 1))
    return v + np.reshape(rest, (-1, 1))


def _hits(
    record: SpikeRecord, network: Network | QuantizedNetwork, model: Network, labels: NDArray[np.int64], options: FitOptions
) -> int:
    return int(np.count_nonzero(decide(outputs(record, network, model.output.neuron.rest), options.readout) == labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class LavaCheck:
    """How a stretch in Lava's simulator compared with the emulator.

    Attributes
    ----------
    steps : int
        Steps run, over all samples.
    mismatches : int
        Spikes and membranes of any layer that differed.
    """

    steps: int
    mismatches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """A layer: what it uses now, what it may use, and what it needed before compression."""

    now: LayerUse
    connectivity: float
    budget: LayerBudget | None = None
    before: LayerUse | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of an entry of ``layers``."""
        use = _use_json(self.now)
        return {
            "name": self.now.layer,
            "neurons": use.pop("neurons"),
            "synapses": use.pop("synapses"),
            "connectivity": self.connectivity,
            **use,
            "before": None if self.before is None else _use_json(self.before),
            "budget": None if self.budget is None else {k: v for k, v in asdict(self.budget).items() if k != "layer"},
        }


def _use_json(use: LayerUse) -> dict[str, Any]:
    return {
        "neurons": use.neurons,
        "synapses": use.synapses,
        "weight_bits": use.weight_bits,
        "encoding": use.encoding,
        "fan_in": use.fan_in,
        "delay_steps": use.delay_steps,
        "synapse_memory_bits": use.synapse_memory_bits,
        "input_axons": use.input_axons,
        "output_axons": use.output_axons,
        "cores": use.cores,
        "slices": use.slices,
    }


def board_json(placement: Placement) -> dict[str, Any]:
    """What a report says of a placement's cores, their resources, traffic and cost; None for what is not known."""
    mean = placement.mean_utilization()
    fullest = dict(zip(placement.resources, placement.utilizations().max(axis=0).tolist(), strict=True))
    traffic, estimate = placement.traffic(), None
    if traffic is not None:
        estimate = traffic.estimate()
    return {
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
