"""The emulator's integers on a torch device: the same sums and the same answers, in torch's own operations.

Sums go by matrix products in floats that tell all their whole numbers apart (`neurodeploy.targets.loihi.emulator`), since torch
multiplies no integer matrices on a GPU. A sum of whole numbers is then exact in whatever order it is added up, as long as
nothing on the way is rounded: so TensorFloat-32, bfloat16 and autocast are off meanwhile, and convolutions are products with the
patches that windows lie on, never cuDNN's, which may choose Winograd's or Fourier's way and round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import unfold

from neurodeploy.errors import RequestError, SimulationError
from neurodeploy.ir.quantized import QuantizedConv, QuantizedSparse, QuantizedSynapse
from neurodeploy.simulation.reference import Number
from neurodeploy.targets.loihi.arithmetic import DECAY_UNITY, MANTISSA_SHIFT, STATE_MAX

Tensor: TypeAlias = torch.Tensor
Product: TypeAlias = "Callable[[Tensor], Tensor]"
"""From spikes (n, n_in), in the number that is exact, to what arrives at the neurons, (n, n_out)."""

KINDS: dict[Any, torch.dtype] = {
    np.uint8: torch.uint8, np.int32: torch.int32, np.float32: torch.float32, np.float64: torch.float64,
}  # fmt: skip
PATCHES_AT_ONCE = 1 << 24
"""So many numbers of the image are laid out for a convolution at a time."""
PROBED = 128
"""Rows of the product that a device is tried on: enough for the ways that large products take."""


class Tensors:
    """A torch device as the emulator's engine (`neurodeploy.targets.loihi.emulator.Engine`).

    Parameters
    ----------
    name : str
        As torch calls it: ``"cpu"`` for all cores that torch may use, ``"cuda"``, ``"cuda:1"``, ...

    Raises
    ------
    RequestError
        Torch knows no such device, or there is none here.
    SimulationError
        The device rounds whole numbers that its floats tell apart.
    """

    def __init__(self, name: str) -> None:
        self.device = _usable(name)

    def zeros(self, shape: tuple[int, ...], kind: type[Any]) -> Tensor:
        return torch.zeros(shape, dtype=KINDS[kind], device=self.device)

    def brought(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def told(self, array: Tensor) -> NDArray[Any]:
        told: NDArray[Any] = array.cpu().numpy()
        return told

    def copied(self, array: Tensor) -> Tensor:
        return array.clone()

    def turn(self, given: NDArray[Any], start: int, into: Tensor) -> None:
        into[..., : given.shape[1]] = self.brought(np.moveaxis(given[..., start : start + len(into)], -1, 0))

    def synapses(self, synapse: QuantizedSynapse, number: Number, way: str | None, *, graded: bool) -> Products:
        del way, graded  # there is one way, and it takes any whole numbers
        return Products(synapse, KINDS[number], self.device)

    def answer(
        self, arriving: Tensor, u: Tensor, v: Tensor, registers: Tensor, fired: Tensor, membranes: Tensor, counts: Tensor,
        first_rest: int, rest: int, start: int, stop: int,
    ) -> Tensor:  # fmt: skip
        """What `neurodeploy.targets.loihi.emulator.answer` does, in doubles on the way, as
        `neurodeploy.targets.loihi.arithmetic`.
        """
        kept, (bias, threshold) = registers[:2, start:stop].double() / DECAY_UNITY, registers[2:, start:stop]
        arriving, fired, membranes = arriving[..., start:stop], fired[..., start:stop], membranes[..., start:stop]
        u, v, counts = u[:, start:stop], v[:, start:stop], counts[:, start:stop]
        overflows = torch.zeros((), dtype=torch.int64, device=self.device)
        for t, sums in enumerate(arriving):
            if rest and t >= first_rest and (t - first_rest) % rest == 0:
                u.zero_()
                v.zero_()
            current = (u * kept[0]).trunc_().add_(sums, alpha=1 << MANTISSA_SHIFT)
            over, under = current > STATE_MAX, current <= -STATE_MAX
            u.copy_(current.add_(over, alpha=-2 * STATE_MAX).add_(under, alpha=2 * STATE_MAX))
            membrane = (v * kept[1]).trunc_().add_(u).add_(bias)
            v.copy_(membrane.clamp(1 - STATE_MAX, STATE_MAX - 1))
            overflows += over.count_nonzero() + under.count_nonzero() + (v != membrane).count_nonzero()
            fires = v > threshold
            fired[t] = fires
            counts += fires
            v.masked_fill_(fires, 0)
            if len(membranes):
                membranes[t] = v
        arriving.zero_()
        return overflows


# ---------------------------------------------------------------------------------------------- synapses


class Products:
    """The synapses of a connection, ready for spikes or whole numbers."""

    way = "product"

    def __init__(self, synapse: QuantizedSynapse, number: torch.dtype, device: torch.device) -> None:
        self.n_in, self.number, self.device = synapse.n_in, number, device
        self._product = _product_of(synapse, number, device)

    def add(self, spikes: Tensor, arriving: Tensor) -> None:
        """Add what spikes (rows, n_in or more) weigh to what arrives (rows, n_out)."""
        with _unrounded(self.device):
            arriving += self._product(spikes[:, : self.n_in].to(self.number)).to(arriving.dtype)


def _product_of(synapse: QuantizedSynapse, number: torch.dtype, device: torch.device) -> Product:
    weight = torch.from_numpy(synapse.weight.copy()).to(device, number)
    if isinstance(synapse, QuantizedConv):
        return _convolution(synapse, weight)
    if isinstance(synapse, QuantizedSparse):
        targets = np.repeat(np.arange(synapse.n_out), np.diff(synapse.starts))
        places, shape = torch.from_numpy(np.stack([targets, synapse.sources])).to(device), (synapse.n_out, synapse.n_in)
        matrix = torch.sparse_coo_tensor(places, weight, shape, check_invariants=True, is_coalesced=True)
        return lambda spikes: torch.sparse.mm(matrix, spikes.T).T
    return lambda spikes: spikes @ weight.T


def _convolution(synapse: QuantizedConv, weight: Tensor) -> Product:
    """A matrix product with the patches of the image that the window lies on ("im2col")."""
    (f, c, height, width), groups = synapse.weight.shape, synapse.groups
    n_pixels, of_patch = synapse.output_shape[1] * synapse.output_shape[2], c * height * width
    kernels = weight.reshape(groups, f // groups, of_patch)
    at_once = max(1, PATCHES_AT_ONCE // (groups * of_patch * n_pixels))

    def some(spikes: Tensor) -> Tensor:
        images = spikes.reshape(-1, *synapse.input_shape)
        patches = unfold(images, (height, width), synapse.dilation, synapse.padding, synapse.stride)
        in_groups = patches.reshape(-1, groups, of_patch, n_pixels).permute(1, 2, 0, 3).reshape(groups, of_patch, -1)
        sums = torch.bmm(kernels, in_groups).reshape(groups, f // groups, -1, n_pixels)
        return sums.permute(2, 0, 1, 3).reshape(-1, synapse.n_out)

    return lambda spikes: torch.cat([some(part) for part in torch.split(spikes, at_once)])


# ---------------------------------------------------------------------------------------------- devices


@contextmanager
def _unrounded(device: torch.device) -> Iterator[None]:
    """Products in the precision of their numbers, whatever the caller has set: torch may be told to round factors."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _usable(name: str) -> torch.device:
    """The device, after it has shown that it is there and multiplies whole numbers right, up to the last that floats have."""
    try:
        device = torch.device(name)
        with _unrounded(device):
            right = all(bool((_tried(device, number) == (1 << 24) - 1).all()) for number in (torch.float32, torch.float64))
    except (RuntimeError, AssertionError, TypeError) as error:  # torch has no one error for it
        reason = " ".join(str(error).split())[:120]
        raise RequestError(
            "device", f"{name!r} cannot be used here: {reason}", remedy="Give 'cpu' or 'cuda', or none for compiled loops."
        ) from error
    if not right:
        raise SimulationError(f"device {name!r}", "rounds products of whole numbers below 2**24", remedy="Leave the device out.")
    return device


def _tried(device: torch.device, number: torch.dtype) -> Tensor:
    """Products of numbers of 13 bits, each 2**24 - 1; TensorFloat-32 has 11 bits for them."""
    one = torch.eye(PROBED, dtype=number, device=device) * 4097
    return one @ torch.full((PROBED, PROBED), 4095, dtype=number, device=device)
