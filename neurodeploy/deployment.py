"""The order of the passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurodeploy.balancing import Balance, balance, balanced
from neurodeploy.board.links import measured_rates
from neurodeploy.budgets.budget import Budget
from neurodeploy.budgets.gains import Gain, gains
from neurodeploy.budgets.sharing import share_budget
from neurodeploy.errors import BudgetError, RequestError, SimulationError
from neurodeploy.files import write_text
from neurodeploy.frontends.norse import extract
from neurodeploy.graph import INPUT
from neurodeploy.hardware import HardwareProfile
from neurodeploy.layout.laying import lay_out
from neurodeploy.network import Network
from neurodeploy.netx import write_netx
from neurodeploy.page import Evidence, write_page
from neurodeploy.placement import Placement
from neurodeploy.placing import arranged, linked
from neurodeploy.quantization import quantize
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.records import EpochRecord, save_record
from neurodeploy.report import (
    Accuracy,
    LavaCheck,
    LayerReport,
    Measured,
    Report,
    check_in_lava,
    inspection,
    layer_reports,
    measure,
    stretch_of,
    summarize,
    tried,
)
from neurodeploy.resources.usage import DEFAULT_WEIGHT_BITS
from neurodeploy.rounding import LayerError, quantization_errors, warnings_of
from neurodeploy.simulation import DEFAULT_TIME_LIMIT_S, simulate
from neurodeploy.simulation.installed import is_installed
from neurodeploy.training import DataSplit, FitOptions, evaluate, fit, save_weights
from neurodeploy.training.direct import check_payload, in_levels
from neurodeploy.training.encoders import levels_of
from neurodeploy.training.progress import Progress

Say = Callable[[str], None]
"""What is told a line of text at each station."""


def keep_quiet(line: str) -> None:
    """The `Say` of who wants no news."""
    del line


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Whether a network fits, what each layer needs, and what it may use.

    Attributes
    ----------
    placement : Placement
        The network laid out as it is; `Placement.fits` is the verdict.
    budget : Budget or None
        What each layer may use; None where no compression can make it fit.
    hopeless : BudgetError or None
        Why not, then.
    gains : tuple of Gain
        What one core more, or narrower weights, would give each layer; none where all are kept whole.
    """

    placement: Placement
    budget: Budget | None
    hopeless: BudgetError | None
    gains: tuple[Gain, ...] = ()
    balances: tuple[Balance, ...] = ()

    @property
    def layers(self) -> tuple[LayerReport, ...]:
        """A line a layer."""
        return layer_reports(self.placement, self.budget)

    def to_json(self) -> dict[str, Any]:
        """The keys of ``neurodeploy inspect --json``."""
        return inspection(self.placement, self.budget, self.gains, self.balances)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A network on its chip: the integers, where they stand, and what there is to say."""

    quantized: QuantizedNetwork
    placement: Placement
    report: Report


def inspect(
    network: Network | QuantizedNetwork,
    profile: HardwareProfile,
    *,
    cores: int | None = None,
    chips: int | None = None,
    bits: int = DEFAULT_WEIGHT_BITS,
    connectivity: float | None = None,
) -> Inspection:
    """Lay a network out as it is, and share the cores out among its layers.

    Parameters
    ----------
    cores, chips : int, optional
        How many cores, or chips of them, it may use; all of the profile's by default.
    connectivity : float, optional
        What if each weight survived with this chance, 0..1? Counted in closed form.
    """
    cores = profile.cores_given(cores, chips)
    network, balances = balance(network, profile, bits=bits)
    placement = lay_out(network, profile, cores=cores, bits=bits, connectivity=connectivity)
    placement = linked(placement, network, connectivity=connectivity)
    try:
        budget = share_budget(network, profile, cores=cores, bits=bits)
    except BudgetError as error:
        return Inspection(placement=placement, budget=None, hopeless=error, balances=balances)
    return Inspection(placement=placement, budget=budget, hopeless=None, gains=gains(network, profile, budget), balances=balances)


def deploy(
    network: Network | QuantizedNetwork,
    profile: HardwareProfile,
    *,
    out: str | Path,
    cores: int | None = None,
    bits: int = DEFAULT_WEIGHT_BITS,
    command: str = "",
) -> Deployment:
    """Quantise, place, write ``model.net``, and ``report.html``, ``report.json`` and ``report.txt``.

    A network that does not fit is written all the same: it runs in any simulator, and its report says what binds. The page
    quotes `command`, with which one would get it again.
    """
    folder = _folder(out)
    seen = inspect(network, profile, cores=cores, bits=bits)
    quantized = network if isinstance(network, QuantizedNetwork) else quantize(network, profile, bits=bits)
    errors = quantization_errors(network, quantized) if isinstance(network, Network) else ()
    warnings = _warnings(errors, tried(network, quantized)) if isinstance(network, Network) else ()
    quantized = balanced(quantized, seen.balances)
    placement = arranged(linked(lay_out(quantized, profile, cores=cores), quantized))
    write_netx(quantized, folder / "model.net")
    files = _files(folder, "network")
    report = summarize(
        profile, seen.budget, placement, before=seen.placement, rounding=errors, warnings=warnings, balances=seen.balances,
        files=files,
    )  # fmt: skip
    evidence = Evidence(quantized=quantized, budget=seen.budget, command=command)
    return Deployment(quantized=quantized, placement=placement, report=_written(report, folder, evidence))


def compress(
    model: torch.nn.Module, sample: torch.Tensor, profile: HardwareProfile, data: DataSplit, options: FitOptions,
    *, out: str | Path, cores: int | None = None, bits: int = DEFAULT_WEIGHT_BITS, lava_samples: int = 8,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S, progress: Progress | None = None, say: Say = keep_quiet, command: str = "",
) -> Deployment:  # fmt: skip
    """Train a model, press it into the cores while it learns, and deploy it: the whole way, each rung of it measured.

    Parameters
    ----------
    sample : tensor (batch, \\*input_shape)
        The input of one step.
    data : DataSplit
        Trained on `train`; every accuracy is of `test`, by which nothing is chosen.
    out : path
        Folder for ``model.net``, ``weights.safetensors``, ``record.npz``, ``report.html``, ``report.json`` and ``report.txt``.
    lava_samples : int
        How many test samples are recorded, and run in Lava too; 0, or no Lava here, leaves its rung out.
    progress : callable, optional
        Called after every training step.
    say : callable, optional
        Called with a line of text at each station.
    command : str
        What was typed, for the page to quote.

    Raises
    ------
    BudgetError
        No compression can make the network fit.
    RequestError
        An encoder whose numbers the chip's spikes cannot carry.
    NetworkError
        It is more than a chain of dense layers, which is all that training under a budget knows yet.
    """
    folder = _folder(out)
    network, levels = _trainable(extract(model, sample), profile, options)
    say(_verdict(before := lay_out(network, profile, cores=cores, bits=bits)))
    budget = share_budget(network, profile, cores=cores, bits=bits)
    history, accuracy = _train(model, budget, data, options, progress, say)
    network = in_levels(extract(model, sample), levels)
    budget.check(network)
    quantized = quantize(network, profile, bits=bits)
    placement = lay_out(quantized, profile, cores=cores, plan=budget.cuts)
    write_netx(quantized, folder / "model.net")
    save_weights(model, folder / "weights.safetensors")
    errors = quantization_errors(network, quantized)
    measured = measure(model, network, quantized, data.test, options)
    accuracy = replace(measured.accuracy, dense=accuracy.dense, compressed=accuracy.compressed)
    say(f"In the chip's integers: {accuracy.emulated:.2%}. {_verdict(placement)}")
    stretch = stretch_of(model, data.test, options, max(lava_samples, 1))
    record, rates = simulate(quantized, stretch.spikes, record="all", graded=levels > 1), {INPUT: np.asarray(stretch.rate)}
    placement = arranged(linked(placement, quantized, {**measured_rates(record), **rates}), seed=options.seed)
    in_lava, lava, notes = None, None, [f"Input comes as whole numbers 0..{levels}."] if levels > 1 else []
    if lava_samples and is_installed():
        say(f"Running {len(stretch.labels)} test samples in Lava's simulator.")
        try:
            right, comparison, in_lava = check_in_lava(stretch, record, network, quantized, options, time_limit_s)
            accuracy = replace(accuracy, lava=right, lava_samples=len(stretch.labels))
            lava = LavaCheck(steps=comparison.n_steps * record.n_samples, mismatches=comparison.mismatches)
        except SimulationError as error:  # hours of training are not lost to it
            notes.append(str(error))
    save_record(in_lava or record, folder / "record.npz", network="model.net")
    report = summarize(
        profile, budget, placement, history=history, before=before, seed=options.seed, accuracy=accuracy, lava=lava,
        rates=measured.rates, rounding=errors, warnings=(*_warnings(errors, measured), *notes),
        files=_files(folder, "network", "weights", "record"),
    )  # fmt: skip
    shown = Evidence(quantized=quantized, budget=budget, emulated=record, lava=in_lava, command=command)
    return Deployment(quantized=quantized, placement=placement, report=_written(report, folder, shown))


def _trainable(network: Network, profile: HardwareProfile, options: FitOptions) -> tuple[Network, int]:
    """The network and its input's levels, refused before hours of training where what comes then, or after, could not begin."""
    levels = levels_of(options.encoder)
    check_payload(profile, levels)
    network.require_dense_chain("training under a budget")
    return network, levels


def _train(
    model: torch.nn.Module, budget: Budget, data: DataSplit, options: FitOptions, progress: Progress | None, say: Say
) -> tuple[tuple[EpochRecord, ...], Accuracy]:
    """Train densely, then into the budget; the accuracy after each."""
    _, first = fit(model, None, data.train, options, progress=progress)
    dense, n_test = evaluate(model, data.test, options)
    say(f"Dense: {dense:.2%} of {n_test:,} test samples.")
    _, second = fit(model, budget, data.train, replace(options, epochs_dense=0), progress=progress)
    compressed, _ = evaluate(model, data.test, options)
    say(f"Compressed into the budget: {compressed:.2%}.")
    return (*first, *second), Accuracy(dense=dense, compressed=compressed, test_samples=n_test)


def _verdict(placement: Placement) -> str:
    broken = next(placement.overruns(), None)
    fits = f"Fits: {placement.cores_used} of {placement.cores_available} cores."
    return fits if broken is None else f"Does not fit: {broken}"


def _folder(out: str | Path) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(str(out), f"is no folder to write to: {error.strerror}") from error
    return folder


def _warnings(errors: tuple[LayerError, ...], measured: Measured) -> tuple[str, ...]:
    """What rounding did that its user should know."""
    told = (f"{change} ({measured.of})" for change in measured.changed)
    return (*warnings_of(errors, measured.overflows, measured.of), *told)


_FILES = {
    "network": "model.net",
    "weights": "weights.safetensors",
    "record": "record.npz",
    "page": "report.html",
    "report": "report.json",
    "text": "report.txt",
}


def _files(folder: Path, *written: str) -> dict[str, str]:
    """The files of this run, and of no earlier one in the same folder: those `written`, and the report about to be."""
    return {what: str(folder / _FILES[what]) for what in (*written, "page", "report", "text")}


def _written(report: Report, folder: Path, evidence: Evidence) -> Report:
    write_page(report, folder / _FILES["page"], evidence)
    write_text(folder / _FILES["report"], json.dumps(report.to_json(), indent=2) + "\n")
    write_text(folder / _FILES["text"], f"{report}\n")
    return report
