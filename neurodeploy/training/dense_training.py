"""Dense training: of a module as its user calls it, step by step or with whole sequences, or of its network."""

from __future__ import annotations

import copy

import torch

from neurodeploy.compression.module_weights import sample_of
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.errors import DataError, ExtractError, NeurodeployError, TrainingError
from neurodeploy.frontends.torch.extract import time_dimension
from neurodeploy.frontends.torch.model_run import at_rest
from neurodeploy.training.distributed import seeded
from neurodeploy.training.encoders import READOUTS, read_out, spikes_of
from neurodeploy.training.forward import Data, batches_of, in_mode, run_model
from neurodeploy.training.options import FitOptions

_MODE_DEPENDENT = (torch.nn.modules.batchnorm._NormBase, torch.nn.modules.dropout._DropoutNd)
"""Modules that compute something else in training."""


class SequenceModel(torch.nn.Module):
    """A module that takes all steps at once, as `run_model` runs it.

    Parameters
    ----------
    model : torch.nn.Module
        Returns an output for each step, or one that it has read out of them.
    step_shape : tuple of int
        Shape of a step of the input.
    axis : int
        Dimension of its input that is time.
    """

    def __init__(self, model: torch.nn.Module, step_shape: tuple[int, ...], axis: int) -> None:
        super().__init__()
        self.model, self.step_shape, self.axis = model, step_shape, axis

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Run it from rest on spikes (batch, n_steps, \\*shape); return (n_steps, batch, n_out), or (1, batch, n_out)."""
        with at_rest(self.model, len(spikes)):
            answer = self.model(spikes.movedim(1, self.axis))
        output: torch.Tensor = answer[0] if isinstance(answer, (tuple, list)) else answer
        if output.ndim == 2:
            return output.unsqueeze(0)
        sizes = (spikes.shape[1], len(spikes))
        is_steps_first = output.shape[:2] == sizes and (self.axis == 0 or sizes[0] != sizes[1])
        return output if is_steps_first else output.movedim(1, 0)


def dense_model(
    model: torch.nn.Module, network: TrainableNetwork, sample: torch.Tensor | None, data: Data, options: FitOptions
) -> tuple[torch.nn.Module, str]:
    """Return what trains densely, tried on two samples, and what to say about it.

    The module itself where it computes what its network does and gradients reach all its weights, step by step or with whole
    sequences; otherwise the network.

    Raises
    ------
    TrainingError
        The network would have to train for a module with batch norm or dropout, of which it knows nothing.
    """
    if model is network or sample is None:
        return network, ""
    axis, is_one_step = time_dimension(model, sample)
    form = model if axis is None else SequenceModel(model, network.network.input_shape, axis)
    inputs = next(batches_of(data))[0][:2]
    with in_mode(model, training=False):
        with seeded(options.seed):
            expected = run_model(network, spikes_of(inputs, network, options))
        try:
            with seeded(options.seed):  # the same draws of an encoder; as `fit` converts the inputs for this model
                found = run_model(form, spikes_of(inputs, form, options))
        except (TrainingError, DataError):
            found = expected.new_zeros(0, 0, 0)  # it begins with a module that has no weights
    readouts = [None] if len(found) == len(expected) else [options.readout, *READOUTS]
    for readout in readouts if is_one_step or axis is not None else ():
        same = expected if readout is None else read_out(expected, readout).unsqueeze(0)
        if _is_equal(found, same) and (not options.epochs_dense or False not in _gradients(form, inputs, options)):
            hint = f"The model takes the {readout} over time: readout {readout!r} does the same for its network."
            return form, hint if readout not in (None, options.readout) else ""
    depends = [name for name, module in model.named_modules() if isinstance(module, _MODE_DEPENDENT)]
    if depends and options.epochs_dense:
        raise TrainingError(
            f"model, at {depends[0]!r}", "trains otherwise than it runs, and does not compute what its network does",
            remedy="Let forward take one step and a state and return (output, state), or a sequence and return all outputs; or "
            "train it yourself and compress it with epochs_dense=0.",
        )  # fmt: skip
    return network, ""


def _is_equal(found: torch.Tensor, expected: torch.Tensor) -> bool:
    # not allclose: rounding may move a spike, which changes a little; another axis changes everything
    return found.shape == expected.shape and bool((found - expected).norm() <= 0.1 * expected.norm() + 1e-4)


def _gradients(model: torch.nn.Module, inputs: torch.Tensor, options: FitOptions) -> set[bool]:
    """Whether each weight of a model gets a gradient from two samples: none passes a plain comparison with a threshold."""
    model = copy.deepcopy(model).train()  # in training: SpikingJelly has no gradients otherwise, and norms learn
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim > 1]
    with seeded(options.seed), torch.set_grad_enabled(True):
        output = run_model(model, spikes_of(torch.cat([inputs, inputs])[:2], model, options))
    if not output.requires_grad:
        return {False}
    try:
        return {gradient is not None for gradient in torch.autograd.grad(output.sum(), weights, allow_unused=True)}
    except RuntimeError:  # a function without derivative
        return {False}


def trains_as_called(model: torch.nn.Module, data: Data, options: FitOptions) -> bool:
    """Whether gradients reach all weights of a model, and not only its network's: a plain comparison has none."""
    is_frozen = not any(parameter.requires_grad for parameter in model.parameters())
    try:
        inputs = next(batches_of(data))[0][:2]
        found = {True} if is_frozen else _gradients(model, inputs, options)
        if False not in found:
            return True
        sample_of(model, data, None)
    except ExtractError as error:
        if True in found:
            return True  # weights that it does not use, or on purpose
        raise TrainingError(
            "model", f"has no gradient, and there is no network of it that could train instead ({error})",
            remedy="Let neurons fire by a function with a surrogate gradient, as SuperSpike.",
        ) from error  # fmt: skip
    except (NeurodeployError, TypeError, ValueError, StopIteration):
        return True  # training says what is wrong with the data or the model
    return False
