"""Files that are changed at random, each read as a user would: an error of neurodeploy's own, or an answer, and nothing else.

``python -m benchmarks.fuzz --files 10000 --seed 0 --out benchmarks/results/trust.jsonl`` adds a row for each format. A file that
ends in another error, takes longer than `LIMIT_S` of the processor, or leaves something outside its folder is kept in ``--keep``.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import neurodeploy as nd
from benchmarks.hostile import CORPUS
from benchmarks.placement.rows import append
from neurodeploy.errors import NeurodeployError
from neurodeploy.hardware.loading import profile_paths
from neurodeploy.ir.network import LI, LIF
from neurodeploy.simulation.records import load_spikes
from neurodeploy.training.checkpoint import load_state, save_state, save_weights
from neurodeploy.training.data_loading import load_npz

LIMIT_S, MAX_WALL_S = 10, 120
"""Of the processor, which others on a busy machine do not use up; and in all, for one that waits."""
MAX_MEMORY_BYTES = 1 << 30
"""Growth of the process's peak memory."""


@cache
def network() -> nd.Network:
    """A convolution, a recurrent layer with a delayed loop, and a readout."""
    draw = np.random.default_rng(0)

    def dynamics() -> dict[str, Any]:
        return {"current_decay": draw.uniform(0.1, 1), "voltage_decay": draw.uniform(0.1, 1), "rest": 0.0}

    def dense(source: str, n_out: int, n_in: int, delay_steps: int = 0) -> nd.Connection[Any]:
        return nd.Connection(source=source, synapse=nd.Dense(weight=draw.normal(0, 1, (n_out, n_in))), delay_steps=delay_steps)

    kernel = nd.Conv(
        weight=draw.normal(0, 1, (3, 1, 2, 2)), input_shape=(1, 4, 4), stride=(2, 2), padding=(0, 0), dilation=(1, 1)
    )
    layers = (
        nd.Layer(
            name="a", shape=(3, 2, 2), connections=(nd.Connection(source=nd.INPUT, synapse=kernel),), bias=np.zeros(12),
            neuron=LIF(threshold=np.asarray(0.7), **dynamics()),
        ),
        nd.Layer(
            name="b", shape=(5,), connections=(dense("a", 5, 12), dense("b", 5, 5, 1)), bias=np.zeros(5),
            neuron=LIF(threshold=np.asarray(0.9), **dynamics()),
        ),
        nd.Layer(name="c", shape=(3,), connections=(dense("b", 3, 5),), bias=np.zeros(3), neuron=LI(**dynamics())),
    )  # fmt: skip
    return nd.Network(input_shape=(1, 4, 4), layers=layers, timestep_s=1e-3)


@cache
def loihi2() -> nd.HardwareProfile:
    """The chip that networks are counted on."""
    return nd.load_profile("loihi2")


def model() -> torch.nn.Module:
    """What weights are read into."""
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))


# ---------------------------------------------------------------------------------------------- formats


@dataclass(frozen=True)
class Format:
    """A kind of file: how one is written, how it is read, and how it is changed."""

    suffix: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    change: Callable[[Path, random.Random], None]


WORDS = (
    "0", "-1", "1e400", ".nan", "9" * 40, "null", "[1, 2]", "{}", "yes", "x" * 2000, "&a *a", "!!python/name:os.system", "0x7f",
)  # fmt: skip


def changed_bytes(path: Path, draw: random.Random) -> None:
    """Flip, overwrite, delete, repeat or cut off bytes."""
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 1, 2, 8])):
        at = draw.randrange(len(data))
        some = slice(at, at + draw.choice([1, 4, 8, 64]))
        match draw.randrange(6):
            case 0:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[some] = draw.choice([b"\x00", b"\xff", b"\x7f", b"\x80"]) * len(data[some])
            case 2:
                data[some] = draw.randbytes(len(data[some]))
            case 3:
                del data[some]
            case 4:
                data[at:at] = data[some]
            case 5:
                del data[at + 1 :]
        if not data:
            break
    path.write_bytes(data)


VALUES: tuple[Any, ...] = (
    0, -1, 1, 2**31, 2**63 - 1, -(2**63), 1e300, float("nan"), float("inf"), "", "x" * 5000, "dense", b"\xff\x00", [], [[]],
    [1, 2], np.zeros((0, 3)), np.zeros((2, 2), np.complex64), np.ones(7, np.float16), np.bool_(True), np.full((3, 3), np.nan),
)  # fmt: skip


def changed_hdf5(path: Path, draw: random.Random) -> None:
    """Replace, delete, copy or rename datasets, groups and attributes, or change bytes."""
    if draw.random() < 0.4:
        changed_bytes(path, draw)
        return
    with h5py.File(path, "a") as file:
        names: list[str] = []
        file.visit(names.append)
        for _ in range(draw.choice([1, 1, 2, 4])):
            name, other = draw.choice(names), draw.choice(names)
            with suppress(KeyError, ValueError, TypeError, OSError, RuntimeError, AttributeError):
                match draw.randrange(6):
                    case 0:
                        del file[name]
                    case 1:
                        value = draw.choice(VALUES)
                        del file[name]
                        file[name] = value
                    case 2:
                        file.copy(other, f"{name}-copy")
                    case 3:
                        file.move(name, other + draw.choice(["", "x", "/0"]))
                    case 4:
                        file[name].attrs[draw.choice(["type", "shape", "x"])] = draw.choice(VALUES)
                    case 5:
                        data = np.array(file[name])
                        if data.size:
                            number = np.asarray(draw.choice([0, -1, 10**6, 2**31 - 1]))
                            data.flat[draw.randrange(data.size)] = number.astype(data.dtype)
                        del file[name]
                        file[name] = data


def changed_text(path: Path, draw: random.Random) -> None:
    """Replace, delete or repeat words and lines, or change bytes."""
    if draw.random() < 0.2:
        changed_bytes(path, draw)
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(len(lines))
        words = lines[at].split(" ")
        match draw.randrange(4):
            case 0:
                del lines[at]
            case 1:
                lines.insert(draw.randrange(len(lines) + 1), lines[at])
            case 2:
                words[draw.randrange(len(words))] = draw.choice(WORDS)
                lines[at] = " ".join(words)
            case 3:
                draw.shuffle(words)
                lines[at] = " ".join(words)
        if not lines:
            break
    path.write_text("\n".join(lines), encoding="utf-8")


def _write_npz(path: Path) -> None:
    images, labels = np.zeros((4, 28, 28), np.uint8), np.arange(4, dtype=np.int64)
    np.savez_compressed(path, x_train=images, y_train=labels, x_test=images, y_test=labels)


FORMATS = {
    "net": Format(
        ".net", lambda path: nd.write_netx(nd.quantize(network(), loihi2()), path),
        lambda path: nd.inspect(nd.read_netx(path), loihi2()), changed_hdf5,
    ),
    "nir": Format(
        ".nir", lambda path: nd.write_nir(network(), path), lambda path: nd.inspect(nd.read_nir(path, dt=1e-3), loihi2()),
        changed_hdf5,
    ),
    "profile": Format(
        ".yaml", lambda path: path.write_bytes(profile_paths()["loihi2"].read_bytes()),
        lambda path: nd.inspect(network(), nd.load_profile(path)), changed_text,
    ),
    "npy": Format(".npy", lambda path: np.save(path, np.eye(9, dtype=np.uint8)), load_spikes, changed_bytes),
    "npz": Format(".npz", _write_npz, lambda path: load_npz(path, 4), changed_bytes),
    "checkpoint": Format(
        ".safetensors", lambda path: save_state({"fingerprint": {"a": [1, 2]}, "state": {"w": torch.ones(3, 4), "n": 1.5}}, path),
        load_state, changed_bytes,
    ),
    "safetensors": Format(
        ".safetensors", lambda path: save_weights(model(), path), lambda path: nd.load_weights(model(), path), changed_bytes
    ),
    "pt": Format(
        ".pt", lambda path: torch.save(model().state_dict(), path), lambda path: nd.load_weights(model(), path), changed_bytes
    ),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- runs


@dataclass
class Found:
    """What became of the files of a format; `broken` holds those that ended in another way than allowed."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    memory_bytes: int = 0
    broken: list[tuple[str, bytes]] = field(default_factory=list)


class _TooSlow(BaseException):
    """Not an Exception: nothing may swallow it."""


@contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _TooSlow

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, LIMIT_S), (signal.ITIMER_REAL, signal.SIGALRM, MAX_WALL_S))
    before = [signal.signal(number, stop) for _, number, _ in timers]
    for timer, _, limit_s in timers:
        signal.setitimer(timer, limit_s)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def fuzz(name: str, n_files: int, seed: int) -> Found:
    """Read the files that once failed, which have to be refused, and `n_files` changed ones; the same for the same seed."""
    kind, found = FORMATS[name], Found()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{kind.suffix}"
        kind.write(path)
        kind.read(path)
        whole = path.read_bytes()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        past = CORPUS.get(name, {})
        for n in [*past, *range(n_files)]:
            if is_past := isinstance(n, str):
                path = path.with_stem(n.replace(" ", "-"))
            path.write_bytes(whole)
            past[n](path) if is_past else kind.change(path, random.Random(f"{seed} {name} {n}"))
            listing = sorted(Path(folder).iterdir())  # a recipe may put other files beside its own
            changed, started = path.read_bytes(), time.process_time()
            outcome = _outcome(kind, path)
            found.slowest_s = max(found.slowest_s, time.process_time() - started)
            if sorted(Path(folder).iterdir()) != listing:
                outcome = "leaves files"
            found.outcomes[outcome.split(":")[0]] += 1
            if outcome != "refused" and (is_past or outcome != "read"):
                found.broken.append((outcome, changed))
        found.memory_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return found


def _outcome(kind: Format, path: Path) -> str:
    try:
        with _limited():
            kind.read(path)
    except NeurodeployError as error:
        return "refused" if "\n" not in str(error) and len(str(error)) < 2000 else f"long: {error}"
    except _TooSlow:
        return "slow"
    except Exception as error:
        return f"uncaught: {type(error).__name__}: {error}"
    return "read"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Read files that were changed at random")
    parser.add_argument("--files", type=int, default=10_000, help="in all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--out", type=Path, help="a file to which rows are added")
    parser.add_argument("--keep", type=Path, help="folder for the files that broke something")
    asked = parser.parse_args()
    for name in asked.formats:
        found = fuzz(name, asked.files // len(asked.formats), asked.seed)
        for n, (outcome, changed) in enumerate(found.broken):
            print(f"{name}: {outcome}"[:300])
            if asked.keep is not None:
                asked.keep.mkdir(parents=True, exist_ok=True)
                (asked.keep / f"{name}-{asked.seed}-{n}{FORMATS[name].suffix}").write_bytes(changed)
        append({
            "table": "fuzz", "format": name, "seed": asked.seed, "files": found.outcomes.total(), "read": found.outcomes["read"],
            "refused": found.outcomes["refused"], "broken": len(found.broken), "slowest_s": round(found.slowest_s, 2),
            "memory_mb": found.memory_bytes >> 20,
        }, asked.out)  # fmt: skip


if __name__ == "__main__":
    main()
