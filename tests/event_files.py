"""Recordings of a few events, in the formats and folders that tonic expects of data sets."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

EVENT = np.dtype([("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.bool_)])

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def some_events(seed: int, side: int, n: int = 60, until: int = 8000) -> NDArray[np.void]:
    """Events of a sensor of side x side pixels, in the order of their times, in microseconds."""
    rng, events = np.random.default_rng(seed), np.zeros(n, dtype=EVENT)
    events["t"] = np.sort(rng.integers(0, until, n))
    events["x"], events["y"], events["p"] = rng.integers(0, side, n), rng.integers(0, side, n), rng.random(n) < 0.5
    return events


def write_nmnist(folder: Path, half: str, label: int, name: str, events: NDArray[np.void]) -> None:
    """Five bytes an event: x, y, polarity and 23 bits of time."""
    place = folder / "NMNIST" / half / str(label)
    place.mkdir(parents=True, exist_ok=True)
    p, t = events["p"].astype(np.int64), events["t"]
    columns = (events["x"], events["y"], p << 7 | t >> 16, t >> 8 & 255, t & 255)
    (place / f"{name}.bin").write_bytes(np.stack(columns, axis=1).astype(np.uint8).tobytes())


def write_gesture(folder: Path, half: str, user: str, label: int, events: NDArray[np.void]) -> None:
    """An array (n, 4) of x, y, p and t in milliseconds."""
    place = folder / "DVSGesture" / f"ibmGesture{half}" / user
    place.mkdir(parents=True, exist_ok=True)
    columns = (events["x"], events["y"], events["p"], events["t"] // 1000)
    np.save(place / f"{label}.npy", np.stack(columns, axis=1).astype(np.float64))


def write_shd(folder: Path, half: str, labels: list[int], recordings: list[NDArray[np.void]]) -> None:
    """Times in seconds and units, each a list of lists, and what SHD tells beside them."""
    (folder / "SHD").mkdir(exist_ok=True)
    with h5py.File(folder / "SHD" / f"shd_{half}.h5", "w") as file:
        for name, kind in (("times", np.float32), ("units", np.uint16)):
            lists = file.create_dataset(f"spikes/{name}", (len(labels),), dtype=h5py.vlen_dtype(kind))
            for k, events in enumerate(recordings):
                lists[k] = (events["t"] / 1e6 if name == "times" else events["x"]).astype(kind)
        file["labels"] = np.array(labels, dtype=np.uint16)
        file["extra/speaker"] = np.zeros(len(labels), dtype=np.uint16)
        file["extra/keys"] = np.array([f"word {k}".encode() for k in range(20)])


# ---------------------------------------------------------------------------------------------- AEDAT 4.0

_STREAMS = """<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/"><node name="0" path="/0/">
<attr key="compression" type="string">NONE</attr><attr key="typeIdentifier" type="string">EVTS</attr>
<node name="info" path="/0/info/"><attr key="sizeX" type="int">128</attr><attr key="sizeY" type="int">128</attr></node>
</node></node></dv>"""


def write_cifar(folder: Path, label: int, number: int, events: NDArray[np.void]) -> None:
    """AEDAT 4.0: a header and one packet, each a flatbuffer behind its own size."""
    place = folder / "CIFAR10DVS" / CLASSES[label]
    place.mkdir(parents=True, exist_ok=True)
    rows = [struct.pack("<qhh?3x", int(e["t"]), int(e["x"]), int(e["y"]), bool(e["p"])) for e in events]
    header = _table(b"IOHE", 3, struct.pack("<I", len(_STREAMS)) + _STREAMS.encode() + b"\0")
    packet = _table(b"EVTS", 1, struct.pack("<I", len(rows)) + b"".join(rows))
    path = place / f"cifar10_{CLASSES[label]}_{number}.aedat4"
    path.write_bytes(b"#!AER-DAT4.0\r\n" + header + struct.pack("<ii", 0, len(packet)) + packet)


def _table(identifier: bytes, n_fields: int, vector: bytes) -> bytes:
    """A flatbuffer of one table, of whose fields the last alone is there: a vector, after its length."""
    offsets = [0] * (n_fields - 1) + [4]
    fields = struct.pack(f"<{2 + n_fields}H", 4 + 2 * n_fields, 8, *offsets)
    fields += b"\0" * (-len(fields) % 4)
    at = 8 + len(fields)
    made = struct.pack("<I", at) + identifier + fields + struct.pack("<iI", len(fields), 4) + vector
    return struct.pack("<I", len(made)) + made
