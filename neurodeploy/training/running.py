"""How a model goes through time: step by step, or layer by layer where it is a plain chain of Norse's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import torch
from norse.torch import SequentialState

from neurodeploy.errors import TrainingError
from neurodeploy.training.live import Few, Live
from neurodeploy.training.neurons import neurons_of, run

_TIMELESS = (
    torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.AvgPool1d, torch.nn.AvgPool2d, torch.nn.MaxPool1d,
    torch.nn.MaxPool2d, torch.nn.Flatten, torch.nn.Unflatten, torch.nn.Identity,
)  # fmt: skip
"""What does with a sample the same at every step, so with all steps at once."""


def run_model(model: torch.nn.Module, spikes: torch.Tensor, live: Live = MappingProxyType({})) -> torch.Tensor:
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


def _by_layer(model: SequentialState, spikes: torch.Tensor, live: Live) -> torch.Tensor:
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


def _weights(module: torch.nn.Module, before: Few | None, own: Few | None) -> Callable[[torch.Tensor], torch.Tensor]:
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
