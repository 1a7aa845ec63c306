"""Files that appear whole and together; reading of files that are not to be trusted, HDF5 first in a child process."""

from __future__ import annotations

import atexit
import fcntl
import io
import json
import math
import os
import select
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from neurodeploy.errors import NeurodeployError, RequestError

REPORT = "report.json"
"""What a run writes about itself into its folder; the next run looks there."""
CHECKPOINTS = ("checkpoint-dense.safetensors", "checkpoint-compressed.safetensors")


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise `RequestError` where a file written to `path` would take the place of something other than a regular file."""
    target = Path(path)
    if target.is_symlink():  # a rename would replace the link, and leave the file that it leads to as it is
        remedy = f"It leads to {target.readlink()}: write there, or delete the link."
        raise RequestError(str(target), "is a symbolic link, and would be replaced", remedy=remedy)
    if target.exists() and not target.is_file():  # a rename would put a file in the place of a device or a pipe
        raise RequestError(str(target), "is not a regular file, and would be replaced", remedy="Write to another path.")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file whole or not at all: yield a scratch path in the same folder, and move it to `path` if the block succeeds.

    If the block raises, `path` stays as it was and the scratch file is deleted. Scratch files for `path` that killed processes
    left behind are deleted as well.
    """
    target = Path(path)
    check_replaceable(target)
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
        with scratch.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave an empty file in the place of the old one
        scratch.replace(target)  # atomic: a reader sees the old file or the new one
    except OSError as error:
        # a full disk names no file, and the user does not know the scratch file
        if error.filename is None or str(error.filename) == str(scratch):
            error.filename = str(target)
        raise
    finally:
        scratch.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFolder:
    """A folder that a run writes into, and the folder in it where files wait until they appear together.

    Attributes
    ----------
    path : Path
        The folder.
    """

    path: Path

    @property
    def hidden(self) -> Path:
        """The only folder in it that a killed process leaves."""
        return self.path / ".unfinished"

    @property
    def staging(self) -> Path:
        """Where to write files; `publish` moves them to `path`."""
        return self.hidden / "files"

    def lock(self) -> int:
        """Make the hidden folder and lock it; return the descriptor of its lock, which ends with the process."""
        lock = self.hidden / "lock"
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.hidden.is_symlink():  # what it leads to would be emptied
                raise RequestError(str(self.hidden), "is a symbolic link", remedy="Delete it.")
            try:
                self.hidden.mkdir(exist_ok=True)
                file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            except FileNotFoundError:  # another run has ended in between, and removed the folder
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # that run may have deleted the lock that was opened
                if lock.exists() and lock.stat().st_ino == os.fstat(file).st_ino:
                    os.truncate(file, 0)
                    os.write(file, str(os.getpid()).encode())
                    return file
            except BlockingIOError as error:
                owner = f"process {found}" if (found := os.pread(file, 20, 0).decode(errors="replace")) else "another process"
                os.close(file)
                remedy = "Wait until it ends, or give another folder."
                raise RequestError(str(self.path), f"{owner} writes into this folder", remedy=remedy) from error
            except OSError:  # a full disk, or no lock of ours
                os.close(file)
                if lock.is_file():
                    shutil.rmtree(self.hidden)
                raise
            os.close(file)

    def discard(self) -> None:
        """Delete the staged files."""
        for file in self.staging.iterdir():
            file.unlink()

    def clear(self) -> None:
        """Delete everything in the hidden folder but its lock."""
        for left_over in self.hidden.iterdir():
            if left_over.is_dir() and not left_over.is_symlink():
                shutil.rmtree(left_over)
            elif left_over.name != "lock":
                left_over.unlink()

    def publish(self, *stale: str) -> None:
        """Move all staged files into the folder; if one cannot be moved, none is.

        Parameters
        ----------
        stale : str
            Paths of files of an earlier run, which go unless staged files replace them.
        """
        names = sorted(file.name for file in self.staging.iterdir())
        gone = [name for name in {Path(path).name for path in stale} - {*names} if (self.path / name).is_file()]
        for name in (*names, *gone):
            check_replaceable(self.path / name)
        earlier, changed = self.staging.with_name("earlier"), []
        earlier.mkdir()
        try:
            for name in (*names, *gone):
                target = self.path / name
                if target.exists():
                    try:
                        os.link(target, earlier / name)
                    except OSError:  # a file system without links
                        shutil.copy2(target, earlier / name)
                changed.append(target)
                target.unlink() if name in gone else (self.staging / name).replace(target)
        except BaseException:  # also an interrupt: the folder is as it was
            for target in changed:
                kept = earlier / target.name
                kept.replace(target) if kept.exists() else target.unlink(missing_ok=True)
            raise
        finally:
            shutil.rmtree(earlier)


@contextmanager
def output_folder(out: str | os.PathLike[str], *files: str) -> Iterator[OutputFolder]:
    """Open a folder to write files that appear together, created if missing; other runs are kept out meanwhile.

    If the block succeeds, what is staged is published. If it raises, nothing is left of what was not published, nor of folders
    that were made for it, and the error names the path where the file would have been. What a killed process left goes.

    Parameters
    ----------
    files : str
        Paths of files that will be published: what they may not replace is refused at once.

    Raises
    ------
    RequestError
        No folder can be made or written to there; something other than a file would be replaced; or another run writes there,
        and the error names its process.
    """
    path = Path(out)
    if "\0" in str(path):
        raise RequestError(str(path), "holds a NUL, which no name of a file has")
    folder, made = OutputFolder(path=path), [one for one in (path, *path.parents) if not one.exists()]
    try:
        try:
            lock = folder.lock()
        except OSError as error:
            raise RequestError(str(out), f"is no folder to write to: {error.strerror}") from error
        try:
            folder.clear()
            folder.staging.mkdir()
            for file in files:
                check_replaceable(file)
            yield folder
            folder.publish()
        finally:
            folder.clear()
            # a run that waits for the lock may have made its own there already
            (folder.hidden / "lock").unlink(missing_ok=True)
            with suppress(OSError):
                folder.hidden.rmdir()
            os.close(lock)
    except NeurodeployError as error:
        for field in ("where", "what", "remedy"):
            setattr(error, field, getattr(error, field).replace(str(folder.staging), str(path)))
        raise
    except OSError as error:
        if error.filename is not None:
            error.filename = str(error.filename).replace(str(folder.staging), str(path))
        raise
    finally:
        for one in made:
            with suppress(OSError):  # it is not empty, or was never made
                one.rmdir()


def _process_exists(process_id: int) -> bool:
    """Whether a process with this number is running, whoever owns it."""
    try:
        os.kill(process_id, 0)  # signal 0 checks and sends nothing
    except (OSError, OverflowError) as error:  # OverflowError: too large for any process
        return isinstance(error, PermissionError)  # it exists and belongs to another user
    return True


@contextmanager
def in_memory(path: str | os.PathLike[str]) -> Iterator[io.BytesIO]:
    """Write a file whole or not at all: yield a file in memory, and write it to `path` if the block succeeds.

    On a full disk HDF5 ends the process, and zipfile prints when it is cleaned up; so they are not given the disk.
    """
    buffer = io.BytesIO()
    yield buffer
    with replacing(path) as scratch:
        scratch.write_bytes(buffer.getbuffer())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; file names in it may be other bytes, which are escaped."""
    with in_memory(path) as file:
        file.write(text.encode(errors="backslashreplace"))


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
"""A file may declare this much data whatever its own size; more only up to `MAX_PACKED` times its own size."""
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


def check_archive(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` for an archive that declares more than its file can hold, or is packed in another way than usual."""
    if why := excess(sum(member.file_size for member in archive.infolist()), path):
        raise ValueError(f"it {why}")
    # other packings unpack whatever their bytes hold before a size is looked at
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in archive.infolist()):
        raise ValueError("it is packed in a way that neither NumPy nor torch.save writes")


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
        # a chunk is unpacked whole, however little of it is data
        chunk = math.prod(created.get_chunk()) if created.get_layout() == h5d.CHUNKED else 0
        declared += item.id.get_type().get_size() * max(chunk, item.size or 0)
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
