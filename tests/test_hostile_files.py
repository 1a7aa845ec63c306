"""Files from elsewhere: damaged, too large for what they are, or reaching beyond themselves. Each is refused in one line."""

from __future__ import annotations

import errno
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from neurodeploy.__main__ import main
from neurodeploy.errors import DataError
from neurodeploy.ir.files import load_numpy, replacing
from neurodeploy.training.checkpoint import load_weights, read_torch_file


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


def declare(file: h5py.File, shape: tuple[int, int]) -> None:
    del file["layer/1/weight"], file["layer/1/shape"]
    file.create_dataset("layer/1/weight", shape=shape, dtype="i8", chunks=(4000, 1000), compression="gzip")
    file["layer/1/shape"] = (shape[0],)


def store_elsewhere(file: h5py.File) -> None:
    other = Path(file.filename).with_name("other.bin")
    other.write_bytes(bytes(range(48)))
    del file["layer/1/weight"]
    file.create_dataset("layer/1/weight", shape=(4, 10), dtype="u1", external=[(str(other), 0, 40)])


def store_virtually(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(4, 10), dtype="i4")
    layout[:] = h5py.VirtualSource("other.h5", "weight", shape=(4, 10))
    del file["layer/1/weight"]
    file.create_virtual_dataset("layer/1/weight", layout)


def link(to: h5py.SoftLink | h5py.ExternalLink) -> Callable[[h5py.File], None]:
    def replace_weight(file: h5py.File) -> None:
        del file["layer/1/weight"]
        file["layer/1/weight"] = to

    return replace_weight


def refer(file: h5py.File) -> None:
    file["layer/1/hint"] = file["layer/0/weight"].ref


def filter_by_plugin(file: h5py.File) -> None:
    del file["layer/1/weight"]
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((4, 10))
    created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())  # Zstandard, from a plugin
    space = h5py.h5s.create_simple((4, 10))
    h5py.h5d.create(file["layer/1"].id, b"weight", h5py.h5t.STD_I32LE, space, created)


MADE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "32 GB": (lambda file: declare(file, (40_000, 100_000)), "declares 32.0 GB of data"),
    "4 GB of zeros": (lambda file: declare(file, (10_000, 50_000)), "declares 4.0 GB of data"),
    "external storage": (store_elsewhere, "layer/1/weight stored in another file"),
    "virtual": (store_virtually, "layer/1/weight stored in another file"),
    "external link": (link(h5py.ExternalLink("other.h5", "/weight")), "layer/1/weight, a link to other.h5 /weight"),
    "soft link": (link(h5py.SoftLink("/layer/0/weight")), "layer/1/weight, a link to"),
    "reference": (refer, "layer/1/hint, which holds references"),
    "plugin": (filter_by_plugin, "layer/1/weight packed by a filter"),
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("suffix", [".net", ".nir"])
def test_hdf5_that_reaches_beyond_itself_is_refused(
    kind: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    path = tmp_path / f"chain{suffix}"
    write_chain(path)
    change, reason = MADE[kind]
    with h5py.File(path, "a") as file:
        change(file)
    assert main(["inspect", str(path), "--target", "loihi2"]) == 2
    told = capsys.readouterr().err
    assert reason in " ".join(told.split())
    assert "Traceback" not in told


def test_packed_weights_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chain.net"
    write_chain(path)
    with h5py.File(path, "a") as file:
        del file["layer/1/weight"]
        file.create_dataset("layer/1/weight", data=np.ones((4, 10), np.int32), compression="gzip", shuffle=True, fletcher32=True)
    assert main(["inspect", str(path), "--target", "loihi2"]) == 0


HEADERS = {
    "one bracket": b"(" + b" " * 38 + b"\n",
    "a gigantic shape": b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }\n",
    "not a dict": b"[1, 2]\n",
    "code": b"{'descr': __import__('os'), 'fortran_order': False, 'shape': (3,), }\n",
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }\n",
    "nested": b"(" * 1000 + b"\n",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_of_numpy_files_that_cannot_be_read_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "spikes.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(HEADERS[kind])) + HEADERS[kind] + bytes(100))
    with pytest.raises(DataError, match="is not a NumPy file of numbers"):
        load_numpy(path)


def test_archives_that_unpack_to_far_more_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x_train.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(DataError, match=r"declares 0\.3 GB of data in a file of"):
        load_numpy(path)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.arange(1000), y=np.arange(10))
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            load_numpy(path)
        except DataError:
            continue


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.float32(2.0), np.arange(6).reshape(2, 3).T])
def test_arrays_of_any_shape_are_read(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    found = load_numpy(tmp_path / "a.npy")
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["m.py:net", "--target", "loihi1", "--connectivity", "nan"], "'nan' is not a number"),
        (["x" * 5000, "--target", "loihi1"], "x…x"),
        (["m.py:" + "x" * 5000, "--target", "loihi1"], "no file m.py"),
        (["m\n\x1b[31m.net", "--target", "loihi1"], r"m\n\x1b[31m.net: does not exist"),
        (["no\n.py:net", "--target", "loihi1"], r"no\n.py"),
    ],
)
def test_errors_quote_what_was_typed_in_one_short_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert main(["inspect", *arguments]) == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1
    assert len(line) < 800


def test_an_empty_output_path_is_not_the_current_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "m.py:net", "--target", "loihi1", "--data", "digits", "--out", ""]) == 2
    assert "the path is empty" in capsys.readouterr().err


def test_too_many_steps_end_in_a_line_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.py").write_text(
        "import torch\nfrom norse.torch import LICell, SequentialState\n"
        "def net(): return SequentialState(torch.nn.Linear(64, 10, bias=False), LICell()), torch.zeros(1, 64)\n"
    )
    told = [f"{tmp_path / 'm.py'}:net", "--target", "loihi1", "--data", "digits", "--steps", str(10**14)]
    assert main(["compress", *told, "--out", str(tmp_path / "out")]) == 2
    assert "Not enough memory" in capsys.readouterr().err


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    def fill() -> None:
        with replacing(tmp_path / "model.net"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as raised:
        fill()
    assert raised.value.filename == str(tmp_path / "model.net")


class Attack:
    """Unpickled by pickle, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def repack(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def test_weights_are_read_without_torch_load_and_no_code_of_theirs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    model, path, touched = torch.nn.Linear(2, 3), tmp_path / "w.pt", tmp_path / "touched"
    torch.save(model.state_dict(), path)
    other = torch.nn.Linear(2, 3)
    load_weights(other, path)
    assert torch.equal(other.weight, model.weight)

    def beyond(name: str, data: bytes) -> bytes:
        return data[:-4] if name.endswith("data/0") else data

    def swapped(name: str, data: bytes) -> bytes:
        return b"big" if name.endswith("byteorder") else data

    torch.jit.script(model).save(str(tmp_path / "scripted.pt"))
    torch.save({**model.state_dict(), "x": Attack(touched)}, tmp_path / "attack.pt")
    torch.save(model.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(model, tmp_path / "module.pt")
    repack(path, tmp_path / "short.pt", beyond)
    repack(path, tmp_path / "big.pt", swapped)
    with tarfile.open(tmp_path / "tar.pt", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    reasons = {
        "scripted": "it is a scripted module", "attack": r"it holds (pathlib|__builtin__|builtins)\.",
        "old": "it is not in the format", "module": r"it holds torch\.nn\.modules\.linear\.Linear",
        "short": "its storage 0 holds 5 numbers",
        "big": "its numbers have their most significant byte first", "tar": "it is not in the format",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=rf"{name}\.pt: is not a file of weights \(({reason}).*Save the weights alone"):
            load_weights(other, tmp_path / f"{name}.pt")
    assert not touched.exists()


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.arange(6.0).view(2, 3)}, path)

    def longer(name: str, data: bytes) -> bytes:
        return data.replace(b"K\x02K\x03\x86", b"K\x09K\x03\x86") if name.endswith("data.pkl") else data

    repack(path, tmp_path / "longer.pt", longer)
    with pytest.raises(ValueError, match=r"a tensor \(9, 3\) reaches beyond its storage"):
        read_torch_file(tmp_path / "longer.pt")
