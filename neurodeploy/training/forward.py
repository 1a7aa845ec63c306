"""Forward pass of a model through time, predictions and accuracy.

A `TrainableNetwork` and a plain chain of Norse's run layer by layer, all steps of a layer at once; any other model runs step
by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from norse.torch import SequentialState
from norse.torch.functional.leaky_integrator import li_feed_forward_step
from norse.torch.functional.leaky_integrator_box import li_box_feed_forward_step
from norse.torch.functional.lif import lif_feed_forward_step
from norse.torch.functional.lif_box import lif_box_feed_forward_step
from norse.torch.functional.reset import reset_value
from norse.torch.module.leaky_integrator import LICell
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.module.lif import LIFCell
from norse.torch.module.lif_box import LIFBoxCell
from numpy.typing import NDArray

from neurodeploy.compression.pruning_method import ActiveNeurons, NeuronSubset
from neurodeploy.compression.trainable_network import TrainableConnection, TrainableLayer, TrainableNetwork, input_gain
from neurodeploy.errors import DataError, TrainingError, unsupported_kind
from neurodeploy.frontends.torch.model_run import at_rest, n_states, states_of
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import Conv, Dense, Sparse, max_spikes_of, reset_of, threshold_of
from neurodeploy.passes.dead_neurons import is_depthwise
from neurodeploy.training.encoders import check_labels, read_out, spikes_of
from neurodeploy.training.neurons import NeuronParameters, run, run_recurrent
from neurodeploy.training.options import FitOptions

_TIMELESS = (
    torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.AvgPool1d, torch.nn.AvgPool2d, torch.nn.MaxPool1d,
    torch.nn.MaxPool2d, torch.nn.Flatten, torch.nn.Unflatten, torch.nn.Identity,
)  # fmt: skip
"""Modules without state: they take all steps at once, as one larger batch."""


_STEPS: dict[type[torch.nn.Module], Callable[..., Any]] = {
    LIFCell: lif_feed_forward_step,
    LIFBoxCell: lif_box_feed_forward_step,
    LICell: li_feed_forward_step,
    LIBoxCell: li_box_feed_forward_step,
}
_NUMBERS = ("tau_mem_inv", "tau_syn_inv", "v_leak", "v_th", "v_reset")


def run_model(model: torch.nn.Module, spikes: torch.Tensor, active: ActiveNeurons = MappingProxyType({})) -> torch.Tensor:
    """Run a model through time from its initial state.

    A `TrainableNetwork` and a plain Norse `SequentialState` are run layer by layer instead of step by step: weights on all steps
    at once, the same sums up to rounding (on one step alone where all steps share their memory), and neurons by `neurons.run`.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``output, state = model(x, state)`` with x (batch, \\*shape), its state None at the start; or with any number
        of states; or as ``output = model(x)`` where it keeps its states itself.
    spikes : tensor (batch, n_steps, \\*shape)
    active : mapping of layer to NeuronSubset, optional
        Neurons of a `TrainableNetwork` to calculate, of layers whose other neurons do not change the output; those get no
        gradient.

    Returns
    -------
    tensor (n_steps, batch, n_out)

    Raises
    ------
    TrainingError
        The model does not take this input, or does not return an output and a state.
    """
    try:
        if isinstance(model, TrainableNetwork):
            outputs = _NetworkRun(model, active).run(spikes)
        elif hasattr(model, "step_shape"):  # takes all steps at once
            outputs = model(spikes)
        else:
            outputs = _run_chain(model, spikes) if _is_plain_chain(model) else _by_step(model, spikes)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        takes = "model(x, state) with x of that shape and return (output, state)"
        if isinstance(model, TrainableNetwork):
            takes = f"steps of the shape {model.network.input_shape}: give data of that shape"
        raise TrainingError(
            "model", f"failed on spikes {tuple(spikes.shape[:1] + spikes.shape[2:])} of a step ({reason})",
            remedy=f"It has to take {takes}.",
        ) from error  # fmt: skip
    if outputs.ndim != 3:
        raise TrainingError("model", f"returned a step of shape {tuple(outputs.shape[1:])}, not (batch, n_out)")
    return outputs


def _by_step(model: torch.nn.Module, spikes: torch.Tensor) -> torch.Tensor:
    """Call a model as it is extracted: with its states, one state, or none where it keeps them itself."""
    if type(model).forward is torch.nn.Sequential.forward:
        model = SequentialState(*model)  # as it is extracted: cells that take a state get theirs, the others keep it
    n_taken, outputs = n_states(model), []
    states: Sequence[Any] = (None,) if n_taken == 1 else ()
    with at_rest(model, len(spikes)):
        for step in spikes.unbind(dim=1):
            answer = model(step, *states)
            states = states_of(model, answer)
            outputs.append(answer[0] if isinstance(answer, (tuple, list)) else answer)
    return torch.stack(outputs)


def _has_hooks(module: torch.nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_plain_chain(model: torch.nn.Module) -> bool:
    return (
        # type() and not isinstance: a subclass may have a forward of its own
        type(model) is SequentialState
        and not (model.return_hidden or _has_hooks(model))
        and all(stateful or isinstance(module, _TIMELESS) for module, stateful in zip(model, model.stateful_layers, strict=True))
    )


def _run_chain(model: SequentialState, spikes: torch.Tensor) -> torch.Tensor:
    """Run a plain chain layer by layer."""
    # time first, so that `flatten(0, 1)` makes one batch of all steps
    signal = spikes.movedim(1, 0)
    for module, stateful in zip(model, model.stateful_layers, strict=True):
        if not stateful:
            signal = _at_all_steps(module, signal)
        elif (neurons := neurons_of(module, signal)) is not None:
            signal = run(neurons, signal)
        else:
            signal = _by_step(module, signal.movedim(0, 1))
    return signal


def neurons_of(cell: torch.nn.Module, inputs: torch.Tensor) -> NeuronParameters | None:
    """Parameters of a cell for `neurons.run` on inputs (n_steps, batch, \\*shape); None where only the module itself is exact.

    None for other modules than Norse's LIFCell, LIFBoxCell, LICell and LIBoxCell; for parameters that learn or differ between
    samples, another surrogate gradient than SuperSpike, another reset than to a value, and modules with hooks.
    """
    if type(cell) not in _STEPS or not inputs.is_floating_point() or _has_hooks(cell):  # type(): a subclass computes anything
        return None
    module = cast("Any", cell)
    numbers = {name: getattr(module.p, name) for name in _NUMBERS if hasattr(module.p, name)}
    usual = (
        module.activation is _STEPS[type(cell)]
        # Norse's other surrogate gradients have no formula here
        and getattr(module.p, "method", "super") == "super"
        and getattr(module.p, "reset_method", reset_value) is reset_value
        and all(_broadcasts(number, inputs) for number in numbers.values())
    )
    if not usual:
        return None
    return NeuronParameters(
        gain=module.dt * numbers["tau_mem_inv"],
        leak=numbers["v_leak"],
        # the box cells have no synaptic current
        decay=-module.dt * numbers["tau_syn_inv"] if type(cell) in (LIFCell, LICell) else None,
        threshold=numbers.get("v_th"),
        reset=numbers.get("v_reset"),
        adds_leak=type(cell) is LIFBoxCell,
    )


def _broadcasts(number: Any, inputs: torch.Tensor) -> bool:
    """Whether a parameter is constant, and broadcasts without changing the inputs' shape and type."""
    if not isinstance(number, torch.Tensor) or number.requires_grad or (number.ndim and number.dtype != inputs.dtype):
        return False
    sides = zip(reversed(number.shape), reversed(inputs.shape[2:]), strict=False)
    # - 2: without steps and batch
    return number.ndim <= inputs.ndim - 2 and all(side in (1, wanted) for side, wanted in sides)


def _at_all_steps(function: Callable[[torch.Tensor], torch.Tensor], signal: torch.Tensor) -> torch.Tensor:
    """Apply a function without state to all steps; once, where all steps share their memory."""
    if signal.stride(0) == 0:  # as direct coding makes it: one step's result serves all
        once = function(signal[0])
        return once.expand(len(signal), *once.shape)
    # steps and samples as one batch: one large product is faster than many small ones
    outputs = function(signal.flatten(0, 1))
    return outputs.view(*signal.shape[:2], *outputs.shape[1:])


class _SuperSpike(torch.autograd.Function):
    """Step function of v - threshold, with the gradient 1 / (1 + |x|)^2 (SuperSpike, as Norse has it by default)."""

    @staticmethod
    def forward(ctx: Any, above: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(above)
        return (above > 0).to(above)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (above,) = ctx.saved_tensors
        by_above: torch.Tensor = gradient / above.abs().add(1).square()
        return by_above


class SeveralSpikes(torch.autograd.Function):
    """Spikes of neurons at x thresholds, floor(x) up to a maximum; their gradient is 1 from one threshold to as many as it.

    Beyond, it falls with the square of the distance, as SuperSpike's.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, most)
        return torch.minimum(x.floor().clamp(min=0), most)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, most = ctx.saved_tensors
        distance = (1 - x).clamp(min=0) + (x - most).clamp(min=0)
        return gradient / distance.add(1).square(), None


class _NetworkRun:
    """A `TrainableNetwork` run layer by layer, all steps of a layer at once.

    A signal is (n_steps, batch, n), with the neurons of its subset alone where a layer has one.
    """

    def __init__(self, model: TrainableNetwork, active: ActiveNeurons) -> None:
        self.model, self.active = model, active
        self.signals: dict[str, tuple[torch.Tensor, NeuronSubset | None]] = {}

    def run(self, spikes: torch.Tensor) -> torch.Tensor:
        # time first: all steps of a layer are one larger batch
        signal = spikes.movedim(1, 0)
        if signal.shape[2:].numel() != self.model.network.n_inputs:
            raise ValueError(f"{signal.shape[2:].numel()} values a step, where the network takes {self.model.network.n_inputs}")
        self.signals[INPUT] = signal.flatten(2), None
        for layer in self.model:
            self.signals[layer.layer.name] = self._answer(layer)
        return self._whole(self.model.network.output.name)

    def _whole(self, source: str) -> torch.Tensor:
        signal, subset = self.signals[source]
        if subset is not None:
            self.signals[source] = signal, _ = subset.spread(signal), None
        return signal

    def _answer(self, layer: TrainableLayer) -> tuple[torch.Tensor, NeuronSubset | None]:
        """Spikes of a layer at all steps; membranes of a readout."""
        name, inlets = layer.layer.name, list(layer.inlets)
        if (pooled := self._max_pooled(layer)) is not None:
            return pooled, None
        loops = [c for c in inlets if c.source == name]
        # the fast loops reset to a value, and multiply by matrices
        others = reset_of(layer.layer.neuron) == "by subtraction" or not all(isinstance(c.synapse, Dense) for c in loops)
        by_step = others or layer.decays or layer.membrane_bias is not None or not (layer.layer.neuron.voltage_decay > 0).all()
        is_subset = not (loops or by_step) and all(isinstance(c.synapse, Dense) for c in inlets)
        own = self.active.get(name) if is_subset else None
        drive: torch.Tensor | None = None
        for inlet in inlets:
            if inlet.source != name:
                arriving = self._weighted(inlet, own)
                drive = arriving if drive is None else drive + arriving
        if drive is None:
            first = self.signals[INPUT][0]
            drive = first.new_zeros(*first.shape[:2], layer.layer.n_neurons)
        if layer.bias is not None:
            drive = drive + _of(_spread_bias(layer.bias, layer.layer.n_neurons), own)
        if by_step:
            return _by_recurrence(layer, loops, drive), None
        parameters = neuron_parameters(layer, own)
        factor = layer.scale / input_gain(layer.layer) if parameters.gain.ndim == 0 else layer.scale / parameters.gain
        # the neurons multiply their input by their gain
        scaled = drive if isinstance(factor, float) and factor == 1 else drive * factor
        if not loops:
            return run(parameters, scaled), own
        rows = factor[:, None] if isinstance(factor, torch.Tensor) else factor
        weights = [(loop.expanded(loop.weight) * rows, loop.delay_steps) for loop in loops]
        spikes = run_recurrent(parameters, scaled, weights)
        return _by_recurrence(layer, loops, drive) if spikes is None else spikes, None

    def _max_pooled(self, layer: TrainableLayer) -> torch.Tensor | None:
        """Spikes of a max pooling; None for other layers."""
        inlets, neuron = list(layer.inlets), layer.layer.neuron
        conv = inlets[0].synapse if len(inlets) == 1 else None
        threshold = threshold_of(neuron)
        if not isinstance(conv, Conv) or threshold is None or not inlets[0].is_fixed or inlets[0].delay_steps:
            return None
        memoryless = bool((neuron.current_decay == 1).all() and (neuron.voltage_decay == 1).all())
        any_spike = bool((conv.weight == 1).all() and ((threshold > 0) & (threshold < 1)).all())
        wide = any(2 * padding > side for padding, side in zip(conv.padding, conv.weight.shape[2:], strict=True))
        if wide or not (memoryless and any_spike and is_depthwise(conv)):
            return None
        signal = self._whole(inlets[0].source)
        images = signal.reshape(-1, *conv.input_shape)
        pooled = torch.nn.functional.max_pool2d(images, conv.weight.shape[2:], conv.stride, conv.padding, conv.dilation)
        return pooled.reshape(*signal.shape[:2], -1)

    def _weighted(self, inlet: TrainableConnection, own: NeuronSubset | None) -> torch.Tensor:
        """Weighted spikes of a source at all steps, (n_steps, batch, n_out)."""
        synapse, weight = inlet.synapse, inlet.weight
        signal, subset = self.signals[inlet.source]
        if subset is not None and not (isinstance(synapse, Dense) and inlet.places is None and not inlet.delay_steps):
            signal, subset = self._whole(inlet.source), None
        if inlet.delay_steps:
            early = signal[: max(len(signal) - inlet.delay_steps, 0)]
            signal = torch.cat([signal.new_zeros(len(signal) - len(early), *signal.shape[1:]), early])
        if own is None and subset is None:
            return _at_all_steps(partial(_received, inlet=inlet), signal)
        weight = weight if own is None else weight.index_select(0, own.numbers)
        weight = weight if inlet.places is None else weight.index_select(1, inlet.places)
        weight = weight if subset is None else weight.index_select(1, subset.numbers)
        return _at_all_steps(lambda x: torch.nn.functional.linear(x, weight), signal)


def _of(values: torch.Tensor, subset: NeuronSubset | None) -> torch.Tensor:
    return values if subset is None else values.index_select(0, subset.numbers)


def _spread_bias(bias: torch.Tensor, n_neurons: int) -> torch.Tensor:
    return bias if bias.numel() == n_neurons else bias.repeat_interleave(n_neurons // bias.numel())


def _convolved(spikes: torch.Tensor, inlet: TrainableConnection) -> torch.Tensor:
    """Convolve (batch, n_in) to (batch, n_out)."""
    conv = cast("Conv", inlet.synapse)
    images, weight = spikes.reshape(-1, *conv.input_shape), inlet.weight
    stride, padding = conv.stride, conv.padding
    if (window := inlet.pool_window) is not None:
        # equal taps side by side are average pooling: sums first, since fewer products are left
        images = torch.nn.functional.avg_pool2d(images, window, divisor_override=1)
        weight = weight.reshape(*weight.shape[:2], conv.weight.shape[2] // window[0], conv.weight.shape[3] // window[1])
        stride, padding = (stride[0] // window[0], stride[1] // window[1]), (padding[0] // window[0], padding[1] // window[1])
    else:
        weight = inlet.expanded(weight)
    return torch.nn.functional.conv2d(images, weight.to(images), None, stride, padding, conv.dilation, conv.groups).flatten(1)


def _received(spikes: torch.Tensor, inlet: TrainableConnection) -> torch.Tensor:
    """What spikes (batch, n_in) of one step bring through a connection with all its neurons: (batch, n_out)."""
    match inlet.synapse:
        case Dense():
            return torch.nn.functional.linear(spikes, inlet.expanded(inlet.weight))
        case Conv():
            return _convolved(spikes, inlet)
        case Sparse():
            return _listed(spikes, inlet)
        case _:
            raise unsupported_kind(inlet.synapse)


def _listed(spikes: torch.Tensor, inlet: TrainableConnection) -> torch.Tensor:
    """Multiply (batch, n_in) by a list of synapses, to (batch, n_out)."""
    synapse = cast("Sparse", inlet.synapse)
    targets = torch.from_numpy(np.repeat(np.arange(synapse.n_out), np.diff(synapse.starts))).to(spikes.device)
    sources = torch.from_numpy(synapse.sources.astype(np.int64)).to(spikes.device)
    products = spikes.float().index_select(1, sources) * inlet.weight
    return products.new_zeros(len(spikes), synapse.n_out).index_add(1, targets, products)


def neuron_parameters(layer: TrainableLayer, own: NeuronSubset | None = None) -> NeuronParameters:
    """Parameters of a layer's neurons, whose membranes have to leak, for `neurons.run`."""
    neuron, device = layer.layer.neuron, next(layer.connections.parameters(), torch.zeros(())).device

    def number(values: Floats) -> torch.Tensor:
        tensor = torch.as_tensor(np.asarray(values, dtype=np.float32)).to(device)
        return _of(tensor, own) if tensor.ndim else tensor

    lasts_one_step = bool((neuron.current_decay == 1).all())
    above = threshold_of(neuron)
    threshold, reset = (None, None) if above is None else (number(above + neuron.rest), number(neuron.rest))
    return NeuronParameters(
        gain=number(neuron.voltage_decay), leak=number(neuron.rest),
        decay=None if lasts_one_step else -number(neuron.current_decay), threshold=threshold, reset=reset,
        adds_leak=False,
    )  # fmt: skip


def _by_recurrence(layer: TrainableLayer, loops: Sequence[TrainableConnection], drive: torch.Tensor) -> torch.Tensor:
    """Run neurons step by step, with their own spikes of earlier steps; `drive` is (n_steps, batch, n)."""
    neuron = layer.layer.neuron

    def number(values: Floats | Integers) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.float32)).to(drive.device)

    keeps_u, keeps_v, rest = number(1 - neuron.current_decay), number(1 - neuron.voltage_decay), number(neuron.rest)
    if layer.decays is not None:
        keeps_u, keeps_v = (1 - share for share in layer.decays.shares())
    above = threshold_of(neuron)
    threshold = None if above is None else number(above)
    most = number(max_spikes_of(neuron)) if reset_of(neuron) == "by subtraction" else None
    bias: torch.Tensor | float = 0.0
    if layer.membrane_bias is not None:
        bias = _spread_bias(layer.membrane_bias, layer.layer.n_neurons) * layer.scale
    u = v = torch.zeros_like(drive[0], dtype=torch.float32)
    outputs: list[torch.Tensor] = []
    for step, arriving in enumerate(drive.unbind()):
        for loop in loops:
            # without delay a spike comes back in the next step
            if step > loop.delay_steps:
                before = outputs[step - 1 - loop.delay_steps]
                arriving = arriving + _received(before, loop)
        u = keeps_u * u + arriving.float() * layer.scale
        v = keeps_v * v + u + bias
        if threshold is None:
            outputs.append(v + rest)
            continue
        if most is not None:
            spikes: torch.Tensor = SeveralSpikes.apply(v / threshold, most)  # type: ignore[no-untyped-call]
            v = v - spikes.detach() * threshold
            outputs.append(spikes)
            continue
        fired: torch.Tensor = _SuperSpike.apply(v - threshold)  # type: ignore[no-untyped-call]  # torch has no type for it
        v = (1 - fired) * v
        outputs.append(fired)
    return torch.stack(outputs)


Data: TypeAlias = "Iterable[tuple[torch.Tensor, torch.Tensor]]"
"""Batches (input, target) that can be iterated repeatedly."""

# bounds the memory of a prediction: all steps of a batch are held at once
_PREDICT_BATCH = 512


def predict(model: torch.nn.Module, inputs: torch.Tensor | NDArray[Any], options: FitOptions) -> NDArray[np.int64]:
    """Predict the class of every input, array (batch,); inputs as in `spikes_of`."""
    with in_mode(model, training=False):
        parts = [inputs[start : start + _PREDICT_BATCH] for start in range(0, len(inputs), _PREDICT_BATCH)]
        answers = [read_out(run_model(model, spikes_of(part, model, options)), options.readout) for part in parts]
    classes: NDArray[np.int64] = torch.cat(answers).argmax(dim=1).cpu().numpy() if answers else np.zeros(0, dtype=np.int64)
    return classes


def batches_of(data: Data, where: str = "data") -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each batch as tensors (inputs, targets).

    Raises
    ------
    DataError
        A batch that is no pair of arrays of samples; `where` is what it calls the data.
    """
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(where, f"gave {type(batch).__name__}, not a pair (input, target)")
        try:
            inputs, targets = (torch.as_tensor(part) for part in batch)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(where, f"gave {str(batch)[:60]}, which are not tensors") from error
        if any(part.layout != torch.strided or part.is_meta or not part.ndim for part in (inputs, targets)):
            raise DataError(where, "gave tensors that are no dense arrays of samples")
        yield inputs, targets


def evaluate(model: torch.nn.Module, data: Data, options: FitOptions) -> tuple[float, int]:
    """Measure the accuracy, 0..1; also returns the number of samples.

    Raises
    ------
    DataError
        No samples, or targets that are not classes.
    """
    correct = samples = 0
    for inputs, target in batches_of(data):
        labels = target.cpu()
        check_labels(labels, len(inputs), None)
        correct += int((torch.from_numpy(predict(model, inputs, options)) == labels).sum())
        samples += len(labels)
    if samples == 0:
        raise DataError("data", "holds no samples")
    return correct / samples, samples


@contextmanager
def in_mode(model: torch.nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model in training or evaluation mode while open; every module's own mode comes back afterwards."""
    # module by module: a frozen normalisation may be in evaluation mode within a model in training
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        with torch.set_grad_enabled(training):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
