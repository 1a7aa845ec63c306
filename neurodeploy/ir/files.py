"""Atomic writing of files, and reading of files that are not to be trusted: NumPy's, and HDF5's first in a child process."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurodeploy.errors import DataError, RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    except OSError as error:
        # a full disk names no file, and the user does not know the scratch file
        if error.filename is None or str(error.filename) == str(scratch):
            error.filename = str(target)
        raise
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while open; the lock of a killed process ends with it.

    Raises
    ------
    RequestError
        Another run writes there; the error names its process.
    """
    path = folder / ".lock"
    while True:
        file = path.open("a+", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            with file:
                owner = f"process {found} writes" if (found := file.read()) else "another process writes"
            remedy = "Wait until it ends, or give another folder."
            raise RequestError(str(folder), f"{owner} into this folder", remedy=remedy) from error
        # a run that ended in between has deleted the file that was opened
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            break
        file.close()
    try:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


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


DISTRIBUTION = "neurodeploy-snn"
"""Name of this package on the package index; the module and the command are ``neurodeploy``."""


def installed_version(package: str = DISTRIBUTION) -> str | None:
    """Version of an installed package, by its name on the package index; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
    """Reason that an HDF5 file must not be read, as the end of "it ...": damage, or data that is elsewhere; empty for others.

    Damaged bytes can send the HDF5 library into an endless loop, which nothing in the same process can stop. So a child process
    reads the file first, with limits on time and memory. The child stays for further files until this process ends. Links,
    references, data in other files and filters from plugins are refused, and so are sizes far beyond the file's own.
    """
    return _CHILD.damage(Path(path))


MAX_DECLARED_BYTES = 256 << 20
"""A file may declare this much data whatever its own size; more only up to `MAX_PACKED` times its own size."""
MAX_PACKED = 1000
"""The densest packing of gzip is about 1,030 to one."""


def excess(declared_bytes: int, path: str | os.PathLike[str]) -> str:
    """Reason that a file cannot hold as much data as it declares, as the end of "it ..."; empty if it can."""
    stored = Path(path).stat().st_size
    if declared_bytes <= max(MAX_DECLARED_BYTES, MAX_PACKED * stored):
        return ""
    return f"declares {declared_bytes / 1e9:.1f} GB of data in a file of {stored / 1e3:.0f} kB"


_NUMPY_ERRORS = (
    OSError, ValueError, EOFError, KeyError, MemoryError, OverflowError, RuntimeError, SyntaxError, TypeError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy raises on damaged files."""


def load_numpy(path: str | os.PathLike[str]) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """Read the array of an .npy file, or the arrays of an .npz file by name; no code in the file is run.

    Raises
    ------
    DataError
        No such file, not one of NumPy's, damaged, or with more data declared than it can hold.
    """
    import numpy as np  # takes longer than a command that only looks for a file

    if why := absence(path):
        raise DataError(str(path), why)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                declared = sum(member.file_size for member in archive.infolist())
            if why := excess(declared, path):
                raise ValueError(f"it {why}")
            with np.load(path, allow_pickle=False) as arrays:  # a pickle could run code
                return {name: arrays[name] for name in arrays.files}
        with Path(path).open("rb") as file:
            if file.read(6) != np.lib.format.MAGIC_PREFIX:  # NumPy would take it for a pickle
                raise ValueError("it does not begin as one")
        array: NDArray[Any] = np.load(path, allow_pickle=False, mmap_mode="r")  # maps the file, which has to hold all of it
        return np.array(array)
    except _NUMPY_ERRORS as error:
        raise DataError(str(path), f"is not a NumPy file of numbers ({' '.join(str(error).split())[:120]})") from error


class TrialReader:
    """A child process that reads HDF5 files for trial, one after the other; started when it is first needed."""

    _PROGRAM = """
import json, resource, sys
import h5py
from h5py import h5o, h5t
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # a damaged size can ask for any amount of memory
plain = (h5t.TypeIntegerID, h5t.TypeFloatID, h5t.TypeEnumID, h5t.TypeStringID)
own_filters = {1, 2, 3, 4, 5, 6, 32000}  # deflate, shuffle, fletcher32, szip, nbit, scaleoffset, lzf
class Refused(Exception):
    pass
def attempt(read):
    try:
        read()
    except Exception:
        pass  # harmless: the reader proper meets the same error, and reports it
def check(group, seen):
    declared = 0
    for key in group:
        name, link = (group.name + "/" + key).lstrip("/"), group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise Refused(f"has {name}, a link to {getattr(link, 'filename', '')} {link.path}")
        item = group[key]
        address = h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        if isinstance(item, h5py.Group):
            declared += check(item, seen)
        if not isinstance(item, h5py.Dataset):
            continue
        created = item.id.get_create_plist()
        others = {created.get_filter(n)[0] for n in range(created.get_nfilters())} - own_filters
        if item.is_virtual or created.get_external_count():
            raise Refused(f"has {name} stored in another file")
        if others:
            raise Refused(f"has {name} packed by a filter that HDF5 does not bring itself ({min(others)})")
        if isinstance(item.id.get_type(), h5t.TypeReferenceID):
            raise Refused(f"has {name}, which holds references")
        declared += item.id.get_type().get_size() * (item.size or 0)
    return declared
def visit(_, item):
    for key in item.attrs:
        if isinstance(item.attrs.get_id(key).get_type(), plain):
            attempt(lambda: item.attrs[key])
    if isinstance(item, h5py.Dataset) and isinstance(item.id.get_type(), plain):
        attempt(lambda: item[()])
print(flush=True)  # tells the parent that the slow imports are done
for line in sys.stdin:
    declared, damage = 0, ""
    path, *limits = json.loads(line)
    try:
        with h5py.File(path, "r") as file:
            declared = check(file, set())
            if declared <= max(limits):
                visit("", file)
                file.visititems(visit)
    except Refused as error:
        damage = str(error)
    except Exception as error:  # what lies behind it was not read, and could hang
        damage = f"is damaged: {error}"
    print(json.dumps([declared, " ".join(damage.split())]), flush=True)
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
            asked = [str(path.absolute()), MAX_DECLARED_BYTES, MAX_PACKED * path.stat().st_size]
            self._child.stdin.write(json.dumps(asked).encode() + b"\n")
            self._child.stdin.flush()
            if (answer := self._answer(limit_s)) is not None:
                declared, damage = json.loads(answer)
                return str(damage) or excess(declared, path)
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
