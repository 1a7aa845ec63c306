"""Forward pass of a model through time, predictions and accuracy.

A plain chain of Norse's runs layer by layer, all steps of a layer at once; any other model runs step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from norse.torch import LIFRecurrentCell, SequentialState
from numpy.typing import NDArray

from neurodeploy.compression.saliency import ActiveNeurons, NeuronSubset
from neurodeploy.errors import DataError, TrainingError
from neurodeploy.training.encoders import check_spikes, encode, read_out
from neurodeploy.training.neuron_cells import neurons_of
from neurodeploy.training.neurons import run
from neurodeploy.training.options import FitOptions

_TIMELESS = (
    torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.AvgPool1d, torch.nn.AvgPool2d, torch.nn.MaxPool1d,
    torch.nn.MaxPool2d, torch.nn.Flatten, torch.nn.Unflatten, torch.nn.Identity,
)  # fmt: skip
"""Modules without state: they take all steps at once, as one larger batch."""


def run_model(model: torch.nn.Module, spikes: torch.Tensor, active: ActiveNeurons = MappingProxyType({})) -> torch.Tensor:
    """Run a model through time from its initial state.

    A plain Norse `SequentialState` is run layer by layer instead of step by step: weights on all steps at once, the same sums up
    to rounding (on one step alone where all steps share their memory), and neurons by `neurons.run`.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``output, state = model(x, state)`` with x (batch, \\*shape); its state is None at the start.
    spikes : tensor (batch, n_steps, \\*shape)
    active : mapping of Linear to NeuronSubset, optional
        Neurons to calculate, of layers whose other neurons do not change the output; those get no gradient.

    Returns
    -------
    tensor (n_steps, batch, n_out)

    Raises
    ------
    TrainingError
        The model does not take this input, or does not return an output and a state.
    """
    try:
        outputs = _ChainRun(active).run(model, spikes) if _is_plain_chain(model) else _by_step(model, spikes)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(
            "model", f"failed on spikes {tuple(spikes.shape[:1] + spikes.shape[2:])} of a step ({reason})",
            remedy="It has to take model(x, state) with x of that shape and return (output, state).",
        ) from error  # fmt: skip
    if outputs.ndim != 3:
        raise TrainingError("model", f"returned a step of shape {tuple(outputs.shape[1:])}, not (batch, n_out)")
    return outputs


def _by_step(model: torch.nn.Module, spikes: torch.Tensor) -> torch.Tensor:
    state, outputs = None, []
    for step in spikes.unbind(dim=1):
        output, state = model(step, state)
        outputs.append(output)
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


class _ChainRun:
    """A chain run layer by layer on the active neurons only.

    Between layers a signal (n_steps, batch, n) has the neurons of `subset` alone, where that is not None.
    """

    def __init__(self, active: ActiveNeurons) -> None:
        self.active = active
        self.subset: NeuronSubset | None = None

    def run(self, model: SequentialState, spikes: torch.Tensor) -> torch.Tensor:
        # time first, so that `flatten(0, 1)` makes one batch of all steps
        signal = spikes.movedim(1, 0)
        for module, stateful in zip(model, model.stateful_layers, strict=True):
            neurons = neurons_of(module, signal) if stateful else None
            is_linear = not stateful and type(module) is torch.nn.Linear and not _has_hooks(module)
            # left-out neurons are zeros: a Linear may skip them, and neurons that stay silent without input need not be run
            skips = is_linear if not stateful else neurons is not None and neurons.is_silent_without_input
            if self.subset is not None and not skips:
                signal, self.subset = self.subset.spread(signal), None
                neurons = neurons_of(module, signal) if stateful else None
            if neurons is not None:
                signal = run(neurons, signal)
            elif stateful:
                signal = _by_step(module, signal.movedim(0, 1))
            # only a plain Linear can leave rows out
            elif is_linear:
                own = self.active.get(module)
                signal, self.subset = self._at_all_steps(self._active_part(module, own), signal), own
            else:
                signal = self._at_all_steps(module, signal)
        return signal if self.subset is None else self.subset.spread(signal)

    def _active_part(self, module: torch.nn.Module, own: NeuronSubset | None) -> Callable[[torch.Tensor], torch.Tensor]:
        """The Linear module with the rows of its active neurons, and the columns of those before it."""
        if self.subset is None and own is None:
            return module
        weight, bias = module.weight, module.bias
        if own is not None:
            weight, bias = weight.index_select(0, own.numbers), None if bias is None else bias.index_select(0, own.numbers)
        if self.subset is not None:
            # the signal has only the active neurons of the layer before: take their columns
            weight = weight.index_select(1, self.subset.numbers)
        return partial(torch.nn.functional.linear, weight=weight, bias=bias)

    @staticmethod
    def _at_all_steps(function: Callable[[torch.Tensor], torch.Tensor], signal: torch.Tensor) -> torch.Tensor:
        """Apply a function without state to all steps; once, where all steps share their memory."""
        if signal.stride(0) == 0:
            # stride 0 in time, as direct coding makes it: one step's result serves all
            once = function(signal[0])
            return once.expand(len(signal), *once.shape)
        # steps and samples as one batch: one large product is faster than many small ones
        outputs = function(signal.flatten(0, 1))
        return outputs.view(*signal.shape[:2], *outputs.shape[1:])


Data: TypeAlias = "Iterable[tuple[torch.Tensor, torch.Tensor]]"
"""Batches (input, target) that can be iterated repeatedly."""

_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_WEIGHTS = (torch.nn.Linear, LIFRecurrentCell, *_CONVOLUTIONS)
# bounds the memory of a prediction: all steps of a batch are held at once
_PREDICT_BATCH = 512


def spikes_of(inputs: Any, model: torch.nn.Module, options: FitOptions) -> torch.Tensor:
    """Convert inputs to spikes (batch, n_steps, \\*shape) on the model's device: encode images, check spikes in time.

    The shape that the model's first weights take tells the two apart: the number of values of a `Linear` or a recurrent cell,
    whose inputs are flattened; the channels and sides of a convolution.

    Raises
    ------
    DataError
        Inputs of another shape, or with values that cannot be encoded.
    """
    if not isinstance(inputs, (torch.Tensor, np.ndarray)):
        raise DataError("inputs", f"are {type(inputs).__name__}, not a tensor or an array")
    tensor = torch.as_tensor(inputs).to(next(model.parameters()).device)
    first = next((module for module in model.modules() if isinstance(module, _WEIGHTS)), None)
    if first is None:
        raise TrainingError("model", "has no Linear module, recurrent cell or convolution, so nothing to train or compress")
    size: int | None = None  # of a row of values; None for a convolution, which takes channels and sides
    if isinstance(first, LIFRecurrentCell):
        size = int(first.input_weights.shape[1])
    elif isinstance(first, torch.nn.Linear):
        size = first.in_features

    def fits(shape: torch.Size) -> bool:
        if size is not None:
            return len(shape) > 0 and shape.numel() == size
        assert isinstance(first, _CONVOLUTIONS)
        return len(shape) == 1 + len(first.kernel_size) and shape[0] == first.in_channels

    if fits(tensor.shape[1:]):
        return encode(tensor if size is None else tensor.flatten(1), options.n_steps, options.encoder)
    if fits(tensor.shape[2:]):
        return check_spikes((tensor if size is None else tensor.flatten(2)).to(torch.float32), "inputs")
    takes = f"{first.in_channels} channels" if size is None else f"{size} values"
    raise DataError(
        "inputs", f"have shape {tuple(tensor.shape)}, but the model's first layer takes {takes}",
        remedy="Give images (batch, *shape) or spikes (batch, n_steps, *shape).",
    )  # fmt: skip


def predict(model: torch.nn.Module, inputs: torch.Tensor | NDArray[Any], options: FitOptions) -> NDArray[np.int64]:
    """Predict the class of every input, array (batch,); inputs as in `spikes_of`."""
    with in_mode(model, training=False):
        parts = [inputs[start : start + _PREDICT_BATCH] for start in range(0, len(inputs), _PREDICT_BATCH)]
        answers = [read_out(run_model(model, spikes_of(part, model, options)), options.readout) for part in parts]
    classes: NDArray[np.int64] = torch.cat(answers).argmax(dim=1).cpu().numpy() if answers else np.zeros(0, dtype=np.int64)
    return classes


def evaluate(model: torch.nn.Module, data: Data, options: FitOptions) -> tuple[float, int]:
    """Measure the accuracy, 0..1; also returns the number of samples.

    Raises
    ------
    DataError
        No samples, or targets that are not classes.
    """
    correct = samples = 0
    for inputs, target in data:
        labels = torch.as_tensor(target).cpu()
        check_labels(labels, len(inputs), None)
        correct += int((torch.from_numpy(predict(model, inputs, options)) == labels).sum())
        samples += len(labels)
    if samples == 0:
        raise DataError("data", "holds no samples")
    return correct / samples, samples


def check_labels(target: torch.Tensor, n_samples: int, n_classes: int | None) -> None:
    """Raise `DataError` for targets that are not one class per sample, within 0..n_classes-1 where that is known."""
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool or target.ndim != 1:
        raise DataError("targets", f"are {str(target.dtype)[6:]} of shape {tuple(target.shape)}, not whole numbers (batch,)")
    if len(target) != n_samples:
        raise DataError("targets", f"are {len(target)} for {n_samples} inputs")
    if n_classes is not None and len(target) and not 0 <= int(target.min()) <= int(target.max()) < n_classes:
        worst = int(target.min()) if int(target.min()) < 0 else int(target.max())
        raise DataError("targets", f"class {worst} is outside 0..{n_classes - 1}, the model's outputs")


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
