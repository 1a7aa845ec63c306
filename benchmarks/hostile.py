"""Files that once ended in more than one line, by format: what fuzzing and review have found. Each has to be refused.

`benchmarks.fuzz` reads them before files that it draws; tests/test_hostile_files.py asks for the reason of each. Texts that HDF5
reads for ever, which take until the time limit, are in tests/test_netx.py and tests/test_nir_errors.py.
"""

from __future__ import annotations

import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

# ---------------------------------------------------------------------------------------------- HDF5


def write_chain(path: Path) -> None:
    """A file of netx: 12 inputs, 10 neurons, 4 neurons."""
    draw = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for k, (n_in, n_out) in enumerate(((12, 10), (10, 4))):
            layer = file.create_group(f"layer/{k}")
            layer["type"], layer["shape"] = np.bytes_("dense"), np.array([n_out])
            layer["inFeatures"], layer["outFeatures"] = n_in, n_out
            layer["weight"] = (draw.integers(-60, 60, (n_out, n_in)) * 2).astype(np.int32)
            neuron = layer.create_group("neuron")
            neuron["type"], neuron["iDecay"], neuron["vDecay"] = np.bytes_("LOIHI"), 1000, 300
            neuron["vThMant"], neuron["refDelay"], neuron["gradedSpike"] = 60, 1, False


def declare(file: h5py.File, shape: tuple[int, int], dtype: str = "i8") -> None:
    """Declare far more data than there is."""
    del file["layer/1/weight"], file["layer/1/shape"]
    file.create_dataset("layer/1/weight", shape=shape, dtype=dtype, chunks=(4000, 1000), compression="gzip")
    file["layer/1/shape"] = (shape[0],)


def store_elsewhere(file: h5py.File) -> None:
    """Store weights in another file."""
    other = Path(file.filename).with_name("other.bin")
    other.write_bytes(bytes(range(48)))
    del file["layer/1/weight"]
    file.create_dataset("layer/1/weight", shape=(4, 10), dtype="u1", external=[(str(other), 0, 40)])


def store_virtually(file: h5py.File) -> None:
    """Take weights from another file, as a virtual dataset."""
    layout = h5py.VirtualLayout(shape=(4, 10), dtype="i4")
    layout[:] = h5py.VirtualSource("other.h5", "weight", shape=(4, 10))
    del file["layer/1/weight"]
    file.create_virtual_dataset("layer/1/weight", layout)


def link(to: h5py.SoftLink | h5py.ExternalLink) -> Callable[[h5py.File], None]:
    """Return a function that makes weights a link."""

    def replace_weight(file: h5py.File) -> None:
        del file["layer/1/weight"]
        file["layer/1/weight"] = to

    return replace_weight


def refer(file: h5py.File) -> None:
    """Add a reference."""
    file["layer/1/hint"] = file["layer/0/weight"].ref


def filter_by_plugin(file: h5py.File) -> None:
    """Pack weights with a filter of a plugin."""
    del file["layer/1/weight"]
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((4, 10))
    created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())  # Zstandard, from a plugin
    space = h5py.h5s.create_simple((4, 10))
    h5py.h5d.create(file["layer/1"].id, b"weight", h5py.h5t.STD_I32LE, space, created)


def name_many_times(file: h5py.File) -> None:
    """Add 40 groups, each with two names for the next: 2**40 paths lead through them."""
    below = file.create_group("paths")
    for _ in range(40):
        above = file.create_group("above")
        above["a"] = above["b"] = below
        del file["above"], file["paths"]
        file["paths"] = below = above
    file["layer/0/paths"] = below
    del file["paths"]


def read_many_times(file: h5py.File) -> None:
    """Give 240 MB of zeros forty names."""
    zeros = file.create_dataset("layer/0/zeros", shape=(30 << 20,), dtype="f8", chunks=(1 << 20,), compression="gzip")
    for k in range(39):
        file[f"layer/0/zeros{k}"] = zeros


def contain_itself(file: h5py.File) -> None:
    """Add the file to one of its groups."""
    file["layer/0/file"] = file["/"]


def pack(file: h5py.File, name: str, kind: h5py.h5t.TypeID, shape: tuple[int, ...], chunk: tuple[int, ...]) -> h5py.Dataset:
    """Put a dataset in packed chunks in the place of another."""
    del file[name]
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk(chunk)
    created.set_deflate(9)
    space = h5py.h5s.create_simple(shape, (h5py.h5s.UNLIMITED,) * len(shape))
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, created))


def unpack_beyond_chunk(file: h5py.File) -> None:
    """Pack 1 GB of zeros into a chunk of 320 bytes."""
    weight = pack(file, "layer/1/weight", h5py.h5t.NATIVE_DOUBLE, (4, 10), (4, 10))
    packer, n_blocks = zlib.compressobj(9, wbits=-15), 64
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)  # stands for itself, so it can be repeated
    checksum = ((n_blocks << 24) % 65521) << 16 | 1  # Adler-32 of zeros
    packed = b"\x78\xda" + n_blocks * block + zlib.compressobj(wbits=-15).flush() + struct.pack(">I", checksum)
    weight.id.write_direct_chunk((0, 0), packed, 0)


def repeat_text(n: int, file: h5py.File) -> None:
    """Let `n` texts be one of 1 MB."""
    kind = h5py.h5t.py_create(h5py.string_dtype(), logical=True)
    texts = pack(file, "layer/1/type", kind, (n,), (n,))
    texts[0] = "A" * (1 << 20)
    file.flush()
    texts.id.refresh()
    _, packed = texts.id.read_direct_chunk((0,))
    texts.id.write_direct_chunk((0,), zlib.compress(zlib.decompress(packed)[:16] * n), 0)


MADE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "32 GB": (lambda file: declare(file, (40_000, 100_000)), "declares 32.0 GB of data"),
    "4 GB of zeros": (lambda file: declare(file, (10_000, 50_000)), "declares 4.0 GB of data"),
    "2 GB once read": (lambda file: declare(file, (16_383, 16_384), "i1"), "declares 2.1 GB of data"),
    "external storage": (store_elsewhere, "layer/1/weight stored in another file"),
    "virtual": (store_virtually, "layer/1/weight stored in another file"),
    "external link": (link(h5py.ExternalLink("other.h5", "/weight")), "layer/1/weight, a link to other.h5 /weight"),
    "soft link": (link(h5py.SoftLink("/layer/0/weight")), "layer/1/weight, a link to"),
    "reference": (refer, "layer/1/hint, which holds references"),
    "2**40 paths": (name_many_times, "under two names"),
    "forty names": (read_many_times, "under two names"),
    "circle": (contain_itself, "has layer/0/file under two names"),
    "one chunk of 4 GB": (
        lambda file: pack(file, "layer/1/weight", h5py.h5t.NATIVE_DOUBLE, (4, 10), (20_000, 25_000)),
        "declares 4.0 GB of data",
    ),
    "chunk beyond its size": (unpack_beyond_chunk, "layer/1/weight cannot be read"),
    "one text 3000 times": (partial(repeat_text, 3000), "layer/1/type cannot be read"),
    "one text 100 times": (partial(repeat_text, 100), "layer/1/type, texts of 105 MB in a file of"),
    "plugin": (filter_by_plugin, "layer/1/weight packed by a filter"),
}


def made(kind: str, path: Path) -> None:
    """Write a netx file and change it."""
    write_chain(path)
    with h5py.File(path, "a") as file:
        MADE[kind][0](file)


def with_listed_types(path: Path) -> None:
    """Make the types of a NIR file's nodes arrays."""
    with h5py.File(path, "a") as file:
        for node in file["node/nodes"].values():
            del node["type"]
            node["type"] = np.array([b"LIF", b"LI"])


def cut(path: Path) -> None:
    """Leave the first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# ---------------------------------------------------------------------------------------------- NumPy

HEADERS = {
    "one bracket": b"(" + b" " * 38 + b"\n",
    "a gigantic shape": b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }\n",
    "a negative side": b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }\n",
    "not a dict": b"[1, 2]\n",
    "code": b"{'descr': __import__('os'), 'fortran_order': False, 'shape': (3,), }\n",
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }\n",
    "nested": b"(" * 1000 + b"\n",
    "things of no size": b"{'descr': '|V0', 'fortran_order': False, 'shape': (12, 10000000000), }\n",
    "texts of no size": b"{'descr': '<U0', 'fortran_order': False, 'shape': (12, 100000000), }\n",
    "bytes of no size": b"{'descr': '|S0', 'fortran_order': False, 'shape': (10000000000,), }\n",
    "records": b"{'descr': [], 'fortran_order': False, 'shape': (12, 10000000000), }\n",
    "complex numbers": b"{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }\n",
    "none of very many": b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 12, 0), }\n",
}


def with_header(header: bytes, path: Path) -> None:
    """Write an .npy file with this header."""
    path.write_bytes(npy_bytes(header) + bytes(97))


def bomb(path: Path) -> None:
    """Write an archive of 0.3 MB that unpacks to 0.3 GB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x_train.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))


def archived(members: Mapping[str, bytes], path: Path, packing: int = zipfile.ZIP_STORED) -> None:
    """Write an archive with these members besides an array `a`."""
    with zipfile.ZipFile(path, "w", packing) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in (("a.npy", npy_bytes(b"")), *members.items()):
            archive.writestr(name, content)


def npy_bytes(header: bytes) -> bytes:
    """An .npy file with this header; for none, of three numbers."""
    header = header or b"{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(3)


def understate(path: Path) -> None:
    """Write an archive whose member is packed by bzip2 and holds 0.2 GB, though it says that it holds 100 bytes."""
    archived({"x.npy": bytes(200 << 20)}, path, zipfile.ZIP_BZIP2)
    content = bytearray(path.read_bytes())
    for at in (content.rindex(b"PK\x01\x02") + 24, content.rindex(b"PK\x03\x04") + 22):
        content[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(content)


ARCHIVES: Mapping[str, Callable[[Path], None]] = {
    "no array": partial(archived, {"x.npy": b"hello world"}),
    "empty": partial(archived, {"x.npy": b""}),
    "no ending": partial(archived, {"x": npy_bytes(b"")}),
    "twice": partial(archived, {"a.npy": npy_bytes(b"")}),
    "bzip2": partial(archived, {}, packing=zipfile.ZIP_BZIP2),
    "LZMA": partial(archived, {}, packing=zipfile.ZIP_LZMA),
    "bzip2 of more": understate,
    **{f"{kind} beside": partial(archived, {"x.npy": npy_bytes(header)}) for kind, header in HEADERS.items()},
}
"""Archives of arrays, of which one cannot be read or is not one that NumPy writes."""


# ---------------------------------------------------------------------------------------------- weights


class Attack:
    """Unpickled by pickle, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def repack(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Copy an archive with changed members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def beyond(name: str, data: bytes) -> bytes:
    """Cut a number off a tensor's storage."""
    return data[:-4] if name.endswith("data/0") else data


def swapped(name: str, data: bytes) -> bytes:
    """Say that numbers have their most significant byte first."""
    return b"big" if name.endswith("byteorder") else data


def repacked(change: Callable[[str, bytes], bytes], path: Path) -> None:
    """Save weights and change the members of the archive."""
    whole = path.with_name("whole.zip")
    torch.save(torch.nn.Linear(2, 3).state_dict(), whole)
    repack(whole, path, change)
    whole.unlink()


def pickled(content: bytes, path: Path) -> None:
    """Put this pickle in the place of that of saved weights."""
    repacked(lambda name, data: content if name.endswith("data.pkl") else data, path)


def packed_instructions(path: Path) -> None:
    """Write an archive of some kB whose instructions make millions of lists."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + b"]" * 7_000_000 + b".")
        archive.writestr("w/byteorder", "little")


def packed_by(method: int, path: Path) -> None:
    """Write an archive of one member in a packing that `zipfile` unpacks whole, whatever size the member declares."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("w/data.pkl", bytes(1000))


def longer_than_declared(path: Path) -> None:
    """Pack 64 MB into a member that declares 100 bytes; what is read of it is no pickle."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = packed.compress(bytes(64 << 20)) + packed.flush()
    name, sizes = b"w/data.pkl", (zlib.crc32(bytes(100)), len(content), 100)
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, *sizes, len(name), 0) + name + content
    central = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, *sizes, len(name), 0, 0, 0, 0, 0, 0) + name
    path.write_bytes(local + central + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0))


def in_parts(path: Path) -> None:
    """Say that the archive has two parts: `zipfile.is_zipfile` raises."""
    content = path.read_bytes()
    path.write_bytes(content[:-22] + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2) + content[-22:])


def in_tar(path: Path) -> None:
    """Write weights as torch before 0.1.10 did."""
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


WEIGHTS: Mapping[str, Callable[[Path], Any]] = {
    "scripted": lambda path: torch.jit.script(torch.nn.Linear(2, 3)).save(str(path)),
    "attack": lambda path: torch.save({"x": Attack(path.with_name("touched"))}, path),
    "old": lambda path: torch.save(torch.nn.Linear(2, 3).state_dict(), path, _use_new_zipfile_serialization=False),
    "module": lambda path: torch.save(torch.nn.Linear(2, 3), path),
    "short": partial(repacked, beyond),
    "big": partial(repacked, swapped),
    "tar": in_tar,
    "packed instructions": packed_instructions,
    "deep key": partial(pickled, b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."),
    "deep keys": partial(pickled, b"\x80\x02}()" + b"\x85" * 5000 + b"K\x01u."),
    "deep argument": partial(pickled, b"\x80\x02ccollections\nOrderedDict\n]])" + b"\x85" * 1_000_000 + b"aNaa\x85R."),
    "deep name": partial(pickled, b"\x80\x02(Nctorch\nFloatStorage\n)" + b"\x85" * 1_000_000 + b"NK\x01tQ."),
    "long key": partial(pickled, b"\x80\x02}\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000 + b"K\x01s."),
    "gigantic bytes": partial(pickled, b"\x80\x05\x96" + struct.pack("<Q", 3 << 30) + b"abc."),
    "bzip2": partial(packed_by, zipfile.ZIP_BZIP2),
    "lzma": partial(packed_by, zipfile.ZIP_LZMA),
    "longer": longer_than_declared,
}

CORPUS: Mapping[str, Mapping[str, Callable[[Path], Any]]] = {
    "net": {kind: partial(made, kind) for kind in MADE} | {"cut": cut},
    "nir": {kind: partial(made, kind) for kind in MADE} | {"listed types": with_listed_types, "cut": cut},
    "npy": {kind: partial(with_header, header) for kind, header in HEADERS.items()},
    "npz": {"bomb": bomb, "cut": cut, **ARCHIVES},
    "pt": {**WEIGHTS, "in parts": in_parts, "cut": cut},
    "checkpoint": {"cut": cut},
    "safetensors": {"cut": cut},
}
"""Recipes by format and kind: each gets a path at which a whole file of the format lies, and leaves the hostile one there."""
