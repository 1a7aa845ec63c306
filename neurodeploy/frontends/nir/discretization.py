"""How neurons in continuous time become steps: NIR states equations and no time step, and who writes its files has a way each.

With d the share that a step forgets of something with the time constant tau, the equations of NIR become::

    LIF, LI           v <- v + d (v_leak - v + r x)
    CubaLIF, CubaLI   i <- i + d_syn (w_in x - i);  v <- v + d_mem (v_leak - v + r i)
    IF, I             v <- v + dt r x

====================  =======  ===========================  ===========================================================
name                  dt       d                            otherwise
====================  =======  ===========================  ===========================================================
``euler``             given    dt / tau
``exponential``       given    1 - exp(-dt / tau)
``snntorch``          1e-4     dt / tau                     snntorch 1.0, export_nir.py
``spikingjelly``      1e-4     dt / tau                     fires at the threshold too (2.0, nir_exchange/to_nir.py)
``sinabs``            1 step   1 - exp(-dt / tau)           fires at the threshold too; LI: v <- v - d v + r x, as its layers
                                                            are by default (sinabs 3.1, nir.py, layers/exp_leak.py)
``norse``             1e-3     dt dt / tau                  writes dt tau for tau; i <- i - d_syn i + w_in x; IF: v <- v + r x
                                                            (norse 1.1, utils/export_nir.py)
====================  =======  ===========================  ===========================================================

Rockpool's neurons have no such steps on a chip, so they are refused: they subtract their threshold, as often as it fits into
v, where the chip resets. Given Rockpool 3.1's own decays and weights but a reset to zero, networks of 20-30-6 neurons
fired 17 to 87 % fewer spikes than in Rockpool; read by NIR's equations, 26 to 100 % fewer.

NIR's neurons as the chip sees them, once a discretisation has made steps of their equations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from neurodeploy.errors import ExtractError, NetworkError, RequestError
from neurodeploy.frontends.assembly import AT_ONCE
from neurodeploy.frontends.nir.file import Graph, Node
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.network import LI, LIF

# -------------------- frontends.nir.discretisations

DEFAULT = "euler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discretisation:
    """A way from equations to steps.

    Attributes
    ----------
    decay : function of (tau, dt)
        The share forgotten in a step; above 1 where a step is too long.
    dt : float or None
        Its step where none is given, in the unit of the file's time constants.
    timestep_s : float or None
        How long such a step is called, where it has no unit.
    fires_at_threshold : bool
        Whether a membrane that is at the threshold, no higher, fires.
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
    return np.asarray(-np.expm1(-dt / tau))


def _norse(tau: Floats, dt: float) -> Floats:
    return np.asarray(dt / (tau / dt))


DISCRETISATIONS = {
    "euler": Discretisation(decay=_euler),
    "exponential": Discretisation(decay=_exponential),
    "snntorch": Discretisation(decay=_euler, dt=1e-4),
    "spikingjelly": Discretisation(decay=_euler, dt=1e-4, fires_at_threshold=True),
    "sinabs": Discretisation(decay=_exponential, dt=1.0, timestep_s=1e-3, fires_at_threshold=True, weighs_input=False),
    "norse": Discretisation(decay=_norse, dt=1e-3, weighs_synapse=False, weighs_integral=False),
}


ROCKPOOL = "rockpool"


@dataclass(frozen=True, slots=True)
class Steps:
    """A discretisation with its step: `dt` in the unit of the file's time constants, `timestep_s` in seconds."""

    way: Discretisation
    dt: float
    timestep_s: float


def choose(graph: Graph, discretisation: str | None, dt: float | None) -> Steps:
    """The steps that were asked for, or that the file tells of itself (those of `write_nir` do).

    Raises
    ------
    RequestError
        No such discretisation, or a step that is no positive number.
    ExtractError
        Nobody says how long a step is.
    """
    name = discretisation or graph.text("discretisation") or DEFAULT
    if name == ROCKPOOL:
        _refuse(graph)
    if name not in DISCRETISATIONS:
        raise RequestError("discretisation", f"{name!r} is not known", remedy=f"Choose from {', '.join(DISCRETISATIONS)}.")
    way = DISCRETISATIONS[name]
    step = next((each for each in (dt, way.dt, graph.number("dt")) if each is not None), None)
    if step is None:
        writers = ", ".join(name for name, each in DISCRETISATIONS.items() if each.dt is not None)
        raise ExtractError(
            graph.path, "does not say how long a step is", source="NIR states neurons in continuous time",
            remedy=f"Give dt, in the unit of its time constants, or as discretisation the library that wrote it: {writers}.",
        )  # fmt: skip
    if not 0 < step < np.inf:
        raise RequestError("dt", f"{step} is no length of a step")
    told = graph.number("timestep_s") if step == graph.number("dt") else way.timestep_s if dt is None else None
    return Steps(way, step, step if told is None else told)


def _refuse(graph: Graph) -> NoReturn:
    """Refuse what Rockpool wrote, by the first node of its neurons."""
    node = next((node.where for node in graph.nodes.values() if "v_threshold" in node.said), graph.path)
    raise ExtractError(
        node, "subtracts its threshold when it fires, in Rockpool, and several times a step, which its NIR files do not tell; "
        "they leave out biases and recurrent weights too",
        source="the chip resets to one value, fires once a step; rockpool 3.1, lif_torch.py and nir.py",
        remedy="Put the weights into neurons that reset to zero (LIFCell in Norse, Leaky with reset_mechanism='zero' in "
        "snnTorch), train on from there, and bring that.",
    )  # fmt: skip


# -------------------- frontends.nir.neurons

Shape = tuple[int, ...]
ROUNDING = 1e-6
"""Share of itself that a number in single precision may be off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neurons:
    """A population as the chip sees it: its neuron, and what scales all that arrives."""

    neuron: LIF | LI
    gain: Floats
    has_current: bool = False


def read_neurons(node: Node, shape: Shape, steps: Steps) -> Neurons:
    """The neurons of a node of a kind in `KINDS`, a population of this shape.

    Raises
    ------
    ExtractError
        Its parameters are not of the population's shape, or its neurons are not the chip's.
    """
    try:
        return KINDS[node.kind](node, shape, steps)
    except NetworkError as error:
        raise ExtractError(node.where, f"{error.where} {error.what}", remedy=error.remedy) from error


def _lif(node: Node, shape: Shape, steps: Steps) -> Neurons:
    """LIF whose current lasts one step, reset to a value."""
    leak = _decay(node, "tau", shape, steps)
    rest = _rest(node, shape)
    neuron = LIF(threshold=_threshold(node, shape, rest, steps), current_decay=np.ones(()), voltage_decay=leak, rest=rest)
    return Neurons(neuron=neuron, gain=_nearly_one(node.each("r", shape) * leak))


def _li(node: Node, shape: Shape, steps: Steps) -> Neurons:
    """A readout: neurons that never fire and whose membranes are read."""
    leak, r = _decay(node, "tau", shape, steps), node.each("r", shape)
    neuron = LI(current_decay=np.ones(()), voltage_decay=leak, rest=node.each("v_leak", shape))
    return Neurons(neuron=neuron, gain=_nearly_one(r * leak if steps.way.weighs_input else r))


def _cuba_lif(node: Node, shape: Shape, steps: Steps) -> Neurons:
    """LIF with a synaptic current, reset to a value."""
    fades, leak, gain = _cuba(node, shape, steps)
    rest = _rest(node, shape)
    neuron = LIF(threshold=_threshold(node, shape, rest, steps), current_decay=fades, voltage_decay=leak, rest=rest)
    return Neurons(neuron=neuron, gain=gain, has_current=True)


def _cuba_li(node: Node, shape: Shape, steps: Steps) -> Neurons:
    """A readout with a synaptic current."""
    fades, leak, gain = _cuba(node, shape, steps)
    neuron = LI(current_decay=fades, voltage_decay=leak, rest=node.each("v_leak", shape))
    return Neurons(neuron=neuron, gain=gain, has_current=True)


def _cuba(node: Node, shape: Shape, steps: Steps) -> tuple[Floats, Floats, Floats]:
    """The decays of the current and the membrane, and what scales what arrives at both."""
    fades, leak = _decay(node, "tau_syn", shape, steps), _decay(node, "tau_mem", shape, steps)
    w_in = node.each("w_in", shape, default=1.0)
    enters = _nearly_one(w_in * fades if steps.way.weighs_synapse else w_in)
    return fades, leak, _nearly_one(node.each("r", shape) * leak) * enters


def _if(node: Node, shape: Shape, steps: Steps) -> Neurons:
    """LIF without leak, whose current lasts one step."""
    rest = node.each("v_reset", shape, default=0.0)
    neuron = LIF(
        threshold=_threshold(node, shape, rest, steps), current_decay=np.ones(()), voltage_decay=np.zeros(()), rest=rest
    )  # fmt: skip
    return Neurons(neuron=neuron, gain=_integral(node, shape, steps))


def _i(node: Node, shape: Shape, steps: Steps) -> Neurons:
    """A readout that adds up."""
    neuron = LI(current_decay=np.ones(()), voltage_decay=np.zeros(()), rest=np.zeros(()))
    return Neurons(neuron=neuron, gain=_integral(node, shape, steps))


def _above(node: Node, shape: Shape, _steps: Steps) -> Neurons:
    """Neurons that forget at every step, and fire where what arrives in it is above."""
    return Neurons(neuron=LIF(threshold=node.each("threshold", shape), **AT_ONCE), gain=np.ones(()))


KINDS: dict[str, Callable[[Node, Shape, Steps], Neurons]] = {
    "LIF": _lif,
    "CubaLIF": _cuba_lif,
    "IF": _if,
    "LI": _li,
    "CubaLI": _cuba_li,
    "I": _i,
    "Threshold": _above,
}


# ---------------------------------------------------------------------------------------------- parameters


def _decay(node: Node, key: str, shape: Shape, steps: Steps) -> Floats:
    """The share that a step forgets, 0..1."""
    tau = node.each(key, shape)
    if (tau <= 0).any():
        raise ExtractError(node.where, f"its {key} of {tau.min():g} is no time constant", remedy="Give one above 0.")
    decay = steps.way.decay(tau, steps.dt)
    if (decay > 1 + ROUNDING).any():
        raise ExtractError(
            node.where, f"its {key} of {tau.min():g} is shorter than a step of {steps.dt:g}",
            remedy="Give the dt that its time constants were made for, or discretisation='exponential'.",
        )  # fmt: skip
    return np.minimum(decay, 1.0)


def _rest(node: Node, shape: Shape) -> Floats:
    """The potential that the membrane starts from, leaks to and is reset to, which must be one."""
    leak, reset = node.each("v_leak", shape, default=0.0), node.each("v_reset", shape, default=0.0)
    if not np.array_equal(leak + 0 * reset, reset + 0 * leak):
        raise ExtractError(
            node.where, f"leaks to {leak} but resets to {reset}",
            source="the chip's membrane starts, leaks and resets to one value",
            remedy="Set v_leak equal to v_reset; a constant drive can be the bias of an Affine before it.",
        )  # fmt: skip
    return reset


def _threshold(node: Node, shape: Shape, rest: Floats, steps: Steps) -> Floats:
    """The threshold counted from the reset potential; the next lower number where a membrane at the threshold fires."""
    above: Floats = node.each("v_threshold", shape) - rest
    return np.nextafter(above, -np.inf) if steps.way.fires_at_threshold else above


def _integral(node: Node, shape: Shape, steps: Steps) -> Floats:
    r = node.each("r", shape)
    return _nearly_one(r * steps.dt if steps.way.weighs_integral else r)


def _nearly_one(gain: Floats) -> Floats:
    """A product of a number and its inverse is 1, but for double precision's last bits."""
    near = np.where(np.abs(gain - 1) < 1e-12, 1.0, gain)
    return np.ones(()) if (near == 1).all() else near
