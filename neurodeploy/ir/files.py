"""Atomic writing of files, and trial reading of HDF5 files in a child process, since damaged ones can hang their reader."""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neurodeploy.errors import RequestError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file whole or not at all: yield a scratch path in the same folder, and move it to `path` if the block succeeds.

    If the block raises, `path` stays as it was and the scratch file is deleted. Scratch files for `path` that killed processes
    left behind are deleted as well.
    """
    target = Path(path)
    if target.exists() and not (target.is_file() or target.is_dir()):  # onto a folder no file can be renamed
        # a rename would put a file in the place of a device or a pipe
        raise RequestError(str(target), "is not a regular file, and would be replaced", remedy="Write to another path.")
    # No name in the pattern: it could hold characters that glob interprets.
    for left_over in target.parent.glob(".*.part"):
        owner = left_over.name[len(f".{target.name}.") : -len(".part")]
        if left_over.name.startswith(f".{target.name}.") and owner.isdecimal() and not _process_exists(int(owner)):
            left_over.unlink(missing_ok=True)
    # In the same folder, because a rename is atomic only within a file system; one name a process, so that writers do not meet.
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        scratch.touch()
        mode = scratch.stat().st_mode  # follows the user's umask; some libraries write files that only the owner can read
        yield scratch
        scratch.chmod(mode)
        scratch.replace(target)  # atomic: a reader sees the old file or the new one
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


# ---------------------------------------------------------------------------------------------- HDF5

READ_LIMIT_S = 10.0
"""Time for a trial reading, besides a second for each `BYTES_A_SECOND`."""
BYTES_A_SECOND = 20e6
_START_LIMIT_S = 120.0  # importing h5py, on a machine that does much else


def is_plain(stored: Any) -> bool:
    """Whether an HDF5 dataset or attribute (its low-level object) holds numbers or text.

    Ask before reading it. A damaged byte can turn text into lists of text, and following those ends the process.
    """
    from h5py import h5t

    return isinstance(stored.get_type(), (h5t.TypeIntegerID, h5t.TypeFloatID, h5t.TypeEnumID, h5t.TypeStringID))


def hdf5_damage(path: str | os.PathLike[str]) -> str:
    """Reason that an HDF5 file cannot be read, where reading it would hang or end this process; empty for any other file.

    Damaged bytes can send the HDF5 library into an endless loop, which nothing in the same process can stop. So a child process
    reads the file first, with limits on time and memory. The child stays for further files until this process ends.
    """
    return _CHILD.damage(Path(path))


class TrialReader:
    """A child process that reads HDF5 files for trial, one after the other; started when it is first needed."""

    _PROGRAM = """
import json, resource, sys
import h5py
from h5py import h5t
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # a damaged size can ask for any amount of memory
plain = (h5t.TypeIntegerID, h5t.TypeFloatID, h5t.TypeEnumID, h5t.TypeStringID)
def attempt(read):
    try:
        read()
    except Exception:
        pass  # harmless: the reader proper meets the same error, and reports it
def visit(_, item):
    for key in item.attrs:
        if isinstance(item.attrs.get_id(key).get_type(), plain):
            attempt(lambda: item.attrs[key])
    if isinstance(item, h5py.Dataset) and isinstance(item.id.get_type(), plain):
        attempt(lambda: item[()])
print(flush=True)  # tells the parent that the slow imports are done
for line in sys.stdin:
    damage = ""
    try:
        with h5py.File(json.loads(line), "r") as file:
            visit("", file)
            file.visititems(visit)
    except Exception as error:  # what lies behind it was not read, and could hang
        damage = f"is damaged: {error}"
    print(" ".join(damage.split()), flush=True)
"""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._owner, self._lock = 0, threading.Lock()

    def damage(self, path: Path) -> str:
        """See `hdf5_damage`."""
        limit_s = READ_LIMIT_S + path.stat().st_size / BYTES_A_SECOND
        with self._lock:
            if self._child is None or self._owner != os.getpid():  # after a fork the child answers the parent
                self._start()
            assert self._child is not None
            assert self._child.stdin is not None
            # JSON keeps a path on one line, even one that holds a line break.
            self._child.stdin.write(json.dumps(str(path.absolute())).encode() + b"\n")
            self._child.stdin.flush()
            if (answer := self._answer(limit_s)) is not None:
                return answer
            ended = self._child.poll() is not None
            self.close()
        return "is damaged: reading it ends the process" if ended else f"is damaged: reading it takes longer than {limit_s:.0f} s"

    def close(self) -> None:
        """End the child."""
        if self._child is None:
            return
        self._child.kill()
        self._child.communicate()  # waits for its end, so that no zombie stays, and closes the pipes
        self._child = None

    def _start(self) -> None:
        modules = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)  # so that it finds the same h5py
        self._child = subprocess.Popen(  # noqa: S603  (our own interpreter and program)
            [sys.executable, "-c", self._PROGRAM], env=os.environ | {"PYTHONPATH": modules, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._owner = os.getpid()
        atexit.register(self.close)
        if self._answer(_START_LIMIT_S) is None:
            self.close()
            raise OSError("the process that checks HDF5 files did not start")

    def _answer(self, limit_s: float) -> str | None:
        """Return the next line of the child; None if it has ended or takes too long."""
        assert self._child is not None
        assert self._child.stdout is not None
        # readline alone would wait for ever. The child writes short lines at once, so a readable pipe holds a whole one.
        ready, _, _ = select.select([self._child.stdout], [], [], limit_s)
        line = self._child.stdout.readline() if ready else b""
        return line.decode(errors="replace").strip() if line else None


_CHILD = TrialReader()
