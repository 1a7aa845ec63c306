"""How a model goes through time: step by step, or layer by layer where it is a plain chain of Norse's.

What a model answers.
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

# -------------------- training.running

_TIMELESS = (
    torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.AvgPool1d, torch.nn.AvgPool2d, torch.nn.MaxPool1d,
    torch.nn.MaxPool2d, torch.nn.Flatten, torch.nn.Unflatten, torch.nn.Identity,
)  # fmt: skip
"""What does with a sample the same at every step, so with all steps at once."""


def run_model(model: torch.nn.Module, spikes: torch.Tensor, live: ActiveNeurons = MappingProxyType({})) -> torch.Tensor:
    """Run a model through time from its initial state.

    A plain Norse `SequentialState` is run layer by layer instead of step by step: weights on all steps at once, the same sums in
    larger matrix products up to rounding (on one step alone, where all share its memory), neurons by `neurons.run`.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``output, state = model(x, state)`` with x (batch, \\*shape); its state is None at the start.
    spikes : tensor (batch, n_steps, \\*shape)
    live : mapping of Linear to Few, optional
        The neurons that have to be calculated, where others answer nothing that anybody hears; those get no gradient.

    Returns
    -------
    tensor (n_steps, batch, n_out)

    Raises
    ------
    TrainingError
        The model does not take its input so, or does not return an output and a state.
    """
    try:
        outputs = _by_layer(model, spikes, live) if _is_plain_chain(model) else _by_step(model, spikes)
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


def _is_plain_chain(model: torch.nn.Module) -> bool:
    return (
        type(model) is SequentialState
        and not (model.return_hidden or _is_listened_to(model))
        and all(stateful or isinstance(module, _TIMELESS) for module, stateful in zip(model, model.stateful_layers, strict=True))
    )


def _is_listened_to(module: torch.nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _by_layer(model: SequentialState, spikes: torch.Tensor, live: ActiveNeurons) -> torch.Tensor:
    signal, few = spikes.movedim(1, 0), None
    for module, stateful in zip(model, model.stateful_layers, strict=True):
        if few is not None and not _takes_few(module, signal, stateful=stateful):
            signal, few = few.spread(signal), None
        neurons = neurons_of(module, signal) if stateful else None
        if neurons is not None:
            signal = run(neurons, signal)
        elif stateful:
            signal = _by_step(module, signal.movedim(0, 1))
        elif _is_plain(module):
            own = live.get(module)
            signal, few = _at_all_steps(_weights(module, few, own), signal), own
        else:
            signal = _at_all_steps(module, signal)
    return signal if few is None else few.spread(signal)


def _is_plain(module: torch.nn.Module) -> bool:
    return type(module) is torch.nn.Linear and not _is_listened_to(module)


def _takes_few(module: torch.nn.Module, signal: torch.Tensor, *, stateful: bool) -> bool:
    """Whether the answer is the same, but for zeros, if only some of the neurons before, or its own, are there."""
    if not stateful:
        return _is_plain(module)
    neurons = neurons_of(module, signal)
    return neurons is not None and neurons.rest


def _weights(
    module: torch.nn.Module, before: NeuronSubset | None, own: NeuronSubset | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module, with only some of the neurons that it hears and of its own."""
    if before is None and own is None:
        return module
    weight, bias = module.weight, module.bias
    if own is not None:
        weight, bias = weight.index_select(0, own.numbers), None if bias is None else bias.index_select(0, own.numbers)
    if before is not None:
        weight = weight.index_select(1, before.numbers)
    return partial(torch.nn.functional.linear, weight=weight, bias=bias)


def _at_all_steps(function: Callable[[torch.Tensor], torch.Tensor], signal: torch.Tensor) -> torch.Tensor:
    """What does the same at every step, once where all steps share their memory."""
    if signal.stride(0) == 0:
        once = function(signal[0])
        return once.expand(len(signal), *once.shape)
    answers = function(signal.flatten(0, 1))
    return answers.view(*signal.shape[:2], *answers.shape[1:])


# -------------------- training.inference

Data: TypeAlias = "Iterable[tuple[torch.Tensor, torch.Tensor]]"
"""Batches (input, target) that can be gone through again and again."""

_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_WEIGHTS = (torch.nn.Linear, LIFRecurrentCell, *_CONVOLUTIONS)
_PREDICT_BATCH = 512


def spikes_of(inputs: Any, model: torch.nn.Module, options: FitOptions) -> torch.Tensor:
    """Inputs as spikes (batch, n_steps, \\*shape), on the model's device: coded if they are images, checked if in time.

    The model's first weights tell the two apart: a `Linear`, or a recurrent cell, by how many values it takes, which it gets
    flattened; a convolution by its channels and sides.

    Raises
    ------
    DataError
        Inputs that are neither, or that hold values which no spikes come from.
    """
    if not isinstance(inputs, (torch.Tensor, np.ndarray)):
        raise DataError("inputs", f"are {type(inputs).__name__}, not a tensor or an array")
    tensor = torch.as_tensor(inputs).to(next(model.parameters()).device)
    first = next((module for module in model.modules() if isinstance(module, _WEIGHTS)), None)
    if first is None:
        raise TrainingError("model", "has no Linear module, recurrent cell or convolution, so nothing to train or compress")
    if _fits(tensor.shape[1:], first):
        return encode(_as_taken(tensor, 1, first), options.n_steps, options.encoder)
    if _fits(tensor.shape[2:], first):
        return check_spikes(_as_taken(tensor, 2, first).to(torch.float32), "inputs")
    values = _values(first)
    takes = f"{first.in_channels} channels" if values is None else f"{values} values"
    raise DataError(
        "inputs", f"have shape {tuple(tensor.shape)}, but the model's first layer takes {takes}",
        remedy="Give images (batch, *shape) or spikes (batch, n_steps, *shape).",
    )  # fmt: skip


def _values(first: torch.nn.Module) -> int | None:
    """How many values weights take that take rows of them; None for those of a convolution."""
    if isinstance(first, LIFRecurrentCell):
        return int(first.input_weights.shape[1])
    return first.in_features if isinstance(first, torch.nn.Linear) else None


def _fits(shape: torch.Size, first: torch.nn.Module) -> bool:
    """Whether something of this shape is what the model's first weights take in a step."""
    if (values := _values(first)) is not None:
        return len(shape) > 0 and shape.numel() == values
    assert isinstance(first, _CONVOLUTIONS)
    return len(shape) == 1 + len(first.kernel_size) and shape[0] == first.in_channels


def _as_taken(tensor: torch.Tensor, axis: int, first: torch.nn.Module) -> torch.Tensor:
    return tensor if _values(first) is None else tensor.flatten(axis)


def predict(model: torch.nn.Module, inputs: torch.Tensor | NDArray[Any], options: FitOptions) -> NDArray[np.int64]:
    """The class of every input, array (batch,); inputs as in `spikes_of`."""
    with in_mode(model, training=False):
        parts = [inputs[start : start + _PREDICT_BATCH] for start in range(0, len(inputs), _PREDICT_BATCH)]
        answers = [read_out(run_model(model, spikes_of(part, model, options)), options.readout) for part in parts]
    classes: NDArray[np.int64] = torch.cat(answers).argmax(dim=1).cpu().numpy() if answers else np.zeros(0, dtype=np.int64)
    return classes


def evaluate(model: torch.nn.Module, data: Data, options: FitOptions) -> tuple[float, int]:
    """Accuracy in 0..1, and on how many samples.

    Raises
    ------
    DataError
        No samples, or targets that are no classes.
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
    """`DataError` for targets that are not one class a sample, each within 0..n_classes-1 where that is known."""
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool or target.ndim != 1:
        raise DataError("targets", f"are {str(target.dtype)[6:]} of shape {tuple(target.shape)}, not whole numbers (batch,)")
    if len(target) != n_samples:
        raise DataError("targets", f"are {len(target)} for {n_samples} inputs")
    if n_classes is not None and len(target) and not 0 <= int(target.min()) <= int(target.max()) < n_classes:
        worst = int(target.min()) if int(target.min()) < 0 else int(target.max())
        raise DataError("targets", f"class {worst} is outside 0..{n_classes - 1}, the model's outputs")


@contextmanager
def in_mode(model: torch.nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode; every module's own mode comes back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        with torch.set_grad_enabled(training):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
