"""Accuracy of a network on data; for one in the chip's integers also sparsity, synaptic operations, rates and latency."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from neurodeploy.errors import DataError, RequestError, unsupported_kind
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import QuantizedLI, QuantizedLIF, QuantizedNetwork
from neurodeploy.report.stages import outputs
from neurodeploy.targets import target_named
from neurodeploy.training import forward
from neurodeploy.training.encoders import Readout, check_spikes, decide, for_simulators, levels_of, simulator_spikes
from neurodeploy.training.forward import Data, check_labels
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
        Spikes per neuron and step.
    latency_steps : float
        Mean number of steps after which the predicted class does not change any more.
    overflows : dict of layer to int
        Number of times that states overflowed 24 bits.
    n_samples, n_steps : int
    seconds : float
        Wall time in the emulator.
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

    def __str__(self) -> str:
        of = self.synaptic_operations
        lines = [
            f"Accuracy {self.classification_accuracy:.2%} on {self.n_samples:,} samples; the predicted class is final after "
            f"{self.latency_steps:.1f} of {self.n_steps:,} steps.",
            f"Synaptic operations per sample: {of['Effective_ACs']:,.0f} accumulates and {of['Effective_MACs']:,.0f} "
            f"multiply-accumulates; {of['Dense']:,.0f} if all were dense.",
            f"Sparsity: {self.activation_sparsity:.2%} of activations, {self.connection_sparsity:.2%} of weights. "
            f"Footprint: {self.footprint:,} bytes, zeros included.",
            *(f"{name!r}: {rate:.4f} spikes per neuron and step" for name, rate in self.rates.items()),
            *(f"{name!r}: {times:,} overflows of 24 bits" for name, times in self.overflows.items() if times),
            f"{self.seconds:.2f} s in the emulator.",
        ]
        return "\n".join(lines)


@overload
def evaluate(
    network: QuantizedNetwork, data: Data, options: FitOptions, *, device: str | None = None, progress: bool = True
) -> Evaluation: ...
@overload
def evaluate(network: torch.nn.Module, data: Data, options: FitOptions) -> tuple[float, int]: ...
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
    total = _EvaluationTotal(network, device, levels_of(options.encoder) > 1)
    console = Console(stderr=True)
    with Progress(console=console, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task("evaluate", total=len(data) if isinstance(data, Sized) else None)
        for inputs, target in data:
            labels = torch.as_tensor(target).cpu()
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
            "inputs", f"have shape {tuple(tensor.shape)}, but the network takes {network.n_inputs} values",
            remedy="Give images (batch, *shape) or spikes (batch, n_steps, *shape).",
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
        firing = []
        for layer in self.network:
            match layer.neuron:
                case QuantizedLIF():
                    firing.append(layer.name)
                case QuantizedLI():
                    pass  # its membrane is read, so it is neither active nor silent
                case _:
                    raise unsupported_kind(layer.neuron)
        dense = sum(layer.n_pairs for layer in self.network) * self.steps
        return Evaluation(
            classification_accuracy=self.right / self.samples,
            activation_sparsity=1 - sum(self.fired[n] for n in firing) / max(1, sum(chances[n] for n in firing)),
            synaptic_operations={
                **{kind: self.operations[kind] / self.samples for kind in ("Effective_MACs", "Effective_ACs")},
                "Dense": dense / self.samples,
            },
            connection_sparsity=1 - self.network.connectivity, footprint=footprint(self.network),
            rates={name: self.fired[name] / chances[name] for name in chances},
            latency_steps=self.latency / self.samples,
            overflows=dict(self.overflows), n_samples=self.samples, n_steps=self.steps // self.samples, seconds=self.seconds,
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
