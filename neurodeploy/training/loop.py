"""How a model learns: all weights, into the budget, with the survivors alone."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch

from neurodeploy.budgets.budget import Budget
from neurodeploy.errors import TrainingError
from neurodeploy.records import EpochRecord
from neurodeploy.training.about import about, values
from neurodeploy.training.checkpoints import Checkpoint
from neurodeploy.training.decays import learn_decays
from neurodeploy.training.distillation import Teacher
from neurodeploy.training.inference import Data, evaluate, in_mode
from neurodeploy.training.learning import Learner, learning_rate
from neurodeploy.training.minimax import Compression
from neurodeploy.training.options import FitOptions
from neurodeploy.training.order import Order
from neurodeploy.training.progress import Progress, Step, worst
from neurodeploy.training.pruning import Method, Phase, Pruning
from neurodeploy.training.randomness import seeded
from neurodeploy.training.replicas import Replicas, together


def fit(
    model: torch.nn.Module,
    budget: Budget | None,
    data: Data,
    options: FitOptions,
    *,
    test: Data | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    method: Method = Compression,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
) -> tuple[torch.nn.Module, tuple[EpochRecord, ...]]:
    """Train a model and, given a budget, press it into that budget while it learns.

    The last state is kept; the test data is measured and never chosen by. On an error or an interrupt the model goes back
    to the end of the last epoch that was finished.

    In processes that torchrun started, each learns from its share of every batch, which all of them are given; all end with the
    model, masks and history that one process would have had, to the rounding of sums. The loss has to be a mean over samples.
    What an encoder or the data draw is the same for any number of replicas; what the model itself draws (dropout) is not, nor
    what it takes from a whole batch (batch norm).

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
    on_epoch : callable, optional
        Called with the `EpochRecord` of every epoch when it is over; with what it raises, the run ends.
    method : callable
        What presses the model into the budget: the minimax method, or another `Pruning` to compare it with.
    checkpoint : Checkpoint, optional
        Where the run is kept while it lasts, and how often; and at its end.
    resume : bool
        Go on from the checkpoint, or start where there is none yet. The run then ends in the same network, bit for bit, as one
        that was never broken off (on one kind of processor, with as many threads). One that has ended is not trained again.

    Returns
    -------
    model : torch.nn.Module
        The one given, its surviving weights within every slice of the budget.
    history : tuple of EpochRecord

    Raises
    ------
    TrainingError
        A model that does not match the budget, or cannot be run or trained; a loss that is no longer a number; a checkpoint of
        another run.
    DataError
        No data, data that can be read only once, or batches that the model cannot take; a checkpoint that cannot be read or
        written.
    """
    with together() as replicas:
        if options.learn_decays and not learn_decays(model):
            raise TrainingError("model", "has no cells whose decays could learn", remedy="Leave learn_decays out.")
        replicas.take_first(model)
        order = Order(data, options.seed)
        pruning = None if budget is None else method(budget, model)
        run = _Run(
            model=model, order=order, test=test, options=options, progress=progress, on_epoch=on_epoch, pruning=pruning,
            learner=Learner(model=model, options=options, pruning=pruning, replicas=replicas), checkpoint=checkpoint,
            about={} if checkpoint is None else about(model, order, options, budget, pruning),
            finished=copy.deepcopy(model.state_dict()), replicas=replicas,
        )  # fmt: skip
        _carry_out(run, resume=resume)
    return model, tuple(run.history)


def _carry_out(run: _Run, *, resume: bool) -> None:
    """From the checkpoint, or the beginning, to the end; what goes wrong leaves the last epoch that was finished."""
    model, keep = run.model, run.checkpoint
    kept = run.replicas.of_first(lambda: keep.read(run.about)) if keep is not None and resume else None
    try:
        with seeded(run.options.seed), in_mode(model, training=True):
            if kept is not None:
                run.take_up(kept)
            if kept is None or not kept["ended"]:
                run.phases()
    except BaseException:
        model.load_state_dict(run.finished)
        raise


@dataclass(kw_only=True)
class _Place:
    """How far a run is: `step` steps of this epoch are done, with these sums over their batches, in so much time."""

    phase: Phase = "dense"
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: float = 0.0
    samples: int = 0
    seconds: float = 0.0


@dataclass(kw_only=True)
class _Run:
    """One call of `fit`: what it was given, and what changes on the way."""

    model: torch.nn.Module
    order: Order
    test: Data | None
    options: FitOptions
    progress: Progress | None
    on_epoch: Callable[[EpochRecord], None] | None
    pruning: Pruning | None
    learner: Learner
    checkpoint: Checkpoint | None
    about: Mapping[str, Any]
    replicas: Replicas
    finished: dict[str, torch.Tensor]
    overruns: Mapping[str, float] = field(default_factory=dict, init=False)
    prices: Mapping[str, float] = field(default_factory=dict, init=False)
    place: _Place = field(default_factory=_Place, init=False)
    history: list[EpochRecord] = field(default_factory=list, init=False)
    kept: Mapping[str, Any] | None = field(default=None, init=False)

    def phases(self) -> None:
        """All of them, from where the run stands, and its end on disk."""
        self._phase("dense", self.options.epochs_dense)
        if self.pruning is not None:
            self._into_budget(self.pruning)
        if self.checkpoint is not None:
            keep, told = self.checkpoint, self._at_end()
            self.replicas.of_first(lambda: keep.write(self.about, told))

    def _into_budget(self, pruning: Pruning) -> None:
        if self.options.distill and self.learner.teacher is None:
            self.learner.teacher = Teacher(self.model, self.options)
        self._phase("compress", self.options.epochs_compress)
        if self.place.phase != "finetune":
            self._decide(pruning, pruning.close)
            self.replicas.take_first(self.model)
            self.finished = copy.deepcopy(self.model.state_dict())
        self._phase("finetune", self.options.epochs_finetune)
        with self.learner.in_force():
            self.finished = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self.finished)

    def _phase(self, phase: Phase, epochs: int) -> None:
        order = get_args(Phase)
        if epochs == 0 or order.index(phase) < order.index(self.place.phase):
            return
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trainable:
            raise TrainingError("model", "has no parameters to train")
        optimizer = self.options.optimizer(trainable, self.options.learning_rate)
        if self.kept is None:
            self.place = _Place(phase=phase)
        else:
            optimizer.load_state_dict(self.kept["optimizer"])
            self.kept = None
        while self.place.epoch < epochs:
            record = self._epoch(epochs, optimizer)
            self.history.append(record)
            self.place = _Place(phase=phase, epoch=self.place.epoch + 1)
            if self.on_epoch is not None:
                self.on_epoch(record)

    def _epoch(self, epochs: int, optimizer: torch.optim.Optimizer) -> EpochRecord:
        place, all_steps = self.place, epochs * self.order.n_batches
        started = time.perf_counter() - place.seconds
        for inputs, target in self.order.epoch(place.step):
            at = place.epoch * self.order.n_batches + place.step
            rate = learning_rate(place.phase, at / all_steps, self.options)
            for group in optimizer.param_groups:
                group["lr"] = rate
            self._before(at, at / all_steps)
            where = f"{place.phase} epoch {place.epoch}, step {place.step}"
            loss, hits = self.learner.learn(inputs, target, optimizer, where)
            self._after(rate)
            place.step, place.loss, place.correct = place.step + 1, place.loss + loss * len(inputs), place.correct + hits
            place.samples, place.seconds = place.samples + len(inputs), time.perf_counter() - started
            if self.checkpoint is not None and self.replicas.is_first and self.checkpoint.due:
                self.checkpoint.write(self.about, self._state(optimizer))
            if self.progress is not None:
                self.progress(Step(
                    phase=place.phase, epoch=place.epoch, epochs=epochs, step=place.step - 1, steps=self.order.n_batches,
                    loss=loss, accuracy=place.correct / place.samples, overruns=self.overruns, prices=self.prices,
                ))  # fmt: skip
        self.replicas.take_first(self.model)  # unlike machines drift apart by roundings
        self.finished = copy.deepcopy(self.model.state_dict())
        return self.replicas.of_first(lambda: self._record(started))

    def _record(self, started: float) -> EpochRecord:
        with self.learner.in_force():
            tested = None if self.test is None else evaluate(self.model, self.test, self.options)[0]
        return EpochRecord(
            phase=self.place.phase,
            epoch=self.place.epoch,
            loss=self.place.loss / self.place.samples,
            train_accuracy=self.place.correct / self.place.samples,
            test_accuracy=tested,
            connectivity=1.0 if self.pruning is None else self.pruning.connectivity,
            overruns={} if self.pruning is None else self.pruning.overruns(),
            multipliers={} if self.pruning is None else dict(self.pruning.multipliers),
            seconds=time.perf_counter() - started,
        )

    def _before(self, step: int, done: float) -> None:
        if self.pruning is not None and self.place.phase == "compress" and step % self.options.mask_interval == 0:
            pruning = self.pruning
            self._decide(pruning, lambda: pruning.choose(done / self.options.compress_share))

    def _decide(self, pruning: Pruning, decision: Callable[[], None]) -> None:
        """Let the method decide, in the first of all replicas, and all have what it decided."""

        def decided() -> Mapping[str, Any]:
            decision()
            return pruning.state_dict()

        state = self.replicas.of_first(decided)
        if not self.replicas.is_first:
            pruning.load_state_dict(state)
        self.overruns, self.prices = worst(pruning.overruns()), worst(pruning.multipliers)

    def _after(self, rate: float) -> None:
        if self.pruning is not None and self.place.phase != "dense":
            self.pruning.after_step(self.place.phase, rate)

    def _state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return {
            **self._at_end(),
            "ended": False,
            "place": values(self.place),
            "finished": self.finished,
            "optimizer": optimizer.state_dict(),
            "teacher": None if self.learner.teacher is None else self.learner.teacher.model.state_dict(),
            "overruns": self.overruns,
            "prices": self.prices,
            "order": self.order.state_dict(),
        }

    def _at_end(self) -> dict[str, Any]:
        return {
            "ended": True,
            "history": [values(record) for record in self.history],
            "model": self.model.state_dict(),
            "pruning": None if self.pruning is None else self.pruning.state_dict(),
        }

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Stand where the checkpoint was written."""
        self.history = [EpochRecord(**record) for record in kept["history"]]
        if kept.get("teacher") is not None:
            self.learner.teacher = Teacher(self.model, self.options)
            self.learner.teacher.model.load_state_dict(kept["teacher"])
        self.model.load_state_dict(kept["model"])
        if self.pruning is not None:
            self.pruning.load_state_dict(kept["pruning"])
        if kept["ended"]:
            self.finished = copy.deepcopy(self.model.state_dict())
            return
        self.kept, self.place = kept, _Place(**kept["place"])
        self.finished, self.overruns, self.prices = dict(kept["finished"]), kept["overruns"], kept["prices"]
        self.order.load_state_dict(kept["order"])
