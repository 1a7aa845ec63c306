"""What spikes an image becomes.

Two axis orders, one for each side. A model takes spikes as (batch, n_steps, \\*shape), time where its loop wants it;
a simulator takes them as (batch, \\*shape, n_steps), uint8, as Lava does. `encode` makes the first, `for_simulators` turns
it into the second: there is one encoder, so a model and the chip see the same spikes. Spikes that carry a number are parts of 1
to a model, and whole numbers up to the encoder's levels to a simulator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError
from neurodeploy.training.direct import Direct

Encoder: TypeAlias = "str | Callable[[torch.Tensor, int], torch.Tensor]"
"""A name from `ENCODERS`, or a function from intensities (batch, \\*shape) and n_steps to spikes (batch, n_steps, \\*shape).

Spikes are 0 or 1; those of a function with an attribute ``levels`` are whole numbers 0..levels, divided by `levels`.
"""

_PHASE = 0.5
_NEARLY = 1e-3
"""How far from a whole number a level may be, times levels: float32 cannot hold all of them."""


def rate(images: torch.Tensor, n_steps: int) -> torch.Tensor:
    """Spread round(x * n_steps) spikes evenly over the steps; no randomness.

    Error diffusion: a spike in step t where floor(x * (t + 1) + 1/2) > floor(x * t + 1/2).
    """
    levels = images.unsqueeze(0) * _clock(n_steps + 1, images)
    return levels.add_(_PHASE).floor_().diff(dim=0).movedim(0, 1)


def latency(images: torch.Tensor, n_steps: int) -> torch.Tensor:
    """One spike a pixel, the earlier the brighter: in step round((1 - x) * (n_steps - 1)); none where x is 0."""
    when = torch.round((1 - images) * (n_steps - 1)).masked_fill_(images <= 0, -1)
    return (_clock(n_steps, images) == when).to(images.dtype).movedim(0, 1)


def _clock(n_steps: int, images: torch.Tensor) -> torch.Tensor:
    """The steps 0, 1, ... as an axis before those of the images: time first in memory, as a model is run layer by layer."""
    return torch.arange(n_steps, device=images.device, dtype=images.dtype).view(-1, *[1] * images.ndim)


ENCODERS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {"rate": rate, "latency": latency, "direct": Direct()}


def encoder_of(encoder: Encoder) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The function behind an encoder's name; a function is its own."""
    if callable(encoder):
        return encoder
    if encoder not in ENCODERS:
        raise RequestError("encoder", f"{encoder!r} is unknown", remedy=f"Give one of {', '.join(ENCODERS)}, or a function.")
    return ENCODERS[encoder]


def levels_of(encoder: Encoder) -> int:
    """The largest number that a spike of this encoder carries on the chip; 1 where spikes are spikes."""
    return int(getattr(encoder_of(encoder), "levels", 1))


def encode(images: torch.Tensor | NDArray[Any], n_steps: int, encoder: Encoder = "rate") -> torch.Tensor:
    """Images as spikes for a model.

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
        Zeros and ones, or, of an encoder in levels, parts of 1.

    Raises
    ------
    DataError
        Intensities that are not numbers in 0..1; an encoder of the user's that returns another shape, or no spikes.
    RequestError
        An unknown encoder, or no steps.
    """
    if n_steps < 1:
        raise RequestError("n_steps", f"is {n_steps}, not at least 1")
    intensities = torch.as_tensor(images).to(torch.float32)
    least, most = torch.stack(torch.aminmax(intensities)).tolist() if intensities.numel() else (0, 1)  # a GPU is waited for once
    if math.isnan(least):
        raise DataError("images", "hold NaN", remedy="Clean them before they are encoded.")
    if not 0 <= least <= most <= 1:
        found = f"{least:g}..{most:g}"
        raise DataError("images", f"intensities {found} leave 0..1", remedy="Scale them first, e.g. divide bytes by 255.")
    spikes = encoder_of(encoder)(intensities, n_steps)
    wanted = (intensities.shape[0], n_steps, *intensities.shape[1:])
    if not isinstance(spikes, torch.Tensor) or tuple(spikes.shape) != wanted:
        found = f"shape {tuple(spikes.shape)}" if isinstance(spikes, torch.Tensor) else type(spikes).__name__
        raise DataError("encoder", f"returned {found}, not a tensor of shape {wanted}")
    spikes = spikes.to(torch.float32)
    return check_spikes(spikes, "encoder", levels_of(encoder)) if callable(encoder) else spikes


def check_spikes(spikes: torch.Tensor, where: str, levels: int = 1) -> torch.Tensor:
    """The spikes themselves; `DataError` where anything but 0 and 1, or their `levels`, is among them."""
    if levels > 1:
        sent = spikes * levels
        if not ((sent - sent.round()).abs().lt(_NEARLY) & sent.ge(0) & sent.le(levels)).all():
            raise DataError(where, f"holds values other than 0, 1/{levels} .. 1", remedy="Round them to its levels.")
    elif not ((spikes == 0) | (spikes == 1)).all():
        raise DataError(where, "holds values other than 0 and 1", remedy="The chip takes spikes; give images an encoder.")
    return spikes


def simulator_spikes(images: torch.Tensor | NDArray[Any], n_steps: int, encoder: Encoder = "rate") -> NDArray[Any]:
    """Images as spikes for a simulator: the spikes of `encode`, as (batch, \\*shape, n_steps), uint8, or in levels, int32."""
    return for_simulators(encode(images, n_steps, encoder), levels_of(encoder))


def for_simulators(spikes: torch.Tensor, levels: int) -> NDArray[Any]:
    """A model's spikes (batch, n_steps, \\*shape) as a simulator takes them: (batch, \\*shape, n_steps), time last.

    uint8, 0 or 1; where spikes have levels int32, 0..levels.
    """
    given = spikes.movedim(1, -1).cpu().numpy()
    made: NDArray[Any] = given.astype(np.uint8) if levels == 1 else np.rint(given * levels).astype(np.int32)
    return np.ascontiguousarray(made)
