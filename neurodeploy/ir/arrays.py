"""Array types, checks on array fields, comparison by value, HTML tables; arrays in files that are not to be trusted.

Dataclasses of the package check themselves when they are built, hold read-only arrays, and compare by content.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import select
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, NetworkError, text_of
from neurodeploy.ir.files import absence

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

MAX_TABLE_ROWS = 60
"""Rows of an HTML table; those beyond are counted, not shown."""


MANY_NUMBERS = 10_000_000
"""Arrays of as many numbers are copied only where memory is left for it."""


class ByValue:
    """Equality by content, for dataclasses that hold arrays.

    Two instances are equal if they have the same type and equal fields; arrays are equal in dtype, shape and content.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # hashing would read every weight: not for dictionary keys

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        for name in (field.name for field in fields(self) if field.compare):  # type: ignore[arg-type]  # only dataclasses inherit from this
            a, b = getattr(self, name), getattr(other, name)
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
                is_equal = a.dtype == b.dtype and np.array_equal(a, b)  # array_equal alone takes 1 and 1.0 for equal
            else:
                is_equal = bool(a == b)
            if not is_equal:
                return False
        return True


def freeze(instance: Any, name: str, dtype: type) -> NDArray[Any]:
    """Replace an array field of a frozen dataclass by a read-only copy of type `dtype`, and return the copy.

    Raises
    ------
    NetworkError
        The field holds something other than finite numbers, or numbers that `dtype` cannot hold exactly.
    """
    original = np.asarray(getattr(instance, name))
    where = f"{type(instance).__name__}.{name}"
    if original.dtype.kind not in "biuf":  # booleans, integers, floats
        raise NetworkError(where, f"holds {original.dtype}, not numbers")
    if original.size >= MANY_NUMBERS:
        needed = original.size * (np.dtype(dtype).itemsize + 18)  # the copy, and what compares and checks it
        check_memory(where, f"to hold {original.size:,} numbers", needed)
    if not np.isfinite(original).all():
        raise NetworkError(where, "is not finite")
    with np.errstate(invalid="ignore"):  # a float too large for an integer type: the comparison below finds it
        array: NDArray[Any] = original.astype(dtype)
    if not np.array_equal(array, original):
        raise NetworkError(where, "is not whole numbers")
    # astype has copied: the caller's array stays writeable, and what is written to it later does not come in here.
    array.flags.writeable = False
    object.__setattr__(instance, name, array)  # the dataclass is frozen; its __post_init__ is still building it
    return array


def check_range(instance: Any, name: str, low: float, high: float) -> None:
    """Refuse an array field with a value outside low..high.

    Raises
    ------
    NetworkError
        A value lies outside; the error names it.
    """
    array = getattr(instance, name)
    if array.size and (array.min() < low or array.max() > high):  # an empty array has no minimum
        worst = array.min() if array.min() < low else array.max()
        raise NetworkError(f"{type(instance).__name__}.{name}", f"{worst} is outside {low}..{high}")


def check_archive(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` for an archive that declares more than its file can hold, or is packed in another way than usual."""
    if why := excess(sum(member.file_size for member in archive.infolist()), path):
        raise ValueError(f"it {why}")
    # other packings unpack whatever their bytes hold before a size is looked at
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in archive.infolist()):
        raise ValueError("it is packed in a way that neither NumPy nor torch.save writes")


def load_numpy(path: str | os.PathLike[str]) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """Read the array of an .npy file, or the arrays of an .npz file by name; no code in the file is run.

    Raises
    ------
    DataError
        No such file, not one of NumPy's, damaged, or with more data declared than it can hold.
    """
    npy: Any = np.lib.format  # has no types

    def array_in(file: IO[bytes], n_bytes: int) -> NDArray[Any]:
        if file.read(6) != npy.MAGIC_PREFIX:
            raise ValueError("it does not begin as one")
        file.seek(0)
        shape, _, dtype = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(file)](file)
        if dtype.kind not in "biufU" or not dtype.itemsize:  # texts: a record's facts. Things of no size would have no end
            raise ValueError(f"it holds {'Python objects' if dtype.hasobject else dtype}")
        if any(side < 0 for side in shape):  # NumPy would take one for as many as there are
            raise ValueError(f"its shape is {shape}")
        declared = dtype.itemsize * math.prod(max(side, 1) for side in shape)  # a side of 0 does not make the others small
        if declared > max(n_bytes, MAX_DECLARED_BYTES):
            raise ValueError(f"it declares {declared / 1e9:.1f} GB of data, and holds {n_bytes / 1e3:.0f} kB")
        file.seek(0)
        return np.asarray(npy.read_array(file, allow_pickle=False))  # a pickle could run code

    if why := absence(path):
        raise DataError(str(path), why)
    try:
        if not zipfile.is_zipfile(path):
            with Path(path).open("rb") as single:
                return array_in(single, Path(path).stat().st_size)
        arrays = {}
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path)
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in arrays:
                    raise ValueError(f"its member {member.filename} is not one that NumPy writes, or occurs twice")
                with archive.open(member) as file:
                    arrays[name] = array_in(file, member.file_size)
        return arrays
    except Exception as error:  # NumPy raises almost anything on damaged bytes
        raise DataError(str(path), f"is not a NumPy file of numbers ({' '.join(str(error).split())[:120]})") from error


def memory_shortage(error: BaseException) -> str:
    """Return what could not be allocated, and what limits memory, where an error says that memory ran out; else nothing."""
    said = text_of(error)
    # torch's are RuntimeErrors
    if not isinstance(error, MemoryError) and "allocate memory" not in said and "out of memory" not in said:
        return ""
    left, source = available_memory()
    return f"{said or type(error).__name__} ({max(left, 0.0) / 1e9:.1f} GB: {source})"


def check_memory(where: str, what: str, needed_bytes: float) -> None:
    """Raise `NetworkError` if something needs more memory than this process can still get."""
    left, source = available_memory()
    if needed_bytes > left:
        raise NetworkError(
            where, f"GB of memory {what}", need=round(needed_bytes / 1e9, 1), limit=round(max(left, 0.0) / 1e9, 1), source=source,
            remedy="Use a machine, or a limit, with more memory, or make the layer smaller.",
        )  # fmt: skip


def html_table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table with all texts escaped.

    Integers are right-aligned with thousands separators; floats are shares, shown as percentages.
    At most `MAX_TABLE_ROWS` rows are shown; a last row says how many more there are.
    """

    def cell(value: object) -> str:
        if isinstance(value, int):
            return f"<td style='text-align: right'>{value:,}</td>"
        if isinstance(value, float):
            return f"<td style='text-align: right'>{value:.1%}</td>"
        return f"<td style='text-align: left'>{escape(str(value))}</td>"

    body = [[cell(value) for value in row] for row in rows]
    hidden = len(body) - MAX_TABLE_ROWS
    if hidden > 0:
        body[MAX_TABLE_ROWS:] = [[f"<td colspan={len(headings)}>and {hidden:,} more</td>"]]
    head = "".join(f"<th style='text-align: left'>{escape(heading)}</th>" for heading in headings)
    lines = "".join(f"<tr>{''.join(cells)}</tr>" for cells in body)
    title = f"<caption style='text-align: left; caption-side: top'>{escape(caption)}</caption>"
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def html_paragraphs(lines: Iterable[str]) -> str:
    """One HTML paragraph for each line, escaped."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


READ_LIMIT_S = 10.0
"""Time for a trial reading, besides a second for each `BYTES_A_SECOND`."""
BYTES_A_SECOND = 20e6
UNPACKED_BYTES_A_SECOND = 100e6
"""A second more for each of these that a file declares beyond `MAX_DECLARED_BYTES`."""
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
    objects under two names, references, data in other files and filters from plugins are refused, and so are sizes far beyond
    the file's own. Nothing that is read from the file afterwards takes much more memory than it declares.
    """
    return _CHILD.damage(Path(path))


MAX_DECLARED_BYTES = 256 << 20
"""A file may declare this much data, as it is read, whatever its own size; more only up to `MAX_PACKED` times its own size."""
MAX_PACKED = 1000
"""The densest packing of gzip is about 1,030 to one."""


def excess(declared_bytes: int, path: str | os.PathLike[str]) -> str:
    """Reason that a file cannot hold as much data as it declares, as the end of "it ..."; empty if it can."""
    stored = Path(path).stat().st_size
    if declared_bytes <= max(MAX_DECLARED_BYTES, MAX_PACKED * stored):
        return ""
    return f"declares {declared_bytes / 1e9:.1f} GB of data in a file of {stored / 1e3:.0f} kB"


def available_memory() -> tuple[float, str]:
    """Memory in bytes that this process can still get, and what limits it; infinite where nothing says."""
    found, pages = [(math.inf, "")], os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, ImportError):
        import resource  # Unix only

        size, *_, data, _ = (int(number) * pages for number in Path("/proc/self/statm").read_text("ascii").split())
        for kind, used, name in ((resource.RLIMIT_AS, size, "ulimit -v"), (resource.RLIMIT_DATA, data, "ulimit -d")):
            if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY:
                found.append((limit - used, f"what {name} leaves"))
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        left = int((group / "memory.max").read_text("ascii")) - int((group / "memory.current").read_text("ascii"))
        # the system takes back what it has only copied from files
        cached = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
        left += int(cached.get("inactive_file", 0)) + int(cached.get("active_file", 0))
        found.append((left, "what the memory limit of the container leaves"))
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        found.append((int(kilobytes) * 1024, "free memory of the machine"))
    return min(found)


def _too_large(declared_bytes: int, left: float, source: str) -> str:
    return f"is too large: reading it takes {2 * declared_bytes / 1e9:.1f} GB of memory, of {max(left, 0.0) / 1e9:.1f} ({source})"


class TrialReader:
    """A child process that reads HDF5 files for trial, one after the other; started when it is first needed."""

    _PROGRAM = """
import json, math, os, resource, sys
import h5py
from h5py import h5d, h5o, h5t
SLACK = 512 << 20  # memory besides what the file declares
plain = (h5t.TypeIntegerID, h5t.TypeFloatID, h5t.TypeEnumID, h5t.TypeStringID)
own_filters = {1, 2, 3, 4, 5, 6, 32000}  # deflate, shuffle, fletcher32, szip, nbit, scaleoffset, lzf
class Refused(Exception): pass
def limit(n_bytes):
    with open("/proc/self/statm") as file:
        own = int(file.read().split()[0]) * resource.getpagesize()
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (min(own + SLACK + n_bytes, most % 2**64), most))  # -1 is no limit
def check(group, seen):
    declared = 0
    for key in group:
        name, link = (group.name + "/" + key).lstrip("/"), group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise Refused(f"has {name}, a link to {getattr(link, 'filename', '')} {link.path}")
        item = group[key]
        address = h5o.get_info(item.id).addr
        if address in seen:  # no writer does it, and a few such groups make more paths than any reader can follow
            raise Refused(f"has {name} under two names")
        seen.add(address)
        if not isinstance(item, h5py.Dataset):
            declared += check(item, seen) if isinstance(item, h5py.Group) else 0
            continue
        created = item.id.get_create_plist()
        others = {created.get_filter(n)[0] for n in range(created.get_nfilters())} - own_filters
        if item.is_virtual or created.get_external_count():
            raise Refused(f"has {name} stored in another file")
        if others:
            raise Refused(f"has {name} packed by a filter that HDF5 does not bring itself ({min(others)})")
        if isinstance(item.id.get_type(), h5t.TypeReferenceID):
            raise Refused(f"has {name}, which holds references")
        # a chunk is unpacked whole, however little of it is data; numbers are read as ones of 64 bits
        chunk = math.prod(created.get_chunk()) if created.get_layout() == h5d.CHUNKED else 0
        declared += max(item.id.get_type().get_size() * max(chunk, item.size or 0), 8 * (item.size or 0))
    return declared
def read(name, stored, get):
    kind = stored.get_type()
    if not isinstance(kind, plain):
        return
    try:
        value = get()
    except (OSError, MemoryError) as error:  # the reader proper may have more memory, and would take it
        raise Refused(f"is damaged, or too large: {name} cannot be read ({error})")
    except Exception:
        return  # harmless: the reader proper meets the same error, and reports it
    if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
        texts = value.flat if hasattr(value, "flat") else [value]
        length = sum(len(text) for text in texts if isinstance(text, (bytes, str)))
        if length > stored_bytes:  # texts are never packed, but many can be one and the same
            raise Refused(f"has {name}, texts of {length / 1e6:.0f} MB in a file of {stored_bytes / 1e3:.0f} kB")
def visit(name, item):
    for key in item.attrs:
        read(f"{name}/{key}".lstrip("/"), item.attrs.get_id(key), lambda: item.attrs[key])
    if isinstance(item, h5py.Dataset):
        read(name, item.id, lambda: item[()])
print(flush=True)  # tells the parent that the slow imports are done
def answer(of_line):
    print(json.dumps(of_line), flush=True)
for line in sys.stdin:
    declared, damage, (path, most) = None, "", json.loads(line)
    limit(0)  # a damaged size can ask for any amount of memory
    try:
        stored_bytes = os.stat(path).st_size
        with h5py.File(path, "r") as file:
            declared = check(file, {h5o.get_info(file.id).addr})
            answer(declared)
            if declared <= most:
                limit(2 * declared)  # as stored, and as an array
                visit("", file)
                file.visititems(visit)
    except Exception as error:  # what lies behind it was not read, and could hang
        damage = str(error) if isinstance(error, Refused) else f"is damaged: {error}"
    if declared is None:
        answer(0)
    answer(" ".join(damage.split()))
"""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._owner, self._lock = 0, threading.Lock()

    def damage(self, path: Path) -> str:
        """See `hdf5_damage`."""
        limit_s = READ_LIMIT_S + path.stat().st_size / BYTES_A_SECOND
        with self._lock:
            # after a fork the child answers the parent; one that was killed answers nobody
            if self._child is None or self._owner != os.getpid() or self._child.poll() is not None:
                self._start()
            assert self._child is not None
            assert self._child.stdin is not None
            left, source = available_memory()
            most = min(max(MAX_DECLARED_BYTES, MAX_PACKED * path.stat().st_size), left / 2)
            # JSON keeps a path on one line, even one that holds a line break.
            self._child.stdin.write(json.dumps([str(path.absolute()), most]).encode() + b"\n")
            self._child.stdin.flush()
            begun = time.monotonic()
            if (answer := self._answer(limit_s)) is not None:
                declared = int(answer)
                limit_s += max(0.0, min(declared, most) - MAX_DECLARED_BYTES) / UNPACKED_BYTES_A_SECOND
                if (answer := self._answer(max(0.0, begun + limit_s - time.monotonic()))) is not None:
                    unread = _too_large(declared, left, source) if declared > most else ""
                    return str(json.loads(answer)) or excess(declared, path) or unread
            ended = self._child.poll() is not None
            self.close()
        slow = f"is damaged, or too large: reading it takes longer than {limit_s:.0f} s"
        return "is damaged: reading it ends the process" if ended else slow

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()  # waits for its end, so that no zombie stays, and closes the pipes
            self._child = None

    def _start(self) -> None:
        modules = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)  # so that it finds the same h5py
        self._child = subprocess.Popen(  # noqa: S603  (our own interpreter and program)
            [sys.executable, "-c", self._PROGRAM], env=os.environ | {"PYTHONPATH": modules, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
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
        # readline alone would wait for ever. The child writes short lines at once, so a readable pipe holds a whole one, and
        # without a buffer the next one stays in it.
        ready, _, _ = select.select([self._child.stdout], [], [], limit_s)
        line = self._child.stdout.readline() if ready else b""
        return line.decode(errors="replace").strip() if line else None


_CHILD = TrialReader()
