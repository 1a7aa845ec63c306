"""Train a model under a chip's budget and deploy it: `compress` for one core count, `compress_to` for several."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from neurodeploy.compression import method_named
from neurodeploy.compression.bit_width import thresholds_of
from neurodeploy.compression.minimax import MinimaxOptions
from neurodeploy.compression.module_weights import (
    as_module,
    trainable,
    trainable_for,
    why_not_held,
    with_other_weights,
    write_back,
)
from neurodeploy.compression.pruning_method import Pruning, PruningMethod, PruningSetup
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.errors import (
    BudgetError,
    ExtractError,
    PlacementError,
    QuantizeError,
    RequestError,
    SimulationError,
    check_arguments,
)
from neurodeploy.frontends.nir.writing import write_nir
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.ir.files import OutputFolder, output_folder
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import Network, threshold_of
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget import Budget
from neurodeploy.mapping.channel_counts import narrow_budget
from neurodeploy.mapping.delay_balancing import balance
from neurodeploy.mapping.place import arrange_placement, lay_out, with_traffic
from neurodeploy.mapping.placement import Placement
from neurodeploy.passes.quantize import quantization_errors, quantize
from neurodeploy.pipeline.deploy import (
    FILE_NAMES,
    Deployment,
    Say,
    counting_note,
    ignore,
    in_integers,
    network_file,
    output_files,
    rounding_warnings,
    write_report,
)
from neurodeploy.pipeline.evaluation import (
    RecordedSamples,
    as_simulated,
    check_in_lava,
    first_samples,
    for_simulator,
    measure,
    memory_prices,
)
from neurodeploy.report.html import RunArtifacts
from neurodeploy.report.summary import Accuracy, LavaCheck, Report, summarize
from neurodeploy.report.text import overflow_lines, short_verdict
from neurodeploy.simulation.layer_schedule import largest_states
from neurodeploy.simulation.records import SIMULATOR_NAMES, EpochRecord, SpikeRecord, measured_rates, save_record
from neurodeploy.targets import arithmetic_of, check_resets, requested_weight_bits, target_of
from neurodeploy.targets.simulate import DEFAULT_TIME_LIMIT_S, simulate
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.checkpoint import STAGES, Checkpoint, checksum_of, refuse_unfinished, save_weights
from neurodeploy.training.distributed import Replicas, seeded, together
from neurodeploy.training.encoders import check_labels, check_payload, in_levels, levels_of, read_out
from neurodeploy.training.fit import dense_model, fit
from neurodeploy.training.forward import evaluate
from neurodeploy.training.options import FitOptions, Progress

Model: TypeAlias = "torch.nn.Module | Network | QuantizedNetwork"

CALIBRATION_SAMPLES = 128
"""Training samples on which states are measured before scales are chosen."""


@check_arguments
def compress(
    model: Model, sample: torch.Tensor | None, profile: Chip, data: DataSplit, options: FitOptions,
    *, out: str | Path, cores: int | None = None, bits: int | None = None,
    method: str | PruningMethod = "minimax", minimax: MinimaxOptions | None = None, lava_samples: int = 8,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S, progress: Progress | None = None, say: Say = ignore, command: str = "",
    resume: bool = False, checkpoint_every_s: float = 30.0, dense: float | None = None,
) -> Deployment:  # fmt: skip
    """Train a model, compress it into the budget while it trains, and deploy it; the accuracy of each stage is measured.

    Under torchrun all processes train, as `fit` says. Rank 0 measures, deploys, and writes files and messages; all processes
    return its result.

    Parameters
    ----------
    model : torch.nn.Module, Network or QuantizedNetwork
        A module trains densely as its user calls it: ``output, state = model(x, state)`` on one step. Where it takes all steps at
        once, and for a network, as from a .nir or .net file, its network trains.
    sample : tensor (batch, \\*input_shape), or None for a network
        The input of a module, as `extract` takes it.
    data : DataSplit
        Training uses `train`. Every accuracy is that of `test`, which is not used for model selection.
    out : path
        Folder for ``model.net``, ``weights.safetensors`` (``trained.nir`` where no module can hold the weights, if NIR can),
        ``record.npz``, ``report.html``, ``report.json`` and ``report.txt``,
        and for the checkpoints ``checkpoint-dense.safetensors`` and ``checkpoint-compressed.safetensors``.
    cores : int, optional
        Cores that the network may use; all of the chip by default.
    bits : int, optional
        Width of all weights, sign included; by default it is chosen for each layer during compression.
    method : str or callable
        Pruning method: a name from `neurodeploy.compression.METHODS`, or a function of a budget, the model and a
        `PruningSetup` that returns a `Pruning`.
    minimax : MinimaxOptions, optional
        Options of the method ``"minimax"``, or `MinimaxSaddleOptions` of ``"minimax-saddle"``; other methods take none.
    lava_samples : int
        Number of test samples that are recorded, and run in Lava, too. With 0, or without Lava, that stage is left out.
    time_limit_s : float
        Limit of the Lava run.
    progress : callable, optional
        Called after every training step.
    say : callable, optional
        Called with a line of text before and after each stage.
    command : str
        The command line, quoted on the report page.
    resume : bool
        Resume an interrupted run from the checkpoints in `out`, or start where there are none. The result is bit for bit that
        of an uninterrupted run. Without it, the checkpoints of a finished run are deleted; its files stay until the new ones
        replace them.
    checkpoint_every_s : float
        Seconds between two checkpoints, at least 0; an interrupted run loses no more than that.
    dense : float, optional
        Accuracy of the uncompressed model, if it has been measured before.

    Raises
    ------
    TrainingError
        A checkpoint of a run with other options, another model or other data.
    BudgetError
        No compression can make the network fit.
    RequestError
        An encoder whose values the chip's spikes cannot carry; a folder that cannot be written to; or, without `resume`, one
        with checkpoints of a run that did not finish.
    ExtractError
        The model holds something that is not supported.
    """
    profile = load_profile(profile)
    factory: Callable[..., Pruning] = method_named(method)
    if minimax is not None:
        if method not in ("minimax", "minimax-saddle"):  # others take none
            raise RequestError("minimax", "are options of 'minimax' and 'minimax-saddle'", remedy="Set others' in `method`.")
        factory = partial(factory, options=minimax)
    model = as_module(model)
    with together() as replicas, ExitStack() as open_until_the_end:
        say = say if replicas.is_first else ignore
        checkpoints = {stage: Checkpoint(path=Path(out) / name, every_s=checkpoint_every_s) for stage, name in STAGES.items()}
        files = *output_files(Path(out), target_of(profile), *FILE_NAMES).values(), *(one.path for one in checkpoints.values())
        # on rank 0 alone: the processes may not share a disk
        folder = replicas.of_first(lambda: open_until_the_end.enter_context(output_folder(out, *map(str, files))))
        replicas.of_first(lambda: refuse_unfinished(Path(out), resume=resume))
        replicas.take_first(model)  # before counting: factories may have drawn other weights in other processes
        levels = levels_of(options.encoder)
        check_payload(profile, levels)
        # Checked before training: what deployment would refuse after it must not cost hours first.
        model, network, sample = trainable_for(model, sample, arithmetic_of(profile), with_decays=options.learn_decays)
        check_one_output(network.network)
        check_resets(network.network, arithmetic_of(profile))
        counted_bits = requested_weight_bits(profile, bits)
        relayed, balances = balance(network.network, profile, bits=counted_bits)
        before = lay_out(relayed, profile, cores=cores, bits=counted_bits)
        open_until_the_end.enter_context(with_verdict(lambda: before, options.seed))
        budget = narrow_budget(network.network, profile, cores=cores, bits=counted_bits, balances=balances)
        say(short_verdict(before))  # "compress it" only now: it is possible
        if removals := budget.removals({layer.name: layer.n_neurons for layer in network.network}):
            say(f"The chip limits {removals}.")
        run = _CompressionRun(
            model=model, network=network, sample=sample, data=data, options=options, folder=folder, say=say,
            before=before, budget=budget, levels=levels, bits=bits, method=factory, checkpoints=checkpoints,
        )  # fmt: skip
        run.check()
        replicas.of_first(run.rehearse)
        replicas.of_first(lambda: run.announce_checkpoints(resume=resume))
        history, accuracy = run.train(progress if replicas.is_first else None, replicas)
        accuracy = accuracy if dense is None else replace(accuracy, dense=dense)
        return replicas.of_first(lambda: run.deploy(history, accuracy, lava_samples, time_limit_s, command))


@dataclass(kw_only=True)
class _CompressionRun:
    """One call of `compress`: its inputs, and its steps in order.

    Attributes
    ----------
    dense_model : torch.nn.Module
        What trains densely: the user's model where it runs step by step as its network does, otherwise the network.
    """

    model: torch.nn.Module
    network: TrainableNetwork
    sample: torch.Tensor | None
    data: DataSplit
    options: FitOptions
    folder: OutputFolder
    checkpoints: Mapping[str, Checkpoint]
    say: Say
    before: Placement
    budget: Budget
    levels: int
    bits: int | None
    method: PruningMethod
    dense_model: torch.nn.Module = field(init=False)
    pruning: Pruning = field(init=False)

    def check(self) -> None:
        """Try what could fail on one batch before any training; decide what trains densely."""
        if self.options.readout == "max" and threshold_of(self.network.network.output.neuron) is not None:
            self.say("The last layer sends spikes, whose maximum is 1 for many classes: readout 'sum' counts them.")
        self.pruning = self._made_pruning(self.network)
        self.dense_model, hint = dense_model(self.model, self.network, self.sample, self.data.train, self.options)
        if hint:
            self.say(hint)

    def rehearse(self) -> None:
        """Compress a copy of the network at once and deploy it: what would fail after training fails now."""
        network, options, profile = copy.deepcopy(self.network), self.options, self.budget.profile
        pruning = self._made_pruning(network, measures=False)
        pruning.close()
        n_classes = read_out(torch.zeros(options.n_steps, 1, network.network.output.n_neurons), options.readout).shape[1]
        with seeded(options.seed):
            for data in (self.data.train, self.data.test):
                inputs, labels = next(iter(data))
                check_labels(torch.as_tensor(labels), len(inputs), n_classes)
                spikes = for_simulator(torch.as_tensor(inputs)[:1], network, options)
        for reason in self._keep_weights(with_other_weights(network), copy.deepcopy(self.model), self.folder.staging)[1]:
            self.say(reason)
        self.folder.discard()
        try:
            floats, quantized, plan, _ = in_integers(
                in_levels(network.to_network(), self.levels), self.budget, pruning.widths, spikes
            )
        except QuantizeError:
            if options.epochs_dense:
                return  # of weights that are not trained yet
            raise
        for overrun in lay_out(quantized, profile, cores=self.budget.cores, plan=plan.cuts).overruns():
            raise overrun.error()
        network_file(quantized, self.folder.staging, target_of(profile))
        self.folder.discard()
        simulate(as_simulated(floats, quantized), spikes[..., :1], graded=self.levels > 1)

    def _made_pruning(self, network: TrainableNetwork, *, measures: bool = True) -> Pruning:
        setup = PruningSetup(
            thresholds=thresholds_of(network, self.levels), weight_bits=self.bits,
            measure_states=self._states if measures else None,
        )  # fmt: skip
        return self.method(self.budget, network, setup)

    def _states(self, network: Network, widths: Mapping[str, int]) -> Mapping[str, float]:
        """Largest states of a network on calibration data; empty where none can leave its register."""
        network = in_levels(network, self.levels)
        try:
            quantized = quantize(network, self.budget.profile, bits=widths)
        except QuantizeError:
            return {}  # weights are still training; those at the end are refused
        if not any(error.can_overflow for error in quantization_errors(network, quantized)):
            return {}
        with seeded(self.options.seed):
            calibration = first_samples(self.network, self.data.train, self.options, CALIBRATION_SAMPLES).spikes
        return largest_states(network, calibration)

    def announce_checkpoints(self, *, resume: bool) -> None:
        """Say where training starts; without `resume`, delete the checkpoints of a run that has finished."""
        found, folder = [path for one in self.checkpoints.values() if (path := Path(one.path)).exists()], self.folder.path
        if resume:
            nothing = f"No checkpoint in {folder}: starting from the beginning."
            self.say(f"Resuming from {found[-1]}." if found else nothing)
        elif found:
            self.say(f"Starting from the beginning: the checkpoints of a finished run in {folder} are deleted.")
            for path in found:
                path.unlink()
        every_s = self.checkpoints["dense"].every_s
        self.say(f"Checkpoints go to {folder} every {every_s:g} s. If interrupted, repeat this with --resume (resume=True).")

    def train(self, progress: Progress | None, replicas: Replicas) -> tuple[tuple[EpochRecord, ...], Accuracy]:
        """Train densely, then into the budget, each stage from its checkpoint if there is one; measure after each."""
        checkpoints = self.checkpoints
        model, data, options = self.dense_model, self.data, self.options
        # resume=True always: without the user's resume, `announce_checkpoints` has deleted the files
        _, first = fit(model, None, data.train, options, progress=progress, checkpoint=checkpoints["dense"], resume=True)
        dense, n_test = replicas.of_first(lambda: evaluate(model, data.test, options))
        self.say(f"Dense: {dense:.2%} of {n_test:,} test samples.")
        for doubt in Accuracy(dense=dense, compressed=dense, test_samples=n_test).doubts(self.network.network.output.n_neurons):
            self.say(f"Warning: {doubt}")  # while little time is lost
        if model is not self.network and self.sample is not None:
            # normalisations have learnt: their factors are part of the weights from now on
            self.network = trainable(self.model, self.sample)
        self.pruning = self._made_pruning(self.network)
        _, second = fit(
            self.network, self.budget, data.train, replace(options, epochs_dense=0), progress=progress,
            method=lambda *_: self.pruning, checkpoint=checkpoints["compressed"], resume=True,
        )  # fmt: skip
        compressed, _ = replicas.of_first(lambda: evaluate(self.network, data.test, options))
        self.say(f"Compressed into the budget: {compressed:.2%}.")
        return (*first, *second), Accuracy(dense=dense, compressed=compressed, test_samples=n_test)

    def deploy(
        self, history: tuple[EpochRecord, ...], accuracy: Accuracy, lava_samples: int, time_limit_s: float, command: str
    ) -> Deployment:
        """Quantise and place the trained model, run the last stages, and write all files: the network's before anything else."""
        model, data, options, folder, budget = self.network, self.data, self.options, self.folder, self.budget
        profile, levels, target = budget.profile, self.levels, target_of(self.budget.profile)
        # the chip gets whole numbers 0..levels, the model was trained on 0..1
        network = in_levels(model.to_network(), levels)
        calibration = first_samples(model, data.train, options, CALIBRATION_SAMPLES).spikes
        network, quantized, plan, form = in_integers(
            network, budget, self.pruning.widths, calibration, self.pruning.largest_states, levels
        )
        placement = lay_out(quantized, profile, cores=self.budget.cores, plan=plan.cuts)
        runnable = as_simulated(network, quantized)
        kind, reasons = self._keep_weights(self.network, self.model, folder.staging)
        notes = [*network.notes, *([f"Input comes as whole numbers 0..{levels}."] if levels > 1 else []), *reasons]
        network_file(quantized, folder.staging, target)
        if "weights" in kind:
            save_weights(self.model, folder.staging / FILE_NAMES["weights"], form=form.to_json())
        # now: whatever fails from here on, the trained network is on disk; a report of another network is not beside it
        folder.publish(*output_files(folder.path, None, "record").values())
        errors = quantization_errors(network, quantized)
        measured = measure(model, network, quantized, data.test, options)
        accuracy = replace(measured.accuracy, dense=accuracy.dense, compressed=accuracy.compressed)
        found = f"With weights of the chip's widths, all else in floats: {accuracy.quantized:.2%}."
        if target is not None:
            found = f"In the chip's integers: {accuracy.emulated:.2%}."
        self.say(" ".join([found, short_verdict(placement), *overflow_lines(measured.overflows)]))
        # one at least: the record and the rates come from it
        samples = first_samples(model, data.test, options, max(lava_samples, 1))
        emulated = simulate(runnable, samples.spikes, record="all", graded=levels > 1)
        # measured rates, so that traffic and arrangement are those of the data
        rates = {**measured_rates(emulated), INPUT: np.asarray(samples.rate)}
        placement = arrange_placement(with_traffic(placement, quantized, rates), seed=options.seed)
        if target is None:
            notes.append("Accuracy 'quantised': weights rounded to the profile's widths; all else in floats.")
        files = output_files(folder.path, target, *kind, "record")
        prices = memory_prices(model, self.pruning, data.train, options)
        placed = (replace(one, core=plan.core_in(placement, one.core)) for one in prices)
        report = summarize(
            profile, budget, placement, history=history, before=self.before, seed=options.seed, accuracy=accuracy,
            rates=measured.rates, rounding=errors, overflows=measured.overflows,
            warnings=(*rounding_warnings(errors, measured, network), *notes, *counting_note(profile)),
            memory_prices=tuple(one for one in placed if placement.is_full_of_memory(one.core)), balances=budget.balances,
            files={kind: path for kind, path in files.items() if kind not in ("page", "record")},
        )  # fmt: skip
        if kind or target:  # otherwise the checkpoint alone holds the trained network
            report = replace(report, checkpoint=checksum_of(self.checkpoints["compressed"].path))
        write_report(report, folder.staging, None)
        folder.publish()  # before Lava, which may take hours, and the page
        report, in_lava = self._run_lava(report, samples, emulated, network, quantized, lava_samples, time_limit_s)
        # Lava's where there is one: it is the vendor's
        save_record(in_lava or emulated, folder.staging / FILE_NAMES["record"], network=Path(files.get("network", "")).name)
        artifacts = RunArtifacts(
            quantized=quantized, budget=budget, emulated=emulated if target else None, lava=in_lava, command=command
        )
        report = write_report(replace(report, files=files), folder.staging, artifacts)
        return Deployment(quantized=quantized, placement=placement, report=report)

    def _run_lava(
        self, report: Report, samples: RecordedSamples, emulated: SpikeRecord, network: Network, quantized: QuantizedNetwork,
        lava_samples: int, time_limit_s: float,
    ) -> tuple[Report, SpikeRecord | None]:  # fmt: skip
        """Run samples in Lava where it is wanted and there is one; return the report with what was found, and the record."""
        target = target_of(self.budget.profile)
        if not (lava_samples and target and target.simulators):
            return report, None
        name = SIMULATOR_NAMES.get(target.simulators[0], target.simulators[0])
        if missing := target.simulator_missing(target.simulators[0]):
            return replace(report, warnings=(*report.warnings, f"{name} was not run. {missing}")), None
        self.say(f"Running {len(samples.labels)} test samples in {name}.")
        try:
            shares, found, in_lava = check_in_lava(samples, emulated, network, quantized, self.options, time_limit_s)
        except SimulationError as error:  # hours of training must not be lost to a simulator
            return replace(report, warnings=(*report.warnings, str(error))), None
        steps = found.n_steps * emulated.n_samples
        lava = LavaCheck(steps=steps, mismatches=found.mismatches, spikes=found.n_spikes, simulator=name)
        accuracy = replace(report.accuracy, **shares, simulator=name)
        return replace(report, lava=lava, accuracy=accuracy), in_lava

    def _keep_weights(
        self, network: TrainableNetwork, model: torch.nn.Module, folder: Path
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:  # fmt: skip
        """Give the model the weights, where it can hold them, or write them as NIR, where that can.

        Returns
        -------
        kind : tuple of str
            Of the file for them, "weights" or "trained"; none where there is no file.
        reasons : tuple of str
            Why there is no better file.
        """
        if self.sample is not None and write_back(network, model, self.sample):
            return ("weights",), ()
        reasons = [] if self.sample is None else [f"No weights.safetensors: {why_not_held(network, model)}."]
        try:
            write_nir(network.to_network(), folder / FILE_NAMES["trained"])
        except ExtractError as error:  # hours of training must not be lost to a file format
            has_file = self.budget.profile.target is not None
            where = "model.net, in the chip's integers" if has_file else "checkpoint-compressed.safetensors"
            return (), (*reasons, f"No trained.nir: {error} The trained network is in {where}.")
        if reasons:
            reasons = [f"{reasons[0]} The trained network is in trained.nir."]
        return ("trained",), tuple(reasons)


@contextmanager
def with_verdict(before: Callable[[], Placement], seed: int) -> Iterator[None]:
    """Give errors of networks that do not fit the report on the network `before` compression, as JSON."""
    try:
        yield
    except (BudgetError, PlacementError) as error:
        placement = replace(before(), is_compressible=False)
        report = summarize(placement.profile, None, placement, before=placement, seed=seed).to_json()
        error.verdict = report | {"fits": {"before": placement.fits, "after": False}, "infeasible": str(error)}
        raise


def check_one_output(network: Network) -> None:
    """Refuse a network with several outputs: training would compare the last one with the labels, and lose the others."""
    if len(ends := [repr(one.name) for one in network if all(target is one for target, _ in network.targets(one.name))]) > 1:
        remedy = "Return the one that the labels are for, and deploy the others untrained or in a network of their own."
        raise RequestError("model", f"has several outputs, layers {', '.join(ends)}; labels are for one", remedy=remedy)


@check_arguments
def compress_to(
    model: Model, sample: torch.Tensor | None, profile: Chip, data: DataSplit, options: FitOptions,
    *, cores: Sequence[int], out: str | Path, bits: int | None = None,
    method: str | PruningMethod = "minimax", minimax: MinimaxOptions | None = None, lava_samples: int = 8,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S, progress: Progress | None = None, say: Say = ignore, command: str = "",
    resume: bool = False, checkpoint_every_s: float = 30.0,
) -> tuple[Deployment, ...]:  # fmt: skip
    """Train a model once and compress it to several core counts, from the most to the fewest, each from the one before.

    Each core count has compression and fine-tuning phases of its own. It starts from the weights of the one before: weights
    pruned there start at zero, and may come back.

    Parameters
    ----------
    cores : sequence of int
        The core counts, in any order.
    out : path
        Each core count gets a folder in it, ``4-cores`` and so on, with the files of `compress`.
    bits, method, minimax, lava_samples, time_limit_s, progress, say, command, resume, checkpoint_every_s
        As in `compress`.

    Returns
    -------
    tuple of Deployment
        The largest first.

    Raises
    ------
    RequestError
        No core counts, or one that the chip does not have.
    BudgetError
        No compression can make the network fit one of them; raised before training starts.
    """
    profile = load_profile(profile)
    core_counts = sorted(set(cores), reverse=True)
    if not core_counts:
        raise RequestError("cores", "are none", remedy="Give the core counts to compress the model to.")
    model = as_module(model)
    with together() as replicas:
        for folder in (Path(out) / f"{count}-cores" for count in core_counts):
            replicas.of_first(partial(refuse_unfinished, folder, resume=resume))
        network, counted_bits = trainable(model, sample).network, requested_weight_bits(profile, bits)
        _, balances = balance(network, profile, bits=counted_bits)
        for count in core_counts:
            # all counts first: one that cannot be met is refused before the hours of the others
            with with_verdict(partial(lay_out, network, profile, cores=count, bits=counted_bits), options.seed):
                narrow_budget(network, profile, cores=count, bits=counted_bits, balances=balances)
        deployments: list[Deployment] = []
        for count in core_counts:
            say(f"Compressing to {count} core{'s' if count > 1 else ''}:")
            deployments.append(compress(
                # dense training happens once: the model is the one that the count before left
                model, sample, profile, data, replace(options, epochs_dense=0) if deployments else options, cores=count,
                bits=bits, method=method, minimax=minimax, out=Path(out) / f"{count}-cores", lava_samples=lava_samples,
                time_limit_s=time_limit_s, progress=progress, say=say, command=command, resume=resume,
                checkpoint_every_s=checkpoint_every_s, dense=deployments[0].report.accuracy.dense if deployments else None,
            ))  # fmt: skip
    return tuple(deployments)
