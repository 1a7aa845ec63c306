"""Progress of a training run: the record of a step, and bars on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A finished training step.

    Attributes
    ----------
    phase : str
        ``"dense"``, ``"compress"`` or ``"finetune"``.
    epoch, epochs, step, steps : int
        Both counted from 0: epoch `epoch` of `epochs` in the phase, step `step` of `steps` in the epoch.
    loss : float
        Of this step's batch.
    accuracy : float
        Of the epoch so far, 0..1; NaN where targets are not classes.
    overruns : mapping of resource to float
        Usage over budget less one of the most violated constraint of each resource; empty before the first selection of
        synapses.
    prices : mapping of resource to float
        Highest shadow price of each resource.
    """

    phase: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    overruns: Mapping[str, float]
    prices: Mapping[str, float]

    @property
    def overrun(self) -> float | None:
        """Largest of `overruns`; None before the first selection of synapses."""
        return max(self.overruns.values(), default=None)


Progress: TypeAlias = Callable[[Step], None]


def worst(constraints: Mapping[str, float]) -> dict[str, float]:
    """Largest value of each resource, which is the last word of a constraint's name."""
    found: dict[str, float] = {}
    for name, value in constraints.items():
        # the last space: names of layers may have spaces, resources have none
        resource = name.rpartition(" ")[2]
        found[resource] = max(value, found.get(resource, value))
    return found


_SHORT = {"synapse_memory_bits": "memory", "input_axons": "axons in", "output_axons": "axons out"}


def pressure(step: Step) -> str:
    """Format the worst overrun of each resource, and its price z if there is one, in a line."""
    parts = []
    for resource, overrun in step.overruns.items():
        price = step.prices.get(resource, 0.0)
        parts.append(f"{_SHORT.get(resource, resource)} {overrun:+.0%}{f' z {price:.1e}' if price else ''}")
    return ", ".join(parts)


class _Bars(Bars):
    """Bars with a line of text below them."""

    below = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Bars, then the line, for rich."""
        yield from super().get_renderables()
        # rich draws one renderable below the other
        if self.below:
            yield Text(self.below, no_wrap=True, overflow="ellipsis")


class ProgressBars:
    """A bar on the terminal for every phase, with loss and accuracy, and a line with overruns and prices; fits 80 columns.

    Silent in a pipe. Use it as ``with ProgressBars() as progress: fit(..., progress=progress)``.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._bars = _Bars(
            TextColumn("{task.description:<9}"), BarColumn(bar_width=16), MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"), TimeRemainingColumn(), console=console, disable=not console.is_terminal,
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
        detail = f"loss {step.loss:.3f}" + ("" if math.isnan(step.accuracy) else f", {step.accuracy:.1%} right")
        self._bars.below = pressure(step)
        # counted over the whole phase: one bar for all its epochs
        self._bars.update(self._tasks[step.phase], completed=step.epoch * step.steps + step.step + 1, detail=detail)
