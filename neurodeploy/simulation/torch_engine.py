"""Arrays and synapses of a run on a torch device, with exact sums.

Weighted sums are matrix products in floats whose mantissa holds every partial sum, since torch multiplies no integer matrices on
a GPU. Such a sum is exact in any order of additions, provided that nothing on the way is rounded: TensorFloat-32, bfloat16 and
autocast are switched off, and convolutions are products with unfolded patches, never cuDNN's, which may use Winograd or Fourier
transforms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import unfold

from neurodeploy.errors import RequestError, SimulationError, unsupported_kind
from neurodeploy.ir.connectivity import Number
from neurodeploy.ir.quantized import QuantizedConv, QuantizedDense, QuantizedSparse, QuantizedSynapse

Tensor: TypeAlias = torch.Tensor
TensorProduct: TypeAlias = "Callable[[Tensor], Tensor]"
"""From spikes (n, n_in), in a float type that is exact, to weighted sums (n, n_out)."""

TORCH_TYPES: dict[Any, torch.dtype] = {
    np.uint8: torch.uint8, np.int32: torch.int32, np.float32: torch.float32, np.float64: torch.float64,
}  # fmt: skip
DEVICE_PATCH_VALUES = 1 << 24
"""Values of image patches that a convolution unfolds at a time on a device."""
PROBE_SIDE = 128
"""Side of the matrices that a device's exactness is checked with: large enough for the kernels that large products use."""


class TorchEngine:
    """Arrays and synapses on a torch device (an `Engine` of `neurodeploy.simulation.kernel_dispatch`).

    Parameters
    ----------
    name : str
        As torch calls it: ``"cpu"`` for all cores that torch may use, ``"cuda"``, ``"cuda:1"``, ...

    Raises
    ------
    RequestError
        Torch knows no such device, or there is none here.
    SimulationError
        The device rounds products of whole numbers that its floats can hold.
    """

    def __init__(self, name: str) -> None:
        try:
            self.device = torch.device(name)
            with exact_products(self.device):
                # Tried once on the device itself, rather than trusted: drivers and settings decide on it, too.
                exact = all(
                    bool((probe(self.device, number) == (1 << 24) - 1).all()) for number in (torch.float32, torch.float64)
                )
        except (RuntimeError, AssertionError, TypeError) as error:  # torch has no one error for it
            reason = " ".join(str(error).split())[:120]
            raise RequestError(
                "device", f"{name!r} cannot be used here: {reason}", remedy="Give 'cpu' or 'cuda', or none for compiled loops."
            ) from error
        if not exact:
            raise SimulationError(
                f"device {name!r}", "rounds products of whole numbers below 2**24", remedy="Leave the device out."
            )  # fmt: skip

    def zeros(self, shape: tuple[int, ...], kind: type[Any]) -> Tensor:
        return torch.zeros(shape, dtype=TORCH_TYPES[kind], device=self.device)

    def from_numpy(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def to_numpy(self, array: Tensor) -> NDArray[Any]:
        copy: NDArray[Any] = array.cpu().numpy()
        return copy

    def copy(self, array: Tensor) -> Tensor:
        return array.clone()

    def load_steps(self, spikes: NDArray[Any], start: int, into: Tensor) -> None:
        into[..., : spikes.shape[1]] = self.from_numpy(np.moveaxis(spikes[..., start : start + len(into)], -1, 0))

    def synapses(self, synapse: QuantizedSynapse, number: Number, kernel: str | None, *, graded: bool) -> TorchSynapses:
        del kernel, graded  # there is one kernel, and it takes any whole numbers
        return TorchSynapses(synapse, TORCH_TYPES[number], self.device)


class TorchSynapses:
    """Synapses of a connection on a device, for spikes or graded input."""

    kernel = "gemm"

    def __init__(self, synapse: QuantizedSynapse, number: torch.dtype, device: torch.device) -> None:
        self.n_in, self.number, self.device = synapse.n_in, number, device
        self._product = tensor_product(synapse, number, device)

    def add(self, spikes: Tensor, inputs: Tensor) -> None:
        """Add weighted spikes (rows, n_in or more) to `inputs` (rows, n_out)."""
        with exact_products(self.device):
            inputs += self._product(spikes[:, : self.n_in].to(self.number)).to(inputs.dtype)


def tensor_product(synapse: QuantizedSynapse, number: torch.dtype, device: torch.device) -> TensorProduct:
    """Return a function that multiplies spikes by the weights of a synapse on a device."""
    # A copy, because torch warns of read-only arrays.
    weight = torch.from_numpy(synapse.weight.copy()).to(device, number)
    match synapse:
        case QuantizedDense():
            return lambda spikes: spikes @ weight.T
        case QuantizedSparse():
            targets = np.repeat(np.arange(synapse.n_out), np.diff(synapse.starts))
            places, shape = torch.from_numpy(np.stack([targets, synapse.sources])).to(device), (synapse.n_out, synapse.n_in)
            # Coalesced: the sources of a neuron are ascending and distinct, so no entry occurs twice.
            matrix = torch.sparse_coo_tensor(places, weight, shape, check_invariants=True, is_coalesced=True)
            return lambda spikes: torch.sparse.mm(matrix, spikes.T).T
        case QuantizedConv():
            return _convolution(synapse, weight)
        case _:
            raise unsupported_kind(synapse)


def _convolution(synapse: QuantizedConv, weight: Tensor) -> TensorProduct:
    """Unfold the image into patches, one a window, and multiply them by the weights ("im2col")."""
    (f, c, height, width), groups = synapse.weight.shape, synapse.groups
    n_pixels, patch_size = synapse.output_shape[1] * synapse.output_shape[2], c * height * width
    kernels = weight.reshape(groups, f // groups, patch_size)
    images_per_block = max(1, DEVICE_PATCH_VALUES // (groups * patch_size * n_pixels))

    def block(spikes: Tensor) -> Tensor:
        images = spikes.reshape(-1, *synapse.input_shape)
        patches = unfold(images, (height, width), synapse.dilation, synapse.padding, synapse.stride)
        # Groups first: one batched product has a matrix for each group.
        in_groups = patches.reshape(-1, groups, patch_size, n_pixels).permute(1, 2, 0, 3).reshape(groups, patch_size, -1)
        sums = torch.bmm(kernels, in_groups).reshape(groups, f // groups, -1, n_pixels)
        return sums.permute(2, 0, 1, 3).reshape(-1, synapse.n_out)

    return lambda spikes: torch.cat([block(part) for part in torch.split(spikes, images_per_block)])


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Multiply in the full precision of the factors, and restore the caller's settings of torch afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # rules out TensorFloat-32 and bfloat16 products
    try:
        with torch.autocast(device.type, enabled=False):  # a caller's autocast would round the factors
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def probe(device: torch.device, number: torch.dtype) -> Tensor:
    """Multiply numbers of 13 bits, each product 2**24 - 1: TensorFloat-32, with 11 bits for a factor, rounds them."""
    diagonal = torch.eye(PROBE_SIDE, dtype=number, device=device) * 4097
    return diagonal @ torch.full((PROBE_SIDE, PROBE_SIDE), 4095, dtype=number, device=device)
