"""Array types, checks on array fields, comparison by value, arrays in files, and HTML tables for notebooks.

Dataclasses of the package check themselves when they are built, hold read-only arrays, and compare by content.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, NetworkError, text_of
from neurodeploy.ir.files import MAX_DECLARED_BYTES, absence, available_memory, check_archive

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
