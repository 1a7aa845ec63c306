"""Choice of a learning rate by successive halving, and of the number of epochs, on training data that are held out.

Rates are tried one after the other, on a log scale around the one that was given: five at fixed factors of it, then those that
Optuna's tree-structured Parzen estimator suggests. Successive halving breaks off a trial whose accuracy is not among the best
third of those that have come as far. Where the best rate is at the edge of the range, half as many are tried beyond it. The best
rate is then tried with half and twice the epochs of compression and fine-tuning, and with four times where twice is the best.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch

from neurodeploy.compression import method_named
from neurodeploy.compression.bit_width import thresholds_of
from neurodeploy.compression.module_weights import trainable_for
from neurodeploy.compression.pruning_method import Pruning, PruningMethod, PruningSetup
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.errors import DataError, RequestError, TrainingError, said_by
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.files import make_folder, write_text
from neurodeploy.mapping.budget import Budget
from neurodeploy.mapping.channel_counts import narrow_budget
from neurodeploy.mapping.delay_balancing import balance
from neurodeploy.pipeline.task_pool import Task, TaskResult
from neurodeploy.targets import arithmetic_of, requested_weight_bits
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.encoders import levels_of
from neurodeploy.training.fit import fit
from neurodeploy.training.options import FitOptions

FIRST_FACTORS = (1.0, 10**-0.5, 10**0.5, 0.1, 10.0)
"""Factors of the given rate that are tried first; the last two are the edges of the range."""
HALVING = 3
"""Of the trials that have come as far, one in so many goes on."""
EPOCHS_TRIED = (0.5, 2.0, 4.0)
"""Factors of the given epochs; the last is tried where the one before is the best."""
TOLERATED = 0.005
"""Accuracy that fewer epochs may cost: of numbers of epochs that lose no more than this, the smallest is chosen."""
KEY = "learning_rate"

Measure: TypeAlias = "Callable[[float, float, Callable[[float], None]], None]"
"""Train with a rate and a factor of the given epochs, and report the accuracy on held-out data after each epoch."""


@dataclass(frozen=True, kw_only=True)
class RateTrial:
    """A rate that was tried: accuracy after each of its epochs, whether it ran to the end, and what the halving keeps of it."""

    learning_rate: float
    accuracy: tuple[float, ...]
    complete: bool
    rungs: Mapping[str, float]
    epochs_factor: float = 1.0


@dataclass(kw_only=True)
class RateStudy:
    """Rates that are tried one after the other; the same whatever the machine, and however often it is interrupted.

    Parameters
    ----------
    path : Path
        File of the trials that have ended.
    default : float
        Rate that is tried first.
    seed : int
        Of the suggestions.
    """

    path: Path
    default: float
    seed: int
    trials: list[RateTrial] = field(default_factory=list, init=False)
    of_epochs: list[RateTrial] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        try:
            kept = json.loads(self.path.read_bytes())
            for name in ("trials", "of_epochs"):
                setattr(self, name, [RateTrial(**one | {"accuracy": tuple(one["accuracy"])}) for one in kept[name]])
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                str(self.path), f"holds no trials ({said_by(error)})", remedy="Delete it: they are repeated."
            ) from error

    def run(self, n_trials: int, measure: Measure) -> RateTrial:
        """Try rates until there are `n_trials`, and half as many beyond an edge if the best is there; return the best."""
        low, high = self.default * min(FIRST_FACTORS), self.default * max(FIRST_FACTORS)
        while (n := len(self.trials)) < n_trials:
            self.add(measure, low, high, self.default * FIRST_FACTORS[n] if n < len(FIRST_FACTORS) else None)
        if beyond := self.edge(self.best(n_trials)):
            first = self.best(n_trials).learning_rate * beyond**0.5
            low, high = min(low, low * beyond), max(high, high * beyond)
            while (n := len(self.trials)) < n_trials + math.ceil(n_trials / 2):
                self.add(measure, low, high, first if n == n_trials else None)
        return self.best()

    def run_epochs(self, measure: Measure, factors: Sequence[float] = EPOCHS_TRIED) -> RateTrial:
        """Try the best rate with fewer and more epochs; return the trial of the fewest that lose no more than `TOLERATED`.

        A number of epochs has its own schedule, so it is trained in full: none of these trials is broken off.
        """
        best = self.best()
        known = [best, *(one for one in self.of_epochs if one.learning_rate == best.learning_rate)]
        for factor in factors:
            longest = max(known, key=lambda one: one.epochs_factor)
            if factor > EPOCHS_TRIED[1] and longest.accuracy[-1] < max(one.accuracy[-1] for one in known):
                break  # more epochs have brought nothing
            if factor not in {one.epochs_factor for one in known}:
                accuracy: list[float] = []
                try:
                    measure(best.learning_rate, factor, accuracy.append)
                except TrainingError:  # the loss is no number
                    accuracy.append(0.0)
                known.append(replace(best, accuracy=tuple(accuracy), rungs={}, epochs_factor=factor))
                self.of_epochs.append(known[-1])
                self.write()
        least = max(one.accuracy[-1] for one in known) - TOLERATED
        return min((one for one in known if one.accuracy[-1] >= least), key=lambda one: one.epochs_factor)

    def choose(self, n_trials: int, measure: Measure, factors: Sequence[float] = EPOCHS_TRIED) -> dict[str, Any]:
        """Try rates, then epochs; return what was chosen by the names of its fields, and a sentence about it."""
        rate = self.run(n_trials, measure).learning_rate
        chosen = self.run_epochs(measure, factors)
        said = f"{self.sentence()}; {chosen.epochs_factor:g} x the epochs, {chosen.accuracy[-1]:.1%} right"
        return {"chosen": {KEY: rate, "epochs_factor": chosen.epochs_factor}, "said": said}

    def best(self, of: int | None = None) -> RateTrial:
        """Return the trial with the best accuracy at its end, of equal ones that nearest to the given rate."""
        complete = [one for one in self.trials[:of] if one.complete] or self.trials[:of]
        return max(complete, key=lambda one: (one.accuracy[-1], -abs(math.log(one.learning_rate / self.default))))

    def sentence(self) -> str:
        """Return what was chosen, of how many, and whether the best may be beyond."""
        best, rates = self.best(), [one.learning_rate for one in self.trials]
        said = f"{best.learning_rate:g} of {len(rates)} from {min(rates):g} to {max(rates):g}, {best.accuracy[-1]:.1%} right"
        is_edge = best.learning_rate in (min(rates), max(rates))
        return said + (": the best is at the edge of the range; a better one may be beyond" if is_edge else "")

    def edge(self, best: RateTrial) -> float:
        """Return the factor by which the range grows: 10 or 0.1 where the best rate is at its edge, else 0."""
        factor = best.learning_rate / self.default
        return 10.0 if factor > 0.8 * max(FIRST_FACTORS) else 0.1 if factor < 1.25 * min(FIRST_FACTORS) else 0.0

    def add(self, measure: Measure, low: float, high: float, first: float | None) -> None:
        """Try one more rate: `first`, or what Optuna suggests after the trials so far."""
        optuna = import_module("optuna")
        study = self.study(optuna, low, high)
        if first is not None:
            study.enqueue_trial({KEY: first})
        trial = study.ask({KEY: optuna.distributions.FloatDistribution(low, high, log=True)})
        rate, accuracy, is_complete = float(f"{trial.params[KEY]:.3g}"), list[float](), True

        def report(value: float) -> None:
            trial.report(value, len(accuracy))
            accuracy.append(value)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            measure(rate, 1.0, report)
        except optuna.TrialPruned:
            is_complete = False
        except TrainingError:  # the loss is no number
            is_complete, accuracy = False, [*accuracy, 0.0]
        rungs = study.get_trials(deepcopy=False)[-1].system_attrs
        rungs = {name: value for name, value in rungs.items() if name.startswith("completed_rung")}
        self.trials.append(RateTrial(learning_rate=rate, accuracy=tuple(accuracy), complete=is_complete, rungs=rungs))
        self.write()

    def write(self) -> None:
        """Write the trials that have ended."""
        make_folder(self.path.parent)
        kept = {"trials": self.trials, "of_epochs": self.of_epochs}
        write_text(self.path, json.dumps({name: [asdict(one) for one in trials] for name, trials in kept.items()}, indent=1))

    def study(self, optuna: Any, low: float, high: float) -> Any:
        """Return a study that is made of the trials so far, so that what it suggests does not depend on interruptions."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        states, between = optuna.trial.TrialState, {KEY: optuna.distributions.FloatDistribution(low, high, log=True)}
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=self.seed + len(self.trials), n_startup_trials=1),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALVING),
        )  # fmt: skip
        for one in self.trials:
            within = {KEY: min(max(one.learning_rate, low), high)}  # rates are rounded
            study.add_trial(optuna.trial.create_trial(
                params=within, distributions=between, value=one.accuracy[-1], intermediate_values=dict(enumerate(one.accuracy)),
                state=states.COMPLETE if one.complete else states.PRUNED, system_attrs=dict(one.rungs),
            ))  # fmt: skip
        return study


def check_trials(n_trials: int, rates: Sequence[float]) -> None:
    """Refuse a number of trials that holds not all first factors, several rates to start from, or a missing Optuna."""
    if n_trials and n_trials < len(FIRST_FACTORS):
        raise RequestError("trials", f"are {n_trials}, not 0 or at least {len(FIRST_FACTORS)}")
    if n_trials and len(rates) > 1:
        raise RequestError("rates", f"are {len(rates)} where the best is looked for", remedy="Give one, to look around it.")
    if n_trials and find_spec("optuna") is None:
        raise RequestError("trials", "need Optuna", remedy="Run: pip install optuna.")


def tuned(
    studies: Mapping[str, Callable[[], Any]], compute: Callable[..., None], say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Run studies as tasks; return what each that succeeded chose, by the names of `Combination`, and say what each found."""
    found: dict[str, dict[str, Any]] = {}

    def note(result: TaskResult) -> None:
        if result.error is None:
            found[result.task] = result.value["chosen"]
        say(f"Learning rate and epochs of {result.task} on held-out data: {result.error or result.value['said']}.")

    compute([Task(name=name, call=study) for name, study in studies.items()], on_result=note)
    return found


def train_on_held_out(
    model: torch.nn.Module, sample: torch.Tensor | None, profile: HardwareProfile, cores: int, method: str | PruningMethod,
    data: DataSplit, options: FitOptions, bits: int | None, report: Callable[[float], None],
) -> None:  # fmt: skip
    """Train and compress a model as `compress` does, on the training data that `for_choices` leaves; report every epoch."""
    model, network, _ = trainable_for(model, sample, arithmetic_of(profile), with_decays=options.learn_decays)
    width = requested_weight_bits(profile, bits)
    balances = balance(network.network, profile, bits=width)[1]
    budget = narrow_budget(network.network, profile, cores=cores, bits=width, balances=balances)
    split, made = data.for_choices(), method_named(method)

    def pruning(budget: Budget, network: TrainableNetwork) -> Pruning:
        thresholds: Mapping[str, Any] = thresholds_of(network, levels_of(options.encoder))
        return made(budget, network, PruningSetup(thresholds=thresholds, weight_bits=bits))

    fit(
        model, budget, split.train, options, test=split.test, method=pruning,
        on_epoch=lambda record: report(float(record.test_accuracy or 0.0)),
    )  # fmt: skip
