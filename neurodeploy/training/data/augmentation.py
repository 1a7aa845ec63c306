"""What an epoch of training changes in its samples, at random."""

from __future__ import annotations

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
