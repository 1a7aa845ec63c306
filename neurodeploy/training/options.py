"""Options of a training run, its fingerprint, and its progress: the record of a step, bars on a terminal; that of a sweep."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.spinner import Spinner
from rich.text import Text

from neurodeploy.errors import DataError, RequestError, check_arguments, check_numbers, counted, said_by
from neurodeploy.ir.files import installed_version, write_text
from neurodeploy.training.checkpoint import first_mismatch
from neurodeploy.training.encoders import Encoder, Readout, encoder_of, readout_of

if TYPE_CHECKING:
    from neurodeploy.compression.pruning_method import Pruning
    from neurodeploy.mapping.budget import Budget
    from neurodeploy.training.distributed import Order

Loss: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
OptimizerFactory: TypeAlias = "Callable[[Iterable[torch.nn.Parameter], float], torch.optim.Optimizer]"


def adam(parameters: Iterable[torch.nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Adam with its usual settings."""
    return torch.optim.Adam(parameters, lr=learning_rate)


def check_moments(factory: OptimizerFactory, parameters: Sequence[torch.nn.Parameter], state: Mapping[str, Any]) -> None:
    """Raise what a step from an optimizer's state raises, and `ValueError` where it is not finite; nothing of the run changes.

    A trial on copies, whose gradients are zero, asks of the state exactly what the optimizer needs, whatever kind it is.
    """
    copies = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    for copied in copies:
        copied.grad = torch.zeros_like(copied)
    trial = factory(copies, 1e-3)
    trial.load_state_dict(copy.deepcopy(dict(state)))  # it may keep the tensors that it is given, and change them
    trial.step()
    if not all(copied.isfinite().all() for copied in copies):
        raise ValueError("a step of its optimizer gives weights that are not finite")


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """Options of `fit`.

    Attributes
    ----------
    epochs_dense, epochs_compress, epochs_finetune : int
        Epochs of the three phases: training all weights; compressing into the budget; training the kept weights. 0 skips a
        phase (0 dense epochs for a trained model); without a budget only the dense phase runs.
    learning_rate : float
        Above 0. In the dense and finetune phases it falls along a half cosine to a twentieth; in the compress and finetune phases
        it rises over the first ten steps.
    n_steps : int
        Time steps that a static image is encoded into; data in time has its own.
    encoder : str or callable
        ``"rate"``, ``"latency"``, ``"direct"`` (15 levels; `Direct` has others), or intensities (batch, \\*shape) and n_steps to
        spikes (batch, n_steps, \\*shape).
    readout : str or callable
        ``"max"``, ``"last"``, ``"mean"`` or ``"sum"`` over time, or a function (n_steps, batch, n_out) -> (batch, n_classes), of
        which there may be more than outputs: classes coded by several.
    loss : callable
        (readout, target) -> scalar tensor.
    optimizer : callable
        (parameters, learning rate) -> torch optimizer; each phase starts a new one.
    mask_interval : int
        Steps between two selections of synapses; 5 is better where an epoch has few steps.
    compress_share : float
        Share of the compress phase, in 0..1, after which the full budget is in force.
    distill : float
        Share of the loss, 0..1, that compares the outputs with those of the model before compression (distillation with softened
        classes, Hinton et al., arXiv 1503.02531); costs a forward pass per step.
    temperature : float
        Temperature of the softened classes, above 0.
    learn_decays : bool
        Train the decays of the model's Norse cells with its weights (`learn_decays`).
    amp : str or None
        ``"bf16"``: matrix products in bfloat16 while training (autocast), for GPUs and CPUs with AMX; neurons, loss, weights and
        every evaluation stay in float32.
    seed : int
        Seed of the order of the samples and of all random draws of the model.
    """

    epochs_dense: int = 10
    epochs_compress: int = 10
    epochs_finetune: int = 5
    learning_rate: float = 4e-3
    n_steps: int = 12
    encoder: Encoder = "rate"
    readout: Readout = "max"
    loss: Loss = torch.nn.functional.cross_entropy
    optimizer: OptimizerFactory = adam
    # On held-out MNIST at 1/16 of a core 10, 20 and 40 steps had 96.75, 96.66 and 96.84 %: the interval hardly matters there.
    mask_interval: int = 10
    # Likewise 35, 50, 70 and 85 % of the phase: 96.80, 96.66, 96.63 and 96.70 % (both without curvature in the saliency).
    compress_share: float = 0.5
    # Off: since saliency has curvature a teacher gains nothing, and takes two fifths of the time (benchmarks/RESULTS.md, d).
    distill: float = 0.0
    temperature: float = 4.0
    # Off: 98.70 % with it, 98.81 % without, on MNIST at 1/8 of a core.
    learn_decays: bool = False
    amp: Literal["bf16"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        whole = {"epochs_dense": 0, "epochs_compress": 0, "epochs_finetune": 0, "seed": 0, "n_steps": 1, "mask_interval": 1}
        check_numbers(self, whole=whole, real={})
        for name in ("learning_rate", "temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise RequestError(name, f"is {getattr(self, name)}, not a number above 0")
        if not 0 <= self.distill <= 1:
            raise RequestError("distill", f"is {self.distill}, not within 0..1")
        if not 0 < self.compress_share <= 1:
            raise RequestError("compress_share", f"is {self.compress_share}, not above 0 and at most 1")
        # only for their errors: an unknown name is refused before any data is read
        encoder_of(self.encoder)
        readout_of(self.readout)


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
    """Bars with a line of text below them, and while they run a clock, for what has no bar."""

    below = ""
    clock: Spinner | None = None
    started_s = 0.0

    def get_renderables(self) -> Iterator[RenderableType]:
        """Bars, then the line, for rich."""
        yield from super().get_renderables()
        # rich draws one renderable below the other
        if self.below:
            yield Text(self.below, no_wrap=True, overflow="ellipsis")
        if self.clock is not None:
            self.clock.update(text=str(timedelta(seconds=int(self.get_time() - self.started_s))))
            yield self.clock


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
        self._bars.clock, self._bars.started_s = Spinner("dots"), self._bars.get_time()
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.clock = None  # the last picture of the bars stays on the terminal, without it
        self._bars.stop()

    def count(self, done: int, total: int) -> None:
        """Show below the bars how many steps of a run in Lava are done."""
        self._bars.below = f"Lava: {done:,} of {total:,} steps"
        self._bars.refresh()

    def __call__(self, step: Step) -> None:
        if step.phase not in self._tasks:
            self._tasks[step.phase] = self._bars.add_task(step.phase, total=step.epochs * step.steps, detail="")
        detail = f"loss {step.loss:.3f}" + ("" if math.isnan(step.accuracy) else f", {step.accuracy:.1%} right")
        self._bars.below = pressure(step)
        # counted over the whole phase: one bar for all its epochs
        self._bars.update(self._tasks[step.phase], completed=step.epoch * step.steps + step.step + 1, detail=detail)


@dataclass(frozen=True, kw_only=True)
class SweepProgress:
    """How far a sweep is; its text is one line.

    Attributes
    ----------
    runs, done, running, failed : int
        Of `runs`, those that have ended well, that run now, and that failed.
    seconds_left : float or None
        None before a run has ended.
    """

    runs: int
    done: int
    running: int
    failed: int
    seconds_left: float | None

    def __str__(self) -> str:
        parts = [f"{self.done:,} of {counted(self.runs, 'run')} done"]
        parts += [f"{n:,} {what}" for n, what in ((self.running, "running"), (self.failed, "failed")) if n]
        left = self.seconds_left if self.done + self.failed < self.runs else None
        if left is None:
            return ", ".join(parts)
        size, unit = (3600, "h") if left >= 5400 else (60, "min") if left >= 90 else (1, "s")
        return f"{', '.join(parts)}; about {left / size:.0f} {unit} left"


def run_fingerprint(
    model: torch.nn.Module, order: Order, options: FitOptions, budget: Budget | None, pruning: Pruning | None
) -> dict[str, Any]:
    """Describe a training run by its settings, so that a checkpoint can tell whether it belongs to the run.

    A model is described by its modules and the shapes of its weights; data by the number of batches and
    `distributed.data_fingerprint`; functions by their names.
    """
    method = None
    if pruning is not None:
        method = {"name": type(pruning).__qualname__, **_settings(getattr(pruning, "options", None))}
    limits = None
    if budget is not None:
        limits = {"chip": budget.profile.name, "weight_bits": budget.weight_bits} | {
            part.name: [
                part.core, part.synapse_memory_bits, part.input_axons, [cap.axons for cap in part.sources or ()],
                *([part.max_neurons] if part.max_neurons < part.neurons else []),
            ]
            for part in budget.slices
        }  # fmt: skip
    return {
        **_settings(options),
        "batches": order.n_batches,
        "samples": order.fingerprint,
        "weights": {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
        "model": _described(model).splitlines(),
        "method": method,
        "budget": limits,
    }


def keep_fingerprint(path: Path, fingerprint: Mapping[str, Any], command: str) -> None:
    """Write the fingerprint of a sweep, or compare it with that of the sweep that is there."""
    if path.exists():
        try:
            kept = json.loads(path.read_bytes())["fingerprint"]
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(str(path), f"is not of a sweep ({said_by(error)})", remedy="Write to another folder.") from error
        if mismatch := first_mismatch("", kept, fingerprint):
            raise RequestError(
                str(path), f"belongs to a sweep with {mismatch}",
                remedy="Repeat its model, data and options, or write to another folder.",
            )  # fmt: skip
    write_text(
        path,
        json.dumps({"command": command, "versions": {"neurodeploy": installed_version()}, "fingerprint": fingerprint}, indent=2),
    )


def values(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name; nested ones stay as they are."""
    return {one.name: getattr(record, one.name) for one in fields(record)}


def _settings(options: Any) -> dict[str, Any]:
    if not is_dataclass(options):
        return {}
    plain = (type(None), bool, int, float, str)
    return {name: value if isinstance(value, plain) else _described(value) for name, value in values(options).items()}


def _described(value: Any) -> str:
    """Name of a function; the ``repr`` of anything else, without memory addresses."""
    return str(getattr(value, "__qualname__", None) or _ADDRESS.sub("", repr(value)))
