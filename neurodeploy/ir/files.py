"""Atomic file writing, and a check for HDF5 files that the HDF5 library never finishes reading."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file whole or not at all: yield a scratch path in the same folder, and move it to `path` if the block succeeds.

    If the block raises, `path` stays as it was and the scratch file is deleted. Scratch files for `path` that killed processes
    left behind are deleted as well.
    """
    target = Path(path)
    for left_over in target.parent.glob(".*.part"):
        owner = left_over.name[len(f".{target.name}.") : -len(".part")]
        if left_over.name.startswith(f".{target.name}.") and owner.isdecimal() and not _process_exists(int(owner)):
            left_over.unlink(missing_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        scratch.touch()
        mode = scratch.stat().st_mode  # follows the user's umask; some libraries write files that only the owner can read
        yield scratch
        scratch.chmod(mode)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def _process_exists(process_id: int) -> bool:
    """Whether a process with this number is running, whoever owns it."""
    try:
        os.kill(process_id, 0)  # signal 0 checks and sends nothing
    except (ProcessLookupError, OverflowError):  # OverflowError: too large for any process
        return False
    except OSError:  # it exists and belongs to another user
        pass
    return True


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def absence(path: str | os.PathLike[str]) -> str:
    """Reason that there is no file to read at `path`, as the end of an error text; empty if there is one."""
    file = Path(path)
    return "" if file.is_file() else "is not a file" if file.exists() else "does not exist"


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
