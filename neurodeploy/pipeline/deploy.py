"""Inspect or deploy a network: count, share the cores, quantise, place, write files and report; `explore` in a notebook."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import BudgetError, NeurodeployError, RequestError
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Mask, html_paragraphs
from neurodeploy.ir.files import REPORT, output_folder, write_text
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget.allocation import Gain, Unpruned, gains, share_budget
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.mapping.budget.channel_counts import narrow_budget, unpruned_layers
from neurodeploy.mapping.delay_balancing import Balance, balance, balanced, relays_of
from neurodeploy.mapping.place import PlannedSlice, arrange_placement, lay_out, with_traffic
from neurodeploy.mapping.placement import Placement
from neurodeploy.passes.dead_neurons import needed_neurons, silent_layers, without_neurons
from neurodeploy.passes.quantize import STATE_MARGIN, LayerError, dequantize, quantization_errors, quantize, warnings_of
from neurodeploy.report.summary import LayerReport, Report, inspection, layer_reports, summarize
from neurodeploy.resources.usage import DEFAULT_WEIGHT_BITS, Region, grid_of
from neurodeploy.simulation.reference import largest_states
from neurodeploy.targets import Target, check_profile, default_weight_bits, target_of

if TYPE_CHECKING:
    from neurodeploy.pipeline.evaluation import Measurement
    from neurodeploy.report.html import RunArtifacts

_LEAST_MARGIN = 1.2
"""Margin on which the scales of the loss are kept: fine-tuning moves the states a little, the loss has seen the scales."""
Say = Callable[[str], None]
"""Called with a line of text for the user before and after each stage."""


def ignore(line: str) -> None:
    """Discard a message: the `Say` of a run without messages."""
    # an unused argument, for linters
    del line


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Result of `inspect`: whether a network fits, what each layer needs, and what it may use.

    Attributes
    ----------
    placement : Placement
        The unpruned network on the chip; `Placement.fits` is the verdict.
    budget : Budget or None
        What each layer may use, of the network with fewer channels where convolutions have to lose some; None where no
        compression can make the network fit.
    infeasible : NeurodeployError or None
        Why it cannot be compressed.
    unwritable : NeurodeployError or None
        Why `deploy` refuses its numbers.
    silent : mapping of layer to str
        Layers that never fire, whatever the input is, and why.
    gains : tuple of Gain
        What one more core, or narrower weights, would give each layer; empty where all layers are kept whole.
    balances : tuple of Balance
        Delays that balance paths of different depth.
    """

    placement: Placement
    budget: Budget | None
    infeasible: NeurodeployError | None
    unwritable: NeurodeployError | None = None
    silent: Mapping[str, str] = MappingProxyType({})
    gains: tuple[Gain, ...] = ()
    balances: tuple[Balance, ...] = ()

    @property
    def hopeless(self) -> NeurodeployError | None:
        """Old name of `infeasible`."""
        warnings.warn("Inspection.hopeless is now Inspection.infeasible.", DeprecationWarning, stacklevel=2)
        return self.infeasible

    @property
    def compressible(self) -> str:
        """A sentence that says whether `compress` can make the network fit, and how many channels or neurons layers then keep."""
        if self.budget is None:
            return f"Compressible: no. {self.infeasible}"
        removals = self.budget.removals({name: self.placement.of(name).neurons for name in self.budget.layer_names})
        return f"Compressible: yes; {removals}." if removals else "Compressible: yes."

    @property
    def fits(self) -> bool:
        """Whether `deploy` writes a network that fits."""
        return self.placement.fits and self.unwritable is None

    @property
    def warnings(self) -> list[str]:
        """Sentences about what `deploy` refuses, and about layers that never fire."""
        refused = [] if self.unwritable is None else [f"Deployable: no. {self.unwritable}"]
        return refused + [f"Layer {name!r} is silent, whatever the input is: {reason}." for name, reason in self.silent.items()]

    @property
    def layers(self) -> tuple[LayerReport, ...]:
        """Needs and budget of each layer, in the network's order."""
        return layer_reports(self.placement, self.budget)

    def to_json(self) -> dict[str, Any]:
        """The keys of ``neurodeploy inspect --json``."""
        return inspection(self.placement, self.budget, self.gains, self.balances) | {
            "compressible": self.budget is not None, "deployable": self.unwritable is None, "silent": dict(self.silent),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Result of `deploy` and `compress`: the network in the chip's integers, its placement, and the report."""

    quantized: QuantizedNetwork
    placement: Placement
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerForm:
    """What a compressed network needs besides its weights to become the same integers again; it is written with them.

    Attributes
    ----------
    widths : mapping of layer to int
        Bits of each layer's weights.
    largest_states : mapping of layer to float
        Largest states that limit the scales, as `quantize` takes them.
    kept : mapping of layer to array (n_neurons,), bool
        Neurons that change an output.
    levels : int
        Levels of the input, by which the weights that read it are divided; 1 for spikes.
    balances : tuple of Balance
        Delays of the plan; its relays are added after quantising.
    cuts : tuple of (layer, core, region)
        Slices of the plan, of the neurons that are kept and of relays.
    """

    widths: Mapping[str, int]
    largest_states: Mapping[str, float]
    kept: Mapping[str, Mask]
    levels: int = 1
    balances: tuple[Balance, ...] = ()
    cuts: tuple[PlannedSlice, ...] = ()

    def quantized(self, network: Network, profile: HardwareProfile) -> tuple[Network, QuantizedNetwork]:
        """Remove the other neurons and quantise; return the network in floats as well, and leave its input as it is."""
        # before quantising: index bits are those of the neurons that remain; scales are those of the loss, which saw all neurons
        trimmed = without_neurons(network, self.kept)
        return trimmed, quantize(
            trimmed, profile, bits=self.widths, scales_of=network, largest_states=self.largest_states
        )  # fmt: skip

    def to_json(self) -> str:
        """One line of JSON."""
        kept = {name: [mask.size, np.packbits(mask).tobytes().hex()] for name, mask in self.kept.items()}
        cuts = [(name, core, region.starts, region.stops) for name, core, region in self.cuts]
        return json.dumps({
            "widths": dict(self.widths), "largest_states": dict(self.largest_states), "kept": kept, "levels": self.levels,
            "balances": [asdict(each) for each in self.balances], "cuts": cuts,
        })  # fmt: skip

    @classmethod
    def from_json(cls, text: str, network: Network) -> IntegerForm:
        """Read what `to_json` wrote; ValueError, TypeError or KeyError where it is not of this network."""
        read = json.loads(text)
        kept = {
            name: np.unpackbits(np.frombuffer(bytes.fromhex(packed), dtype=np.uint8), count=size).astype(np.bool_)
            for name, (size, packed) in read["kept"].items()
        }
        balances = tuple(Balance(**{**each, "targets": tuple(each["targets"])}) for each in read["balances"])
        cuts = tuple((name, core, Region(tuple(starts), tuple(stops))) for name, core, starts, stops in read["cuts"])
        sizes = {layer.name: layer.n_neurons for layer in network}
        other_masks = any(sizes.get(name) != mask.size for name, mask in kept.items())
        if other_masks or not read["widths"].keys() <= sizes.keys():
            raise ValueError("of another network")
        planned = balanced(without_neurons(network, kept), balances)
        if not {name for name, *_ in cuts} <= {layer.name for layer in planned}:
            raise ValueError("of other layers")
        for layer in planned:
            covered = np.zeros(grid_of(layer), dtype=np.int64)
            for region in (region for name, core, region in cuts if name == layer.name and core >= 0):
                if len(region.starts) != covered.ndim or len(region.stops) != covered.ndim:
                    raise ValueError("of layers of another shape")
                covered[region.box] += 1
            if not (covered == 1).all():
                raise ValueError("of layers of another size")
        return cls(
            widths=read["widths"], largest_states=read["largest_states"], kept=kept, levels=read["levels"],
            balances=balances, cuts=cuts,
        )  # fmt: skip


def inspect(
    network: Network | QuantizedNetwork,
    profile: Chip,
    *,
    cores: int | None = None,
    chips: int | None = None,
    bits: int | None = None,
    connectivity: float | None = None,
    form: IntegerForm | None = None,
) -> Inspection:
    """Place a network as it is, and share the cores out among its layers.

    Parameters
    ----------
    cores, chips : int, optional
        Cores, or whole chips, that the network may use; all of the profile's by default.
    bits : int, optional
        Width of a weight, sign included; the widest that the chip has by default.
    connectivity : float, optional
        Count the expected resources if each weight were kept with this probability, 0..1.
    form : IntegerForm, optional
        Of a network that was compressed: it keeps the delays and cuts of its plan where the cores suffice for them.

    Raises
    ------
    RequestError
        More cores, chips or bits than the profile has.
    """
    profile = load_profile(profile)
    cores, bits = profile.core_count(cores, chips), default_weight_bits(profile) if bits is None else bits
    # before anything is counted: the counts include its delays
    unbalanced = network
    if form is not None:
        network, balances = balanced(unbalanced, form.balances), form.balances
        placement = lay_out(network, profile, cores=cores, bits=bits, connectivity=connectivity, plan=form.cuts)
    if form is None or not placement.fits:
        network, balances = balance(unbalanced, profile, bits=bits)
        placement = lay_out(network, profile, cores=cores, bits=bits, connectivity=connectivity)
    placement = with_traffic(placement, network, connectivity=connectivity)
    try:
        # a placement counted at another connectivity is not that of the unpruned network
        unpruned = Unpruned(network, profile, bits, placement if connectivity in (None, 1.0) else None)
        # the layers that `compress` keeps whole
        whole = unpruned_layers(unpruned, relays_of(balances))
        budget = share_budget(network, profile, cores=cores, bits=bits, unpruned=unpruned, whole=whole, explain=False)
    except BudgetError:
        # all channels and neurons stay above
        fewer, reason = _with_fewer_neurons(unbalanced, balances, profile, cores, bits)
        seen = Inspection(placement=placement, budget=fewer, infeasible=reason, balances=balances)
    else:
        more, budget = gains(network, profile, budget, unpruned=unpruned), replace(budget, balances=balances)
        seen = Inspection(placement=placement, budget=budget, infeasible=None, gains=more, balances=balances)
    floats = dequantize(unbalanced) if isinstance(unbalanced, QuantizedNetwork) else unbalanced
    return replace(seen, unwritable=_why_unwritable(unbalanced, profile, bits), silent=silent_layers(floats))


def _why_unwritable(network: Network | QuantizedNetwork, profile: HardwareProfile, bits: int) -> NeurodeployError | None:
    """The reason that a network's numbers cannot be those of the profile's target; None where they can, or without a target."""
    target = target_of(profile)
    try:
        if target is not None:
            target.check_file(network if isinstance(network, QuantizedNetwork) else quantize(network, profile, bits=bits))
    except NeurodeployError as error:
        return error
    return None


def _with_fewer_neurons(
    network: Network | QuantizedNetwork, balances: tuple[Balance, ...], profile: HardwareProfile, cores: int, bits: int
) -> tuple[Budget | None, NeurodeployError | None]:  # fmt: skip
    """The budget with fewer channels or neurons, as `compress` makes it, or why there is none."""
    try:
        floats = dequantize(network) if isinstance(network, QuantizedNetwork) else network
        return narrow_budget(floats, profile, cores=cores, bits=bits, balances=balances), None
    except NeurodeployError as error:
        return None, error


def deploy(
    network: Network | QuantizedNetwork,
    profile: Chip,
    *,
    out: str | Path,
    cores: int | None = None,
    bits: int | None = None,
    command: str = "",
    form: IntegerForm | None = None,
) -> Deployment:
    """Quantise and place a network; write its network file, ``report.html``, ``report.json`` and ``report.txt``.

    A network that does not fit is written, too: the simulators run it, and its report names the limits it breaks. For a profile
    without a target there is no network file; for Loihi it is ``model.net``. All files appear together, or none if a step fails.

    Parameters
    ----------
    out : path
        Folder to write to; created if missing.
    cores : int, optional
        Cores that the network may use; all of the profile's by default.
    bits : int, optional
        Width of a weight, sign included; the widest that the chip has by default. A quantised network keeps its own.
    command : str
        The command line, quoted on the report page.
    form : IntegerForm, optional
        Of a network that was compressed, as `inspect` takes it.

    Raises
    ------
    QuantizeError
        Values that the chip's integers cannot hold, or a network in the integers of another target.
    RequestError
        `out` cannot be written to, something other than a file would be replaced, or more cores or bits than the profile has.
    """
    profile = load_profile(profile)
    # imported here: it draws figures with matplotlib, which `inspect` does not need
    from neurodeploy.report.html import RunArtifacts

    # the folder first: a path that cannot be written to is refused before any work
    target = target_of(profile)
    with output_folder(out, *output_files(Path(out), target).values()) as folder:
        if isinstance(network, QuantizedNetwork):
            check_profile(network, profile)
        seen = inspect(network, profile, cores=cores, bits=bits, form=form)
        quantized = network if isinstance(network, QuantizedNetwork) else quantize(network, profile, bits=bits)
        errors = quantization_errors(network, quantized) if isinstance(network, Network) else ()
        notes: tuple[str, ...] = tuple(warnings_of(errors))
        overflows: Mapping[str, int] = {}
        if target is not None and isinstance(network, Network):
            # imported here: it brings torch, which a network that is quantised already does not need
            from neurodeploy.pipeline.evaluation import measure_on_random_input

            # with a target only: without one nothing runs the integers
            measured = measure_on_random_input(network, quantized)
            notes, overflows = rounding_warnings(errors, measured), measured.overflows
        # the delays of the inspection, with which its counts were made
        quantized = balanced(quantized, seen.balances)
        laid_out = seen.placement
        if isinstance(network, Network):  # counted in floats
            laid_out = with_traffic(lay_out(quantized, profile, cores=cores), quantized)
        placement = arrange_placement(laid_out)
        network_file(quantized, folder.staging, target)
        report = summarize(
            profile, seen.budget, placement, before=seen.placement, rounding=errors,
            warnings=(*notes, *seen.warnings, *counting_note(profile)), overflows=overflows, balances=seen.balances,
            files=output_files(folder.path, target),
        )  # fmt: skip
        artifacts = RunArtifacts(quantized=quantized, budget=seen.budget, command=command)
        return Deployment(quantized=quantized, placement=placement, report=write_report(report, folder.staging, artifacts))


def in_integers(
    network: Network, budget: Budget, widths: Mapping[str, int], calibration: NDArray[Any],
    states: Mapping[str, float] = MappingProxyType({}), levels: int = 1,
) -> tuple[Network, QuantizedNetwork, Budget, IntegerForm]:  # fmt: skip
    """Remove inactive neurons from a compressed network, quantise it, add its relays, and check it against the budget.

    Parameters
    ----------
    network : Network
        Compressed under the budget, for an input in these `levels`.
    widths : mapping of layer to int
        Bits of each layer's weights.
    calibration : array (batch, \\*input_shape, n_steps)
        Spikes of training data: scales are chosen so that no state leaves its register on them, with a margin.
    states : mapping of layer to float, optional
        Largest states by which the loss limited the scales; they do so here too where a margin is left on the calibration data.

    Returns
    -------
    network : Network
        Without the neurons that change no output, and with the plan's relays.
    quantized : QuantizedNetwork
    budget : Budget
        Of the remaining neurons.
    form : IntegerForm
        That makes the same integers of the same weights, without relays.

    Raises
    ------
    BudgetError
        The network exceeds its budget.
    """
    kept = needed_neurons(network)
    plan = budget.of_neurons(kept)
    # relays are made after quantising
    widths = {name: width for name, width in widths.items() if name not in plan.relays}
    form = IntegerForm(
        widths=widths, largest_states=states, kept=kept, levels=levels, balances=plan.balances, cuts=tuple(plan.cuts)
    )  # fmt: skip
    trimmed, quantized = form.quantized(network, budget.profile)
    if any(error.can_overflow for error in quantization_errors(trimmed, quantized)):
        largest = {
            name: states[name] if name in states and _LEAST_MARGIN * state <= STATE_MARGIN * states[name] else state
            for name, state in largest_states(trimmed, calibration).items()
        }
        form = replace(form, largest_states=largest)
        trimmed, quantized = form.quantized(network, budget.profile)
    trimmed, quantized = plan.with_relays(trimmed), plan.with_relays(quantized)
    # counted on the integers, independently of what compression counted
    plan.check(quantized)
    return trimmed, quantized, plan, form


def network_file(network: QuantizedNetwork, folder: Path, target: Target | None) -> None:
    """Write the network into a folder as its target does; no file without a target."""
    if target is not None:
        target.write(network, folder / f"{NETWORK_STEM}{target.suffix}")


def counting_note(profile: HardwareProfile) -> tuple[str, ...]:
    """Return the reason, in one line, why there is no network file; nothing where there is one."""
    if profile.target is not None:
        return ()
    return (f"No network file: profile {profile.name!r} names no target; it is for counting only.",)


def rounding_warnings(errors: tuple[LayerError, ...], measured: Measurement) -> tuple[str, ...]:
    """Sentences about lost synapses, overflows, and layers that quantisation silenced or saturated."""
    changed = (f"{change} ({measured.of})" for change in measured.changed)
    known = {change.layer for change in measured.changed}
    silent = (
        f"layer {name!r} never fires ({measured.of})" for name, rate in measured.rates.items() if not rate and name not in known
    )
    return (*warnings_of(errors, measured.overflows, measured.of), *changed, *silent)


NETWORK_STEM = "model"
FILE_NAMES = {
    "weights": "weights.safetensors",
    "trained": "trained.nir",
    "record": "record.npz",
    "page": "report.html",
    "report": REPORT,
    "text": "report.txt",
}
"""Kind of file: its name in the output folder."""


def output_files(folder: Path, target: Target | None, *kinds: str) -> dict[str, str]:
    """Paths of the network's file, of the files of `kinds`, and of the report; a folder may hold others, from an earlier run."""
    network = {} if target is None else {"network": f"{NETWORK_STEM}{target.suffix}"}
    names = network | {kind: FILE_NAMES[kind] for kind in (*kinds, "page", "report", "text")}
    return {kind: str(folder / name) for kind, name in names.items()}


def write_report(report: Report, folder: Path, artifacts: RunArtifacts | None) -> Report:
    """Write a report as JSON and text, and with artifacts as a page, and return it."""
    write_text(folder / FILE_NAMES["report"], json.dumps(report.to_json(), indent=2) + "\n")
    write_text(folder / FILE_NAMES["text"], f"{report}\n")
    if artifacts is not None:
        # imported here: see `deploy`
        from neurodeploy.report.html import write_page

        write_page(report, folder / FILE_NAMES["page"], artifacts)
    return report


def explore(network: Network | QuantizedNetwork, chips: Sequence[Chip] = ("loihi2", "loihi1", "tiny")) -> Any:
    """Make notebook widgets that show, for a chip, core count and weight width, whether a network fits and each layer's budget.

    Parameters
    ----------
    chips : sequence of names, paths or HardwareProfile
        Chips to select from; the first is selected.

    Returns
    -------
    ipywidgets.VBox

    Raises
    ------
    RequestError
        ipywidgets is not installed, or there are no chips.
    """
    try:
        import ipywidgets as widgets
    except ImportError as error:
        raise RequestError("explore", "needs ipywidgets", remedy="Install neurodeploy-snn[notebook].") from error
    profiles = [load_profile(chip) for chip in chips]
    if not profiles:
        raise RequestError("chips", "are none")
    chip = widgets.Dropdown(options=[(profile.name, profile) for profile in profiles], description="chip")
    cores = widgets.BoundedIntText(description="cores", min=1)
    bits = widgets.Dropdown(description="weight bits")
    answer = widgets.HTML()

    def select_chip(_: Any) -> None:
        # the limit first: ipywidgets clips a value to it
        cores.max = chip.value.cores
        cores.value = min(cores.value, cores.max)
        bits.options = sorted(chip.value["weight_bits"].choices, reverse=True)
        bits.value = min(bits.options, key=lambda width: abs(width - DEFAULT_WEIGHT_BITS))
        update(None)

    def update(_: Any) -> None:
        # None until a chip is selected
        if bits.value is not None:
            answer.value = budget_html(network, chip.value, cores.value, bits.value)

    chip.observe(select_chip, "value")
    cores.observe(update, "value")
    bits.observe(update, "value")
    select_chip(None)
    return widgets.VBox([widgets.HBox([chip, cores, bits]), answer])


def budget_html(network: Network | QuantizedNetwork, profile: HardwareProfile, cores: int, bits: int) -> str:
    """Placement and budget of a network as HTML, or the reason why there are none."""
    try:
        seen = inspect(network, profile, cores=cores, bits=bits)
    except NeurodeployError as error:
        return html_paragraphs([str(error)])
    budget = html_paragraphs([seen.compressible]) if seen.budget is None else seen.budget._repr_html_()
    return f"{seen.placement._repr_html_()}{budget}"
