"""Runs of ``neurodeploy compress`` and ``demo`` that are killed at random moments and resumed: they end as the unbroken run.

``python -m benchmarks.kills --runs 15 --out benchmarks/results/trust.jsonl`` adds a row for each network. The phases of a
run are taken in turn, and a moment in each at random; signals are SIGKILL, SIGTERM and SIGINT in turn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from norse.torch import LICell, LIFRecurrentCell, SequentialState

from benchmarks.placement.rows import append
from benchmarks.training.__main__ import Residual, lif

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PHASES = {
    "Fits": "checks", "Does not fit": "checks", "Checkpoints go": "dense", "Dense:": "compress and fine-tune",
    "Compressed into": "quantise and measure", "In the chip's": "Lava and report", "Running": "Lava and report",
}  # fmt: skip
"""Beginning of a line on stderr, and the phase that begins with it."""


def chain() -> Any:
    """64-96-10."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(64, 96, bias=False), lif(), torch.nn.Linear(96, 10, bias=False), LICell()
    return SequentialState(*layers), torch.zeros(1, 64)


def residual() -> Any:
    """A residual block on 8 x 8 pixels."""
    torch.manual_seed(0)
    return Residual(torch.nn.Conv2d(1, 8, 3, padding=1, bias=False), 8 * 8), torch.zeros(1, 1, 8, 8)


def recurrent() -> Any:
    """64, 48 neurons that receive each other, 10."""
    torch.manual_seed(0)
    layers = LIFRecurrentCell(64, 48, p=lif().p, autapses=True), torch.nn.Linear(48, 10, bias=False), LICell()
    return SequentialState(*layers), torch.zeros(1, 64)


CHIP = """name: narrow
extends: loihi1
description: Loihi 1 with a 32nd of its synapse memory
synapse_memory_bits_per_core: {value: 32768, unit: bits, source: "a benchmark"}
"""


def command(name: str, folder: Path) -> list[str]:
    """Arguments of a run into ``folder / "out"``."""
    start = [sys.executable, "-m", "neurodeploy"]
    if name == "demo":
        return [*start, "demo", "--out", str(folder / "out")]
    chip = folder / "narrow.yaml"
    chip.write_text(CHIP)
    told = ["--data", "digits", "--epochs", "6", "6", "3", "--steps", "6", "--lava-samples", "2", "--checkpoint-every", "0.3"]
    cores = {"chain": "1", "recurrent": "1", "residual": "4"}[name]
    return [
        *start,
        "compress",
        f"{__file__}:{name}",
        "--target",
        str(chip),
        "--cores",
        cores,
        *told,
        "--out",
        str(folder / "out"),
    ]


@dataclass
class Ended:
    """How a run ended: exit code, what it said on stderr, and seconds that each of its phases took."""

    code: int
    said: str
    phases_s: dict[str, float]

    @property
    def phase(self) -> str:
        """The last one that began."""
        return list(self.phases_s)[-1]


def run(arguments: list[str], kill_in: str = "", after_s: float = 0.0, how: int = signal.SIGKILL) -> Ended:
    """Run a command; if it gets there, send it a signal `after_s` after the beginning of the phase `kill_in`."""
    with tempfile.TemporaryFile("w+") as said:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=said, env=environment, start_new_session=True)
        began, text = {"import": time.monotonic()}, ""
        while process.poll() is None:
            time.sleep(0.02)
            text = os.pread(said.fileno(), 1 << 20, 0).decode(errors="replace")
            began.setdefault(phase_of(text), time.monotonic())
            if kill_in in began and time.monotonic() >= began[kill_in] + after_s:
                process.send_signal(how)
                process.wait(60)
        ends = [*list(began.values())[1:], time.monotonic()]
        seconds = {phase: end - start for (phase, start), end in zip(began.items(), ends, strict=True)}
        said.seek(0)
        return Ended(process.returncode, said.read(), seconds)


def result(folder: Path) -> dict[str, str]:
    """SHA-256 of the network, the weights and the record, and of the report without its paths and times."""
    out, found = folder / "out", {}
    for path in sorted(out.iterdir()):
        if path.name.startswith("checkpoint") or path.suffix in (".html", ".txt"):
            continue
        content = path.read_bytes()
        if path.name == "report.json":
            report = json.loads(content)
            report.pop("files", None)
            report.pop("checkpoint", None)  # the checksum of a file that holds times, too
            for epoch in report.get("history", ()):
                epoch.pop("seconds", None)
            content = json.dumps(report, sort_keys=True).encode()
        found[path.name] = hashlib.sha256(content).hexdigest()
    return found


def phase_of(said: str) -> str:
    """Phase that a run was in, by the last line that begins one."""
    found = [phase for line in said.splitlines() for start, phase in PHASES.items() if line.startswith(start)]
    return found[-1] if found else "import"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Kill runs at random moments, and resume them")
    parser.add_argument("--runs", type=int, default=15, help="killed runs of each network")
    parser.add_argument("--networks", nargs="*", default=["chain", "residual", "recurrent", "demo"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file to which rows are added")
    asked = parser.parse_args()
    # a shell's background jobs ignore SIGINT, and so would the runs
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in asked.networks:
        draw, phases, moments, differing = random.Random(f"{asked.seed} {name}"), Counter[str](), list[str](), list[str]()
        with tempfile.TemporaryDirectory() as folder:
            whole = run(command(name, Path(folder)))
            assert whole.code == 0, whole.said
            expected = result(Path(folder))
        for n in range(asked.runs):
            how = SIGNALS[n % len(SIGNALS)]
            with tempfile.TemporaryDirectory() as folder:
                told, phase = command(name, Path(folder)), list(whole.phases_s)[n % len(whole.phases_s)]
                killed = run(told, phase, draw.random() * whole.phases_s[phase], how)
                phases[killed.phase] += 1
                moments.append(f"{killed.phase} + {killed.phases_s[killed.phase]:.2f} s")
                resumed = run([*told, "--resume"])
                if resumed.code != 0 or result(Path(folder)) != expected:
                    differing.append(f"{moments[-1]}, {how.name}: {resumed.code} {resumed.said[-300:]}")
                    print(name, differing[-1], flush=True)
        append({
            "table": "kills", "network": name, "seed": asked.seed, "runs": asked.runs, "differ": len(differing),
            "phases": dict(phases), "moments": moments,
            "unbroken_s": {phase: round(seconds, 1) for phase, seconds in whole.phases_s.items()},
        }, asked.out)  # fmt: skip


if __name__ == "__main__":
    main()
