"""Learning from the model as it was before it was compressed.

What a model learns from one batch.

How a model learns: all weights, into the budget, with the survivors alone.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch.nn.functional import kl_div, log_softmax

from neurodeploy.compression.method import Phase, Pruning, PruningFactory
from neurodeploy.compression.minimax import MinimaxPruning
from neurodeploy.compression.saliency import ActiveNeurons
from neurodeploy.errors import TrainingError
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.simulation.records import EpochRecord
from neurodeploy.training.checkpoint import Checkpoint, about, values
from neurodeploy.training.distributed import Order, Replicas, seeded, together
from neurodeploy.training.encoders import read_out
from neurodeploy.training.forward import Data, check_labels, evaluate, in_mode, run_model, spikes_of
from neurodeploy.training.neuron_cells import learn_decays
from neurodeploy.training.options import FitOptions
from neurodeploy.training.progress import Progress, Step, worst

# -------------------- training.distillation


class Teacher:
    """A copy of a model that stays as it is, and whose answers a compressed one is held to (Hinton et al., arXiv 1503.02531)."""

    def __init__(self, model: torch.nn.Module, options: FitOptions) -> None:
        self.model, self.options = copy.deepcopy(model), options

    def shared(self, loss: torch.Tensor, output: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        """The loss that the options share between labels and teacher.

        Parameters
        ----------
        loss : tensor ()
            What the labels say.
        output : tensor (batch, n_classes)
        spikes : tensor (batch, n_steps, \\*shape)
            What the answers are to.

        Returns
        -------
        tensor ()
            (1 - distill) * loss + distill * T^2 * KL(teacher || output), both softened by the temperature T.
        """
        heat, share = self.options.temperature, self.options.distill
        with in_mode(self.model, training=False):
            taught = log_softmax(read_out(run_model(self.model, spikes), self.options.readout) / heat, dim=1)
        apart = kl_div(log_softmax(output / heat, dim=1), taught, reduction="batchmean", log_target=True)
        return (1 - share) * loss + share * heat**2 * apart


# -------------------- training.learning

_LAST_RATE = 0.05


@dataclass(kw_only=True)
class Learner:
    """A model that learns batch by batch, in the weights that its method puts in force, from labels and from a teacher."""

    model: torch.nn.Module
    options: FitOptions
    pruning: Pruning | None
    replicas: Replicas = field(default_factory=Replicas)
    teacher: Teacher | None = None

    def learn(
        self, inputs: torch.Tensor, target: torch.Tensor, optimizer: torch.optim.Optimizer, where: str
    ) -> tuple[float, float]:
        """One optimizer step; the loss, and how many samples were right (NaN where targets are no classes).

        Of replicas each learns from its share of the batch; the step, and what is returned, is that of the whole batch.
        """
        optimizer.zero_grad()
        own = self.replicas.share(len(inputs))
        part = (own.stop - own.start) / len(inputs)
        spikes = self._spikes(inputs, own)
        loss, hits = self._gradients(spikes, target[own], where) if part else (0.0, 0.0)
        trainable = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        loss, hits = self.replicas.sum_gradients(trainable, part, loss * part, hits)
        if not math.isfinite(loss):
            raise TrainingError(
                where, f"the loss is {loss}",
                remedy=f"Lower learning_rate (now {self.options.learning_rate:g}), or look for NaN in the model's weights.",
            )  # fmt: skip
        if self.pruning is not None:
            self.pruning.before_step()
        optimizer.step()
        return loss, hits

    def _gradients(self, spikes: torch.Tensor, target: torch.Tensor, where: str) -> tuple[float, float]:
        """From some samples of a batch: their loss, and how many of them are right; the gradients are the weights' own."""
        with self.in_force() as live, self.replicas.own_draws(f"{self.options.seed}, {where}"):
            with torch.autocast(spikes.device.type, torch.bfloat16, enabled=self.options.amp is not None):
                output = read_out(run_model(self.model, spikes, live or {}), self.options.readout)
                if self.options.loss is torch.nn.functional.cross_entropy:
                    check_labels(target, len(output), output.shape[1])
                    target = target.long()
                target = target.to(output.device)
                loss = self._loss(output, target, spikes)
            loss.backward()  # type: ignore[no-untyped-call]  # of torch, in some versions
        if target.is_floating_point() or target.shape != output.shape[:1]:
            return loss.item(), math.nan
        hits = (output.argmax(dim=1) == target).sum()
        told, right = torch.stack([loss.detach().double(), hits.double()]).tolist()  # a GPU is waited for once
        return told, right

    def _spikes(self, inputs: torch.Tensor, own: slice) -> torch.Tensor:
        """Of some samples; an encoder of the user's gets the batch: what it draws for each is the same for any replicas."""
        if callable(self.options.encoder):
            return spikes_of(inputs, self.model, self.options)[own]
        return spikes_of(inputs[own], self.model, self.options)

    def _loss(self, output: torch.Tensor, target: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        loss = self.options.loss(output, target)
        if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.requires_grad:
            raise TrainingError("loss", "returned no scalar tensor that depends on the model")
        return loss if self.teacher is None else self.teacher.shared(loss, output, spikes)

    def in_force(self) -> AbstractContextManager[ActiveNeurons | None]:
        """The weights that the method has the loss see, for as long as this lasts, and which neurons matter with them."""
        return nullcontext() if self.pruning is None else self.pruning.in_force()


def learning_rate(phase: Phase, done: float, options: FitOptions) -> float:
    """Constant while compressing, a half cosine otherwise; `done` is the share of the phase, 0..1."""
    if phase == "compress":
        return options.learning_rate
    return options.learning_rate * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)


# -------------------- training.loop


def fit(
    model: torch.nn.Module,
    budget: Budget | None,
    data: Data,
    options: FitOptions,
    *,
    test: Data | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    method: PruningFactory = MinimaxPruning,
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
