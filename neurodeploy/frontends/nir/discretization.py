"""Discretisation: NIR states neurons in continuous time and without a time step; the library that wrote a file has its own rule.

With d the share that a step forgets of a variable with the time constant tau, the equations of NIR become::

    LIF, LI           v <- v + d (v_leak - v + r x)
    CubaLIF, CubaLI   i <- i + d_syn (w_in x - i);  v <- v + d_mem (v_leak - v + r i)
    IF, I             v <- v + dt r x

====================  =======  ===========================  ===========================================================
name                  dt       d                            differences
====================  =======  ===========================  ===========================================================
``euler``             asked    dt / tau
``exponential``       asked    1 - exp(-dt / tau)
``snntorch``          1e-4     dt / tau                     snntorch 1.0, export_nir.py
``spikingjelly``      1e-4     dt / tau                     fires at the threshold too (2.0, nir_exchange/to_nir.py)
``sinabs``            1 step   1 - exp(-dt / tau)           fires at the threshold too; LI: v <- v - d v + r x, as its layers
                                                            do by default (sinabs 3.1, nir.py, layers/exp_leak.py)
``norse``             1e-3     dt dt / tau                  writes dt tau for tau; i <- i - d_syn i + w_in x; IF: v <- v + r x
                                                            (norse 1.1, utils/export_nir.py)
====================  =======  ===========================  ===========================================================

Membranes start at v_reset, which NIR leaves open.

Rockpool's neurons are refused: they subtract their threshold, as often as it fits into v, where the chip resets. With Rockpool
3.1's own decays and weights but a reset to zero, networks of 20-30-6 neurons fired 17 to 87 % fewer spikes than in Rockpool; read
by NIR's equations, 26 to 100 % fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neurodeploy.errors import ExtractError, NetworkError, RequestError
from neurodeploy.frontends.assembly import MEMORYLESS, NeuronSpec
from neurodeploy.frontends.expressions import Shape
from neurodeploy.frontends.nir.nodes import NirGraph, NirNode
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.network import LI, LIF

DEFAULT = "euler"
ROCKPOOL = "rockpool"
SINGLE_PRECISION = 1e-6
"""Relative error of a number in single precision, and a bit more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discretisation:
    """Rule by which a library turns equations into steps.

    Attributes
    ----------
    decay : function of (tau, dt)
        Share forgotten in a step; above 1 where a step is too long.
    dt : float or None
        The library's own step, in the unit of the file's time constants.
    timestep_s : float or None
        Length of such a step in seconds, if `dt` has no unit.
    fires_at_threshold : bool
        Whether a membrane that equals the threshold fires.
    weighs_input : bool
        Whether an LI takes d times its input.
    weighs_synapse : bool
        Whether a synaptic current takes d_syn times its input.
    weighs_integral : bool
        Whether an IF takes dt times its input.
    """

    decay: Callable[[Floats, float], Floats]
    dt: float | None = None
    timestep_s: float | None = None
    fires_at_threshold: bool = False
    weighs_input: bool = True
    weighs_synapse: bool = True
    weighs_integral: bool = True


def _euler(tau: Floats, dt: float) -> Floats:
    return np.asarray(dt / tau)


def _exponential(tau: Floats, dt: float) -> Floats:
    return np.asarray(-np.expm1(-dt / tau))  # 1 - exp(-dt / tau) without cancellation for long time constants


def _norse(tau: Floats, dt: float) -> Floats:
    return np.asarray(dt / (tau / dt))  # its files hold dt * tau where NIR expects tau


# A step `dt` is the one that the library's exporter assumes; the module's docstring names its source file.
DISCRETISATIONS = {
    "euler": Discretisation(decay=_euler),
    "exponential": Discretisation(decay=_exponential),
    "snntorch": Discretisation(decay=_euler, dt=1e-4),
    "spikingjelly": Discretisation(decay=_euler, dt=1e-4, fires_at_threshold=True),
    "sinabs": Discretisation(decay=_exponential, dt=1.0, timestep_s=1e-3, fires_at_threshold=True, weighs_input=False),
    "norse": Discretisation(decay=_norse, dt=1e-3, weighs_synapse=False, weighs_integral=False),
}


@dataclass(frozen=True, slots=True)
class TimeStep:
    """A rule with the length of its step: `dt` in the unit of the file's time constants, `timestep_s` in seconds."""

    rule: Discretisation
    dt: float
    timestep_s: float


def choose_time_step(graph: NirGraph, discretisation: str | None, dt: float | None) -> TimeStep:
    """Return the step that was asked for, or else the one that the file's metadata state (`write_nir` writes them).

    Raises
    ------
    RequestError
        No such discretisation, or a step that is no positive number.
    ExtractError
        Neither the arguments nor the file say how long a step is; or the file is Rockpool's.
    """
    name = discretisation or graph.text("discretisation") or DEFAULT
    if name == ROCKPOOL:  # see the module's docstring for what it would get wrong
        raise ExtractError(
            next((node.where for node in graph.nodes.values() if "v_threshold" in node.fields), graph.path),
            "subtracts its threshold when it fires, in Rockpool, and several times a step, which its NIR files do not state; "
            "they leave out biases and recurrent weights too",
            source="the chip resets to one value and fires at most once a step; rockpool 3.1, lif_torch.py and nir.py",
            remedy="Copy the weights into neurons that reset to zero (LIFCell in Norse, Leaky with reset_mechanism='zero' in "
            "snnTorch), continue training there, and use that.",
        )
    if name not in DISCRETISATIONS:
        raise RequestError("discretisation", f"{name!r} is not known", remedy=f"Choose from {', '.join(DISCRETISATIONS)}.")
    rule = DISCRETISATIONS[name]
    # An explicit dt wins over the library's own, and this over the one in the metadata.
    step = next((each for each in (dt, rule.dt, graph.number("dt")) if each is not None), None)
    if step is None:
        writers = ", ".join(name for name, each in DISCRETISATIONS.items() if each.dt is not None)
        raise ExtractError(
            graph.path,
            "does not state the length of a time step",
            source="NIR states neurons in continuous time",
            remedy=f"Specify dt, in the unit of its time constants, or as discretisation the library that wrote it: {writers}.",
        )
    if not 0 < step < np.inf:
        raise RequestError("dt", f"{step} is not a positive length of a step")
    # Seconds: as the metadata state them for their own dt; the rule's, where its step has no unit (sinabs); else dt itself.
    stated = graph.number("timestep_s") if step == graph.number("dt") else rule.timestep_s if dt is None else None
    return TimeStep(rule, step, step if stated is None else stated)


# --------------------------------------------------------------------------------------------------------- NIR's neurons


def read_neurons(node: NirNode, shape: Shape, step: TimeStep) -> NeuronSpec:
    """Return the neurons of a node of a kind in `NEURON_READERS`, for a population of this shape.

    Raises
    ------
    ExtractError
        Its parameters do not have the population's shape, or the chip has no such neurons.
    """
    try:
        return NEURON_READERS[node.kind](NeuronReader(node, shape, step))
    except NetworkError as error:
        raise ExtractError(node.where, f"{error.where} {error.what}", remedy=error.remedy) from error


@dataclass(frozen=True, slots=True)
class NeuronReader:
    """Reads one node of neurons: its parameters, discretised, for a population of one shape."""

    node: NirNode
    shape: Shape
    step: TimeStep

    def lif(self) -> NeuronSpec:
        """LIF whose current lasts one step, reset to a value."""
        leak, (rest, above) = self._decay("tau"), self._rest()
        neuron = LIF(threshold=self._threshold(rest), current_decay=np.ones(()), voltage_decay=leak, rest=rest)
        # d r x: what a step adds for an input x
        return NeuronSpec(neuron=neuron, gain=_exact_one(self._each("r") * leak), drive=np.asarray(leak * above))

    def li(self) -> NeuronSpec:
        """A readout: neurons that never fire and whose membranes are read."""
        leak, r = self._decay("tau"), self._each("r")
        neuron = LI(current_decay=np.ones(()), voltage_decay=leak, rest=self._each("v_leak"))
        return NeuronSpec(neuron=neuron, gain=_exact_one(r * leak if self.step.rule.weighs_input else r))

    def cuba_lif(self) -> NeuronSpec:
        """LIF with a synaptic current, reset to a value."""
        current_decay, leak, (rest, above) = self._decay("tau_syn"), self._decay("tau_mem"), self._rest()
        neuron = LIF(threshold=self._threshold(rest), current_decay=current_decay, voltage_decay=leak, rest=rest)
        gain = self._current_gain(current_decay, leak)
        return NeuronSpec(neuron=neuron, gain=gain, drive=np.asarray(leak * above), has_current=True)

    def cuba_li(self) -> NeuronSpec:
        """A readout with a synaptic current."""
        current_decay, leak = self._decay("tau_syn"), self._decay("tau_mem")
        neuron = LI(current_decay=current_decay, voltage_decay=leak, rest=self._each("v_leak"))
        return NeuronSpec(neuron=neuron, gain=self._current_gain(current_decay, leak), has_current=True)

    def integrate_and_fire(self) -> NeuronSpec:
        """LIF without leak, whose current lasts one step."""
        rest = self._each("v_reset", default=0.0)
        neuron = LIF(threshold=self._threshold(rest), current_decay=np.ones(()), voltage_decay=np.zeros(()), rest=rest)
        return NeuronSpec(neuron=neuron, gain=self._integral_gain())

    def integrator(self) -> NeuronSpec:
        """A readout that adds up its input."""
        # NIR's I has no v_leak: it starts from 0.
        neuron = LI(current_decay=np.ones(()), voltage_decay=np.zeros(()), rest=np.zeros(()))
        return NeuronSpec(neuron=neuron, gain=self._integral_gain())

    def memoryless(self) -> NeuronSpec:
        """Neurons that forget everything at every step, and fire where what arrives in it exceeds the threshold."""
        return NeuronSpec(neuron=LIF(threshold=self._each("threshold"), **MEMORYLESS), gain=np.ones(()))

    def _each(self, key: str, default: float | None = None) -> Floats:
        return self.node.per_neuron(key, self.shape, default)

    def _decay(self, key: str) -> Floats:
        """Return the share that a step forgets, 0..1."""
        tau = self._each(key)
        if (tau <= 0).any():
            raise ExtractError(self.node.where, f"its {key} of {tau.min():g} is no time constant", remedy="Use one above 0.")
        decay = self.step.rule.decay(tau, self.step.dt)
        if (decay > 1 + SINGLE_PRECISION).any():
            raise ExtractError(
                self.node.where,
                f"its {key} of {tau.min():g} is shorter than a step of {self.step.dt:g}",
                remedy="Specify the dt that its time constants were made for, or discretisation='exponential'.",
            )
        return np.minimum(decay, 1.0)  # in single precision a decay of 1 may come out a bit higher

    def _rest(self) -> tuple[Floats, Floats]:
        """Return the potential that the membrane starts from and is reset to, and how far above it the one is that it leaks to.

        The chip's membrane leaks to where it is reset; d (v_leak - v_reset), added at every step, is the difference.
        """
        reset = self._each("v_reset", default=0.0)
        return reset, self._each("v_leak", default=0.0) - reset

    def _threshold(self, rest: Floats) -> Floats:
        """Return the threshold counted from the reset potential."""
        above: Floats = self._each("v_threshold") - rest
        # The chip fires strictly above its threshold: one that fires at the threshold too gets the next lower number.
        return np.nextafter(above, -np.inf) if self.step.rule.fires_at_threshold else above

    def _current_gain(self, current_decay: Floats, leak: Floats) -> Floats:
        """Return the factor on what arrives at a synaptic current and, through it, at the membrane."""
        w_in = self._each("w_in", default=1.0)
        into_current = _exact_one(w_in * current_decay if self.step.rule.weighs_synapse else w_in)
        return _exact_one(self._each("r") * leak) * into_current

    def _integral_gain(self) -> Floats:
        r = self._each("r")
        return _exact_one(r * self.step.dt if self.step.rule.weighs_integral else r)


def _exact_one(gain: Floats) -> Floats:
    """Round gains to 1 that differ from it by double precision's last bits: products of a number and its inverse."""
    near = np.where(np.abs(gain - 1) < 1e-12, 1.0, gain)  # exactly 1 leaves the weights as they were written
    return np.ones(()) if (near == 1).all() else near


NEURON_READERS: dict[str, Callable[[NeuronReader], NeuronSpec]] = {
    "LIF": NeuronReader.lif,
    "CubaLIF": NeuronReader.cuba_lif,
    "IF": NeuronReader.integrate_and_fire,
    "LI": NeuronReader.li,
    "CubaLI": NeuronReader.cuba_li,
    "I": NeuronReader.integrator,
    "Threshold": NeuronReader.memoryless,
}
"""Reader of each kind of node."""
