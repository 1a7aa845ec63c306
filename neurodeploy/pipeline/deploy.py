"""Deploy a network: quantise it, place it, and write its files and its report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, check_arguments, counted
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Mask, load_numpy
from neurodeploy.ir.files import REPORT, output_folder, write_text
from neurodeploy.ir.network import Network, threshold_of
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget import Budget
from neurodeploy.mapping.delay_balancing import Balance, balanced, skips
from neurodeploy.mapping.place import PlannedSlice, arrange_placement, lay_out, with_traffic
from neurodeploy.mapping.placement import Placement
from neurodeploy.passes.dead_neurons import needed_neurons, tied_layers, trimmable, unit_mask, without_neurons
from neurodeploy.passes.quantize import STATE_MARGIN, LayerError, quantization_errors, quantize
from neurodeploy.pipeline.inspection import share_out
from neurodeploy.report.summary import Report, summarize
from neurodeploy.resources.usage import Region, grid_of
from neurodeploy.simulation.layer_schedule import largest_states
from neurodeploy.targets import Target, check_profile, target_of

if TYPE_CHECKING:
    from neurodeploy.pipeline.evaluation import Measurement
    from neurodeploy.report.html import RunArtifacts

_LEAST_MARGIN = 1.2
"""Margin on which the scales of the loss are kept: fine-tuning moves the states a little, the loss has seen the scales."""
COARSE_DECAY = 0.002
"""Error of a decay from which a warning names it: eight times what rounding to multiples of 1/4096 costs at most."""
MAX_LEVELS = 2**32 - 1
"""What the widest payload of a spike holds."""
Say = Callable[[str], None]
"""Called with a line of text for the user before and after each stage."""


def ignore(line: str) -> None:
    """Discard a message: the `Say` of a run without messages."""
    # an unused argument, for linters
    del line


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Result of `deploy` and `compress`: the network in the chip's integers, its placement, and the report."""

    quantized: QuantizedNetwork
    placement: Placement
    report: Report

    def numbers(self) -> dict[str, Any]:
        """Accuracy, size and cost as keys of a sweep's row (docs/json.md); energy and time are those of a sample."""
        report, placement, accuracy = self.report, self.placement, self.report.accuracy
        traffic, whole = placement.traffic(), sum((report.before or placement).n_weights.values())
        cost = None if traffic is None else traffic.estimate()
        sums = ("neurons", "synapses", "synapse_memory_bits")
        n_steps = np.asarray(load_numpy(report.files["record"])["spikes"]).shape[-1]
        binds = {
            layer.connectivity: f"{layer.budget.binds.replace('_', ' ').removesuffix(' bits')} of {layer.now.layer}"
            for layer in report.layers if layer.budget is not None and layer.budget.binds
        }  # fmt: skip
        return {
            "accuracy": accuracy.quantized if accuracy.emulated is None else accuracy.emulated,
            "accuracy_dense": accuracy.dense, "accuracy_compressed": accuracy.compressed, "test_samples": accuracy.test_samples,
            "fits": placement.fits, "cores_used": placement.cores_used,
            "connectivity": sum(placement.n_weights[name] * p for name, p in placement.connectivity.items()) / max(whole, 1),
            **{key: sum(getattr(layer.now, key) for layer in report.layers) for key in sums},
            "binds": binds[min(binds)] if binds else None,
            "energy_j": None if cost is None else cost.energy_j * n_steps,
            "time_s": None if cost is None else cost.time_s * n_steps,
            "energy_assumed": None if cost is None else cost.is_assumed,
        }  # fmt: skip


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
    n_weights : mapping of layer to int
        Weights of the network before it was compressed, as far as they are known; they are not written.
    """

    widths: Mapping[str, int]
    largest_states: Mapping[str, float]
    kept: Mapping[str, Mask]
    levels: int = 1
    balances: tuple[Balance, ...] = ()
    cuts: tuple[PlannedSlice, ...] = ()
    n_weights: Mapping[str, int] = field(default_factory=dict)

    def of_original(self, placement: Placement) -> Placement:
        """State the share of weights that is kept of those before compression, as the report of `compress` does."""
        whole = {**placement.n_weights, **self.n_weights}
        kept = {name: share * placement.n_weights[name] / max(whole[name], 1) for name, share in placement.connectivity.items()}
        return replace(placement, n_weights={name: whole[name] for name in placement.n_weights}, connectivity=kept)

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
        """Read what `to_json` wrote; ValueError where it is damaged, or not of this network."""
        try:
            read, kept = json.loads(text), {}
            sizes = {layer.name: layer.n_neurons for layer in network}
            for name, (size, packed) in read["kept"].items():
                # before anything of this size is made
                if size != sizes[name] or len(packed) != 2 * -(-size // 8):
                    raise ValueError(f"layer {name!r} has {counted(sizes[name], 'neuron')}, not {size}")
                kept[name] = np.unpackbits(np.frombuffer(bytes.fromhex(packed), dtype=np.uint8), count=size).astype(np.bool_)
            form = cls(
                widths=dict(read["widths"].items()), largest_states=dict(read["largest_states"].items()), kept=kept,
                levels=read["levels"],
                balances=tuple(Balance(**{**each, "targets": tuple(each["targets"])}) for each in read["balances"]),
                cuts=tuple((name, core, Region(tuple(starts), tuple(stops))) for name, core, starts, stops in read["cuts"]),
            )  # fmt: skip
            form._check(network)
        except (ArithmeticError, AttributeError, LookupError, NetworkError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}") from error
        return form

    def _check(self, network: Network) -> None:
        """Raise ValueError, or what a value of another type makes fail, where the form is not one of this network."""

        def whole(what: str, value: Any, least: int, most: int) -> None:
            # bool is a kind of int in Python
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"{what} {value!r} is not a whole number from {least} to {most}")

        def positive(what: str, value: Any) -> None:
            # 0: of a layer without input
            if isinstance(value, bool) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{what} {value!r} is not a number of at least 0")

        names, early = {layer.name for layer in network}, skips(network)
        whole("levels", self.levels, 1, MAX_LEVELS)
        for choice in self.balances:
            whole("steps", choice.steps, 1, early.get(choice.source, 0))
            for cost in (choice.synapses_cost, choice.relays_cost):
                math.isfinite(0.0 if cost is None else cost)  # TypeError for what is no number
            if (
                choice.by not in ("synapses", "relays")
                or choice.steps != early[choice.source]
                or not names.issuperset(choice.targets)
            ):
                raise ValueError(f"the delays of {choice.source!r} are of another network")
        if len({choice.source for choice in self.balances}) < len(self.balances):
            raise ValueError("the delays of a layer come twice")
        self._check_kept(network)
        whole_plan, planned = (balanced(one, self.balances) for one in (network, without_neurons(network, self.kept)))
        if other := {*self.widths, *self.largest_states, *(name for name, *_ in self.cuts)} - {layer.name for layer in planned}:
            raise ValueError(f"no layer {min(other)!r}")
        for name, width in self.widths.items():
            whole(f"the width of {name!r}", width, 1, 64)
        for name, state in self.largest_states.items():
            positive(f"the largest state of {name!r}", state)
        n_neurons = sum(layer.n_neurons for layer in whole_plan)
        for layer in planned:
            covered = np.zeros(grid_of(layer), dtype=np.int64)
            for core, region in ((core, region) for name, core, region in self.cuts if name == layer.name):
                whole("core", core, 0, n_neurons - 1)  # a core of a plan has a neuron at least
                for start, stop, side in zip(region.starts, region.stops, covered.shape, strict=True):
                    whole(f"the first neuron of a slice of {layer.name!r}", start, 0, side - 1)
                    whole(f"the end of a slice of {layer.name!r}", stop, start + 1, side)
                covered[region.box] += 1
            if not (covered == 1).all():
                raise ValueError(f"some neurons of {layer.name!r} are on no core, or on several")

    def _check_kept(self, network: Network) -> None:
        """Raise ValueError where other neurons would be left out than `needed_neurons` can name."""
        cut = {name: mask for name, mask in self.kept.items() if not mask.all()}
        if other := cut.keys() - set(trimmable(network)):
            raise ValueError(f"layer {min(other)!r} keeps all its neurons")
        units = {name: unit_mask(mask, network[name]) for name, mask in cut.items()}
        for name, mask in cut.items():
            if not mask.any() or (np.repeat(units[name], mask.size // units[name].size) != mask).any():
                raise ValueError(f"layer {name!r} keeps no neuron, or a part of a channel")
        for tied in tied_layers(network):
            if len({tuple(units[name]) if name in units else None for name in tied}) > 1:
                raise ValueError(f"layers {', '.join(map(repr, tied))} keep other channels than each other")


@check_arguments
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
    without a target there is no network file; for Loihi it is ``model.net``, for Xylo
    ``model.npz`` and ``model.json``. All files appear together, or none if a step fails.

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
        seen = share_out(network, profile, cores=cores, bits=bits, form=form)
        quantized = network if isinstance(network, QuantizedNetwork) else quantize(network, profile, bits=bits)
        errors = quantization_errors(network, quantized) if isinstance(network, Network) else ()
        notes: tuple[str, ...] = tuple(warnings_of(errors))
        overflows: Mapping[str, int] = {}
        if target is not None and isinstance(network, Network):
            # imported here: it brings torch, which a network that is quantised already does not need
            from neurodeploy.pipeline.evaluation import measure_on_random_input

            # with a target only: without one nothing runs the integers
            measured = measure_on_random_input(network, quantized)
            notes, overflows = rounding_warnings(errors, measured, network), measured.overflows
        # the delays of the inspection, with which its counts were made
        quantized = balanced(quantized, seen.balances)
        laid_out = seen.placement
        if isinstance(network, Network):  # counted in floats
            laid_out = with_traffic(lay_out(quantized, profile, cores=cores), quantized)
            laid_out = replace(laid_out, is_compressible=seen.placement.is_compressible)
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
    """Write the network into a folder as its target does, and in its other forms; no file without a target."""
    if target is not None:
        target.write(network, folder / f"{NETWORK_STEM}{target.suffix}")
        for ending, text_of in target.other_forms.items():
            write_text(folder / f"{NETWORK_STEM}.{ending}", text_of(network))


def counting_note(profile: HardwareProfile) -> tuple[str, ...]:
    """Return the reason, in one line, why there is no network file; nothing where there is one."""
    if profile.target is not None:
        return ()
    return (
        f"No network file: profile {profile.name!r} names no target; it is for counting only. For a chip that computes as Loihi "
        "does, add the line 'target: loihi'.",
    )


def warnings_of(errors: tuple[LayerError, ...], overflows: Mapping[str, int] | None = None, of: str = "") -> list[str]:
    """Return a sentence for each layer whose state can leave its register, or did, or that lost synapses to rounding.

    Parameters
    ----------
    overflows : mapping of layer to int, optional
        How often a state left its register, where that was measured.
    of : str
        What it was measured on, e.g. ``"on the test data"``.
    """
    lines = []
    for error in errors:
        if error.can_overflow:
            bits = max(error.worst_current_bits, error.worst_voltage_bits)
            measured = "" if overflows is None else f"; {of} it did so {counted(overflows[error.layer], 'time')}"
            lines.append(
                f"Layer {error.layer!r} could overflow its {error.state_bits}-bit state: worst case {bits:.0f} bits{measured}."
            )
        if error.decay_error > COARSE_DECAY:
            lines.append(
                f"Layer {error.layer!r} has the chip's decays: a step loses up to {error.decay_error:.3f} of a state more or "
                "less than in the model; its weights keep the steady state."
            )
        if error.most_spikes[0] != error.most_spikes[1]:
            model, chip = error.most_spikes
            lines.append(
                f"Layer {error.layer!r} fires at most {counted(model, 'time')} a step in the model, and {chip} on the chip."
            )
        if error.synapses_lost:
            lines.append(f"Layer {error.layer!r} lost {counted(error.synapses_lost, 'synapse')} that rounded to zero.")
    return lines


def rounding_warnings(errors: tuple[LayerError, ...], measured: Measurement, network: Network) -> tuple[str, ...]:
    """Sentences about lost synapses, overflows, and layers that quantisation silenced or saturated."""
    changed = (f"{change} ({measured.of})." for change in measured.changed)
    known = {change.layer for change in measured.changed}
    spiking = (layer.name for layer in network if threshold_of(layer.neuron) is not None and layer.name not in known)
    silent = (
        f"Layer {name!r} never fires ({measured.of}): lower its threshold, or scale up the weights into it."
        for name in spiking if measured.rates.get(name) == 0
    )  # fmt: skip
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
    """Paths of the network's files, of the files of `kinds`, and of the report; a folder may hold others, from an earlier run."""
    network = {} if target is None else {"network": f"{NETWORK_STEM}{target.suffix}"}
    others = {} if target is None else {ending: f"{NETWORK_STEM}.{ending}" for ending in target.other_forms}
    names = network | others | {kind: FILE_NAMES[kind] for kind in (*kinds, "page", "report", "text")}
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
