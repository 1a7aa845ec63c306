"""Training loop: dense training, compression into a budget, fine-tuning of the kept weights.

Epochs, checkpoints and progress are the loop's; a pruning method decides which weights to keep. A module trains densely as its
user calls it, step by step or with whole sequences, or its network trains in its place.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch

from neurodeploy.compression.minimax import MinimaxPruning
from neurodeploy.compression.module_weights import learn_decays, sample_of, takes_weights, trainable, why_not_held, write_back
from neurodeploy.compression.pruning_method import Phase, Pruning, PruningFactory
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.errors import DataError, ExtractError, NeurodeployError, TrainingError, check_arguments
from neurodeploy.frontends.torch.extract import time_dimension
from neurodeploy.frontends.torch.model_run import at_rest
from neurodeploy.mapping.budget import Budget
from neurodeploy.simulation.records import EpochRecord
from neurodeploy.targets import arithmetic_named, arithmetic_of
from neurodeploy.training.checkpoint import Checkpoint, refusing_damage
from neurodeploy.training.distributed import Learner, Order, Teacher, learning_rate, seeded, together
from neurodeploy.training.encoders import READOUTS, read_out, spikes_of
from neurodeploy.training.forward import Data, batches_of, evaluate, in_mode, run_model
from neurodeploy.training.options import FitOptions, Progress, Step, check_moments, run_fingerprint, values, worst


@check_arguments
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
    """Train a model and, given a budget, compress it into that budget while it trains.

    The last state is kept; test data is only measured, nothing is selected by it. On an error or an interrupt the model goes back
    to the end of the last finished epoch.

    Under torchrun every process gets all batches and computes its share of each; all end with the model, masks and history of a
    single process, to the rounding of sums. The loss has to be a mean over samples. Random draws of an encoder or of the data are
    the same for any number of processes; those of the model itself (dropout) are not, nor are statistics of a whole batch (batch
    norm).

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``output, state = model(x, state)``; trained in position. A `TrainableNetwork` is run as what it is. Any other
        model is compressed as the network that `trainable` makes of it, and gets the weights back. That network also trains
        densely where a comparison of the model has no gradient, with SuperSpike's.
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
        Called with the `EpochRecord` of every finished epoch; an exception that it raises ends the run.
    method : callable
        Makes the pruning method: the minimax method, or another `Pruning`.
    checkpoint : Checkpoint, optional
        File that the state of the run is written to, and how often; also at its end.
    resume : bool
        Resume from the checkpoint, or start where there is none yet. The run then ends in the same network, bit for bit, as an
        uninterrupted one (on one kind of processor, with as many threads). A run that has ended is not trained again.

    Returns
    -------
    model : torch.nn.Module
        The same object, its kept weights within every slice of the budget.
    history : tuple of EpochRecord

    Raises
    ------
    TrainingError
        A model that does not match the budget or cannot be trained; a loss that is no number; a checkpoint of another run.
    DataError
        No data, data that can be read only once or that the model cannot take; a checkpoint that cannot be read or written.
    """
    if options.learn_decays:
        # first: it adds parameters, which rank 0 then sends and the optimizer has to find
        arithmetic = arithmetic_named() if budget is None else arithmetic_of(budget.profile)
        if not (model.learn_decays(arithmetic) if isinstance(model, TrainableNetwork) else learn_decays(model, arithmetic)):
            raise TrainingError("model", "has no cells whose decays could learn", remedy="Leave learn_decays out.")
    if not isinstance(model, TrainableNetwork) and (budget is not None or not trains_as_called(model, data, options)):
        return _fit_module(
            model, budget, data, options, test=test, progress=progress, on_epoch=on_epoch, method=method, checkpoint=checkpoint,
            resume=resume,
        )  # fmt: skip
    with together() as replicas:
        replicas.take_first(model)
        order = Order(data, options.seed)
        pruning = method(budget, model) if budget is not None and isinstance(model, TrainableNetwork) else None
        run = _FitRun(
            model=model, order=order, test=test, options=options, progress=progress, on_epoch=on_epoch, pruning=pruning,
            replicas=replicas, checkpoint=checkpoint, finished=copy.deepcopy(model.state_dict()),
            fingerprint={} if checkpoint is None else run_fingerprint(model, order, options, budget, pruning),
        )  # fmt: skip
        run.execute(resume=resume)
    return model, tuple(run.history)


def _fit_module(
    model: torch.nn.Module, budget: Budget | None, data: Data, options: FitOptions, *, checkpoint: Checkpoint | None,
    resume: bool, on_epoch: Callable[[EpochRecord], None] | None, method: PruningFactory, **more: Any,
) -> tuple[torch.nn.Module, tuple[EpochRecord, ...]]:  # fmt: skip
    """Train a module densely, or its network where a comparison has no gradient; compress that; give the module the weights."""
    sample = sample_of(model, data, budget.layer_names if budget else None)

    def network_of_model() -> TrainableNetwork:
        network = trainable(model, sample)
        if options.learn_decays:
            network.learn_decays(arithmetic_named() if budget is None else arithmetic_of(budget.profile))
        return network

    network = network_of_model()
    learner, _ = dense_model(model, network, sample, data, options)
    cannot_hold = TrainingError(
        "model", f"cannot hold the weights of its network: {why_not_held(network, model)}",
        remedy="Give `neurodeploy.trainable(model, sample)` instead, whose layers have weights of their own.",
    )  # fmt: skip
    if not takes_weights(network, model, sample):
        raise cannot_hold
    needs: dict[str, Any] = {}
    if budget is not None:
        unpruned = method(budget, network)  # a budget or a model that the method does not take is refused before training
        needs = {"overruns": unpruned.overruns(), "multipliers": dict(unpruned.multipliers)}
    history: tuple[EpochRecord, ...] = ()
    is_ahead = learner is network  # whether the network has learnt what the model does not know
    try:
        if options.epochs_dense:
            of_dense = checkpoint and (replace(checkpoint, path=f"{checkpoint.path}.dense") if budget else checkpoint)
            listen = on_epoch and (lambda record: on_epoch(replace(record, **needs)))
            _, records = fit(learner, None, data, options, checkpoint=of_dense, resume=resume, on_epoch=listen, **more)
            history = tuple(replace(record, **needs) for record in records)
            network = network if learner is network else network_of_model()
        if budget is not None:
            is_ahead, options = True, replace(options, epochs_dense=0)
            _, compressed = fit(
                network, budget, data, options, checkpoint=checkpoint, resume=resume, on_epoch=on_epoch, method=method, **more
            )
            history += compressed
    except BaseException:
        if is_ahead:
            write_back(network, model, sample)  # the last finished epoch, as far as the model can hold it
        raise
    if not write_back(network, model, sample):
        raise cannot_hold
    return model, history


@dataclass(kw_only=True)
class _Position:
    """Position in a run: `step` steps of this epoch are done; sums over their batches, and the time they took."""

    phase: Phase = "dense"
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: float = 0.0
    samples: int = 0
    seconds: float = 0.0


@dataclass(kw_only=True)
class _FitRun(Learner):
    """One call of `fit`: its steps, and where it is."""

    order: Order
    test: Data | None
    progress: Progress | None
    on_epoch: Callable[[EpochRecord], None] | None
    checkpoint: Checkpoint | None
    fingerprint: Mapping[str, Any]
    finished: dict[str, torch.Tensor]
    overruns: Mapping[str, float] = field(default_factory=dict, init=False)
    prices: Mapping[str, float] = field(default_factory=dict, init=False)
    position: _Position = field(default_factory=_Position, init=False)
    history: list[EpochRecord] = field(default_factory=list, init=False)
    kept: Mapping[str, Any] | None = field(default=None, init=False)

    def execute(self, *, resume: bool) -> None:
        """Run all phases, from the checkpoint if there is one to resume; on an error, restore the last finished epoch."""
        kept = None
        if (checkpoint := self.checkpoint) is not None and resume:
            kept = self.replicas.of_first(lambda: checkpoint.read(self.fingerprint))
        try:
            with seeded(self.options.seed), in_mode(self.model, training=True):
                if checkpoint is not None and kept is not None:
                    with refusing_damage(checkpoint.path):
                        self._restore(kept)
                if kept is None or not kept["ended"]:
                    self._phases()
        # BaseException: Ctrl-C too
        except BaseException:
            self.model.load_state_dict(self.finished)
            raise

    def _phases(self) -> None:
        self._phase("dense", self.options.epochs_dense)
        if self.pruning is not None:
            self._into_budget(self.pruning)
        if self.checkpoint is not None:
            checkpoint, state = self.checkpoint, self._at_end()
            self.replicas.of_first(lambda: checkpoint.write(self.fingerprint, state))

    def _into_budget(self, pruning: Pruning) -> None:
        # A resumed run has its teacher from the checkpoint; a copy made now would be of a pruned model.
        if self.options.distill and self.teacher is None:
            self.teacher = Teacher(self.model, self.options)
        self._phase("compress", self.options.epochs_compress)
        # resumed during fine-tuning: the method was closed before the checkpoint
        if self.position.phase != "finetune":
            self._decide(pruning, pruning.close)
            self.replicas.take_first(self.model)
            self.finished = copy.deepcopy(self.model.state_dict())
        self._phase("finetune", self.options.epochs_finetune)
        with self.in_force():
            self.finished = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self.finished)

    def _phase(self, phase: Phase, epochs: int) -> None:
        # The phases in the order in which they run. Those before the checkpoint's are over.
        order = get_args(Phase)
        if epochs == 0 or order.index(phase) < order.index(self.position.phase):
            return
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trainable:
            raise TrainingError("model", "has no parameters to train")
        # A new one for each phase: it starts without the moments of the phase before.
        optimizer = self.options.optimizer(trainable, self.options.learning_rate)
        if self.kept is None or self.checkpoint is None:
            self.position = _Position(phase=phase)
        else:
            with refusing_damage(self.checkpoint.path):
                check_moments(self.options.optimizer, trainable, self.kept["optimizer"])
                optimizer.load_state_dict(self.kept["optimizer"])
            self.kept = None
        while self.position.epoch < epochs:
            record = self._epoch(epochs, optimizer)
            self.history.append(record)
            self.position = _Position(phase=phase, epoch=self.position.epoch + 1)
            if self.on_epoch is not None:
                self.on_epoch(record)

    def _epoch(self, epochs: int, optimizer: torch.optim.Optimizer) -> EpochRecord:
        position, all_steps = self.position, epochs * self.order.n_batches
        # as if the epoch had started that much earlier, so that its seconds continue over a resume
        started = time.perf_counter() - position.seconds
        for inputs, target in self.order.epoch(position.step):
            at = position.epoch * self.order.n_batches + position.step
            rate = learning_rate(position.phase, at, all_steps, self.options)
            for group in optimizer.param_groups:
                group["lr"] = rate
            self._before(at, at / all_steps)
            where = f"{position.phase} epoch {position.epoch}, step {position.step}"
            loss, hits = self.learn(inputs, target, optimizer, where)
            if self.pruning is not None and position.phase != "dense":
                self.pruning.after_step(position.phase, rate)
            position.step += 1
            position.samples += len(inputs)
            position.loss += loss * len(inputs)
            position.correct += hits
            position.seconds = time.perf_counter() - started
            # after `position` has moved on: the checkpoint names the next step to take
            if self.checkpoint is not None and self.replicas.is_first and self.checkpoint.due:
                self.checkpoint.write(self.fingerprint, self._state(optimizer))
            if self.progress is not None:
                self.progress(Step(
                    phase=position.phase, epoch=position.epoch, epochs=epochs, step=position.step - 1, steps=self.order.n_batches,
                    loss=loss, accuracy=position.correct / position.samples, overruns=self.overruns, prices=self.prices,
                ))  # fmt: skip
        self.replicas.take_first(self.model)  # machines that round differently drift apart
        self.finished = copy.deepcopy(self.model.state_dict())
        return self.replicas.of_first(lambda: self._record(started))

    def _record(self, started: float) -> EpochRecord:
        with self.in_force():
            # inside `in_force`: what is tested is what would be deployed
            tested = None if self.test is None else evaluate(self.model, self.test, self.options)[0]
        return EpochRecord(
            phase=self.position.phase,
            epoch=self.position.epoch,
            loss=self.position.loss / self.position.samples,
            train_accuracy=self.position.correct / self.position.samples,
            test_accuracy=tested,
            connectivity=1.0 if self.pruning is None else self.pruning.connectivity,
            overruns={} if self.pruning is None else self.pruning.overruns(),
            multipliers={} if self.pruning is None else dict(self.pruning.multipliers),
            seconds=time.perf_counter() - started,
        )

    def _before(self, step: int, done: float) -> None:
        if self.pruning is not None and self.position.phase == "compress" and step % self.options.mask_interval == 0:
            pruning = self.pruning
            self._decide(pruning, lambda: pruning.choose(done / self.options.compress_share))

    def _decide(self, pruning: Pruning, decision: Callable[[], None]) -> None:
        """Let the method decide on rank 0, and load its state on the other processes."""

        def decided() -> Mapping[str, Any]:
            decision()
            return pruning.state_dict()

        # a collective call: all processes have to reach it in the same step
        state = self.replicas.of_first(decided)
        if not self.replicas.is_first:
            pruning.load_state_dict(state)
        self.overruns, self.prices = worst(pruning.overruns()), worst(pruning.multipliers)

    def _state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return {
            **self._at_end(),
            "ended": False,
            "position": values(self.position),
            "finished": self.finished,
            "optimizer": optimizer.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.model.state_dict(),
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

    def _restore(self, kept: Mapping[str, Any]) -> None:
        """Restore the state at which the checkpoint was written; what cannot be one of this run fails with any error."""
        self.history = [EpochRecord(**record) for record in kept["history"]]
        self._check(kept)
        if kept.get("teacher") is not None:
            self.teacher = Teacher(self.model, self.options)
            self.teacher.model.load_state_dict(kept["teacher"])
        # the last finished epoch first: it has to fit, too, should the run break off again
        for state in (kept["model"] if kept["ended"] else kept["finished"], kept["model"]):
            self.model.load_state_dict(state)
        if self.pruning is not None:
            self.pruning.load_state_dict(kept["pruning"])
        if kept["ended"]:
            self.finished = copy.deepcopy(self.model.state_dict())
            return
        self.kept, self.position = kept, _Position(**kept["position"])
        self.finished, self.overruns, self.prices = dict(kept["finished"]), kept["overruns"], kept["prices"]
        self.order.load_state_dict(kept["order"])

    def _check(self, kept: Mapping[str, Any]) -> None:
        """Raise ValueError, or what a missing or other value makes fail, where the checkpoint is not at a place of this run."""
        at = {} if kept["ended"] is True else kept["position"]
        epochs = [("dense", k) for k in range(self.options.epochs_dense)]
        if self.pruning is not None:
            epochs += [("compress", k) for k in range(self.options.epochs_compress)]
            epochs += [("finetune", k) for k in range(self.options.epochs_finetune)]
        done = epochs[: epochs.index((at["phase"], at["epoch"]))] if at else epochs
        if [(record.phase, record.epoch) for record in self.history] != done or not isinstance(kept["ended"], bool):
            raise ValueError("its epochs are not those of the run")
        whole = [one["epoch"] for one in (*kept["history"], *([at] if at else []))]
        real = [value for record in self.history for part in (record.overruns, record.multipliers) for value in part.values()]
        real += [value for one in self.history for value in (one.loss, one.train_accuracy, one.connectivity, one.seconds)]
        real += [one.test_accuracy for one in self.history if one.test_accuracy is not None]
        if at:
            whole += [at["step"], at["samples"]]
            real += [at["loss"], at["correct"], at["seconds"], *kept["overruns"].values(), *kept["prices"].values()]
            if not 1 <= at["step"] <= self.order.n_batches or at["samples"] < 1:
                raise ValueError("its step is none of the run")
        if not all(type(value) is int for value in whole) or not all(type(value) in (int, float) for value in real):
            raise ValueError("its numbers are not those of a run")


class SequenceModel(torch.nn.Module):
    """A module that takes all steps at once, as `run_model` runs it.

    Parameters
    ----------
    model : torch.nn.Module
        Returns an output for each step, or one that it has read out of them.
    step_shape : tuple of int
        Shape of a step of the input.
    axis : int
        Dimension of its input that is time.
    """

    def __init__(self, model: torch.nn.Module, step_shape: tuple[int, ...], axis: int) -> None:
        super().__init__()
        self.model, self.step_shape, self.axis = model, step_shape, axis

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Run it from rest on spikes (batch, n_steps, \\*shape); return (n_steps, batch, n_out), or (1, batch, n_out)."""
        with at_rest(self.model, len(spikes)):
            answer = self.model(spikes.movedim(1, self.axis))
        output: torch.Tensor = answer[0] if isinstance(answer, (tuple, list)) else answer
        if output.ndim == 2:
            return output.unsqueeze(0)
        sizes = (spikes.shape[1], len(spikes))
        is_steps_first = output.shape[:2] == sizes and (self.axis == 0 or sizes[0] != sizes[1])
        return output if is_steps_first else output.movedim(1, 0)


def dense_model(
    model: torch.nn.Module, network: TrainableNetwork, sample: torch.Tensor | None, data: Data, options: FitOptions
) -> tuple[torch.nn.Module, str]:
    """Return what trains densely, tried on two samples, and what to say about it.

    The module itself where it computes what its network does and gradients reach all its weights, step by step or with whole
    sequences; otherwise the network.

    Raises
    ------
    TrainingError
        The network would have to train for a module with batch norm or dropout, of which it knows nothing.
    """
    if model is network or sample is None:
        return network, ""
    axis, is_one_step = time_dimension(model, sample)
    form = model if axis is None else SequenceModel(model, network.network.input_shape, axis)
    inputs = next(batches_of(data))[0][:2]
    with in_mode(model, training=False):
        with seeded(options.seed):
            expected = run_model(network, spikes_of(inputs, network, options))
        try:
            with seeded(options.seed):  # the same draws of an encoder; as `fit` converts the inputs for this model
                found = run_model(form, spikes_of(inputs, form, options))
        except (TrainingError, DataError):
            found = expected.new_zeros(0, 0, 0)  # it begins with a module that has no weights
    readouts = [None] if len(found) == len(expected) else [options.readout, *READOUTS]
    for readout in readouts if is_one_step or axis is not None else ():
        same = expected if readout is None else read_out(expected, readout).unsqueeze(0)
        if _is_equal(found, same) and (not options.epochs_dense or False not in _gradients(form, inputs, options)):
            hint = f"The model takes the {readout} over time: readout {readout!r} does the same for its network."
            return form, hint if readout not in (None, options.readout) else ""
    otherwise = torch.nn.modules.batchnorm._NormBase, torch.nn.modules.dropout._DropoutNd
    depends = [name for name, module in model.named_modules() if isinstance(module, otherwise)]
    if depends and options.epochs_dense:
        raise TrainingError(
            f"model, at {depends[0]!r}", "trains otherwise than it runs, and does not compute what its network does",
            remedy="Let forward take one step and a state and return (output, state), or a sequence and return all outputs; or "
            "train it yourself and compress it with epochs_dense=0.",
        )  # fmt: skip
    return network, ""


def _is_equal(found: torch.Tensor, expected: torch.Tensor) -> bool:
    # not allclose: rounding may move a spike, which changes a little; another axis changes everything
    return found.shape == expected.shape and bool((found - expected).norm() <= 0.1 * expected.norm() + 1e-4)


def _gradients(model: torch.nn.Module, inputs: torch.Tensor, options: FitOptions) -> set[bool]:
    """Whether each weight of a model gets a gradient from two samples: none passes a plain comparison with a threshold."""
    model = copy.deepcopy(model).train()  # in training: SpikingJelly has no gradients otherwise, and norms learn
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim > 1]
    with seeded(options.seed), torch.set_grad_enabled(True):
        output = run_model(model, spikes_of(torch.cat([inputs, inputs])[:2], model, options))
    if not output.requires_grad:
        return {False}
    try:
        return {gradient is not None for gradient in torch.autograd.grad(output.sum(), weights, allow_unused=True)}
    except RuntimeError:  # a function without derivative
        return {False}


def trains_as_called(model: torch.nn.Module, data: Data, options: FitOptions) -> bool:
    """Whether gradients reach all weights of a model, and not only its network's: a plain comparison has none."""
    is_frozen = not any(parameter.requires_grad for parameter in model.parameters())
    try:
        inputs = next(batches_of(data))[0][:2]
        found = {True} if is_frozen else _gradients(model, inputs, options)
        if False not in found:
            return True
        sample_of(model, data, None)
    except ExtractError as error:
        if True in found:
            return True  # weights that it does not use, or on purpose
        raise TrainingError(
            "model", f"has no gradient, and there is no network of it that could train instead ({error})",
            remedy="Let neurons fire by a function with a surrogate gradient, as SuperSpike.",
        ) from error  # fmt: skip
    except (NeurodeployError, TypeError, ValueError, StopIteration):
        return True  # training says what is wrong with the data or the model
    return False
