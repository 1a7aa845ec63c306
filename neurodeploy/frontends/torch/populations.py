"""Populations of a traced model: the parameters of Norse's cells, and what each population receives and answers, step by step.

Norse 1.1.0's cells (``norse/torch/functional/{lif,lif_box,iaf,leaky_integrator,leaky_integrator_box}.py``) compute::

    LIF, LI        i <- i + x;  v <- v + g (v_leak - v + i);  i <- (1 - dt/tau_syn) i        with g = dt / tau_mem
    LIFBox, LIBox  v <- v + g (v_leak - v + x);  LIFBox with reset_subtract: v <- v - v_th where it fires
    IAF            v <- v + x
    LIFRecurrent   as LIF, x plus the weighted spikes of the population itself, one step earlier
    LILinear       as LI, x weighted first

which is the chip's recurrence for u = g i, weights scaled by g and membranes counted from the reset potential.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from norse.torch.functional.leaky_integrator import LIState
from norse.torch.functional.reset import reset_subtract, reset_value
from norse.torch.module import leaky_integrator, lif
from norse.torch.module.iaf import IAF, IAFCell
from norse.torch.module.leaky_integrator import LICell, LILinearCell
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.module.lif import LIFCell, LIFRecurrent, LIFRecurrentCell
from norse.torch.module.lif_box import LIFBoxCell
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from numpy.typing import NDArray

from neurodeploy.errors import ExtractError, NetworkError, counted
from neurodeploy.frontends.assembly import MEMORYLESS, LayerSpec, NeuronSpec
from neurodeploy.frontends.expressions import LinearExpression, ModuleId, Shape, Term, as_floats, spikes
from neurodeploy.frontends.torch.custom_neurons import CustomNeurons
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.graph import INPUT, layer_name
from neurodeploy.ir.network import LI, LIF, SubtractiveLIF

# ---------------------------------------------------------------------------------------------------------- Norse's cells


def read_cell(where: str, cell: Any, shape: Shape) -> NeuronSpec:
    """Return the neurons of a cell for a population of this shape; the cell's type is in `CELL_READERS`.

    Raises
    ------
    ExtractError
        Its parameters do not have the population's shape, or the chip has no such neurons.
    """
    names = ("tau_syn_inv", "tau_mem_inv", "v_leak", "v_th", "v_reset")
    p = {name: _per_neuron(where, cell.p, name, shape) for name in names if hasattr(cell.p, name)}
    for name in ("tau_syn_inv", "tau_mem_inv"):
        if name in p and float(p[name].max()) * float(cell.dt) > 1:
            what = f"its {name} of {p[name].max():g} per second forgets more than all in a step of {float(cell.dt):g} s"
            raise ExtractError(where, what, remedy=f"Use at most {1 / float(cell.dt):g}, or a smaller dt.")
    parameters = SimpleNamespace(**p, reset_method=getattr(cell.p, "reset_method", reset_value))
    try:
        return CELL_READERS[type(cell)](where, cell, parameters)  # by exact type: a subclass may compute something else
    except NetworkError as error:
        raise ExtractError(where, f"{error.where} {error.what}", remedy=error.remedy) from error


def _per_neuron(where: str, p: Any, name: str, shape: Shape) -> Floats:
    """Return a parameter as () or (n,), broadcast over the population as torch does."""
    value = as_floats(where, name, getattr(p, name))
    if not value.shape:
        return value
    try:
        return np.broadcast_to(value, shape).reshape(int(np.prod(shape)))
    except ValueError:
        raise ExtractError(where, f"its {name} has shape {value.shape}, not () or {shape}") from None


def _lif(where: str, cell: Any, p: Any) -> NeuronSpec:
    """LIF with a synaptic current, reset to a value; `Recurrent` also receives its own spikes, one step later."""
    dt = float(cell.dt)
    gain = dt * p.tau_mem_inv
    # u is gain times Norse's i, so weights take the gain, and v and v_th only shift by v_reset.
    neuron = LIF(threshold=_threshold_above_reset(where, p), current_decay=dt * p.tau_syn_inv, voltage_decay=gain, rest=p.v_reset)
    return NeuronSpec(neuron=neuron, gain=gain, has_current=True, timestep_s=dt)


def _lif_box(where: str, cell: Any, p: Any) -> NeuronSpec:
    """LIF whose current lasts one step, reset to a value or by subtraction."""
    dt = float(cell.dt)
    gain = dt * p.tau_mem_inv
    if p.reset_method is reset_subtract:
        if p.v_leak.any():
            raise ExtractError(
                where, f"subtracts v_th, counted from 0, but leaks to {p.v_leak}", remedy="Set v_leak to 0, and v_th above it."
            )  # fmt: skip
        # Norse fires strictly above v_th, SubtractiveLIF at its threshold too
        decays = {"current_decay": np.ones(()), "voltage_decay": gain}
        one = SubtractiveLIF(threshold=np.nextafter(p.v_th, np.inf), rest=p.v_leak, max_spikes=np.array(1), **decays)
        return NeuronSpec(neuron=one, gain=gain, timestep_s=dt)
    if p.reset_method is not reset_value:
        raise ExtractError(
            where,
            f"resets by {getattr(p.reset_method, '__name__', p.reset_method)}",
            source="neurons of chips reset to a value, or by subtraction",
            remedy="Use reset_value or reset_subtract of norse.torch.functional.reset, and train again.",
        )
    neuron = LIF(threshold=_threshold_above_reset(where, p), current_decay=np.ones(()), voltage_decay=gain, rest=p.v_reset)
    return NeuronSpec(neuron=neuron, gain=gain, timestep_s=dt)


def _iaf(_where: str, _cell: Any, p: Any) -> NeuronSpec:
    """LIF without leak, whose current lasts one step."""
    # Norse's IAF has no v_leak that would have to equal v_reset.
    neuron = LIF(threshold=p.v_th - p.v_reset, current_decay=np.ones(()), voltage_decay=np.zeros(()), rest=p.v_reset)
    return NeuronSpec(neuron=neuron, gain=np.ones(()))


def _li(_where: str, cell: Any, p: Any) -> NeuronSpec:
    """A readout: neurons that never fire and whose membranes are read."""
    dt = float(cell.dt)
    gain = dt * p.tau_mem_inv
    has_current = not isinstance(cell, LIBoxCell)
    neuron = LI(current_decay=dt * p.tau_syn_inv if has_current else np.ones(()), voltage_decay=gain, rest=p.v_leak)
    return NeuronSpec(neuron=neuron, gain=gain, has_current=has_current, timestep_s=dt)


def _threshold_above_reset(where: str, p: Any) -> Floats:
    """Return the threshold counted from the reset potential, to which the membrane must also leak (Norse starts at v_leak)."""
    reset, leak = p.v_reset, p.v_leak
    if not np.array_equal(leak + 0 * reset, reset + 0 * leak):  # + 0: broadcasts both to one shape
        raise ExtractError(
            where,
            f"leaks to {leak} but resets to {reset}",
            source="the chip's membrane starts, leaks and resets to one value",
            remedy="Set v_leak equal to v_reset; a constant drive can be a bias of the Linear before it.",
        )
    above: Floats = p.v_th - reset
    return above


CELL_READERS: dict[type[torch.nn.Module], Callable[[str, Any, Any], NeuronSpec]] = {
    LIFCell: _lif,
    lif.LIF: _lif,
    LIFBoxCell: _lif_box,
    IAFCell: _iaf,
    IAF: _iaf,
    LIFRecurrentCell: _lif,
    LIFRecurrent: _lif,
    LICell: _li,
    leaky_integrator.LI: _li,
    LILinearCell: _li,
    LIBoxCell: _li,
}
"""Reader of each cell type: from (label, cell, parameters per neuron) to neurons."""
SUPPORTED_CELLS = (
    "LIFCell, LIFBoxCell, IAFCell, LIFRecurrentCell, LICell, LIBoxCell, LILinearCell, and LIF, LIFRecurrent, LI, IAF of Norse, "
    "and neurons that the model computes itself if they leak, fire above a threshold, and reset to zero or by subtraction"
)
SEQUENCE_CELLS = (lif.LIF, LIFRecurrent, leaky_integrator.LI, IAF)
"""Cells that take all steps at once, with time as the first dimension."""


def is_cell(module: torch.nn.Module) -> bool:
    """Whether a module is one of Norse's neurons, supported or not."""
    return type(module) in CELL_READERS or isinstance(module, (SNN, SNNCell, SNNRecurrent, SNNRecurrentCell))


def resting_state(cell: Any, x: torch.Tensor) -> Any:
    """Return the state in which a cell starts, before the input of one step (batch, \\*shape)."""
    if isinstance(cell, LILinearCell):
        return LIState(v=cell.p.v_leak.detach(), i=torch.zeros(len(x), cell.hidden_size, dtype=x.dtype))
    # Sequence cells read the shape behind the dimension for time.
    return cell.state_fallback(x.unsqueeze(0) if isinstance(cell, SEQUENCE_CELLS) else x)


def step_cell(cell: Any, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    """Compute one step of a cell, also of one that takes all steps at once: its output and its new state."""
    if isinstance(cell, LILinearCell):
        return cast("tuple[torch.Tensor, Any]", type(cell).forward(cell, x, state))
    # Recurrent cells take both matrices, in this order.
    weights = (cell.input_weights, cell.recurrent_weights) if hasattr(cell, "recurrent_weights") else ()
    return cast("tuple[torch.Tensor, Any]", cell.activation(x, state, *weights, cell.p, cell.dt))


# ----------------------------------------------------------------------------------------------------- SpikingJelly's nodes

_NODES = ("IFNode", "LIFNode", "ParametricLIFNode")


def is_node(module: torch.nn.Module) -> bool:
    """Whether a module is one of SpikingJelly's nodes, known by name: the library need not be there."""
    kind = type(module)
    return kind.__name__ in _NODES and kind.__module__.startswith("spikingjelly.activation_based.")


def step_node(node: Any, x: torch.Tensor) -> torch.Tensor:
    """Charge, fire and reset a node in torch's functions; SpikingJelly's own (0.0.0.0.14, 2.0.0) are compiled."""
    v = node.v if isinstance(node.v, torch.Tensor) else torch.full_like(x, float(node.v))
    rest = node.v_reset or 0.0  # None subtracts the threshold
    if type(node).__name__ == "IFNode":
        v = v + x
    else:
        share = node.w.sigmoid() if type(node).__name__ == "ParametricLIFNode" else 1.0 / node.tau
        v = v + (x - (v - rest)) * share if node.decay_input else v - (v - rest) * share + x
    spike: torch.Tensor = (v >= node.v_threshold).to(x)
    node.v = v - spike * node.v_threshold if node.v_reset is None else (1 - spike) * v + spike * node.v_reset
    return spike


# ------------------------------------------------------------------------------------------------------- traced populations


@dataclass(frozen=True)
class ExpressionValue:
    """Linear expressions: one of a tensor (batch, \\*shape), or one a step of a tensor (time, batch, \\*shape).

    Attributes
    ----------
    steps : tuple of LinearExpression
    lead : tuple of int
        (batch,) or (time, batch).
    """

    steps: tuple[LinearExpression, ...]
    lead: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        return (*self.lead, *self.steps[0].shape)

    @property
    def latest_step(self) -> int:
        """Step of the latest spikes in it."""
        return max((term.step for step in self.steps for term in step.terms), default=0)

    @property
    def is_weighted(self) -> bool:
        """Whether anything but spikes is in it."""
        return any(term.synapse is not None for step in self.steps for term in step.terms)


@dataclass(frozen=True)
class StepRecord:
    """Output of a population at one step.

    Attributes
    ----------
    output : array (batch, n)
        What the cell computed.
    forwarded : array (batch, n)
        What the model's next modules received instead: random spikes (see `neurodeploy.frontends.torch.model_run`).
    v : array (batch, n) or None
        Membrane potentials.
    """

    output: NDArray[Any]
    forwarded: NDArray[Any]
    v: NDArray[np.float64] | None


@dataclass
class TracedPopulation:
    """Neurons with a state of their own: a chain of calls of one cell, or a max pooling.

    Attributes
    ----------
    name : str
        Of its layer.
    module : ModuleId
    cell : Norse cell, CustomNeurons, or NeuronSpec of a readout or of a function of spikes, as a max pooling
    expression : LinearExpression
        What it received at its last step; the steps of its terms are relative to that.
    steps : list of StepRecord
    counts_calls : bool
        Whether its clock counts the model's calls and not its own steps: it pools an input that stays for many steps.
    """

    name: str
    module: ModuleId
    cell: Any
    expression: LinearExpression
    steps: list[StepRecord] = field(default_factory=list)
    counts_calls: bool = False

    @property
    def is_spiking(self) -> bool:
        if isinstance(self.cell, NeuronSpec):
            return self.is_of_spikes
        return isinstance(self.cell, CustomNeurons) or hasattr(self.cell.p, "v_th")

    @property
    def is_of_spikes(self) -> bool:
        """Whether it is a function of spikes alone, without weights to train."""
        return isinstance(self.cell, NeuronSpec) and hasattr(self.cell.neuron, "threshold")

    @property
    def sources(self) -> dict[str, int]:
        """The populations that it receives spikes from, and the smallest delay in steps."""
        # A later entry replaces an earlier one: the last is the least delayed.
        delays = {term.source: -term.step for term in sorted(self.expression.terms, key=lambda term: term.step)}
        return {source: delay for source, delay in delays.items() if source != INPUT}

    def layer_spec(self) -> LayerSpec:
        """Return its layer; raise `ExtractError` where the chip has no such neurons."""
        where, expression = self.module[1], self.expression
        if isinstance(self.cell, CustomNeurons):
            neurons, constant = self.cell.neurons()
            expression = replace(expression, bias=expression.bias + constant.reshape(expression.shape))
        elif isinstance(self.cell, NeuronSpec):
            neurons = self.cell
        else:
            neurons = read_cell(where, self.cell, expression.shape)
        return LayerSpec(name=self.name, where=where, expression=expression, neurons=neurons, is_pool=self.is_of_spikes)


@dataclass
class PopulationTrace:
    """All populations of a model, in the order in which they first answer.

    Attributes
    ----------
    has_time : bool
        Whether the input of one call holds many steps.
    call : int
        Index of the model's current call.
    input_spikes : list of array (batch, n)
        The input's spikes, one array a step, or a call; set when the run is over.
    by_name : dict of name to TracedPopulation
    without_reset : dict of (Drive or name) to ExtractError
        What arrives at membranes that are compared with a threshold and never reset; populations that they were taken for.
    functions : dict of (module, function, sources) to TracedPopulation
        Neurons that compute a function of spikes, as a max pooling.
    """

    has_time: bool = False
    call: int = 0
    input_spikes: list[NDArray[np.float64]] = field(default_factory=list)
    by_name: dict[str, TracedPopulation] = field(default_factory=dict)
    without_reset: dict[Any, ExtractError] = field(default_factory=dict)
    functions: dict[Any, TracedPopulation] = field(default_factory=dict)

    @property
    def has_steps(self) -> bool:
        """Whether some population made more than one step."""
        return any(len(population.steps) > 1 for population in self.by_name.values())

    def check_resets(self) -> None:
        """Refuse neurons that receive the spikes of such as do not reset."""
        for source in (source for population in self.by_name.values() for source in population.sources):
            if source in self.without_reset:
                raise self.without_reset[source]

    def new(self, module: ModuleId, cell: Any, expression: LinearExpression) -> TracedPopulation:
        """Add a population before its first step, named after the module of its first weights, or after its own."""
        # A model that is one cell has no path.
        path = next((term.name for term in expression.terms if term.name), module[0]) or "layer"
        plain = layer_name(path)  # dots and slashes of paths are no part of a layer's name
        if plain == INPUT:
            raise ExtractError(
                next((term.where for term in expression.terms if term.where), module[1]),
                f"gives its name {plain!r} to a layer, but that is the name of the network's input",
                remedy="Rename it.",
            )
        # More names than populations: one is free.
        name = next(n for n in (plain, *(f"{plain}_{k}" for k in range(2, len(self.by_name) + 3))) if n not in self.by_name)
        population = TracedPopulation(name, module, cell, expression)
        self.by_name[name] = population
        return population

    def answer(self, population: TracedPopulation, output: torch.Tensor, forwarded: torch.Tensor, v: Any = None) -> None:
        """Record a step of a population; `StepRecord` has the tensors, (batch, \\*shape) here."""
        rows = [np.array(np.asarray(tensor)).reshape(len(tensor), -1) for tensor in (output, forwarded)]
        membrane = None if v is None else np.broadcast_to(np.array(np.asarray(v), dtype=np.float64), output.shape)
        population.steps.append(StepRecord(rows[0], rows[1], None if membrane is None else membrane.reshape(rows[0].shape)))

    def of_spikes(self, module: ModuleId, name: str, received: LinearExpression, output: NDArray[Any]) -> LinearExpression | None:
        """Return the spikes of neurons that forget everything and fire above 1/2; None where a step before was left out.

        Parameters
        ----------
        module, name
            The module that calls the function of this name.
        received : LinearExpression
            Sums of spikes, and one constant for all.
        output : array (batch, n)
            What the function gives.
        """
        # The same function of the same neurons at another step is one population.
        key = (module, name, tuple((term.source, term.indices.tobytes(), term.gain.tobytes()) for term in received.terms))
        constant = received.bias.flat[0]
        received = replace(received, bias=np.zeros_like(received.bias))  # in the threshold: a bias would be trained
        if key not in self.functions:
            neuron = LIF(threshold=np.asarray(0.5 - constant), **MEMORYLESS)
            self.functions[key] = self.new(module, NeuronSpec(neuron=neuron, gain=np.ones(())), received)
            self.functions[key].counts_calls = all(self.counts_calls(term.source) for term in received.terms)
        population, step = self.functions[key], max(term.step for term in received.terms)
        if step == len(population.steps):
            self.receive(population, received)
            population.steps.append(StepRecord(output, output, None))
        return spikes(population.name, received.shape, step) if step < len(population.steps) else None

    def receive(self, population: TracedPopulation, expression: LinearExpression) -> None:
        """Set the expression that a population receives at its next step.

        Raises
        ------
        ExtractError
            The input differs from that of the step before, is the membrane of a readout, or holds spikes of a later step.
        """
        where, t = population.module[1], len(population.steps)
        terms = tuple(replace(term, step=self._relative_step(population, term, t)) for term in expression.terms)
        for term in terms:
            if term.source != INPUT and not self.by_name[term.source].is_spiking:
                raise ExtractError(
                    term.where or where,
                    f"takes the membrane of {term.source!r}, which never fires",
                    source="the chip sends spikes",
                    remedy="A readout (LICell, LIBoxCell) has to be last; use a neuron that fires before another layer.",
                )
            if term.step > 0:
                raise ExtractError(
                    where,
                    f"receives what {term.source!r} fires {counted(term.step, 'step')} later",
                    source="on the chip all populations step together",
                    remedy="Call all cells equally often, once a step.",
                )
        received = replace(expression, terms=terms)
        # The step before could not receive what was fired before step 0, so terms that reach back so far are new by rights.
        possible_before = tuple(term for term in terms if term.step >= 1 - t)
        # Bias and weights too: the chip cannot change them between steps.
        if t and not _are_equal(replace(received, terms=possible_before), population.expression):
            raise ExtractError(
                where,
                f"receives something else at its step {t} than at step {t - 1} (steps counted from 0)",
                source="a chip runs one network at every step",
                remedy="Let nothing in forward depend on the data or the step (noise in training only: `if self.training`); "
                "start states as None or zeros.",
            )
        population.expression = received

    def _relative_step(self, population: TracedPopulation, term: Term, t: int) -> int:
        # The clocks differ: a cell may take many steps within one call while an input stays.
        return term.step - (self.call if self.counts_calls(term.source) or population.counts_calls else t)

    def is_known(self, source: str) -> bool:
        """Whether a source is a population of the model, refused ones among them, and not its input."""
        return source in self.by_name or source in self.without_reset

    def counts_calls(self, source: str) -> bool:
        """Whether the clock of a source counts the model's calls."""
        return not self.has_time if source == INPUT else self.by_name[source].counts_calls

    def forwarded(self, source: str, t: int, lag: int) -> NDArray[Any] | None:
        """Return what a source forwarded, (batch, n), `lag` (0 or less) steps from a population's step t; None before step 0."""
        step = (min(t, self.call) if self.counts_calls(source) else t) + lag  # the run is over: self.call is its last
        if step < 0:
            return None
        return self.input_spikes[step] if source == INPUT else self.by_name[source].steps[step].forwarded


def _are_equal(one: LinearExpression, other: LinearExpression) -> bool:
    """Return whether two expressions are equal; constants may differ by rounding."""
    return (
        len(one.terms) == len(other.terms)
        and one.shape == other.shape
        and all(
            (a.source, a.step, a.is_pool) == (b.source, b.step, b.is_pool)
            and np.array_equal(a.indices, b.indices)
            and np.array_equal(a.gain, b.gain)
            and np.array_equal(a.factor, b.factor)
            and a.synapse == b.synapse
            for a, b in zip(one.terms, other.terms, strict=True)
        )
        and np.allclose(one.bias, other.bias, rtol=1e-9, atol=1e-12)
    )


def layer_specs(populations: Sequence[TracedPopulation]) -> tuple[list[LayerSpec], float]:
    """Return the layers of some populations, and the length of their step in seconds (1 ms where no cell has one).

    Raises
    ------
    ExtractError
        Cells with different steps, or that the chip does not have.
    """
    specs = [population.layer_spec() for population in populations]
    # IAF cells and max poolings have none.
    timesteps = {spec.neurons.timestep_s for spec in specs if spec.neurons.timestep_s is not None}
    if len(timesteps) > 1:
        raise ExtractError(
            "model", f"its cells have different time steps: {sorted(timesteps)} s", remedy="Give all cells one dt."
        )
    return specs, next(iter(timesteps), 1e-3)
