"""What spikes an image becomes.

Two axis orders, one for each side. A model takes spikes as (batch, n_steps, \\*shape), time where its loop wants it;
a simulator takes them as (batch, \\*shape, n_steps), uint8, as Lava does. `encode` makes the first, `simulator_spikes` turns
it into the second: there is one encoder, so a model and the chip see the same spikes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError

Encoder: TypeAlias = "str | Callable[[torch.Tensor, int], torch.Tensor]"
"""A name from `ENCODERS`, or a function from intensities (batch, \\*shape) and n_steps to spikes (batch, n_steps, \\*shape)."""

_PHASE = 0.5


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
    return torch.arange(n_steps, device=images.device).view(-1, *[1] * images.ndim)


ENCODERS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {"rate": rate, "latency": latency}


def encoder_of(encoder: Encoder) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The function behind an encoder's name; a function is its own."""
    if callable(encoder):
        return encoder
    if encoder not in ENCODERS:
        raise RequestError("encoder", f"{encoder!r} is unknown", remedy=f"Give one of {', '.join(ENCODERS)}, or a function.")
    return ENCODERS[encoder]


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
        Zeros and ones.

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
    if intensities.isnan().any():
        raise DataError("images", "hold NaN", remedy="Clean them before they are encoded.")
    if intensities.numel() and not 0 <= float(intensities.min()) <= float(intensities.max()) <= 1:
        found = f"{float(intensities.min()):g}..{float(intensities.max()):g}"
        raise DataError("images", f"intensities {found} leave 0..1", remedy="Scale them first, e.g. divide bytes by 255.")
    spikes = encoder_of(encoder)(intensities, n_steps)
    wanted = (intensities.shape[0], n_steps, *intensities.shape[1:])
    if not isinstance(spikes, torch.Tensor) or tuple(spikes.shape) != wanted:
        found = f"shape {tuple(spikes.shape)}" if isinstance(spikes, torch.Tensor) else type(spikes).__name__
        raise DataError("encoder", f"returned {found}, not a tensor of shape {wanted}")
    spikes = spikes.to(torch.float32)
    return check_spikes(spikes, "encoder") if callable(encoder) else spikes


def check_spikes(spikes: torch.Tensor, where: str) -> torch.Tensor:
    """The spikes themselves; `DataError` where anything but 0 and 1 is among them: the chip takes nothing else."""
    if not ((spikes == 0) | (spikes == 1)).all():
        raise DataError(where, "holds values other than 0 and 1", remedy="The chip takes spikes; give images an encoder.")
    return spikes


def simulator_spikes(images: torch.Tensor | NDArray[Any], n_steps: int, encoder: Encoder = "rate") -> NDArray[np.uint8]:
    """Images as spikes for a simulator: the spikes of `encode`, as (batch, \\*shape, n_steps), uint8."""
    spikes: NDArray[np.uint8] = encode(images, n_steps, encoder).movedim(1, -1).cpu().numpy().astype(np.uint8)
    return np.ascontiguousarray(spikes)
