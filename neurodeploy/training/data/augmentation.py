"""What an epoch of training changes in its samples, at random."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from neurodeploy.errors import DataError, RequestError


class Augmentation(Protocol):
    """A change of inputs, in two halves: what is random about it, and the change."""

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """What `n` samples are changed by, (n, \\*any)."""

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Inputs (batch, \\*shape) changed by what was drawn for them, (batch, \\*any)."""


@dataclass(frozen=True, slots=True)
class RandomShift:
    """Images, or spikes in time, moved by up to so many pixels along both sides; what comes in from outside is 0.

    The last two axes are rows and columns; all others of a sample move together.

    Attributes
    ----------
    pixels : int
        At least 1.
    """

    pixels: int

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise RequestError("pixels", f"are {self.pixels}, not at least 1")

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Down and to the right by -pixels..pixels each, int64 (n, 2)."""
        return torch.randint(-self.pixels, self.pixels + 1, (n, 2), generator=generator)

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Inputs (batch, \\*any, height, width), each moved by its own (down, right)."""
        if inputs.ndim < 3:
            raise DataError("inputs", f"of shape {tuple(inputs.shape)} have no rows and columns to shift")
        height, width = inputs.shape[-2:]
        padded = torch.nn.functional.pad(inputs, [self.pixels] * 4).reshape(
            len(inputs), -1, height + 2 * self.pixels, width + 2 * self.pixels
        )
        from_ = self.pixels - drawn
        rows = (torch.arange(height) + from_[:, :1])[:, :, None]
        columns = (torch.arange(width) + from_[:, 1:])[:, None, :]
        moved = padded[torch.arange(len(inputs))[:, None, None], :, rows, columns]  # channels last: indexing puts them there
        return moved.movedim(-1, 1).reshape(inputs.shape)


@dataclass(frozen=True, slots=True)
class RandomFlip:
    """Images, or spikes in time, seen in a mirror, left and right exchanged, every other time on average."""

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Whether, bool (n,)."""
        return torch.randint(2, (n,), generator=generator).bool()

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Inputs (batch, \\*any, width), those flipped that were drawn so."""
        return torch.where(drawn.view(-1, *[1] * (inputs.ndim - 1)), inputs.flip(-1), inputs)


@dataclass(frozen=True, slots=True)
class RandomAffine:
    """Images, or spikes in time, turned, made larger or smaller, slanted and moved, each sample in its own way.

    The last two axes are rows and columns; all others of a sample move together. Pixels are read between four neighbours, so
    spikes become shares of spikes; what comes in from outside is 0.

    Attributes
    ----------
    degrees : float
        Turned by up to so much to either side, and rows slanted likewise; 0..45.
    scale : float
        Sides longer or shorter by up to this share, each by its own; in 0..1, 1 left out.
    pixels : float
        Moved by up to so many along both sides, at least 0.
    """

    degrees: float = 10.0
    scale: float = 0.1
    pixels: float = 1.0

    def __post_init__(self) -> None:
        for name, most in (("degrees", 45.0), ("scale", math.nextafter(1.0, 0.0)), ("pixels", math.inf)):
            if not 0 <= getattr(self, name) <= most or math.isinf(getattr(self, name)):
                raise RequestError(name, f"is {getattr(self, name)}, not within 0..{most:g}")

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Turn and slant in radians, scale of rows and of columns, move down and to the right in pixels: float (n, 6)."""
        most = math.radians(self.degrees)
        sides = torch.tensor([most, most, self.scale, self.scale, self.pixels, self.pixels])
        return (2 * torch.rand(n, 6, generator=generator) - 1) * sides + torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Inputs (batch, \\*any, height, width), each changed by its own six numbers; float32."""
        if inputs.ndim < 3:
            raise DataError("inputs", f"of shape {tuple(inputs.shape)} have no rows and columns to turn")
        height, width = inputs.shape[-2:]
        turn, slant, tall, wide, down, right = drawn.T
        y = torch.arange(height) - (height - 1) / 2
        x = torch.arange(width) - (width - 1) / 2
        rows, columns = (y - down[:, None])[:, :, None], (x - right[:, None])[:, None, :]
        cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
        from_row = (cos * rows - sin * columns) / tall[:, None, None]
        from_column = (sin * rows + cos * columns) / wide[:, None, None] + slant.tan()[:, None, None] * from_row
        grid = torch.stack([2 * from_column / max(width - 1, 1), 2 * from_row / max(height - 1, 1)], dim=-1)
        images = inputs.reshape(len(inputs), -1, height, width).float()
        return torch.nn.functional.grid_sample(images, grid, align_corners=True).reshape(inputs.shape)
