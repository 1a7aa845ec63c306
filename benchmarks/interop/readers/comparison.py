"""What every reader does: read a case, compare its answer with neurodeploy's, print one JSON object. It imports NumPy alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LATEST = 4
"""Steps by which a tool may be late, where it is on a chip's clock; those get so many steps of silence behind the input."""


class Case:
    """A folder of `benchmarks.interop.cases`."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "case.json").read_text())
        self.folder, self.file, self.dt = folder, folder / facts["file"], facts.get("dt")
        self.given: NDArray[Any] = np.load(folder / "given.npy")
        self.expected: NDArray[Any] = np.load(folder / "expected.npy")

    def steps(self) -> list[NDArray[np.float32]]:
        """Input of each step, (batch, *shape)."""
        return [np.ascontiguousarray(self.given[..., t], dtype=np.float32) for t in range(self.given.shape[-1])]

    def samples(self) -> list[list[NDArray[np.float32]]]:
        """Input of each step of each sample, without a batch: (*shape)."""
        return [[step[k] for step in self.steps()] for k in range(len(self.given))]


def agreement(theirs: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
    """Spikes in common, over those that one of both has: 1 where all are equal. At the delay at which they are most."""
    theirs = theirs.reshape(*expected.shape[:-1], -1)

    def in_common(late: int) -> float:
        there = theirs[..., late : late + expected.shape[-1]]
        here = expected[..., : there.shape[-1]]
        return float(np.minimum(there, here).sum() / max(np.maximum(there, here).sum(), 1))

    late = max(range(LATEST + 1), key=lambda k: (in_common(k), -k))
    return {"in_common": in_common(late), "steps_late": late, "spikes": int(expected.sum()), "their_spikes": int(theirs.sum())}


def main(run: Callable[[Case], NDArray[Any] | dict[str, Any]]) -> None:
    """Run a reader on the case that the command line names; it returns spikes (batch, *shape, n_steps), or what it found."""
    case = Case(Path(sys.argv[1]))
    answer = run(case)
    found = answer if isinstance(answer, dict) else agreement(np.asarray(answer), case.expected)
    print(json.dumps(found))


def run_torch(make: Callable[[], Any], case: Case, *, batched: bool = True) -> NDArray[Any]:
    """Spikes of a torch module that takes (x, state) and returns (spikes, state), one step after another; `make` makes it."""
    import torch

    def spikes(steps: list[NDArray[np.float32]]) -> NDArray[Any]:
        model, state, answers = make(), None, []
        with torch.no_grad():
            for x in steps:
                fired, state = model(torch.from_numpy(x), state)
                answers.append(fired.numpy())
        return np.stack(answers, axis=-1)

    torch.manual_seed(0)
    return spikes(case.steps()) if batched else np.stack([spikes(sample) for sample in case.samples()])
