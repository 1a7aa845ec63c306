"""How files are written, whole or not at all, and what is said of one that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
