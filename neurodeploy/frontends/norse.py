"""Networks from Norse: a `torch.nn.Module` becomes a `Network` of the chip's recurrence, exactly, or is refused by name.

Norse 1.1.0's cells (``norse/torch/functional/{lif,lif_box,iaf,leaky_integrator,leaky_integrator_box}.py``) compute::

    LIF, LI        i <- i + x;  v <- v + g (v_leak - v + i);  i <- (1 - dt/tau_syn) i        with g = dt / tau_mem
    LIFBox, LIBox  v <- v + g (v_leak - v + x)
    IAF            v <- v + x

which is the chip's recurrence for u = g i, weights scaled by g and membranes counted from the reset potential.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from norse.torch.functional.reset import reset_value
from norse.torch.module.iaf import IAFCell
from norse.torch.module.leaky_integrator import LICell
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.module.lif import LIFCell
from norse.torch.module.lif_box import LIFBoxCell
from norse.torch.module.sequential import SequentialState
from numpy.typing import NDArray

from neurodeploy.errors import ExtractError, NetworkError
from neurodeploy.graph import INPUT, Connection, layer_name
from neurodeploy.network import LI, LIF, Dense, Layer, Network

Floats = NDArray[np.float64]

_PER_NEURON = ("tau_syn_inv", "tau_mem_inv", "v_leak", "v_th", "v_reset")
SUPPORTED = "Linear, LIFCell, LIFBoxCell, IAFCell, LICell, LIBoxCell, Flatten, Dropout, Identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """A Norse cell as the chip sees it: its neuron, and what scales weights (`gain`) and adds to v at every step."""

    neuron: LIF | LI
    gain: Floats
    has_current: bool
    timestep_s: float | None


def extract(model: torch.nn.Module, sample: torch.Tensor) -> Network:
    """Read a Norse network.

    Parameters
    ----------
    model : torch.nn.Module
        A ``norse.torch.SequentialState`` (or ``torch.nn.Sequential``) of Linear layers, each followed by a cell; nested
        ones are read in order. Flatten, Dropout and Identity pass. It is read as in eval mode and not changed.
    sample : tensor (batch, \\*input_shape)
        The input of one step; only its shape counts.

    Returns
    -------
    Network
        One layer a Linear, named as `layer_name` names the Linear's path in the model.

    Raises
    ------
    ExtractError
        Anything that is not supported, by path and type: nothing is dropped or approximated.
    """
    if not isinstance(sample, torch.Tensor) or sample.ndim < 2:
        raise ExtractError("sample", "is not a tensor (batch, *input_shape)", remedy="Give one step of input.")
    if not _is_sequence(model):
        raise ExtractError(
            "model", f"is a {type(model).__name__}, not a SequentialState",
            remedy="Give a norse.torch.SequentialState of Linear layers and cells.",
        )  # fmt: skip
    layers: list[Layer] = []
    steps: set[float] = set()
    waiting: tuple[str, torch.nn.Linear] | None = None
    shape, is_flat = tuple(sample.shape[1:]), sample.ndim == 2
    for path, module in _leaves(model):
        match module:
            case torch.nn.Dropout() | torch.nn.Identity() if type(module) in (torch.nn.Dropout, torch.nn.Identity):
                continue
            case torch.nn.Flatten() if type(module) is torch.nn.Flatten:
                is_flat = _flattens(path, module)
            case torch.nn.Linear() if type(module) is torch.nn.Linear:
                _check_input(path, module, waiting, is_flat, shape)
                _check_source(path, module, layers)
                waiting = (path, module)
            case _:
                reader = _reader(path, module)
                if waiting is None:
                    raise ExtractError(_at(path, module), "has no Linear in front of it", remedy="Put its weights before it.")
                cell = _cell(path, module, reader, waiting[1].out_features)
                layers.append(_layer(*waiting, cell, layers))
                steps |= set() if cell.timestep_s is None else {cell.timestep_s}
                waiting = None
    if waiting is not None:
        raise ExtractError(_at(*waiting), "ends the model without neurons", remedy="Put a readout such as LICell behind it.")
    return _network(shape, layers, steps)


def _is_sequence(module: torch.nn.Module) -> bool:
    """Whether the module runs its children one after another, and does nothing else."""
    sequences: list[type[torch.nn.Module]] = [SequentialState, torch.nn.Sequential]
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in sequences)


def _check_input(
    path: str, linear: torch.nn.Linear, waiting: tuple[str, torch.nn.Linear] | None, is_flat: bool, shape: tuple[int, ...]
) -> None:
    if waiting is not None:
        raise ExtractError(_at(path, linear), f"follows {waiting[0]!r} with no neurons between them", remedy="Merge them.")
    if not is_flat:
        raise ExtractError(
            _at(path, linear), f"would act on the last side of an input of shape {shape} only", remedy="Put a Flatten before it."
        )


def _check_source(path: str, linear: torch.nn.Linear, layers: list[Layer]) -> None:
    if layers and isinstance(layers[-1].neuron, LI):
        raise ExtractError(
            _at(path, linear), f"takes the membrane of {layers[-1].name!r}, which never fires", source="the chip sends spikes",
            remedy="A readout (LICell, LIBoxCell) has to be last; use a neuron that fires before another layer.",
        )  # fmt: skip


def _network(shape: tuple[int, ...], layers: list[Layer], steps: set[float]) -> Network:
    if not layers:
        raise ExtractError("model", "holds no layer", remedy=f"Supported are {SUPPORTED}.")
    if len(steps) > 1:
        raise ExtractError("model", f"its cells have different time steps: {sorted(steps)} s", remedy="Give all cells one dt.")
    n_in = layers[0].weight.shape[1]
    if math.prod(shape) != n_in:
        raise ExtractError("sample", f"has {math.prod(shape)} inputs a step (shape {shape}), the model expects {n_in}")
    try:
        return Network(input_shape=shape, layers=tuple(layers), timestep_s=next(iter(steps), 1e-3))
    except NetworkError as error:
        raise ExtractError(error.where, error.what, remedy=error.remedy) from error


def _leaves(model: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    for name, child in model._modules.items():  # not named_children, which leaves out a module that stands twice
        path = f"{prefix}{name}"
        if child is not None and _is_sequence(child):
            yield from _leaves(child, f"{path}.")
        elif child is not None:
            yield path, child


def _at(path: str, module: torch.nn.Module) -> str:
    return f"{path} ({type(module).__name__})"


def _flattens(path: str, module: torch.nn.Flatten) -> bool:
    if module.start_dim != 1 or module.end_dim != -1:
        raise ExtractError(_at(path, module), f"flattens dimensions {module.start_dim}..{module.end_dim}, not 1..-1")
    return True


def _layer(path: str, linear: torch.nn.Linear, cell: _Cell, before: list[Layer]) -> Layer:
    """The layer that a Linear and its cell make."""
    weight, gain = _numbers(_at(path, linear), "weight", linear.weight), cell.gain
    bias: Floats = np.zeros(())
    if linear.bias is not None and bool((linear.bias != 0).any()):
        if cell.has_current:
            raise ExtractError(
                _at(path, linear), "has a bias in front of neurons with a synaptic current, which would decay on its way to v",
                source="the chip adds a bias to v, not to the current",
                remedy="Build it with bias=False, or use a neuron without current (LIFBoxCell, LIBoxCell, IAFCell).",
            )  # fmt: skip
        bias = _numbers(_at(path, linear), "bias", linear.bias) * gain
    try:
        return Layer(
            name=layer_name(path),
            shape=(linear.out_features,),
            neuron=cell.neuron,
            connections=(
                Connection(source=before[-1].name if before else INPUT, synapse=Dense(weight=weight * np.reshape(gain, (-1, 1)))),
            ),
            bias=bias,
        )
    except NetworkError as error:
        raise ExtractError(_at(path, linear), f"{error.where} {error.what}", remedy=error.remedy) from error


def _reader(path: str, module: torch.nn.Module) -> Callable[[str, Any], _Cell]:
    if type(module) not in _READERS:
        raise ExtractError(_at(path, module), "is not supported yet", remedy=f"Supported are {SUPPORTED}.")
    return _READERS[type(module)]


def _cell(path: str, module: torch.nn.Module, reader: Callable[[str, Any], _Cell], n_neurons: int) -> _Cell:
    where = _at(path, module)
    for name in _PER_NEURON:
        shape = tuple(np.shape(getattr(module.p, name, 0.0)))
        if shape not in ((), (1,), (n_neurons,)):
            raise ExtractError(where, f"its {name} has shape {shape}, not () or ({n_neurons},)")
    try:
        return reader(where, module)
    except NetworkError as error:
        raise ExtractError(where, f"{error.where} {error.what}", remedy=error.remedy) from error


def _lif(where: str, cell: Any) -> _Cell:
    p, dt = cell.p, float(cell.dt)
    gain = dt * _numbers(where, "tau_mem_inv", p.tau_mem_inv)
    return _Cell(
        neuron=LIF(
            threshold=_above_reset(where, p), current_decay=dt * _numbers(where, "tau_syn_inv", p.tau_syn_inv),
            voltage_decay=gain, rest=_numbers(where, "v_reset", p.v_reset),
        ),
        gain=gain, has_current=True, timestep_s=dt,
    )  # fmt: skip


def _lif_box(where: str, cell: Any) -> _Cell:
    p, dt = cell.p, float(cell.dt)
    if p.reset_method is not reset_value:
        raise ExtractError(
            where, f"resets by {getattr(p.reset_method, '__name__', p.reset_method)}", source="the chip's LIF resets to a value",
            remedy="Use norse.torch.functional.reset.reset_value and train again.",
        )  # fmt: skip
    gain = dt * _numbers(where, "tau_mem_inv", p.tau_mem_inv)
    neuron = LIF(
        threshold=_above_reset(where, p),
        current_decay=np.ones(()),
        voltage_decay=gain,
        rest=_numbers(where, "v_reset", p.v_reset),
    )
    return _Cell(neuron=neuron, gain=gain, has_current=False, timestep_s=dt)


def _iaf(where: str, cell: Any) -> _Cell:
    reset = _numbers(where, "v_reset", cell.p.v_reset)
    threshold = _numbers(where, "v_th", cell.p.v_th) - reset
    neuron = LIF(threshold=threshold, current_decay=np.ones(()), voltage_decay=np.zeros(()), rest=reset)
    return _Cell(neuron=neuron, gain=np.ones(()), has_current=False, timestep_s=None)


def _li(where: str, cell: Any) -> _Cell:
    p, dt = cell.p, float(cell.dt)
    gain = dt * _numbers(where, "tau_mem_inv", p.tau_mem_inv)
    has_current = isinstance(cell, LICell)
    current_decay = dt * _numbers(where, "tau_syn_inv", p.tau_syn_inv) if has_current else np.ones(())
    neuron = LI(current_decay=current_decay, voltage_decay=gain, rest=_numbers(where, "v_leak", p.v_leak))
    return _Cell(neuron=neuron, gain=gain, has_current=has_current, timestep_s=dt)


def _above_reset(where: str, p: Any) -> Floats:
    """Threshold counted from the reset potential, from which Norse's membrane must also start (it starts at v_leak)."""
    reset, leak = _numbers(where, "v_reset", p.v_reset), _numbers(where, "v_leak", p.v_leak)
    if not np.array_equal(np.broadcast_to(leak, np.broadcast_shapes(leak.shape, reset.shape)), reset + 0 * leak):
        raise ExtractError(
            where, f"leaks to {leak} but resets to {reset}", source="the chip's membrane starts, leaks and resets to one value",
            remedy="Set v_leak equal to v_reset; a constant drive can be a bias of the Linear before it.",
        )  # fmt: skip
    return _numbers(where, "v_th", p.v_th) - reset


def _numbers(where: str, name: str, value: Any) -> Floats:
    """A parameter as float64, () or (n,) or a matrix; a tensor of one element is a scalar."""
    array = np.asarray(torch.as_tensor(value).detach().cpu(), dtype=np.float64)
    if not np.isfinite(array).all():
        raise ExtractError(where, f"its {name} is not finite")
    return array.reshape(()) if array.size == 1 and array.ndim == 1 else array


_READERS: dict[type[torch.nn.Module], Callable[[str, Any], _Cell]] = {
    LIFCell: _lif,
    LIFBoxCell: _lif_box,
    IAFCell: _iaf,
    LICell: _li,
    LIBoxCell: _li,
}
