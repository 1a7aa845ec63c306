"""Files that appear whole and together, and replace nothing that is not of neurodeploy."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from neurodeploy.errors import NeurodeployError, RequestError

REPORT = "report.json"
"""What a run writes about itself into its folder; the next run looks there."""
SWEEP = "sweep.json"
"""The same of a sweep."""
CHECKPOINTS = ("checkpoint-dense.safetensors", "checkpoint-compressed.safetensors")


def check_replaceable(path: str | os.PathLike[str], *, ours: bool = True) -> None:
    """Raise `RequestError` where a file written to `path` would replace no file, or one that is not `ours`."""
    target = Path(path)
    if target.is_symlink():  # a rename would replace the link, and leave the file that it leads to as it is
        remedy = f"It leads to {target.readlink()}: write there, or delete the link."
        raise RequestError(str(target), "is a symbolic link, and would be replaced", remedy=remedy)
    if target.exists() and not target.is_file():  # a rename would put a file in the place of a device or a pipe
        raise RequestError(str(target), "is not a regular file, and would be replaced", remedy="Write to another path.")
    if target.exists() and not ours:
        remedy = "Write to another path, or move it away."
        raise RequestError(str(target), "was not written by neurodeploy, and would be replaced", remedy=remedy)


MARKS = b"\x89HDF\r\n\x1a\n", b'name="generator" content="neurodeploy"', b'"neurodeploy": "'
"""What is in the first 64 KiB of networks in HDF5, of pages and of reports."""
MEMBERS = {"spikes.npy", "v.npy", "meta.npy"}, {"/layers.npy"}
"""Members of its archives: records, networks of Xylo."""


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether a file may be one that neurodeploy wrote, by what is in it; an empty one is nobody's."""
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        beginning = file.read(1 << 16)
    if beginning.startswith(b"PK"):
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            return any(members.issubset(archive.namelist()) for members in MEMBERS)
    return not beginning or any(mark in beginning for mark in MARKS)


MAX_BEGINNING = 200
"""Bytes of a file's name in that of its scratch file: most file systems take 255, and a number and an ending follow."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file whole or not at all: yield a scratch path in the same folder, and move it to `path` if the block succeeds.

    If the block raises, `path` stays as it was and the scratch file is deleted. Scratch files for `path` that killed processes
    left behind are deleted as well.
    """
    target = Path(path)
    check_replaceable(target)
    beginning = os.fsdecode(os.fsencode(target.name)[:MAX_BEGINNING])
    # No name in the pattern: it could hold characters that glob interprets.
    for left_over in target.parent.glob(".*.part"):
        owner = left_over.name[len(f".{beginning}.") : -len(".part")]
        if left_over.name.startswith(f".{beginning}.") and owner.isdecimal() and not _process_exists(int(owner)):
            left_over.unlink(missing_ok=True)
    # In the same folder, because a rename is atomic only within a file system; one name a process, so that writers do not meet.
    scratch = target.with_name(f".{beginning}.{os.getpid()}.part")
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


def link(source: Path, target: Path) -> None:
    """Let a file that is replaced and never changed have a second name, unless there is none, or something has that name."""
    if source.is_file() and not target.exists():
        make_folder(target.parent)
        try:
            os.link(source, target)
        except OSError:  # a file system without links
            with replacing(target) as scratch:
                scratch.write_bytes(source.read_bytes())


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing; `Path.mkdir` calls itself for each of those."""
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)


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

    @property
    def is_of_a_run(self) -> bool:
        """Whether a run wrote its report or a checkpoint into it, or was killed here: its files may be replaced."""
        left = any((self.path / name).exists() for name in (self.hidden.name, *CHECKPOINTS))
        return left or is_ours(self.path / REPORT) or is_ours(self.path / SWEEP)

    def lock(self) -> int:
        """Make the hidden folder and lock it; return the descriptor of its lock, which ends with the process."""
        lock = self.hidden / "lock"
        while True:
            make_folder(self.path)
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
        Paths of files that will be published: what they may not replace is refused at once, as is all where no run wrote before.

    Raises
    ------
    RequestError
        No folder can be made or written to there; something other than a file of a run would be replaced; or another run writes
        there, and the error names its process.
    """
    path = Path(out)
    if "\0" in str(path):
        raise RequestError(str(path), "holds a NUL, which no name of a file has")
    folder, made = OutputFolder(path=path), [one for one in (path, *path.parents) if not one.exists()]
    try:
        try:
            ours, lock = folder.is_of_a_run, folder.lock()
        except OSError as error:
            raise RequestError(str(out), f"is no folder to write to: {error.strerror}") from error
        try:
            folder.clear()
            folder.staging.mkdir()
            for file in files:
                check_replaceable(file, ours=ours)
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


def write_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], path: Path) -> bool:
    """Write rows as Parquet, with a type for each column as Arrow names it; return whether pyarrow, an extra, is there."""
    try:
        import pyarrow as arrow
        from pyarrow.parquet import write_table as write
    except ImportError:
        return False
    schema = arrow.schema([(name, arrow.type_for_alias(kind)) for name, kind in columns.items()])
    write(arrow.Table.from_pylist(list(rows), schema=schema), path)
    return True
