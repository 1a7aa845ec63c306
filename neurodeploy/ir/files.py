"""How files are written, whole or not at all, and what is said of one that cannot be read.

Damage in an HDF5 file that the library itself never comes back from.

Texts stand in heaps: a collection of a size, and in it objects one after the other, each with its own size, up to one that says
how much is free (HDF5 File Format Specification 3.0, III.E, "Global Heap"). HDF5 walks from object to object; where a free one
says that it takes nothing, it stands still for ever.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# -------------------- files


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A scratch file beside `path` that takes its place when the block ends well, and is gone when it does not.

    Those that were left by processes killed as they wrote are taken away.
    """
    target = Path(path)
    for left_over in target.parent.glob(".*.part"):
        owner = left_over.name[len(f".{target.name}.") : -len(".part")]
        if left_over.name.startswith(f".{target.name}.") and owner.isdecimal() and not _is_running(int(owner)):
            left_over.unlink(missing_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        scratch.touch()
        mode = scratch.stat().st_mode  # as the user's umask has it; some libraries write for the owner alone
        yield scratch
        scratch.chmod(mode)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # a number that no process has
        return False
    except OSError:  # another user's
        pass
    return True


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, UTF-8."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def absence(path: str | os.PathLike[str]) -> str:
    """Why there is no file to read, in words for an error; nothing where there is one."""
    file = Path(path)
    return "" if file.is_file() else "is not a file" if file.exists() else "is not there"


# -------------------- heaps

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
