r"""Encoders from intensities to spikes, and readouts from outputs over time to one value per class.

There are two axis orders. A model takes spikes as (batch, n_steps, \*shape); a simulator takes them as (batch, \*shape, n_steps),
uint8, as Lava does. `encode` makes the first, `for_simulators` turns it into the second: with one encoder for both, a model and
the chip see the same spikes. Graded spikes are fractions k / levels for a model, and integers 0..levels for a simulator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from norse.torch import LIFRecurrentCell
from numpy.typing import NDArray

from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.errors import DataError, RequestError, TrainingError, check_arguments, counted
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import Network

if TYPE_CHECKING:
    from neurodeploy.training.options import FitOptions


@check_arguments
@dataclass(frozen=True, slots=True)
class Direct:
    """Direct coding: in every step a pixel sends round(x * levels) as a graded spike, and none where that is 0.

    A model gets the same as fractions, round(x * levels) / levels.

    Attributes
    ----------
    levels : int
        At least 1; 1 makes binary spikes. A current has 24 bits, 6 of them below the unit of weights: 34 of the largest
        products of 15 levels and 8-bit weights fill it. Beyond that it wraps, which the emulator counts.
    """

    levels: int = 15

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise RequestError("levels", f"are {self.levels}, not at least 1")

    def __call__(self, images: torch.Tensor, n_steps: int) -> torch.Tensor:
        """Encode intensities (batch, \\*shape) as (batch, n_steps, \\*shape); all steps share the image's memory."""
        # ties to even, as numpy.rint rounds
        sent = torch.round(images * self.levels) / self.levels
        return sent.unsqueeze(1).expand(len(images), n_steps, *images.shape[1:])


@check_arguments
def in_levels(network: Network, levels: int) -> Network:
    """Return the network for inputs 0..levels that equals this one for inputs 0..1.

    Weights from the input are divided by `levels`; `quantize` takes the factor into the layer's scale.
    """
    if levels == 1:
        return network
    layers = []
    for layer in network:
        connections = tuple(
            replace(c, synapse=replace(c.synapse, weight=c.synapse.weight / levels)) if c.source == INPUT else c
            for c in layer.connections
        )
        # biases and thresholds stay: only what comes from the input is in other units
        layers.append(replace(layer, connections=connections))
    return replace(network, layers=tuple(layers))


def check_payload(profile: HardwareProfile, levels: int) -> None:
    """Raise `RequestError` if the chip's spikes cannot carry numbers up to `levels`; binary spikes (1) always pass."""
    if levels == 1:
        return
    remedy = "Use 'rate' or 'latency', which encode in binary spikes."
    if "payload_bits" not in profile:
        raise RequestError(
            "encoder",
            f"sends numbers of up to {levels}, and spikes of {profile.name} carry none (no payload_bits)",
            remedy=remedy,
        )
    limit = profile["payload_bits"]
    # payloads are unsigned: 15 takes 4 bits
    if levels.bit_length() > limit.number:
        raise RequestError(
            "encoder", "bits a spike", need=levels.bit_length(), limit=limit.number, source=limit.where, remedy=remedy
        )


Encoder: TypeAlias = "str | Callable[[torch.Tensor, int], torch.Tensor]"
"""A name from `ENCODERS`, or a function from intensities (batch, \\*shape) and n_steps to spikes (batch, n_steps, \\*shape).

Spikes are 0 or 1; those of a function with an attribute ``levels`` are whole numbers 0..levels, divided by `levels`.
"""

_PHASE = 0.5
_LEVEL_TOLERANCE = 1e-3
"""Tolerance for levels of graded spikes: float32 does not hold all fractions k / levels exactly."""


def rate(images: torch.Tensor, n_steps: int) -> torch.Tensor:
    """Spread round(x * n_steps) spikes evenly over the steps; no randomness.

    Error diffusion: a spike in step t where floor(x * (t + 1) + 1/2) > floor(x * t + 1/2).
    """
    levels = images.unsqueeze(0) * _clock(n_steps + 1, images)
    # 1/2 before floor: the running total is rounded to the nearest, and not down
    return levels.add_(_PHASE).floor_().diff(dim=0).movedim(0, 1)


def latency(images: torch.Tensor, n_steps: int) -> torch.Tensor:
    """One spike per pixel, earlier for brighter ones: in step round((1 - x) * (n_steps - 1)); none where x is 0."""
    # -1 is no step: a pixel of 0 never fires
    when = torch.round((1 - images) * (n_steps - 1)).masked_fill_(images <= 0, -1)
    return (_clock(n_steps, images) == when).to(images.dtype).movedim(0, 1)


def _clock(n_steps: int, images: torch.Tensor) -> torch.Tensor:
    """Steps 0, 1, ... as a leading axis: with time first in memory, a model runs fastest layer by layer."""
    return torch.arange(n_steps, device=images.device, dtype=images.dtype).view(-1, *[1] * images.ndim)


ENCODERS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {"rate": rate, "latency": latency, "direct": Direct()}


def encoder_of(encoder: Encoder) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Look an encoder up by name; a function is its own."""
    if callable(encoder):
        return encoder
    if encoder not in ENCODERS:
        raise RequestError("encoder", f"{encoder!r} is unknown", remedy=f"Give one of {', '.join(ENCODERS)}, or a function.")
    return ENCODERS[encoder]


def levels_of(encoder: Encoder) -> int:
    """Largest number that a spike of this encoder carries on the chip; 1 for binary spikes."""
    return int(getattr(encoder_of(encoder), "levels", 1))


@check_arguments
def encode(images: torch.Tensor | NDArray[Any], n_steps: int, encoder: Encoder = "rate") -> torch.Tensor:
    """Encode images as spikes for a model.

    Parameters
    ----------
    images : array or tensor (batch, \\*shape)
        Intensities in 0..1.
    n_steps : int
        Time steps, at least 1.
    encoder : str or callable

    Returns
    -------
    tensor (batch, n_steps, \\*shape), float32
        Zeros and ones, or fractions k / levels from an encoder with levels.

    Raises
    ------
    DataError
        Intensities outside 0..1; a user's encoder that returns another shape, or no spikes.
    RequestError
        An unknown encoder, or no steps.
    """
    if n_steps < 1:
        raise RequestError("n_steps", f"is {n_steps}, not at least 1")
    intensities = torch.as_tensor(images).to(torch.float32)
    if not intensities.ndim:
        raise DataError("images", "are one number, not (batch, *shape)")
    least, most = torch.stack(torch.aminmax(intensities)).tolist() if intensities.numel() else (0, 1)  # one transfer
    if math.isnan(least):
        raise DataError("images", "hold NaN", remedy="Remove them before encoding.")
    if not 0 <= least <= most <= 1:
        found = f"{least:g}..{most:g}"
        raise DataError("images", f"intensities {found} leave 0..1", remedy="Scale them first, e.g. divide bytes by 255.")
    spikes = encoder_of(encoder)(intensities, n_steps)
    wanted = (intensities.shape[0], n_steps, *intensities.shape[1:])
    if not isinstance(spikes, torch.Tensor) or tuple(spikes.shape) != wanted:
        found = f"shape {tuple(spikes.shape)}" if isinstance(spikes, torch.Tensor) else type(spikes).__name__
        raise DataError("encoder", f"returned {found}, not a tensor of shape {wanted}")
    spikes = spikes.to(torch.float32)
    # only a function is checked: encoders known by name make nothing else
    return check_spikes(spikes, "encoder", levels_of(encoder)) if callable(encoder) else spikes


def check_spikes(spikes: torch.Tensor, where: str, levels: int = 1) -> torch.Tensor:
    """Return the spikes; raise `DataError` for values other than 0 and 1, or the fractions k / levels."""
    if levels > 1:
        sent = spikes * levels
        if not ((sent - sent.round()).abs().lt(_LEVEL_TOLERANCE) & sent.ge(0) & sent.le(levels)).all():
            raise DataError(where, f"holds values other than 0, 1/{levels} .. 1", remedy="Round them to its levels.")
    elif not ((spikes == 0) | (spikes == 1)).all():
        raise DataError(
            where,
            "holds values other than 0 and 1",
            remedy="The chip takes spikes: turn counts of events into (x > 0), and give images an encoder.",
        )
    return spikes


_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_WEIGHTS = (torch.nn.Linear, LIFRecurrentCell, *_CONVOLUTIONS)


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
    # a module that takes all steps at once has the shape of one as an attribute
    shape = model.network.input_shape if isinstance(model, TrainableNetwork) else getattr(model, "step_shape", None)
    reader, n_sides = "a step of the network", None
    if shape is None:
        first = next((module for module in model.modules() if isinstance(module, _WEIGHTS)), None)
        reader = "the model's first layer"
        if first is None:
            raise TrainingError("model", "has no Linear module, recurrent cell or convolution, so nothing to train or compress")
        if isinstance(first, _CONVOLUTIONS):
            n_sides = len(first.kernel_size)
            shape = (first.in_channels, *tensor.shape[-n_sides:])  # a convolution takes any sides
        else:
            shape = (first.in_features if isinstance(first, torch.nn.Linear) else int(first.input_weights.shape[1]),)

    def fits(found: torch.Size) -> bool:
        if tuple(found) == shape or n_sides is not None:
            return tuple(found) == shape
        # rows of values stand for images of as many, and images for rows
        is_flat = len(found) == 1 or len(shape) == 1 or (shape[-2:-1] == (1,) and len(found) == len(shape) - 1)
        return is_flat and len(found) > 0 and found.numel() == math.prod(shape)

    if fits(tensor.shape[1:]):
        return encode(tensor.reshape(len(tensor), *shape), options.n_steps, options.encoder)
    if fits(tensor.shape[2:]):
        return check_spikes(tensor.reshape(*tensor.shape[:2], *shape).to(torch.float32), "inputs")
    takes = counted(shape[0], "value") if len(shape) == 1 else f"the shape {shape}" if n_sides is None else f"{shape[0]} channels"
    sides = ", ".join(map(str, tensor.shape[1:]))
    raise DataError(
        # of samples, and not of how many: callers try the first few of a batch
        "inputs", f"have shape (batch, {sides}), but {reader} takes {takes}",
        remedy=order_remedy(tensor.ndim > 2 and fits(tensor.shape[1:-1])),
    )  # fmt: skip


def order_remedy(has_steps_last: bool) -> str:
    """Say which shapes a model takes; where steps come last, as simulators take spikes, how to move them."""
    shapes = "Give images (batch, *shape) or spikes (batch, n_steps, *shape)"
    return f"{shapes}: steps come last here, np.moveaxis(inputs, -1, 1) moves them." if has_steps_last else f"{shapes}."


@check_arguments
def simulator_spikes(images: torch.Tensor | NDArray[Any], n_steps: int, encoder: Encoder = "rate") -> NDArray[Any]:
    """Encode images as spikes for a simulator: (batch, \\*shape, n_steps), uint8, or int32 for graded spikes."""
    return for_simulators(encode(images, n_steps, encoder), levels_of(encoder))


def for_simulators(spikes: torch.Tensor, levels: int) -> NDArray[Any]:
    """Convert a model's spikes (batch, n_steps, \\*shape) for a simulator: (batch, \\*shape, n_steps), time last.

    uint8, 0 or 1; graded spikes are int32, 0..levels.
    """
    moved = spikes.movedim(1, -1).cpu().numpy()
    # rint: k / levels * levels is not exactly k in float32
    made: NDArray[Any] = moved.astype(np.uint8) if levels == 1 else np.rint(moved * levels).astype(np.int32)
    return np.ascontiguousarray(made)


Readout: TypeAlias = "str | Callable[[torch.Tensor], torch.Tensor]"
"""A name from `READOUTS`, or a function (n_steps, batch, n_out) -> (batch, n_classes).

A function may decode classes from fewer outputs, as ``lambda outputs: outputs.mean(dim=0) @ code``.
"""

READOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "max": lambda outputs: outputs.amax(dim=0),
    "last": lambda outputs: outputs[-1],
    "mean": lambda outputs: outputs.mean(dim=0),
    "sum": lambda outputs: outputs.sum(dim=0),
}


def readout_of(readout: Readout) -> Callable[[torch.Tensor], torch.Tensor]:
    """Look a readout up by name; a function is its own."""
    if callable(readout):
        return readout
    if readout not in READOUTS:
        raise RequestError("readout", f"{readout!r} is unknown", remedy=f"Give one of {', '.join(READOUTS)}, or a function.")
    return READOUTS[readout]


def read_out(outputs: torch.Tensor, readout: Readout) -> torch.Tensor:
    """Reduce outputs over time (n_steps, batch, n_out) to one value per output, (batch, n_out), or per class.

    Raises
    ------
    TrainingError
        A user's readout returned something else.
    """
    values = readout_of(readout)(outputs)
    if not isinstance(values, torch.Tensor) or values.ndim != 2 or len(values) != outputs.shape[1]:
        found = f"shape {tuple(values.shape)}" if isinstance(values, torch.Tensor) else type(values).__name__
        raise TrainingError("readout", f"returned {found}, not a tensor of shape ({outputs.shape[1]}, classes)")
    return values


def decide(outputs: NDArray[Any], readout: Readout) -> NDArray[np.int64]:
    """Predict classes from a simulator's output.

    Parameters
    ----------
    outputs : array (batch, n_out, n_steps)
        Membranes of an LI layer, or spikes of an LIF layer, as in training.

    Returns
    -------
    array (batch,), int64
    """
    # a function gets what it gets in training
    dtype = np.float32 if callable(readout) else np.float64
    # a copy, because records are read-only arrays and torch warns of those
    in_time = torch.from_numpy(np.array(outputs, dtype=dtype)).movedim(-1, 0)
    classes: NDArray[np.int64] = read_out(in_time, readout).argmax(dim=1).numpy()
    return classes


def check_labels(target: torch.Tensor, n_samples: int, n_classes: int | None, where: str = "targets") -> None:
    """Raise `DataError` for targets that are not one class per sample, within 0..n_classes-1 where that is known."""
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool or target.ndim != 1:
        what = f"are {str(target.dtype)[6:]} of shape {tuple(target.shape)}, not whole numbers (batch,)"
        if target.ndim > 1 and target.shape[-1] > 1:
            remedy = "Give classes as int64; of one-hot targets their argmax over the last axis, targets.float().argmax(-1)."
        else:
            remedy = f"Give classes as int64: targets{'.flatten()' if target.ndim != 1 else ''}.long()."
        raise DataError(where, what, remedy=remedy)
    if len(target) != n_samples:
        raise DataError(where, f"are {len(target)} for {n_samples} inputs")
    if n_classes is not None and len(target) and not 0 <= int(target.min()) <= int(target.max()) < n_classes:
        worst = int(target.min()) if int(target.min()) < 0 else int(target.max())
        raise DataError(where, f"class {worst} is outside 0..{n_classes - 1}, the model's outputs")
