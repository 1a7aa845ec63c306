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
``rockpool``          file     1 - exp(-dt / tau)           fires at the threshold too; i <- (1 - d_syn)(i + x), of
                                                            which v takes all; LI: as i; r = exp(-dt / tau) tau / dt
                                                            (rockpool 3.1, nn/modules/torch/{nir,lif_torch}.py)
====================  =======  ===========================  ===========================================================

Membranes start at v_reset, which NIR leaves open. NIR resets to v_reset; no library writes whether its neurons subtract their
threshold instead, so that is asked for. They then fall by v_threshold - v_reset: snnTorch's a step late, beside the leak;
sinabs' (with MultiSpike, its default) and Rockpool's, which do nothing else, once for each threshold in v; others' once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurodeploy.errors import ExtractError, NetworkError, RequestError
from neurodeploy.frontends.assembly import MEMORYLESS, NeuronSpec
from neurodeploy.frontends.expressions import Shape
from neurodeploy.frontends.nir.nodes import RESET_KEY, NirGraph, NirNode
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.network import LI, LIF, MAX_SPIKES, SubtractiveLIF

DEFAULT = "euler"
RESETS = (None, "zero", "subtract")
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
    weighs_by_keeping : bool
        Whether a current, or an LI, takes what it keeps in a step of its input too, and a membrane all of the current.
    subtracts_late : bool
        Whether neurons that reset by subtraction do so a step late.
    subtracts_alone : bool
        Whether there are no other neurons than such as reset by subtraction.
    max_spikes : int
        Most spikes a step of neurons that reset by subtraction.
    """

    decay: Callable[[Floats, float], Floats]
    dt: float | None = None
    timestep_s: float | None = None
    fires_at_threshold: bool = False
    weighs_input: bool = True
    weighs_synapse: bool = True
    weighs_integral: bool = True
    weighs_by_keeping: bool = False
    subtracts_late: bool = False
    subtracts_alone: bool = False
    max_spikes: int = 1


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
    "snntorch": Discretisation(decay=_euler, dt=1e-4, subtracts_late=True),
    "spikingjelly": Discretisation(decay=_euler, dt=1e-4, fires_at_threshold=True),
    "sinabs": Discretisation(
        decay=_exponential, dt=1.0, timestep_s=1e-3, fires_at_threshold=True, weighs_input=False, max_spikes=MAX_SPIKES
    ),
    "norse": Discretisation(decay=_norse, dt=1e-3, weighs_synapse=False, weighs_integral=False),
    "rockpool": Discretisation(
        decay=_exponential, fires_at_threshold=True, weighs_by_keeping=True, subtracts_alone=True, max_spikes=MAX_SPIKES
    ),
}


@dataclass(frozen=True, slots=True)
class TimeStep:
    """A rule with the length of its step, and the reset of the neurons.

    Attributes
    ----------
    rule : Discretisation
    dt : float
        Length of a step, in the unit of the file's time constants.
    timestep_s : float
        The same in seconds.
    reset : str or None
        ``"zero"`` (to v_reset), ``"subtract"``; None where neither arguments nor rule say it.
    max_spikes : int or None
        Most spikes a step of neurons that subtract, where it was asked for.
    """

    rule: Discretisation
    dt: float
    timestep_s: float
    reset: str | None = None
    max_spikes: int | None = None


def choose_time_step(
    graph: NirGraph, discretisation: str | None, dt: float | None, reset: str | None = None, max_spikes: int | None = None
) -> TimeStep:
    """Return the step that was asked for, or else the one that the file's metadata state (`write_nir` writes them).

    Raises
    ------
    RequestError
        No such discretisation or reset, a step that is no positive number, or a number of spikes that is none.
    ExtractError
        Neither the arguments nor the file say how long a step is.
    """
    name = discretisation or graph.text("discretisation") or DEFAULT
    if name not in DISCRETISATIONS:
        raise RequestError("discretisation", f"{name!r} is not known", remedy=f"Choose from {', '.join(DISCRETISATIONS)}.")
    rule = DISCRETISATIONS[name]
    # An explicit dt wins over the library's own, and this over the one in the metadata.
    step = next((each for each in (dt, rule.dt, graph.number("dt")) if each is not None), None)
    if step is None and rule.weighs_by_keeping:
        step = _step_of_resistances(graph)
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
    if reset not in RESETS:
        raise RequestError("reset", f"{reset!r} is not known", remedy="Choose from zero, subtract.")
    if reset == "zero" and rule.subtracts_alone:
        raise RequestError("reset", f"is by subtraction alone in {name}", remedy="Leave it out, or say subtract.")
    if max_spikes is not None and not (isinstance(max_spikes, int) and 1 <= max_spikes <= MAX_SPIKES):
        raise RequestError("max_spikes", f"{max_spikes!r} is not a whole number 1..{MAX_SPIKES}")
    return TimeStep(
        rule,
        step,
        step if stated is None else stated,
        "subtract" if rule.subtracts_alone else reset,
        max_spikes,
    )


def _step_of_resistances(graph: NirGraph) -> float | None:
    """Return the step that resistances were written with: r = exp(-dt / tau) tau / dt; None where they differ."""
    from scipy.special import lambertw  # takes a while to import

    found = []
    for node in graph.nodes.values():
        if node.kind in ("CubaLIF", "LI") and (node.floats("r") > 0).all():
            tau = node.floats("tau_mem" if node.kind == "CubaLIF" else "tau")
            # dt / tau is x of x exp(x) = 1 / r
            found.append(np.atleast_1d(tau * lambertw(1 / node.floats("r")).real))
    steps = np.concatenate(found) if found else np.zeros(0)
    # files hold single precision, of which six digits are exact
    is_one = steps.size and np.allclose(steps, steps[0], rtol=1e-4, atol=0)
    return float(f"{np.median(steps):.6g}") if is_one else None


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
        """LIF whose current lasts one step, reset to a value or by subtraction."""
        leak, above = self._decay("tau"), self._leaks_above()
        # d r x: what a step adds for an input x
        return self._firing(np.ones(()), leak, _exact_one(self._each("r") * leak), drive=np.asarray(leak * above))

    def li(self) -> NeuronSpec:
        """A readout: neurons that never fire and whose membranes are read."""
        leak, r = self._decay("tau"), self._each("r")
        neuron = LI(current_decay=np.ones(()), voltage_decay=leak, rest=self._each("v_leak"))
        if self.step.rule.weighs_by_keeping:
            self._check_resistance("tau")
            return NeuronSpec(neuron=neuron, gain=1 - leak)
        return NeuronSpec(neuron=neuron, gain=_exact_one(r * leak if self.step.rule.weighs_input else r))

    def cuba_lif(self) -> NeuronSpec:
        """LIF with a synaptic current, reset to a value or by subtraction."""
        current_decay, leak, above = self._decay("tau_syn"), self._decay("tau_mem"), self._leaks_above()
        gain = self._current_gain(current_decay, leak)
        return self._firing(current_decay, leak, gain, drive=np.asarray(leak * above), has_current=True)

    def cuba_li(self) -> NeuronSpec:
        """A readout with a synaptic current."""
        current_decay, leak = self._decay("tau_syn"), self._decay("tau_mem")
        neuron = LI(current_decay=current_decay, voltage_decay=leak, rest=self._each("v_leak"))
        return NeuronSpec(neuron=neuron, gain=self._current_gain(current_decay, leak), has_current=True)

    def integrate_and_fire(self) -> NeuronSpec:
        """LIF without leak, whose current lasts one step."""
        return self._firing(np.ones(()), np.zeros(()), self._integral_gain())

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

    def _leaks_above(self) -> Floats:
        """Return how far above the potential to which the membrane is reset the one is that it leaks to.

        The chip's membrane leaks to where it is reset; d (v_leak - v_reset), added at every step, is the difference.
        """
        return np.asarray(self._each("v_leak", default=0.0) - self._each("v_reset", default=0.0))

    def _firing(self, current_decay: Floats, leak: Floats, gain: Floats, **more: Any) -> NeuronSpec:
        """Return neurons that start at v_reset, and are reset to it or fall by how far the threshold is above it."""
        rest, rule = self._each("v_reset", default=0.0), self.step.rule
        above: Floats = self._each("v_threshold") - rest
        p = {"current_decay": current_decay, "voltage_decay": leak, "rest": rest}
        if not self.subtracts:
            # the chip fires strictly above its threshold: one that fires at the threshold too gets the next lower number
            return NeuronSpec(
                neuron=LIF(threshold=np.nextafter(above, -np.inf) if rule.fires_at_threshold else above, **p), gain=gain, **more
            )
        most = np.asarray(self.step.max_spikes or self.node.metadata.get("max_spikes", rule.max_spikes))
        threshold = above if rule.fires_at_threshold else np.nextafter(above, np.inf)
        # what is subtracted beside the leak, which would have taken its share of it
        late = np.asarray(-leak * above) if rule.subtracts_late else np.zeros(())
        return NeuronSpec(neuron=SubtractiveLIF(threshold=threshold, max_spikes=most, **p), gain=gain, after_spike=late, **more)

    @property
    def subtracts(self) -> bool:
        """Whether the neurons reset by subtraction: as was asked for, or as the metadata of `write_nir` say."""
        return (self.step.reset or self.node.metadata.get(RESET_KEY)) == "subtract"

    def _current_gain(self, current_decay: Floats, leak: Floats) -> Floats:
        """Return the factor on what arrives at a synaptic current and, through it, at the membrane."""
        w_in = self._each("w_in", default=1.0)
        if self.step.rule.weighs_by_keeping:
            self._check_resistance("tau_mem")
            return np.asarray(w_in * (1 - current_decay))
        into_current = _exact_one(w_in * current_decay if self.step.rule.weighs_synapse else w_in)
        return _exact_one(self._each("r") * leak) * into_current

    def _check_resistance(self, tau: str) -> None:
        """Refuse an r that was not written with this step."""
        share = self.step.dt / self._each(tau)
        if not np.allclose(self._each("r") * share, np.exp(-share), rtol=1e-4, atol=0):
            raise ExtractError(
                self.node.where, f"its r is not that of a step of {self.step.dt:g}",
                source="Rockpool writes r = exp(-dt / tau) tau / dt", remedy="Specify the dt of its simulation.",
            )  # fmt: skip

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
