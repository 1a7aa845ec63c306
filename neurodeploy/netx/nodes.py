"""What a group of a network file holds, asked for by key: of the kind that was expected, or an error that says where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, NetxError
from neurodeploy.fixedpoint import Integers

PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class Node:
    """A group of a file that knows where it lies, and says so when something in it is missing or of another kind."""

    where: str
    group: h5py.Group

    def __contains__(self, key: str) -> bool:
        return key in self.group or key in self.group.attrs

    def sub(self, key: str) -> Node:
        if not isinstance(self.group.get(key), h5py.Group):
            raise NetxError(self.where, f"has no group {key!r}", remedy="Is it a network file of netx?")
        return Node(f"{self.where}/{key}", self.group[key])

    def text(self, key: str) -> str:
        value = self._value(key)
        first = value.flat[0] if value.size == 1 else None
        if isinstance(first, str):
            return str(first)  # h5py gives NumPy's own kind, which it cannot write again
        if not isinstance(first, bytes) or not first.isascii():
            raise NetxError(self.where, f"{key} is not one ASCII string")
        return first.decode("ascii")

    def floats(self, key: str) -> NDArray[np.float64]:
        value = self._value(key)
        if value.dtype.kind not in "biuf" or not np.isfinite(value).all():
            raise NetxError(self.where, f"{key} is not finite numbers")
        return value.astype(np.float64)

    def integers(self, key: str) -> Integers:
        value = self.floats(key)
        if (value % 1).any() or (np.abs(value) >= 1 << 53).any():
            raise NetxError(self.where, f"{key} is not whole numbers", remedy="Export the network quantized to integers.")
        return value.astype(np.int64)

    def integer(self, key: str) -> int:
        value = self.integers(key)
        if value.size != 1:
            raise NetxError(self.where, f"{key} has shape {value.shape}, not ()")
        return int(value.flat[0])

    def per_neuron(self, key: str, shape: tuple[int, ...], is_image: bool = False) -> Integers:
        """One number for all, as () however it was stored, or one a neuron.

        Numbers of an image of C, H, W are stored one a neuron as W, H, C, or one a channel.
        """
        value = self.integers(key)
        if is_image and value.shape == shape[::-1]:
            return value.transpose(2, 1, 0).reshape(-1)
        if is_image and value.shape == shape[:1]:
            return value[0].reshape(()) if (value == value[0]).all() else np.repeat(value, int(np.prod(shape[1:])))
        if is_image and value.size > 1:
            raise NetxError(self.where, f"{key} has shape {value.shape}, not (), {shape[:1]} or {shape[::-1]}")
        return value.reshape(()) if value.size == 1 and value.shape != (int(np.prod(shape)),) else value

    def pair(self, key: str) -> tuple[int, int]:
        """A number for rows and one for columns; one stands for both."""
        value = self.integers(key).ravel()
        if value.size not in (1, 2):
            raise NetxError(self.where, f"{key} {value.tolist()} is not one number or two")
        return int(value[0]), int(value[-1])

    def sides(self, key: str) -> tuple[int, ...]:
        value = self.integers(key)
        if value.size == 0 or value.min() < 1:
            raise NetxError(self.where, f"{key} {value.tolist()} is not a shape")
        return tuple(int(side) for side in value.ravel())

    def _value(self, key: str) -> NDArray[Any]:
        try:
            item = self.group.get(key)
            if not isinstance(item, h5py.Dataset) and (item is not None or key not in self.group.attrs):
                raise NetxError(self.where, f"has no {key!r}")
            if not is_plain(item.id if item is not None else self.group.attrs.get_id(key)):
                raise NetxError(self.where, f"{key} is neither numbers nor text")
            return np.asarray(self.group.attrs[key] if item is None else item[()])
        except (TypeError, ValueError) as error:  # what h5py raises on a kind of number or text that it does not know
            raise NetxError(self.where, f"{key} cannot be read: {error}") from error


def is_plain(stored: Any) -> bool:
    """Whether a dataset or an attribute, as HDF5 knows it, holds numbers or text.

    To be asked before it is read: bytes that were damaged can turn text into lists of text, which HDF5 follows into nowhere, and
    this process with it.
    """
    kinds = (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeEnumID, h5py.h5t.TypeStringID)
    return isinstance(stored.get_type(), kinds)


@contextmanager
def as_netx_error(where: str) -> Iterator[None]:
    """What a noun refuses was written in the file."""
    try:
        yield
    except NetworkError as error:
        raise NetxError(where, f"{error.where} {error.what}", remedy=error.remedy) from error


def reason(error: Exception) -> str:
    """The operating system's few words where it has any, instead of HDF5's many."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error).strip("'\"")
