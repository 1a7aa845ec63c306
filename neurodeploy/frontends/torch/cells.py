"""Norse's neurons as the chip sees them.

Norse 1.1.0's cells (``norse/torch/functional/{lif,lif_box,iaf,leaky_integrator,leaky_integrator_box}.py``) compute::

    LIF, LI        i <- i + x;  v <- v + g (v_leak - v + i);  i <- (1 - dt/tau_syn) i        with g = dt / tau_mem
    LIFBox, LIBox  v <- v + g (v_leak - v + x)
    IAF            v <- v + x
    LIFRecurrent   as LIF, x with what its own spikes of the step before weigh
    LILinear       as LI, x weighed first

which is the chip's recurrence for u = g i, weights scaled by g and membranes counted from the reset potential.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from norse.torch.functional.leaky_integrator import LIState
from norse.torch.functional.reset import reset_value
from norse.torch.module import leaky_integrator, lif
from norse.torch.module.iaf import IAF, IAFCell
from norse.torch.module.leaky_integrator import LICell, LILinearCell
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.module.lif import LIFCell, LIFRecurrent, LIFRecurrentCell
from norse.torch.module.lif_box import LIFBoxCell
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell

from neurodeploy.errors import ExtractError, NetworkError
from neurodeploy.frontends.expressions import numbers
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.network import LI, LIF

_PER_NEURON = ("tau_syn_inv", "tau_mem_inv", "v_leak", "v_th", "v_reset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A Norse cell as the chip sees it: its neuron, and what scales weights (`gain`) and adds to v at every step."""

    neuron: LIF | LI
    gain: Floats
    has_current: bool
    timestep_s: float | None


def read_cell(where: str, module: Any, shape: tuple[int, ...]) -> Cell:
    """The cell of a population of this shape; its module is of a type in `READERS`.

    Raises
    ------
    ExtractError
        Its parameters are not of the population's shape, or its neurons are not the chip's.
    """
    p = {name: _each(where, module.p, name, shape) for name in _PER_NEURON if hasattr(module.p, name)}
    parameters = SimpleNamespace(**p, reset_method=getattr(module.p, "reset_method", reset_value))
    try:
        return READERS[type(module)](where, module, parameters)
    except NetworkError as error:
        raise ExtractError(where, f"{error.where} {error.what}", remedy=error.remedy) from error


def _each(where: str, p: Any, name: str, shape: tuple[int, ...]) -> Floats:
    """A parameter () or (n,), as torch spreads it over a population."""
    value, n = numbers(where, name, getattr(p, name)), int(np.prod(shape))
    if not value.shape:
        return value
    fits = len(value.shape) <= len(shape) and all(a in (1, b) for a, b in zip(value.shape[::-1], shape[::-1], strict=False))
    if not fits:
        raise ExtractError(where, f"its {name} has shape {value.shape}, not () or {shape}")
    return np.broadcast_to(value, shape).reshape(n)


def _lif(where: str, cell: Any, p: Any) -> Cell:
    """LIF with a synaptic current, reset to a value; `Recurrent` hears itself a step later."""
    dt = float(cell.dt)
    gain = dt * p.tau_mem_inv
    neuron = LIF(
        threshold=_above_reset(where, p), current_decay=dt * p.tau_syn_inv, voltage_decay=gain, rest=p.v_reset
    )  # fmt: skip
    return Cell(neuron=neuron, gain=gain, has_current=True, timestep_s=dt)


def _lif_box(where: str, cell: Any, p: Any) -> Cell:
    """LIF whose current lasts one step, reset to a value."""
    dt = float(cell.dt)
    if p.reset_method is not reset_value:
        raise ExtractError(
            where, f"resets by {getattr(p.reset_method, '__name__', p.reset_method)}", source="the chip's LIF resets to a value",
            remedy="Use norse.torch.functional.reset.reset_value and train again.",
        )  # fmt: skip
    gain = dt * p.tau_mem_inv
    neuron = LIF(threshold=_above_reset(where, p), current_decay=np.ones(()), voltage_decay=gain, rest=p.v_reset)
    return Cell(neuron=neuron, gain=gain, has_current=False, timestep_s=dt)


def _iaf(_where: str, _cell: Any, p: Any) -> Cell:
    """LIF without leak, whose current lasts one step."""
    neuron = LIF(threshold=p.v_th - p.v_reset, current_decay=np.ones(()), voltage_decay=np.zeros(()), rest=p.v_reset)
    return Cell(neuron=neuron, gain=np.ones(()), has_current=False, timestep_s=None)


def _li(_where: str, cell: Any, p: Any) -> Cell:
    """A readout: neurons that never fire and whose membranes are read."""
    dt = float(cell.dt)
    gain = dt * p.tau_mem_inv
    has_current = not isinstance(cell, LIBoxCell)
    neuron = LI(current_decay=dt * p.tau_syn_inv if has_current else np.ones(()), voltage_decay=gain, rest=p.v_leak)
    return Cell(neuron=neuron, gain=gain, has_current=has_current, timestep_s=dt)


def _above_reset(where: str, p: Any) -> Floats:
    """Threshold counted from the reset potential, from which Norse's membrane must also start (it starts at v_leak)."""
    reset, leak = p.v_reset, p.v_leak
    if not np.array_equal(np.broadcast_to(leak, np.broadcast_shapes(leak.shape, reset.shape)), reset + 0 * leak):
        raise ExtractError(
            where, f"leaks to {leak} but resets to {reset}", source="the chip's membrane starts, leaks and resets to one value",
            remedy="Set v_leak equal to v_reset; a constant drive can be a bias of the Linear before it.",
        )  # fmt: skip
    above: Floats = p.v_th - reset
    return above


READERS: dict[type[torch.nn.Module], Callable[[str, Any, Any], Cell]] = {
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
CELLS = "LIFCell, LIFBoxCell, IAFCell, LIFRecurrentCell, LICell, LIBoxCell, LILinearCell, and LIF, LIFRecurrent, LI, IAF"
SEQUENCES = (lif.LIF, LIFRecurrent, leaky_integrator.LI, IAF)
"""Cells that are given all steps of time at once, as the first side of a tensor."""


def is_cell(module: torch.nn.Module) -> bool:
    """Whether a module is neurons of Norse's, such as `READERS` knows or others."""
    return type(module) in READERS or isinstance(module, (SNN, SNNCell, SNNRecurrent, SNNRecurrentCell))


def resting_state(module: Any, x: torch.Tensor) -> Any:
    """The state in which a cell starts, before the input of one step (batch, \\*shape)."""
    if isinstance(module, LILinearCell):
        return LIState(v=module.p.v_leak.detach(), i=torch.zeros(len(x), module.hidden_size, dtype=x.dtype))
    return module.state_fallback(x.unsqueeze(0) if isinstance(module, SEQUENCES) else x)


def stepped(module: Any, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    """A step of a cell, also of one that would take all at once."""
    if isinstance(module, LILinearCell):
        return cast("tuple[torch.Tensor, Any]", type(module).forward(module, x, state))
    weights = (module.input_weights, module.recurrent_weights) if hasattr(module, "recurrent_weights") else ()
    return cast("tuple[torch.Tensor, Any]", module.activation(x, state, *weights, module.p, module.dt))
