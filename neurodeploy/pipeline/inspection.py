"""Inspect a network: count it, place it, share the cores out among its layers; `explore` does so in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, overload

from neurodeploy.errors import (
    BudgetError,
    NeurodeployError,
    PlacementError,
    QuantizeError,
    RequestError,
    check_arguments,
    check_numbers,
)
from neurodeploy.frontends.assembly import NodeSupport
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import html_paragraphs, html_table
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.allocation import Gain, Unpruned, gains, share_budget
from neurodeploy.mapping.budget import Budget
from neurodeploy.mapping.channel_counts import narrow_budget, unpruned_layers
from neurodeploy.mapping.core_estimate import CoreEstimate, check_size, estimated_cores, least_cores
from neurodeploy.mapping.delay_balancing import Balance, balance, balanced, relays_of
from neurodeploy.mapping.place import CountCache, counts_of, lay_out, with_traffic
from neurodeploy.mapping.placement import Placement, lasting_error
from neurodeploy.passes.dead_neurons import in_floats, silent_layers
from neurodeploy.passes.quantize import check_rounding_memory, narrow_width_notes, quantize
from neurodeploy.report.summary import LayerReport, TargetResult, inspection, layer_reports
from neurodeploy.report.text import FittedTable, as_text, balance_lines, traffic_lines, verdict
from neurodeploy.resources.usage import bits_of, weight_bits
from neurodeploy.targets import check_profile, requested_weight_bits, target_of, weight_widths

if TYPE_CHECKING:
    import torch

    from neurodeploy.pipeline.deploy import IntegerForm


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
    """

    placement: Placement
    budget: Budget | None
    infeasible: NeurodeployError | None
    unwritable: NeurodeployError | None = None
    silent: Mapping[str, str] = MappingProxyType({})
    gains: tuple[Gain, ...] = ()
    balances: tuple[Balance, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def compressible(self) -> str:
        """A sentence: whether `compress` can make the network fit, and how many channels or neurons layers then keep."""
        if self.budget is None:
            why = ", for that reason." if str(self.infeasible) == str(self.unwritable) else f". {self.infeasible}"
            return f"Compressible: no{why}"
        removals = self.budget.removals({name: self.placement.of(name).neurons for name in self.budget.layer_names})
        if not removals and not self.placement.fits and any(len(part.region.starts) == 3 for part in self.placement.slices):
            removals = "compress chooses how many channels are kept"
        return f"Compressible: yes; {removals}." if removals else "Compressible: yes."

    @property
    def fits(self) -> bool:
        """Whether `deploy` writes a network that fits."""
        return self.placement.fits and self.unwritable is None

    @property
    def warnings(self) -> list[str]:
        """Sentences about what the model's file does not tell, and layers that never fire."""
        silent = (f"Layer {name!r} is silent, whatever the input is: {reason}." for name, reason in self.silent.items())
        return [*self.notes, *silent]

    @property
    def sentences(self) -> list[str]:
        """The verdict: whether the network fits, what `deploy` refuses, and whether `compress` can make it fit."""
        return [*verdict(self.placement, refused=self.unwritable), *self.warnings, self.compressible]

    @property
    def layers(self) -> tuple[LayerReport, ...]:
        """Needs and budget of each layer, in the network's order."""
        return layer_reports(self.placement, self.budget, None, self.balances)

    def to_json(self) -> dict[str, Any]:
        """The keys of ``neurodeploy inspect --json``."""
        return {"plan": "exact"} | inspection(self.placement, self.budget, self.gains, self.balances) | {
            "compressible": self.budget is not None, "deployable": self.unwritable is None, "silent": dict(self.silent),
        }  # fmt: skip


@overload
def inspect(
    network: Network | QuantizedNetwork, profile: Chip, *, cores: int | None = None, chips: int | None = None,
    bits: int | None = None, connectivity: float | None = None, form: IntegerForm | None = None, fast: Literal[False] = False,
    on_estimate: Callable[[CoreEstimate], None] | None = None,
) -> Inspection: ...  # fmt: skip


@overload
def inspect(
    network: Network | QuantizedNetwork, profile: Chip, *, cores: int | None = None, chips: int | None = None,
    bits: int | None = None, connectivity: float | None = None, form: IntegerForm | None = None, fast: Literal[True],
) -> CoreEstimate: ...  # fmt: skip


@overload
def inspect(
    network: Network | QuantizedNetwork, profile: Chip, *, cores: int | None = None, chips: int | None = None,
    bits: int | None = None, connectivity: float | None = None, form: IntegerForm | None = None, fast: bool = False,
    on_estimate: Callable[[CoreEstimate], bool] | None = None,
) -> Inspection | CoreEstimate: ...  # fmt: skip


@check_arguments
def inspect(
    network: Network | QuantizedNetwork, profile: Chip, *, cores: int | None = None, chips: int | None = None,
    bits: int | None = None, connectivity: float | None = None, form: IntegerForm | None = None, fast: bool = False,
    on_estimate: Callable[[CoreEstimate], bool | None] | None = None,
) -> Inspection | CoreEstimate:  # fmt: skip
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
    fast : bool
        Only estimate the number of cores, in closed form.
    on_estimate : callable, optional
        Called with the estimate before the network is laid out; if it returns True, the estimate is the answer.

    Raises
    ------
    RequestError
        More cores, chips or bits than the profile has.
    NetworkError
        A network too large for the memory of this process.
    """
    profile, ready, counted = load_profile(profile), None, CountCache()
    if fast or on_estimate is not None:
        available, width = profile.core_count(cores, chips), requested_weight_bits(profile, bits)
        check_size(network, profile, available)
        known = (balanced(network, form.balances), form.balances) if form is not None else None
        ready = known or balance(network, profile, bits=width, counted=counted)
        layers = ready[0].layers
        widths = {one.name: weight_bits(bits_of(one, width), profile) for one in layers}
        counts = counts_of(layers, widths, profile, connectivity, counted)
        estimate = estimated_cores(layers, counts, profile, available, least_cores(layers, counts, profile))
        if fast or (on_estimate is not None and on_estimate(estimate)):
            return estimate
    if isinstance(network, Network) and target_of(profile) is not None:
        check_rounding_memory(network)
    asked: Any = {"cores": cores, "chips": chips, "bits": bits, "connectivity": connectivity, "form": form}
    seen = share_out(network, profile, ready=None if form is not None else ready, counted=counted, **asked)
    notes = *seen.notes, *narrow_width_notes(network, requested_weight_bits(profile, bits))
    return replace(seen, unwritable=_why_unwritable(network, profile, bits), notes=notes)


def share_out(
    network: Network | QuantizedNetwork,
    profile: HardwareProfile,
    *,
    cores: int | None = None,
    chips: int | None = None,
    bits: int | None = None,
    connectivity: float | None = None,
    form: IntegerForm | None = None,
    ready: tuple[Network | QuantizedNetwork, tuple[Balance, ...]] | None = None,
    counted: CountCache | None = None,
) -> Inspection:
    """Inspect a network, but not whether its numbers fit the registers; `balance` returned `ready`, and filled `counted`."""
    asked = {"bits": 1 if bits is None else bits, "connectivity": 1.0 if connectivity is None else connectivity}
    check_numbers(SimpleNamespace(**asked), whole={"bits": 1}, real={"connectivity": 0.0})
    if asked["connectivity"] > 1:
        raise RequestError("connectivity", f"is {connectivity!r}, not a share of at most 1")
    cores, bits = profile.core_count(cores, chips), requested_weight_bits(profile, bits)
    unbalanced, counted = network, CountCache() if counted is None else counted  # what is counted includes its delays
    if form is not None:
        network, balances = balanced(unbalanced, form.balances), form.balances
        placement = lay_out(network, profile, cores=cores, bits=bits, connectivity=connectivity, plan=form.cuts)
    if form is None or not placement.fits:
        network, balances = ready or balance(unbalanced, profile, bits=bits, counted=counted)
        placement = lay_out(network, profile, cores=cores, bits=bits, connectivity=connectivity, counted=counted)
    placement = with_traffic(placement, network, connectivity=connectivity, counted=counted)
    try:
        # a placement counted at another connectivity is not that of the unpruned network
        unpruned = Unpruned(network, profile, bits, placement if connectivity in (None, 1.0) else None, counted)
        # the layers that `compress` keeps whole
        whole = unpruned_layers(unpruned, relays_of(balances))
        budget = share_budget(network, profile, cores=cores, bits=bits, unpruned=unpruned, whole=whole, explain=False)
    except BudgetError:
        # all channels and neurons stay above
        fewer, reason = _with_fewer_neurons(unbalanced, balances, profile, cores, bits)
        placement = replace(placement, is_compressible=fewer is not None)  # no remedy advises what is infeasible
        seen = Inspection(placement=placement, budget=fewer, infeasible=reason, balances=balances)
    else:
        more, budget = gains(network, profile, budget, unpruned=unpruned), replace(budget, balances=balances)
        seen = Inspection(placement=placement, budget=budget, infeasible=None, gains=more, balances=balances)
    if lasting := lasting_error(placement, network):
        placement = replace(placement, is_compressible=False)
        seen = replace(seen, placement=placement, budget=None, infeasible=lasting, gains=())
    if form is not None:
        seen = replace(seen, placement=form.of_original(seen.placement))
    return replace(seen, silent=silent_layers(unbalanced), notes=getattr(unbalanced, "notes", ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCheck:
    """What becomes of each node of a model, and whether its network fits a chip.

    Attributes
    ----------
    nodes : tuple of NodeSupport
    profile : HardwareProfile
    inspection : Inspection or None
        Of the network; None where there is none, or no way to count it.
    infeasible : NeurodeployError or None
        Why it could not be counted.
    """

    nodes: tuple[NodeSupport, ...]
    profile: HardwareProfile
    inspection: Inspection | None = None
    infeasible: NeurodeployError | None = None

    @property
    def is_supported(self) -> bool:
        """Whether every node comes in exactly."""
        return not any(node.reasons for node in self.nodes)

    @property
    def fits(self) -> bool:
        """Whether every node comes in, and `deploy` writes a network that fits."""
        return self.is_supported and self.inspection is not None and self.inspection.fits

    @property
    def sentences(self) -> list[str]:
        """Whether the model comes in, fits the chip and can be compressed, and which spikes are delayed."""
        if not self.is_supported:
            refused = sum(bool(node.reasons) for node in self.nodes)
            return [f"Supported: no. {refused} of {len(self.nodes)} nodes cannot come in, so there is no network to place."]
        rewritten = sum(node.verdict == "rewrite" for node in self.nodes)
        exactly = f"Supported: yes, exactly{f'; {rewritten} of {len(self.nodes)} nodes rewritten' * bool(rewritten)}."
        if (seen := self.inspection) is None:
            return [exactly, f"Now: does not fit. {self.infeasible}"]
        return [exactly, *seen.sentences, *balance_lines(seen.balances)]

    def to_json(self) -> dict[str, Any]:
        """The keys of ``neurodeploy check --json``."""
        seen = self.inspection
        found = None if seen is None else seen.to_json()
        chip = dict.fromkeys(("binding", "cores", "balances", "compressible", "deployable", "silent"))
        return {
            "profile": self.profile.name, "target": self.profile.target, "supported": self.is_supported, "fits": self.fits,
            **{key: found[key] if found else value for key, value in chip.items()},
            "infeasible": None if self.infeasible is None else str(self.infeasible),
            "nodes": [node.to_json() for node in self.nodes],
        }  # fmt: skip


def check_network(
    nodes: tuple[NodeSupport, ...], network: Network | QuantizedNetwork | None, profile: HardwareProfile, **options: Any
) -> ModelCheck:
    """Inspect the network of a model, if it has one; `options` are those of `inspect`."""
    try:
        seen = None if network is None else inspect(network, profile, **options)
    except (BudgetError, PlacementError) as error:
        return ModelCheck(nodes=nodes, profile=profile, infeasible=error)
    return ModelCheck(nodes=nodes, profile=profile, inspection=seen)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ModelSummary:
    """Result of `summary`: text in a terminal, a table in a notebook.

    Attributes
    ----------
    check : ModelCheck
        Its nodes are the rows.
    n_parameters, n_trainable : int
        Of the whole model; a parameter that several modules share counts once.
    """

    check: ModelCheck
    n_parameters: int
    n_trainable: int

    def rows(self) -> Iterator[tuple[str | int, ...]]:
        """Yield a row for each node, each further layer of it, and each layer that was added; "" where there is nothing."""
        seen = self.check.inspection
        left = [] if seen is None else list(seen.placement.weight_bits)

        def of_chip(name: str) -> tuple[str | int, ...]:
            if seen is None:
                return (name, *[""] * 6)
            left.remove(name)
            use = seen.placement.of(name)
            return name, use.neurons, use.synapses, use.synapse_memory_bits, use.input_axons, use.output_axons, use.cores

        for node in self.check.nodes:
            shape = " x ".join(map(str, node.shape))
            first, *others = map(of_chip, node.layers) if node.layers else [("",) * 7]
            yield node.name, node.kind, shape, node.n_parameters, node.n_products, node.verdict, *first
            for other in others:
                yield *[""] * 6, *other
        for name in tuple(left):  # neurons that bring biases, relays
            yield "", "added", *[""] * 4, *of_chip(name)

    @property
    def sentences(self) -> list[str]:
        """Totals of the model, and what `ModelCheck` says of it."""
        products = sum(node.n_products for node in self.check.nodes)
        frozen = self.n_parameters - self.n_trainable
        total = (
            f"Parameters: {self.n_parameters:,} ({self.n_trainable:,} trainable, {frozen:,} not); {products:,} products a step."
        )
        reasons = [str(reason) for node in self.check.nodes for reason in node.reasons]
        return [total, *reasons, *self.check.sentences]

    def __str__(self) -> str:
        table = FittedTable(f"Summary on {self.check.profile.name}", _SUMMARY_HEADINGS, _SUMMARY_SPARE)
        for row in self.rows():
            table.add(*(f"{cell:,}" if isinstance(cell, int) else cell for cell in row))
        return as_text(table, *self.sentences)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        headings = [heading.removesuffix("<") for heading in _SUMMARY_HEADINGS]
        return html_table(f"Summary on {self.check.profile.name}", headings, self.rows()) + html_paragraphs(self.sentences)


_SUMMARY_HEADINGS = (
    "module", "type<", "output<", "parameters", "products", "<", "layer<", "neurons", "synapses", "synapse bits", "axons in",
    "axons out", "cores",
)  # fmt: skip
_SUMMARY_SPARE = ("axons out", "axons in", "products")


@check_arguments
def summary(
    model: torch.nn.Module,
    sample: torch.Tensor,
    chip: Chip = "loihi2",
    *,
    cores: int | None = None,
    bits: int | None = None,
) -> ModelSummary:
    """Summarise a model module by module: output shape, parameters and products, and what its layers take of a chip.

    Parameters
    ----------
    model, sample
        As of `neurodeploy.extract`. A model that cannot come in is summarised too, without the chip's columns: each row says
        ``exact``, ``rewrite``, ``host`` or ``unsupported``.
    chip : str, path or HardwareProfile
    cores, bits : int, optional
        As of `inspect`.

    Returns
    -------
    ModelSummary
        ``print`` shows it in a terminal; a notebook shows a table.

    Raises
    ------
    ExtractError
        A sample that is none, or that the model cannot run on.
    """
    from neurodeploy.frontends.torch.support import check_model  # brings torch, which other inspections do not need

    profile = load_profile(chip)
    check = check_network(*check_model(model, sample), profile, cores=cores, bits=bits)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ModelSummary(check=check, n_parameters=sum(n for n, _ in sizes), n_trainable=sum(n for n, trains in sizes if trains))


def target_result(
    network: Network | QuantizedNetwork, profile: HardwareProfile, *, form: IntegerForm | None = None, bits: int | None = None
) -> TargetResult:
    """Inspect a network on one of several chips that are compared; what cannot be placed there is an answer, and no error."""
    try:
        seen = inspect(network, profile, form=form, bits=bits)
    except (BudgetError, PlacementError, QuantizeError) as error:
        return TargetResult(profile=profile, why_not=str(error), sentences=(f"Now: does not fit. {error}",))
    sentences = [*seen.sentences, *traffic_lines(seen.placement), *balance_lines(seen.balances)]
    return TargetResult(
        profile=profile, placement=seen.placement, is_compressible=seen.budget is not None,
        why_not="" if seen.unwritable is None else str(seen.unwritable), sentences=tuple(sentences),
    )  # fmt: skip


def _why_unwritable(network: Network | QuantizedNetwork, profile: HardwareProfile, bits: int | None) -> NeurodeployError | None:
    """The reason that `deploy` refuses a network's numbers; None where it takes them."""
    try:
        integers = network if isinstance(network, QuantizedNetwork) else quantize(network, profile, bits=bits)
        if (target := target_of(profile)) is not None:
            check_profile(integers, profile)
            target.check_file(integers)
    except NeurodeployError as error:
        return error
    return None


def _with_fewer_neurons(
    network: Network | QuantizedNetwork, balances: tuple[Balance, ...], profile: HardwareProfile, cores: int, bits: int
) -> tuple[Budget | None, NeurodeployError | None]:  # fmt: skip
    """The budget with fewer channels or neurons, as `compress` makes it, or why there is none."""
    try:
        return narrow_budget(in_floats(network), profile, cores=cores, bits=bits, balances=balances), None
    except NeurodeployError as error:
        return None, error


@check_arguments
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
        bits.options = sorted(weight_widths(chip.value), reverse=True)
        bits.value = bits.options[0]
        update(None)

    def update(_: Any) -> None:
        if bits.value is not None:  # None until a chip is selected
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
