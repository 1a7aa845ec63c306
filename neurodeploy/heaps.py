"""Damage in an HDF5 file that the library itself never comes back from.

Texts stand in heaps: a collection of a size, and in it objects one after the other, each with its own size, up to one that says
how much is free (HDF5 File Format Specification 3.0, III.E, "Global Heap"). HDF5 walks from object to object; where a free one
says that it takes nothing, it stands still for ever.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_SIGNATURE = b"GCOL\x01\0\0\0"
_START, _HEADER = 16, 16
"""Bytes of a collection before its first object, and of an object before its data."""


def endless_heap(path: Path) -> int | None:
    """Where in a file a heap stands that has no end, in bytes from the beginning; None where none has."""
    if path.stat().st_size == 0:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(_SIGNATURE)
        while at >= 0:
            if _is_endless(content, at):
                return at
            at = content.find(_SIGNATURE, at + 1)
    return None


def _is_endless(content: mmap.mmap, at: int) -> bool:
    if at + _START > len(content):
        return False
    (size,) = struct.unpack_from("<Q", content, at + 8)
    end, place = min(at + size, len(content)), at + _START
    while place + _HEADER <= end:
        index, size = struct.unpack_from("<H6xQ", content, place)
        if index == 0:
            if size == 0:
                return True
            place += size
        else:
            place += _HEADER + -(-size // 8) * 8
    return False
