"""Sweeps: a model compressed for every combination of chip, method, learning rate, seed and cores, as rows of results.

The runs of a chain differ in their cores alone: each starts from the one with more cores, and all chains of a learning rate and a
seed from one dense training. A run is a `compress` of its own in a folder of its own, so one that is interrupted resumes.
"""

from __future__ import annotations

import copy
import json
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import cloudpickle
import torch

from neurodeploy.compression import method_named
from neurodeploy.compression.module_weights import as_module, trainable, trainable_for
from neurodeploy.compression.pruning_method import PruningMethod
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.errors import DataError, NeurodeployError, RequestError, check_arguments, counted, said_by
from neurodeploy.frontends import read_model, with_sample
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.files import CHECKPOINTS, REPORT, SWEEP, link, make_folder, output_folder, write_table, write_text
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.channel_counts import narrow_budget
from neurodeploy.mapping.delay_balancing import balance
from neurodeploy.pipeline.compress import Model, check_one_output, compress
from neurodeploy.pipeline.deploy import FILE_NAMES, Say, ignore
from neurodeploy.pipeline.task_pool import Engines, Task, TaskResult, pickled, run_tasks
from neurodeploy.pipeline.tuning import EPOCHS_TRIED, RateStudy, check_trials, train_on_held_out, tuned
from neurodeploy.report.html import write_sweep_page
from neurodeploy.targets import arithmetic_of, check_resets, requested_weight_bits
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.checkpoint import Checkpoint, load_state, load_weights
from neurodeploy.training.data_loading import load_data
from neurodeploy.training.distributed import Order, seeded
from neurodeploy.training.encoders import check_payload, levels_of
from neurodeploy.training.fit import dense_model, fit
from neurodeploy.training.options import FitOptions, SweepProgress, keep_fingerprint, run_fingerprint

Row: TypeAlias = dict[str, Any]

COLUMNS = {
    "target": "string", "method": "string", "learning_rate": "double", "epochs_factor": "double", "seed": "int64",
    "cores": "int64", "state": "string", "reason": "string", "start": "string", "accuracy": "double", "accuracy_dense": "double",
    "accuracy_compressed": "double", "test_samples": "int64", "fits": "bool", "cores_used": "int64", "connectivity": "double",
    "neurons": "int64", "synapses": "int64", "synapse_memory_bits": "int64", "binds": "string", "energy_j": "double",
    "time_s": "double", "energy_assumed": "bool", "report": "string", "seconds": "double",
}  # fmt: skip
"""Keys of a row (docs/json.md) and their types in ``rows.parquet``; the first six are what was asked for."""
ROWS, TABLE, PAGE = "rows.jsonl", "rows.parquet", "sweep.html"


@dataclass(frozen=True, kw_only=True, order=True)
class Combination:
    """What a run is asked for."""

    target: str
    method: str
    learning_rate: float
    epochs_factor: float = 1.0  # of the epochs of compression and fine-tuning; another one only where it was tuned
    seed: int
    cores: int

    @classmethod
    def of(cls, row: Row) -> Combination:
        """What a row was asked for."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

    @property
    def chain(self) -> str:
        """Folder of the runs that differ in their cores alone."""
        epochs = "" if self.epochs_factor == 1 else f"-e{self.epochs_factor:g}"
        return re.sub(r"[^\w.-]+", "_", f"{self.target}-{self.method}-{self.learning_rate}{epochs}-s{self.seed}")

    @property
    def study(self) -> str:
        """Name of the study that chooses its learning rate and epochs."""
        return f"{self.target}-{self.method}"

    @property
    def folder(self) -> str:
        """Folder of the run, below that of the sweep; its task has the same name."""
        return f"runs/{self.chain}/{self.cores}-cores"

    def failed(self, reason: str) -> Row:
        """The row of a run that has no result."""
        return {**dict.fromkeys(COLUMNS), **asdict(self), "state": "failed", "reason": reason}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all runs of a sweep have in common; workers read it from a file.

    Attributes
    ----------
    model, sample, data
        As `sweep` takes them.
    profiles, methods : mapping by name
    sizes : mapping of target to its core counts, the largest first
    adapted : frozenset of str
        Targets that change the model before it trains densely: they share no dense training.
    settings : mapping
        Further arguments of `compress`.
    """

    model: Any
    sample: torch.Tensor | None
    data: Any
    profiles: Mapping[str, HardwareProfile]
    methods: Mapping[str, str | PruningMethod]
    sizes: Mapping[str, Sequence[int]]
    options: FitOptions
    out: str
    independent: bool
    settings: Mapping[str, Any]
    adapted: frozenset[str] = frozenset()

    def model_for(self, seed: int) -> tuple[torch.nn.Module, torch.Tensor | None]:
        """Build the model, with the weights that a factory draws for this seed."""
        with seeded(seed):
            if isinstance(self.model, str):
                found = read_model(self.model)
            elif isinstance(self.model, (torch.nn.Module, Network, QuantizedNetwork)):  # a module is callable, too
                found = copy.deepcopy(self.model), self.sample  # training changes it
            else:
                found = self.model()
        model, sample = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        model = as_module(model) if isinstance(model, (Network, QuantizedNetwork)) else model
        return (model, None) if isinstance(model, TrainableNetwork) else with_sample(model if sample is None else found, "model")

    def load(self) -> DataSplit:
        """Load the data."""
        if isinstance(self.data, str):
            return load_data(self.data, n_steps=self.options.n_steps)
        split: DataSplit = self.data if isinstance(self.data, DataSplit) else self.data()
        return split

    def dense_folder(self, asked: Combination) -> Path:
        """Folder of the dense training that a run starts from."""
        shared = f"{asked.learning_rate}-s{asked.seed}"
        return Path(self.out) / "dense" / (asked.chain if asked.target in self.adapted else shared)

    def options_of(self, asked: Combination) -> FitOptions:
        """Training options of a run."""
        names, factor = ("epochs_compress", "epochs_finetune"), asked.epochs_factor
        epochs = {name: math.ceil(getattr(self.options, name) * factor) for name in names}
        return replace(self.options, learning_rate=asked.learning_rate, seed=asked.seed, **epochs)


# ---------------------------------------------------------------------------------------------- in a worker


@lru_cache(maxsize=1)
def read_recipe(path: str, stamp: str) -> tuple[Recipe, DataSplit]:
    """Read the recipe of a sweep, and its data: once a worker. The stamp tells it from that of an earlier sweep."""
    del stamp
    recipe: Recipe = cloudpickle.loads(Path(path).read_bytes())  # the driver of this worker has written it
    return recipe, recipe.load()


def train_dense(path: str, stamp: str, asked: Combination) -> None:
    """Train the model densely, as the dense phase of `compress` does, and leave its checkpoint for the runs."""
    recipe, data = read_recipe(path, stamp)
    options, arithmetic = recipe.options_of(asked), arithmetic_of(recipe.profiles[asked.target])
    model, network, sample = trainable_for(*recipe.model_for(asked.seed), arithmetic, with_decays=options.learn_decays)
    trained, _ = dense_model(model, network, sample, data.train, options)
    folder = recipe.dense_folder(asked)
    make_folder(folder)
    checkpoint = Checkpoint(path=folder / CHECKPOINTS[0], every_s=recipe.settings["checkpoint_every_s"])
    fit(trained, None, data.train, options, checkpoint=checkpoint, resume=True)


def tune(path: str, stamp: str, asked: Combination, n_trials: int) -> dict[str, Any]:
    """Choose the learning rate and the epochs of a chip and a method at one core count, around those asked for."""
    recipe, data = read_recipe(path, stamp)
    study = RateStudy(path=Path(recipe.out) / "tuning" / f"{asked.study}.json", default=asked.learning_rate, seed=asked.seed)
    profile, method, bits = recipe.profiles[asked.target], recipe.methods[asked.method], recipe.settings["bits"]

    def measure(rate: float, factor: float, report: Callable[[float], None]) -> None:
        options = recipe.options_of(replace(asked, learning_rate=rate, epochs_factor=factor))
        train_on_held_out(*recipe.model_for(asked.seed), profile, asked.cores, method, data, options, bits, report)

    factors = [one for one in EPOCHS_TRIED if recipe.options_of(replace(asked, epochs_factor=one)) != recipe.options_of(asked)]
    return study.choose(n_trials, measure, factors)


def run(path: str, stamp: str, asked: Combination) -> Row:
    """Compress, deploy and measure a combination in its folder, from its checkpoints where it was interrupted; return its row."""
    began = time.monotonic()
    recipe, data = read_recipe(path, stamp)
    folder, options = Path(recipe.out) / asked.folder, recipe.options_of(asked)
    try:
        model, sample = recipe.model_for(asked.seed)
        start, dense = "dense", None
        if larger := larger_run(recipe, asked, model):
            start, options = larger.name.replace("-", " "), replace(options, epochs_dense=0)
            dense = json.loads((larger / REPORT).read_bytes())["accuracy"]["dense"]
        else:
            link(recipe.dense_folder(asked) / CHECKPOINTS[0], folder / CHECKPOINTS[0])
        made = compress(
            model, sample, recipe.profiles[asked.target], data, options, out=folder, cores=asked.cores,
            method=recipe.methods[asked.method], resume=True, dense=dense, **recipe.settings,
        )  # fmt: skip
    except NeurodeployError as error:
        return asked.failed(str(error))
    row = {**dict.fromkeys(COLUMNS), **asdict(asked), "state": "done", "start": start, **made.numbers()}
    return row | {"report": f"{asked.folder}/{FILE_NAMES['page']}", "seconds": round(time.monotonic() - began, 3)}


def larger_run(recipe: Recipe, asked: Combination, model: torch.nn.Module) -> Path | None:
    """Load the weights of the next larger run of the chain that has them; return its folder, None where there is none."""
    larger = sorted(size for size in recipe.sizes[asked.target] if size > asked.cores and not recipe.independent)
    for folder in (Path(recipe.out) / replace(asked, cores=size).folder for size in larger):
        if not (folder / REPORT).is_file():  # it failed
            continue
        if isinstance(model, TrainableNetwork):
            model.load_state_dict(load_state(folder / CHECKPOINTS[1])["state"]["model"])
            return folder
        if (folder / FILE_NAMES["weights"]).is_file():
            load_weights(model, folder / FILE_NAMES["weights"])
            return folder
    return None


# ---------------------------------------------------------------------------------------------- in the driver


@check_arguments
def sweep(
    model: Model | str | Callable[[], Any], profiles: Sequence[Chip], data: DataSplit | str | Callable[[], DataSplit],
    options: FitOptions,
    *, out: str | Path, sample: torch.Tensor | None = None, cores: Sequence[int] = (), seeds: int | Sequence[int] = 1,
    methods: Sequence[str | PruningMethod] = ("minimax",), rates: Sequence[float] = (), trials: int = 0, bits: int | None = None,
    lava_samples: int = 0, independent: bool = False, workers: int | None = None, engine: Engines = "auto",
    address: str | None = None, gpus: float = 0.0, resume: bool = False, checkpoint_every_s: float = 30.0, say: Say = ignore,
    progress: Callable[[SweepProgress], None] | None = None, command: str = "", title: str = "", within: float = 1.0,
) -> list[Row]:  # fmt: skip
    """Compress a model for every combination of chip, method, learning rate, seed and cores; return a row for each.

    The rows do not depend on the number of workers, nor on interruptions, but for their `seconds`.

    Parameters
    ----------
    model : str, callable, torch.nn.Module, Network or QuantizedNetwork
        ``"file.py:factory"``, ``"package.module:factory"`` or a .nir or .net file; a function that returns a module, a pair of it
        and a sample, or a network; or one of these, and then every seed starts from its weights.
    profiles : sequence
        Chips.
    data : str, callable or DataSplit
        As `load_data` takes it, or what loads it.
    options : FitOptions
        Of every run, but for its `learning_rate` and `seed`.
    out : path
        Folder for ``rows.jsonl``, to which rows are added as they come, ``rows.parquet``, ``sweep.html`` and ``runs``.
    sample, bits, lava_samples, checkpoint_every_s, command
        As `compress` takes them.
    cores : sequence of int
        Core counts; those that a chip does not have are left out for it. None are all cores of each chip.
    seeds : int or sequence of int
        Their number, from 0 on, or the seeds.
    methods, rates : sequence
        Pruning methods as `compress` takes them, and learning rates; by default that of the options.
    trials : int
        Learning rates to try for each chip and method, at least 5, around the given one, which the best replaces, then numbers of
        epochs; 0 for none. Their accuracy is that of training data that are held out (`DataSplit.for_choices`).
    independent : bool
        Every run starts from the dense network, instead of the next larger run of its chain.
    workers, engine, address, gpus
        Runs at a time, ``"processes"`` or ``"ray"``, the address of a Ray cluster, and GPUs of a run; as `run_tasks` takes them.
    resume : bool
        Go on with the sweep in `out`, if there is one: what is done is not repeated, what failed is tried again, and there may be
        more combinations than before.
    say, progress : callable
        Called with a line of text, and when a run starts or ends.
    title, within : str and float
        Of the page: the model's name, and the points (hundredths) of accuracy that the smallest chip may lose.

    Returns
    -------
    list of dict
        Keys as docs/json.md has them; a run that failed has its reason.

    Raises
    ------
    RequestError
        What cannot be sent to other processes; a folder of another sweep, or without `resume` of any; too many cores for a chip.
    """
    others = {"bits": bits, "lava_samples": lava_samples, "checkpoint_every_s": checkpoint_every_s, "command": command}
    compute = partial(run_tasks, workers=workers, engine=engine, address=address, gpus_per_task=gpus)
    check_trials(trials, rates)
    recipe = recipe_of(
        profiles, methods, cores, say, model=model, sample=sample, data=data, options=options, settings=others,
        out=str(Path(out).absolute()), independent=independent,
    )  # fmt: skip
    plan = combinations(recipe, rates or (options.learning_rate,), range(seeds) if isinstance(seeds, int) else seeds)
    with output_folder(out, *(str(Path(out) / name) for name in (SWEEP, ROWS, TABLE, PAGE))) as folder:
        if not resume and (folder.path / SWEEP).exists():
            if any((folder.path / name).exists() for name in ("dense", "runs", "tuning")):
                raise RequestError(str(out), "holds a sweep already", remedy="Go on with it (--resume), or take another folder.")
            (folder.path / SWEEP).unlink()  # of a sweep that could compute nothing
            (folder.path / ROWS).unlink(missing_ok=True)
        recipe, fingerprint, refused = check_recipe(recipe)
        keep_fingerprint(folder.path / SWEEP, fingerprint, command)
        path, stamp = str(folder.hidden / "recipe.pickle"), str(time.time_ns())
        Path(path).write_bytes(pickled(recipe, "sweep"))
        if trials:
            plan = with_tuned_rates(plan, refused, partial(tune, path, stamp, n_trials=trials), compute, say)
        rows = SweepRows(path=folder.path / ROWS, plan=plan, progress=progress)
        for one in rows.missing():
            if why := refused.get((one.target, one.cores)):
                rows.add(one.failed(why))
        tasks = tasks_of(recipe, rows.missing(), path, stamp)
        compute(tasks, on_start=rows.on_start, on_result=rows.on_result)
        found = rows.in_order()
        write_text(folder.staging / ROWS, lines_of(found))
        if not write_table(found, COLUMNS, folder.staging / TABLE):
            say("No rows.parquet: pyarrow is not installed (pip install pyarrow).")
        title = title or (model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__))
        write_sweep_page(found, folder.staging / PAGE, title=title, command=command, within=within)
    return found


def recipe_of(
    profiles: Sequence[Chip], methods: Sequence[str | PruningMethod], cores: Sequence[int], say: Say, **others: Any
) -> Recipe:
    """Look up chips and methods, and the core counts that each chip has."""
    chips: dict[str, HardwareProfile] = {}
    for chip in map(load_profile, profiles):
        if chips.setdefault(chip.name, chip) != chip:
            raise RequestError("profiles", f"are two with the name {chip.name!r}", remedy="Give one of them another name.")
    named: dict[str, str | PruningMethod] = {}
    for method in methods:
        method_named(method)  # only for its error
        named[method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__)] = method
    sizes: dict[str, list[int]] = {}
    for name, chip in chips.items():
        asked = sorted(set(cores or (chip.cores,)), reverse=True)
        sizes[name] = [size for size in asked if size <= chip.cores]
        chip.core_count(asked[-1])  # refuses 0, or where it has none of them
        if left_out := asked[: len(asked) - len(sizes[name])]:
            say(f"{name} has {counted(chip.cores, 'core')}: {', '.join(map(str, left_out))} left out.")
    recipe = Recipe(profiles=chips, methods=named, sizes=sizes, **others)
    pickled(recipe, "sweep")  # before anything slow
    return recipe


def combinations(recipe: Recipe, rates: Sequence[float], seeds: Sequence[int]) -> dict[str, Combination]:
    """Return all combinations in the order of their rows, by folder."""
    plan = [
        Combination(target=target, method=method, learning_rate=float(rate), seed=int(seed), cores=size)
        for target, sizes in recipe.sizes.items()
        for method, rate, seed, size in product(recipe.methods, dict.fromkeys(rates), dict.fromkeys(seeds), sizes)
    ]
    if not plan:
        raise RequestError("sweep", "has no runs", remedy="Give at least one chip, method, learning rate and seed.")
    for one in plan:
        recipe.options_of(one)  # checks rate and seed
    folders = {one.folder: one for one in plan}
    if len(folders) < len(plan):
        raise RequestError("sweep", "has chips or methods whose names differ in signs alone", remedy="Rename one of them.")
    return folders


def with_tuned_rates(
    plan: Mapping[str, Combination], refused: Mapping[tuple[str, int], str], study: Callable[[Combination], Any],
    compute: Callable[..., None], say: Say,
) -> dict[str, Combination]:  # fmt: skip
    """Choose the rate and epochs of each chip and method, at the middle of its core counts and with the first seed."""
    asked = defaultdict[str, list[Combination]](list)
    for one in (one for one in plan.values() if (one.target, one.cores) not in refused):
        asked[one.study].append(one)
    first = {name: [one for one in runs if one.seed == runs[0].seed] for name, runs in asked.items()}
    found = tuned({name: partial(study, runs[len(runs) // 2]) for name, runs in first.items()}, compute, say)
    return {one.folder: one for one in (replace(one, **found.get(one.study, {})) for one in plan.values())}


def check_recipe(recipe: Recipe) -> tuple[Recipe, dict[str, Any], dict[tuple[str, int], str]]:
    """Read model and data; return the recipe with what is adapted, the fingerprint, and reasons of what cannot be met."""
    options, bits = recipe.options, recipe.settings["bits"]
    model, sample = recipe.model_for(0)
    network, data = trainable(model, sample), recipe.load()
    check_one_output(network.network)
    networks = {name: network.adapted_to(arithmetic_of(profile)) for name, profile in recipe.profiles.items()}
    adapted = frozenset(name for name, own in networks.items() if options.learn_decays or own is not network)
    refused: dict[tuple[str, int], str] = {}
    for name, profile in recipe.profiles.items():
        size: int | None = None
        try:
            check_payload(profile, levels_of(options.encoder))
            own, width = networks[name].network, requested_weight_bits(profile, bits)
            check_resets(own, arithmetic_of(profile))
            _, balances = balance(own, profile, bits=width)
            for size in recipe.sizes[name]:  # the smallest last: what it refuses, larger ones may not
                narrow_budget(own, profile, cores=size, bits=width, balances=balances)
        except NeurodeployError as error:
            refused |= {(name, each): str(error) for each in recipe.sizes[name] if size is None or each <= size}
    tensors = [tensor.detach().cpu().contiguous().flatten().view(torch.uint8) for tensor in model.state_dict().values()]
    weights = sha256(torch.cat(tensors or [torch.empty(0, dtype=torch.uint8)]).numpy())
    asked = run_fingerprint(network, Order(data.train, 0), replace(options, seed=0), None, None)
    fingerprint = {
        **{name: value for name, value in asked.items() if name not in ("learning_rate", "seed", "method", "budget")},
        "test samples": Order(data.test, 0).fingerprint, "initial weights": weights.hexdigest(), "bits": bits,
        "lava samples": recipe.settings["lava_samples"], "independent": recipe.independent,
    }  # fmt: skip
    return replace(recipe, adapted=adapted), json.loads(json.dumps(fingerprint)), refused


def tasks_of(recipe: Recipe, asked: Sequence[Combination], path: str, stamp: str) -> list[Task]:
    """Return the tasks of runs: the dense training before the runs that start from it, a run of a chain after the larger one."""
    tasks, waits_for = dict[str, Task](), dict[str, tuple[str, ...]]()
    for one in sorted(asked, key=lambda one: (one.seed, one.learning_rate)):  # stable: the first rows come early
        dense = str(recipe.dense_folder(one).relative_to(recipe.out))
        if recipe.options.epochs_dense and dense not in tasks:
            tasks[dense] = Task(name=dense, call=partial(train_dense, path, stamp, one))
        after = (dense,) if recipe.independent else waits_for.get(one.chain, (dense,))
        waits_for[one.chain] = (one.folder,)
        tasks[one.folder] = Task(name=one.folder, call=partial(run, path, stamp, one), after=after)
    return list(tasks.values())


def lines_of(rows: Iterable[Row]) -> str:
    """Rows as lines of JSON."""
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@dataclass(kw_only=True)
class SweepRows:
    """The rows of a sweep, on disk as they come, and its progress."""

    path: Path
    plan: Mapping[str, Combination]
    progress: Callable[[SweepProgress], None] | None
    rows: dict[Combination, Row] = field(default_factory=dict, init=False)
    states: Counter[str] = field(default_factory=Counter, init=False)  # of the plan's rows: recounted, they took n ** 2 steps
    running: int = field(default=0, init=False)
    began: float = field(default_factory=time.monotonic, init=False)
    ended: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []  # a torn line has no end
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if row["state"] == "done" or Combination.of(row).folder not in self.plan:  # what failed is tried again
                    self.rows[Combination.of(row)] = row
            except (ValueError, LookupError, TypeError) as error:
                remedy = "Delete the line: its run is made again."
                raise DataError(str(self.path), f"line {number} is no row ({said_by(error)})", remedy=remedy) from error
        write_text(self.path, lines_of(self.rows.values()))
        self.states.update(self.rows[one]["state"] for one in self.plan.values() if one in self.rows)

    def missing(self) -> list[Combination]:
        """Combinations without a row."""
        return [one for one in self.plan.values() if one not in self.rows]

    def in_order(self) -> list[Row]:
        """Rows of earlier combinations, then those of the plan."""
        earlier = [row for one, row in self.rows.items() if one.folder not in self.plan]
        return [*earlier, *(self.rows[one] for one in self.plan.values())]

    def add(self, row: Row) -> None:
        """Add a row, here and on disk."""
        self.rows[Combination.of(row)] = row
        self.states[row["state"]] += 1
        with self.path.open("ab", buffering=0) as file:
            file.write(lines_of([row]).encode())

    def on_start(self, task: str) -> None:
        """Count a run that starts."""
        self.running += task in self.plan
        self.report()

    def on_result(self, result: TaskResult) -> None:
        """Add the row of a run that has ended."""
        if result.task in self.plan:  # why dense training failed, its runs say
            self.running, self.ended = self.running - 1, self.ended + 1
            self.add(self.plan[result.task].failed(result.error) if result.error else result.value)
            self.report()

    def report(self) -> None:
        """Tell how far the sweep is; the time that is left is estimated from that of the runs so far."""
        done, failed = self.states["done"], self.states["failed"]
        left = (time.monotonic() - self.began) / self.ended * (len(self.plan) - done - failed) if self.ended else None
        if self.progress is not None:
            self.progress(SweepProgress(runs=len(self.plan), done=done, running=self.running, failed=failed, seconds_left=left))
