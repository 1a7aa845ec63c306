"""How far a training run is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A training step that is done.

    Attributes
    ----------
    phase : str
        ``"dense"``, ``"compress"`` or ``"finetune"``.
    epoch, epochs, step, steps : int
        Both counted from 0: epoch `epoch` of `epochs` in the phase, step `step` of `steps` in the epoch.
    loss : float
        Of this step's batch.
    overrun : float or None
        Largest usage over budget less one, over all constraints; None before the survivors were chosen for the first time.
    """

    phase: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    overrun: float | None


Progress: TypeAlias = Callable[[Step], None]


class ProgressBars:
    """A bar for every phase, on a terminal; silent in a pipe. Use it as ``with ProgressBars() as progress: fit(...)``."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def __call__(self, step: Step) -> None:
        if step.phase not in self._tasks:
            self._tasks[step.phase] = self._bars.add_task(step.phase, total=step.epochs * step.steps, detail="")
        detail = f"loss {step.loss:.3f}"
        if step.overrun is not None:
            detail += f", worst overrun {max(step.overrun, 0):+.0%}"
        self._bars.update(self._tasks[step.phase], completed=step.epoch * step.steps + step.step + 1, detail=detail)
