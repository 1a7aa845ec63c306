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
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from neurodeploy.errors import ExtractError, RequestError
from neurodeploy.frontends.folding import Floats
from neurodeploy.frontends.nir.nodes import Graph

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
