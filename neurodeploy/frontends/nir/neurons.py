"""NIR's neurons as the chip sees them, once a discretisation has made steps of their equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neurodeploy.errors import ExtractError, NetworkError
from neurodeploy.frontends.assembly import AT_ONCE
from neurodeploy.frontends.folding import Floats
from neurodeploy.frontends.nir.discretisations import Steps
from neurodeploy.frontends.nir.nodes import Node
from neurodeploy.network import LI, LIF

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
