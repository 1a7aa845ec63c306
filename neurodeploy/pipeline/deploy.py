"""The order of the passes.

A budget to play with in a notebook: choose a chip, cores and a weight's width, and see what each layer may use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurodeploy.errors import BudgetError, NeurodeployError, RequestError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import html_paragraphs
from neurodeploy.ir.files import write_text
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget.allocation import Gain, Unpruned, gains, share_budget
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.mapping.delay_balancing import Balance, balance, balanced
from neurodeploy.mapping.layout import arranged, lay_out, linked
from neurodeploy.mapping.placement import Placement
from neurodeploy.passes.quantize import LayerError, quantization_errors, quantize, warnings_of
from neurodeploy.report.html import Evidence, write_page
from neurodeploy.report.stages import LayerReport, Measured, tried
from neurodeploy.report.summary import Report, inspection, layer_reports, summarize
from neurodeploy.resources.usage import DEFAULT_WEIGHT_BITS
from neurodeploy.targets.loihi.netx_files import write_netx

# -------------------- deployment

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
    cores = profile.core_count(cores, chips)
    network, balances = balance(network, profile, bits=bits)
    placement = lay_out(network, profile, cores=cores, bits=bits, connectivity=connectivity)
    placement = linked(placement, network, connectivity=connectivity)
    try:
        unpruned = Unpruned(network, profile, bits, placement if connectivity in (None, 1.0) else None)
        budget = share_budget(network, profile, cores=cores, bits=bits, unpruned=unpruned)
    except BudgetError as error:
        return Inspection(placement=placement, budget=None, hopeless=error, balances=balances)
    more = gains(network, profile, budget, unpruned=unpruned)
    return Inspection(placement=placement, budget=budget, hopeless=None, gains=more, balances=balances)


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
    folder = folder_of(out)
    seen = inspect(network, profile, cores=cores, bits=bits)
    quantized = network if isinstance(network, QuantizedNetwork) else quantize(network, profile, bits=bits)
    errors = quantization_errors(network, quantized) if isinstance(network, Network) else ()
    warnings = warnings_from(errors, tried(network, quantized)) if isinstance(network, Network) else ()
    quantized = balanced(quantized, seen.balances)
    placement = arranged(linked(lay_out(quantized, profile, cores=cores), quantized))
    write_netx(quantized, folder / "model.net")
    files = files_of(folder, "network")
    report = summarize(
        profile, seen.budget, placement, before=seen.placement, rounding=errors, warnings=warnings, balances=seen.balances,
        files=files,
    )  # fmt: skip
    evidence = Evidence(quantized=quantized, budget=seen.budget, command=command)
    return Deployment(quantized=quantized, placement=placement, report=written(report, folder, evidence))


def folder_of(out: str | Path) -> Path:
    """The folder to write to, made if it is not there."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(str(out), f"is no folder to write to: {error.strerror}") from error
    return folder


def warnings_from(errors: tuple[LayerError, ...], measured: Measured) -> tuple[str, ...]:
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


def files_of(folder: Path, *written: str) -> dict[str, str]:
    """The files of this run, and of no earlier one in the same folder: those `written`, and the report about to be."""
    return {what: str(folder / _FILES[what]) for what in (*written, "page", "report", "text")}


def written(report: Report, folder: Path, evidence: Evidence) -> Report:
    """The report, as page, JSON and text in its folder."""
    write_page(report, folder / _FILES["page"], evidence)
    write_text(folder / _FILES["report"], json.dumps(report.to_json(), indent=2) + "\n")
    write_text(folder / _FILES["text"], f"{report}\n")
    return report


# -------------------- explorer


def explore(network: Network | QuantizedNetwork, chips: Sequence[str | HardwareProfile] = ("loihi2", "loihi1", "tiny")) -> Any:
    """Widgets that answer, for a chip, a number of cores and a width of weights: does it fit, and what may each layer use?

    Parameters
    ----------
    chips : sequence of names or HardwareProfile
        To choose from; the first is shown first.

    Returns
    -------
    ipywidgets.VBox
        Shown by the notebook where it ends a cell.

    Raises
    ------
    RequestError
        No ipywidgets here, or no chip to choose from.
    """
    try:
        import ipywidgets as widgets
    except ImportError as error:
        raise RequestError("explore", "needs ipywidgets", remedy="Install neurodeploy-snn[notebook].") from error
    profiles = [chip if isinstance(chip, HardwareProfile) else load_profile(chip) for chip in chips]
    if not profiles:
        raise RequestError("chips", "are none")
    chip = widgets.Dropdown(options=[(profile.name, profile) for profile in profiles], description="chip")
    cores = widgets.BoundedIntText(description="cores", min=1)
    bits = widgets.Dropdown(description="weight bits")
    answer = widgets.HTML()

    def choose(_: Any) -> None:
        cores.max = chip.value.cores
        cores.value = min(cores.value, cores.max)
        bits.options = sorted(chip.value["weight_bits"].choices, reverse=True)
        bits.value = min(bits.options, key=lambda width: abs(width - DEFAULT_WEIGHT_BITS))
        look(None)

    def look(_: Any) -> None:
        if bits.value is not None:
            answer.value = told(network, chip.value, cores.value, bits.value)

    chip.observe(choose, "value")
    cores.observe(look, "value")
    bits.observe(look, "value")
    choose(None)
    return widgets.VBox([widgets.HBox([chip, cores, bits]), answer])


def told(network: Network | QuantizedNetwork, profile: HardwareProfile, cores: int, bits: int) -> str:
    """What the explorer says, as HTML; a request that cannot be met is an answer too."""
    try:
        seen: Inspection = inspect(network, profile, cores=cores, bits=bits)
    except NeurodeployError as error:
        return html_paragraphs([str(error)])
    budget = html_paragraphs([f"No compression helps. {seen.hopeless}"]) if seen.budget is None else seen.budget._repr_html_()
    return f"{seen.placement._repr_html_()}{budget}"
