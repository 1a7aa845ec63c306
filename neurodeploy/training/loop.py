"""How a model learns: all weights, into the budget, with the survivors alone."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from neurodeploy.budgets.budget import Budget
from neurodeploy.errors import DataError, TrainingError
from neurodeploy.records import EpochRecord
from neurodeploy.training.distillation import Teacher
from neurodeploy.training.inference import Data, check_labels, evaluate, in_mode, run_model, spikes_of
from neurodeploy.training.minimax import Compression
from neurodeploy.training.options import FitOptions
from neurodeploy.training.progress import Progress, Step
from neurodeploy.training.pruning import Phase, Pruning
from neurodeploy.training.readouts import read_out

_LAST_RATE = 0.05


def fit(
    model: torch.nn.Module,
    budget: Budget | None,
    data: Data,
    options: FitOptions,
    *,
    test: Data | None = None,
    progress: Progress | None = None,
    method: Callable[[Budget, torch.nn.Module], Pruning] = Compression,
) -> tuple[torch.nn.Module, tuple[EpochRecord, ...]]:
    """Train a model and, given a budget, press it into that budget while it learns.

    The last state is kept; the test data is measured and never chosen by. On an error or an interrupt the model goes back
    to the end of the last epoch that was finished.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``output, state = model(x, state)``; trained in place.
    budget : Budget or None
        None trains the dense phase only.
    data : iterable of (input, target)
        Input (batch, n_steps, \\*shape) of spikes, or (batch, \\*shape) of intensities in 0..1; target (batch,) of classes, or
        what the options' loss takes. With a method ``shuffled(generator)`` that gives the batches in a new order, as
        `data.Batches` has, the seed decides on it.
    test : iterable of (input, target), optional
        Held-out data, evaluated after every epoch.
    progress : callable, optional
        Called with a `Step` after every training step.
    method : callable
        What presses the model into the budget: the minimax method, or another `Pruning` to compare it with.

    Returns
    -------
    model : torch.nn.Module
        The one given, its surviving weights within every slice of the budget.
    history : tuple of EpochRecord

    Raises
    ------
    TrainingError
        A model that does not match the budget, or cannot be run or trained; a loss that is no longer a number.
    DataError
        No data, data that can be read only once, or batches that the model cannot take.
    """
    n_batches = _n_batches(data)
    run = _Run(
        model=model, data=data, test=test, options=options, progress=progress, n_batches=n_batches,
        pruning=None if budget is None else method(budget, model),
        order=torch.Generator().manual_seed(options.seed), finished=copy.deepcopy(model.state_dict()),
    )  # fmt: skip
    try:
        with torch.random.fork_rng(devices=()), in_mode(model, training=True):
            torch.manual_seed(options.seed)
            history = tuple(run.phases())
    except BaseException:
        model.load_state_dict(run.finished)
        raise
    return model, history


def _n_batches(data: Data) -> int:
    try:
        batches = iter(data)
    except TypeError as error:
        raise DataError("data", f"is {type(data).__name__}, not an iterable of (input, target) batches") from error
    if batches is data:
        raise DataError("data", "can be read only once", remedy="Give a list of batches, or a DataLoader.")
    n = len(data) if isinstance(data, Sized) else sum(1 for _ in batches)
    if n == 0:
        raise DataError("data", "holds no batches")
    return n


@dataclass(kw_only=True)
class _Run:
    """One call of `fit`: what it was given, and what changes on the way."""

    model: torch.nn.Module
    data: Data
    test: Data | None
    options: FitOptions
    progress: Progress | None
    n_batches: int
    pruning: Pruning | None
    order: torch.Generator
    finished: dict[str, torch.Tensor]
    overrun: float | None = field(default=None, init=False)
    teacher: Teacher | None = field(default=None, init=False)

    def phases(self) -> Iterator[EpochRecord]:
        yield from self._phase("dense", self.options.epochs_dense)
        if self.pruning is None:
            return
        if self.options.distill:
            self.teacher = Teacher(self.model, self.options)
        yield from self._phase("compress", self.options.epochs_compress)
        self.pruning.close()
        self._note_overrun()
        self.finished = copy.deepcopy(self.model.state_dict())
        yield from self._phase("finetune", self.options.epochs_finetune)
        with self._in_force():
            self.finished = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self.finished)

    def _phase(self, phase: Phase, epochs: int) -> Iterator[EpochRecord]:
        if epochs == 0:
            return
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trainable:
            raise TrainingError("model", "has no parameters to train")
        optimizer = self.options.optimizer(trainable, self.options.learning_rate)
        for epoch in range(epochs):
            yield self._epoch(phase, epoch, epochs, optimizer)

    def _epoch(self, phase: Phase, epoch: int, epochs: int, optimizer: torch.optim.Optimizer) -> EpochRecord:
        started = time.perf_counter()
        total_loss, correct, samples = 0.0, 0.0, 0
        for step, (inputs, target) in enumerate(self._batches()):
            where = f"{phase} epoch {epoch}, step {step}"
            done = (epoch * self.n_batches + step) / (epochs * self.n_batches)
            rate = self._learning_rate(phase, done)
            for group in optimizer.param_groups:
                group["lr"] = rate
            self._before(phase, epoch * self.n_batches + step, done)
            loss, hits = self._learn(inputs, target, optimizer, where)
            self._after(phase, rate)
            total_loss, correct, samples = total_loss + loss * len(inputs), correct + hits, samples + len(inputs)
            if self.progress is not None:
                self.progress(Step(
                    phase=phase, epoch=epoch, epochs=epochs, step=step, steps=self.n_batches, loss=loss, overrun=self.overrun,
                ))  # fmt: skip
        self.finished = copy.deepcopy(self.model.state_dict())
        with self._in_force():
            tested = None if self.test is None else evaluate(self.model, self.test, self.options)[0]
        return EpochRecord(
            phase=phase,
            epoch=epoch,
            loss=total_loss / samples,
            train_accuracy=correct / samples,
            test_accuracy=tested,
            connectivity=1.0 if self.pruning is None else self.pruning.connectivity,
            overruns={} if self.pruning is None else self.pruning.overruns(),
            multipliers={} if self.pruning is None else dict(self.pruning.multipliers),
            seconds=time.perf_counter() - started,
        )

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        shuffled = getattr(self.data, "shuffled", None)
        for batch in self.data if shuffled is None else shuffled(self.order):
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise DataError("data", f"gave {type(batch).__name__}, not a pair (input, target)")
            if len(batch[0]) == 0:
                raise DataError("data", "gave a batch without samples")
            yield batch[0], torch.as_tensor(batch[1])

    def _learning_rate(self, phase: Phase, done: float) -> float:
        """Constant while compressing, a half cosine otherwise; `done` is the share of the phase, 0..1."""
        if phase == "compress":
            return self.options.learning_rate
        return self.options.learning_rate * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)

    def _learn(
        self, inputs: torch.Tensor, target: torch.Tensor, optimizer: torch.optim.Optimizer, where: str
    ) -> tuple[float, float]:
        """One optimizer step; the loss, and how many samples were right (NaN where targets are no classes)."""
        optimizer.zero_grad()
        with self._in_force():
            spikes = spikes_of(inputs, self.model, self.options)
            with torch.autocast(spikes.device.type, torch.bfloat16, enabled=self.options.amp is not None):
                output = read_out(run_model(self.model, spikes), self.options.readout)
                target = target.to(output.device)
                loss = self._loss(output, target, spikes)
            if not loss.isfinite():
                raise TrainingError(
                    where, f"the loss is {loss.item()}",
                    remedy=f"Lower learning_rate (now {self.options.learning_rate:g}), or look for NaN in the model's weights.",
                )  # fmt: skip
            loss.backward()  # type: ignore[no-untyped-call]  # of torch, in some versions
        optimizer.step()
        classes = not target.is_floating_point() and target.shape == output.shape[:1]
        return loss.item(), float((output.argmax(dim=1) == target).sum()) if classes else math.nan

    def _loss(self, output: torch.Tensor, target: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        if self.options.loss is torch.nn.functional.cross_entropy:
            check_labels(target, len(output), output.shape[1])
            target = target.long()
        loss = self.options.loss(output, target)
        if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.requires_grad:
            raise TrainingError("loss", "returned no scalar tensor that depends on the model")
        return loss if self.teacher is None else self.teacher.shared(loss, output, spikes)

    def _in_force(self) -> AbstractContextManager[None]:
        return nullcontext() if self.pruning is None else self.pruning.in_force()

    def _before(self, phase: Phase, step: int, done: float) -> None:
        if self.pruning is not None and phase == "compress" and step % self.options.mask_interval == 0:
            self.pruning.choose(done / self.options.compress_share)
            self._note_overrun()

    def _after(self, phase: Phase, learning_rate: float) -> None:
        if self.pruning is not None and phase != "dense":
            self.pruning.after_step(phase, learning_rate)

    def _note_overrun(self) -> None:
        if self.pruning is not None:
            self.overrun = max(self.pruning.overruns().values())
