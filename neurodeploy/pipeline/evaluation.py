"""Accuracy of a network on data; for one in the chip's integers also sparsity, synaptic operations, rates and latency.

`evaluate` is for one network; `measure` and `check_in_lava` are for the stages of a deployment, from floats to Lava.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sized
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from neurodeploy.compression.pruning_method import Pruning
from neurodeploy.errors import DataError, RequestError, check_arguments, counted
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import COUNTING_ONLY, QuantizedNetwork, fires, is_sigma_delta, no_sigma_delta
from neurodeploy.passes.dead_neurons import silent_layers
from neurodeploy.passes.quantize import dequantize, with_rounded_weights
from neurodeploy.report.summary import Accuracy
from neurodeploy.simulation.records import Comparison, MemoryPrice, RateChange, SpikeRecord, changed_rates, compare
from neurodeploy.targets import arithmetic_named, target_named
from neurodeploy.targets.simulate import random_spikes, simulate
from neurodeploy.training import forward
from neurodeploy.training.distributed import seeded
from neurodeploy.training.encoders import (
    Readout,
    check_labels,
    check_spikes,
    decide,
    for_simulators,
    levels_of,
    order_remedy,
    read_out,
    simulator_spikes,
    spikes_of,
)
from neurodeploy.training.forward import Data, batches_of, in_mode, run_model
from neurodeploy.training.options import FitOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Result of `evaluate`; the first five fields have NeuroBench's names and definitions (Yik et al. 2025).

    Attributes
    ----------
    classification_accuracy : float
        Share of samples that were classified correctly, 0..1.
    activation_sparsity : float
        Share of neurons and steps without a spike, 0..1, over layers that can fire.
    synaptic_operations : dict
        Mean per sample: ``"Effective_ACs"``, accumulates, one for each spike and nonzero weight that it meets;
        ``"Effective_MACs"``, the same for graded input, and 0 where spikes are 0 or 1; ``"Dense"``, all pairs of neurons that
        weights could connect, in every step.
    connection_sparsity : float
        Share of weights that are zero, 0..1.
    footprint : int
        Bytes of the weights at their widths, zeros included, plus two bytes for each bias of a layer that has any. A chip's
        encoding of them is counted by the resource model.
    rates : dict of layer to float
        Spikes per neuron and step of the layers that fire.
    latency_steps : float
        Mean number of steps after which the predicted class does not change any more.
    overflows : dict of layer to int
        Number of times that states overflowed 24 bits.
    n_samples, n_steps : int
    seconds : float
        Wall time in the emulator.
    silent : list of str
        Layers that can fire, and never did; readouts that no spike can reach.
    """

    classification_accuracy: float
    activation_sparsity: float
    synaptic_operations: dict[str, float]
    connection_sparsity: float
    footprint: int
    rates: dict[str, float]
    latency_steps: float
    overflows: dict[str, int]
    n_samples: int
    n_steps: int
    seconds: float
    silent: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        of = self.synaptic_operations
        lines = [
            f"Accuracy {self.classification_accuracy:.2%} on {counted(self.n_samples, 'sample')}; the predicted class is final "
            f"after {self.latency_steps:.1f} of {self.n_steps:,} steps.",
            f"Synaptic operations per sample: {of['Effective_ACs']:,.0f} accumulates and {of['Effective_MACs']:,.0f} "
            f"multiply-accumulates; {of['Dense']:,.0f} if all were dense.",
            f"Sparsity: {self.activation_sparsity:.2%} of activations, {self.connection_sparsity:.2%} of weights. "
            f"Footprint: {self.footprint:,} bytes, zeros included.",
            *(f"{name!r}: {rate:.4f} spikes per neuron and step" for name, rate in self.rates.items()),
            *(f"{name!r}: {counted(times, 'overflow')} of 24 bits" for name, times in self.overflows.items() if times),
            *(f"{name!r} is silent: none of its neurons ever fired, or no spike can reach it." for name in self.silent),
            f"{self.seconds:.2f} s in the emulator.",
        ]
        return "\n".join(lines)


@overload
def evaluate(
    network: QuantizedNetwork, data: Data, options: FitOptions, *, device: str | None = None, progress: bool = True
) -> Evaluation: ...
@overload
def evaluate(network: torch.nn.Module, data: Data, options: FitOptions) -> tuple[float, int]: ...
@check_arguments
def evaluate(
    network: QuantizedNetwork | torch.nn.Module,
    data: Data,
    options: FitOptions,
    *,
    device: str | None = None,
    progress: bool = True,
) -> Evaluation | tuple[float, int]:
    """Run data through a network and measure its accuracy.

    Parameters
    ----------
    network : QuantizedNetwork or torch.nn.Module
    data : batches (input, target)
        Images (batch, \\*shape), which are encoded, or spikes (batch, n_steps, \\*shape).
    options : FitOptions
        Readout, encoder and n_steps are used.
    device : str, optional
        A torch device for the emulator, as in `neurodeploy.simulate`; a model runs where its parameters are.
    progress : bool
        Show a progress bar on a terminal, for a quantised network.

    Returns
    -------
    Evaluation, or, for a torch model, accuracy in 0..1 and number of samples

    Raises
    ------
    DataError
        No samples, inputs of another size, or targets that are not class indices.
    RequestError
        A device that does not exist, or one for a torch model.
    """
    if not isinstance(network, QuantizedNetwork):
        if device is not None:
            raise RequestError("device", "is for quantised networks", remedy=f"Move the model instead: model.to({device!r}).")
        return forward.evaluate(network, data, options)
    if is_sigma_delta(network):
        raise no_sigma_delta("evaluate", "which take numbers, and data are encoded as spikes here")
    total = _EvaluationTotal(network, device, levels_of(options.encoder) > 1)
    console = Console(stderr=True)
    with Progress(console=console, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task("evaluate", total=len(data) if isinstance(data, Sized) else None)
        for inputs, target in batches_of(data):
            labels = target.cpu()
            check_labels(labels, len(inputs), None)
            total.add(spikes_into(network, inputs, options), labels.numpy(), options.readout)
            bar.advance(task)
    return total.evaluation()


def spikes_into(network: QuantizedNetwork, inputs: Any, options: FitOptions) -> NDArray[Any]:
    """Inputs as spikes (batch, \\*input_shape, n_steps): images are encoded, spikes (batch, n_steps, \\*shape) transposed.

    Their levels are those of the options' encoder.
    """
    tensor = torch.as_tensor(inputs)
    batch, size = len(tensor), tensor[0:1].numel()
    # one sample's size tells the two apart
    if size == network.n_inputs:
        return simulator_spikes(tensor.reshape(batch, *network.input_shape), options.n_steps, options.encoder)
    if tensor.ndim < 3 or tensor[0:1, 0].numel() != network.n_inputs:
        raise DataError(
            "inputs", f"have shape {tuple(tensor.shape)}, but the network takes {counted(network.n_inputs, 'value')}",
            remedy=order_remedy(tensor.ndim > 2 and tensor[0:1, ..., 0].numel() == network.n_inputs),
        )  # fmt: skip
    spikes = check_spikes(tensor.reshape(batch, -1, *network.input_shape), "input")
    return for_simulators(spikes, levels_of(options.encoder))


class _EvaluationTotal:
    """Sums over the batches that were run so far."""

    def __init__(self, network: QuantizedNetwork, device: str | None, graded: bool) -> None:
        self.network, self.target, self.graded = network, target_named(network.target), graded
        # left out, not None: a target's emulator need not know of devices
        self.options: dict[str, Any] = {} if device is None else {"device": device}
        self.fan_out = [(c.source, c.synapse.fan_out()) for layer in network for c in layer.connections]
        self.right = self.samples = self.steps = self.latency = 0
        self.operations, self.seconds = Counter[str](), 0.0
        self.fired, self.overflows = Counter[str](), Counter[str]()

    def add(self, spikes: NDArray[Any], labels: NDArray[np.int64], readout: Readout) -> None:
        started = time.perf_counter()
        record = self.target.emulate(self.network, spikes, **self.options)
        self.seconds += time.perf_counter() - started
        output = outputs(record, self.network, np.array(0.0))
        self.right += int(np.count_nonzero(decide(output, readout) == labels))
        self.latency += int(steps_to_decision(output, readout).sum())
        self.samples, self.steps = self.samples + len(labels), self.steps + len(labels) * record.n_steps
        # a graded spike is one event, whatever its value
        counts = {INPUT: np.count_nonzero(spikes, axis=-1)} | dict(record.counts)
        per_neuron = {name: array.sum(axis=0, dtype=np.int64).reshape(-1) for name, array in counts.items()}
        for source, fan_out in self.fan_out:
            # only input can be graded: neurons send 0 or 1
            kind = "Effective_MACs" if source == INPUT and self.graded else "Effective_ACs"
            # fan-out counts nonzero weights only, so operations on zeros are not effective ones
            self.operations[kind] += int(per_neuron[source] @ fan_out)
        self.fired.update({name: int(per_neuron[name].sum()) for name in record.counts})
        self.overflows.update(record.overflows)

    def evaluation(self) -> Evaluation:
        if not self.samples:
            raise DataError("data", "holds no samples")
        chances = {layer.name: layer.n_neurons * self.steps for layer in self.network}
        # a layer whose membrane is read is neither active nor silent
        firing = [layer.name for layer in self.network if fires(layer.neuron)]
        unreached = [name for name in silent_layers(self.network) if name not in firing]
        operations = Counter(Dense=sum(layer.n_pairs for layer in self.network) * self.steps) + self.operations
        return Evaluation(
            classification_accuracy=self.right / self.samples,
            activation_sparsity=1 - sum(self.fired[n] for n in firing) / max(1, sum(chances[n] for n in firing)),
            synaptic_operations={kind: operations[kind] / self.samples for kind in ("Effective_MACs", "Effective_ACs", "Dense")},
            connection_sparsity=1 - self.network.connectivity, footprint=footprint(self.network),
            rates={name: self.fired[name] / chances[name] for name in firing},
            latency_steps=self.latency / self.samples,
            overflows=dict(self.overflows), n_samples=self.samples, n_steps=self.steps // self.samples, seconds=self.seconds,
            silent=[*(name for name in firing if not self.fired[name]), *unreached],
        )  # fmt: skip


def footprint(network: QuantizedNetwork) -> int:
    """Bytes of weights and biases, as `Evaluation.footprint` says."""
    bits = sum(c.synapse.weight.size * layer.weight_bits for layer in network for c in layer.connections)
    biases = sum(layer.bias.size for layer in network if layer.bias.any())
    # rounded up to whole bytes
    return -(-bits // 8) + 2 * biases


def steps_to_decision(output: NDArray[np.float64], readout: Readout) -> NDArray[np.int64]:
    """Number of steps after which the class read from an output (batch, n_out, n_steps) is final.

    Returns
    -------
    array (batch,)
        At least 1.
    """
    if readout == "max":
        decisions = np.maximum.accumulate(output, axis=-1).argmax(axis=1)
    # the mean so far decides as the sum so far
    elif readout in ("sum", "mean"):
        decisions = np.cumsum(output, axis=-1).argmax(axis=1)
    elif readout == "last":
        decisions = output.argmax(axis=1)
    else:  # a function of the caller's, which may use all steps so far
        decisions = np.stack([decide(output[..., :t], readout) for t in range(1, output.shape[-1] + 1)], axis=-1)
    other = decisions != decisions[:, -1:]
    # The last step that decides otherwise, found from the end, and one more.
    return np.where(other.any(axis=1), output.shape[-1] - other[:, ::-1].argmax(axis=1) + 1, 1).astype(np.int64)


# ---------------------------------------------------------------------------------------------- stages of a deployment


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
    for inputs, target in batches_of(data):
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
    # a readout's membrane is read: it has no rate
    rates = {layer.name: after[layer.name] / samples for layer in runnable if fires(layer.neuron)}
    return Measurement(
        of="on the test data",
        accuracy=Accuracy(
            quantized=right["quantized"] / samples, emulated=right["emulated"] / samples if runs else None, test_samples=samples
        ),
        rates=rates,
        changed=changed_rates({name: before[name] / samples for name in rates}, rates),
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
    for x, y in batches_of(data):
        inputs.append(x)
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
) -> tuple[dict[str, Any], Comparison, SpikeRecord]:
    """Run recorded samples in Lava: fields of `Accuracy`, the comparison with the emulator, and Lava's record."""
    graded = levels_of(options.encoder) > 1
    end = target_named(quantized.target).simulators[0]
    lava = simulate(quantized, samples.spikes, end=end, record="all", graded=graded, time_limit_s=time_limit_s)
    n = len(samples.labels)
    right = [count_correct(record, quantized, network, samples.labels, options) for record in (emulated, lava)]
    shares = {"emulated_on_lava_samples": right[0] / n, "lava": right[1] / n, "lava_samples": n}
    return shares, compare(emulated, lava), lava


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
    if fires(layer.neuron):
        return record.spikes[layer.name].reshape(record.n_samples, -1, record.n_steps).astype(np.float64)
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


# ---------------------------------------------------------------------------------------------- price of a core's memory

_REMOVED_SHARE = 0.05
"""Share of a core's used synapse memory that `memory_prices` removes."""
# these two bound the time: each core costs a forward pass over the batches
_MOST_BATCHES = 16
_MOST_CORES = 8


def memory_prices(model: torch.nn.Module, pruning: Pruning, data: Data, options: FitOptions) -> tuple[MemoryPrice, ...]:
    """Measure how the loss grows where a core has a little less synapse memory, for up to eight cores where memory binds.

    The multipliers of the compression are prices in squared weight times mean curvature. A user wants a price in loss, so the
    least valuable synapses of one core at a time are removed and the loss is taken again, without training.

    Parameters
    ----------
    model : torch.nn.Module
        Trained under `pruning`, which is closed; it is left as it was.
    data : iterable of (input, target)
        The first 16 batches are used.
    """

    @torch.no_grad()
    def mean_loss() -> tuple[float, int]:
        total, samples = 0.0, 0
        # seeded: an encoder that draws has to draw the same in all trials
        with seeded(options.seed), pruning.in_force(), in_mode(model, training=False):
            for inputs, target in islice(data, _MOST_BATCHES):
                output = read_out(run_model(model, spikes_of(inputs, model, options)), options.readout)
                labels = torch.as_tensor(target).to(output.device)
                total += float(options.loss(output, labels if labels.is_floating_point() else labels.long())) * len(inputs)
                samples += len(inputs)
        return total / max(samples, 1), samples

    found, before = [], None
    for trial in islice(pruning.memory_trials(_REMOVED_SHARE), _MOST_CORES):
        # measured once, and only if there is a core to try
        before = mean_loss() if before is None else before
        with trial.apply() as bits_less:
            # memory comes in units: a small share may free none
            if bits_less > 0:
                after, samples = mean_loss()
                found.append(MemoryPrice(
                    core=trial.core, layers=trial.layers, bits_less=bits_less, loss=before[0], loss_with_less=after,
                    samples=samples,
                ))  # fmt: skip
    return tuple(found)
