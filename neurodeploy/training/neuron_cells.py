"""Parameters of Norse's cells: as constants for `neurons.run`, and as decays that learn with the weights, one per layer.

A threshold shared by a layer does not have to learn: weights of another scale have the same effect, and they learn already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from norse.torch.functional.leaky_integrator import li_feed_forward_step
from norse.torch.functional.leaky_integrator_box import li_box_feed_forward_step
from norse.torch.functional.lif import lif_feed_forward_step
from norse.torch.functional.lif_box import lif_box_feed_forward_step
from norse.torch.functional.reset import reset_value
from norse.torch.module.leaky_integrator import LICell
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.module.lif import LIFCell
from norse.torch.module.lif_box import LIFBoxCell

from neurodeploy.compression.trainable_network import registered_share
from neurodeploy.targets import Arithmetic, arithmetic_named

DECAYS = ("tau_syn_inv", "tau_mem_inv")
"""Norse's names of the decays: 1 / tau, in 1/s."""


class Decays(torch.nn.Module):
    """A cell's parameters with decays that learn; it takes their place in ``cell.p``, and Norse reads it as before.

    The trainable parameter is the logarithm of the share that is forgotten in a step, dt / tau, which suits the learning rate of
    the weights. It is clamped between one step of the target's decay register and 1, and read as the nearest share that the
    register holds (straight-through gradient).

    Attributes
    ----------
    tau_syn_inv, tau_mem_inv : tensor
        In 1/s, with the shapes that the cell had; only those that it had.
    """

    def __init__(self, p: Any, dt: float, arithmetic: Arithmetic) -> None:
        super().__init__()
        # `_rest`: the parameters that do not learn, such as the threshold
        self._rest, self._dt, self._arithmetic = p, dt, arithmetic
        self._smallest_share = 1 / (1 << arithmetic.registers.decay_bits)
        for name in DECAYS:
            if hasattr(p, name):
                share = (torch.as_tensor(getattr(p, name)).detach() * dt).clamp(self._smallest_share, 1.0)
                self.register_parameter(f"log_{name}", torch.nn.Parameter(share.log()))

    def __getattr__(self, name: str) -> Any:
        if name in DECAYS and f"log_{name}" in self._parameters:
            return self._read(cast("torch.nn.Parameter", self._parameters[f"log_{name}"]))
        try:
            return super().__getattr__(name)
        except AttributeError:
            # through __dict__: copy and pickle ask for attributes before __init__ has set any
            return getattr(self.__dict__.get("_rest"), name)

    def _read(self, log: torch.nn.Parameter) -> torch.Tensor:
        return registered_share(log, self._arithmetic) / self._dt


def learn_decays(model: torch.nn.Module, arithmetic: Arithmetic | None = None) -> int:
    """Make the decays of a model's Norse cells trainable parameters, and part of its state.

    Cells whose decays learn already stay as they are.

    Parameters
    ----------
    arithmetic : Arithmetic, optional
        Of the chip that the model is trained for; that of the default target where none is given.

    Returns
    -------
    int
        Number of cells whose decays learn.
    """
    cells = [
        module
        for module in model.modules()
        if hasattr(module, "dt") and any(hasattr(getattr(module, "p", None), name) for name in DECAYS)
    ]
    for cell in cells:
        if not isinstance(cell.p, Decays):
            decays = Decays(cell.p, float(cast("Any", cell).dt), arithmetic or arithmetic_named())
            del cell.p
            cell.p = decays.to(next((parameter.device for parameter in model.parameters()), None))
    return len(cells)


def is_decay(name: str) -> bool:
    """Whether a name in a model's state is that of a trainable decay."""
    return any(name.endswith(f".p.log_{decay}") or name == f"p.log_{decay}" for decay in DECAYS)


_STEPS: dict[type[torch.nn.Module], Callable[..., Any]] = {
    LIFCell: lif_feed_forward_step,
    LIFBoxCell: lif_box_feed_forward_step,
    LICell: li_feed_forward_step,
    LIBoxCell: li_box_feed_forward_step,
}
_NUMBERS = ("tau_mem_inv", "tau_syn_inv", "v_leak", "v_th", "v_reset")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NeuronParameters:
    """Parameters of a layer of neurons, each a tensor () or one that broadcasts over a sample's neurons.

    Attributes
    ----------
    gain : tensor
        dt / tau_mem.
    leak : tensor
        Resting membrane; the initial one, too.
    decay : tensor or None
        -dt / tau_syn; None where a current lasts one step.
    threshold, reset : tensor or None
        None for integrators, whose output is the membrane.
    adds_leak : bool
        Whether the leak is added to the current before the membrane is subtracted, as LIFBox does; it matters for rounding.
    """

    gain: torch.Tensor
    leak: torch.Tensor
    decay: torch.Tensor | None
    threshold: torch.Tensor | None
    reset: torch.Tensor | None
    adds_leak: bool

    @property
    def is_silent_without_input(self) -> bool:
        """Whether the output is 0 as long as the input is."""
        return not bool(self.leak.any()) if self.threshold is None else bool((self.leak < self.threshold).all())


def neurons_of(cell: torch.nn.Module, inputs: torch.Tensor) -> NeuronParameters | None:
    """Parameters of a cell for `neurons.run` on inputs (n_steps, batch, \\*shape); None where only the module itself is exact.

    None for other modules than Norse's LIFCell, LIFBoxCell, LICell and LIBoxCell; for parameters that learn or differ between
    samples, another surrogate gradient than SuperSpike, another reset than to a value, and modules with hooks.
    """
    # type() and not isinstance: a subclass may compute anything
    if type(cell) not in _STEPS or not inputs.is_floating_point() or cell._forward_hooks or cell._forward_pre_hooks:
        return None
    module = cast("Any", cell)
    numbers = {name: getattr(module.p, name) for name in _NUMBERS if hasattr(module.p, name)}
    usual = (
        module.activation is _STEPS[type(cell)]
        # Norse's other surrogate gradients have no formula here
        and getattr(module.p, "method", "super") == "super"
        and getattr(module.p, "reset_method", reset_value) is reset_value
        and all(_broadcasts(number, inputs) for number in numbers.values())
    )
    if not usual:
        return None
    return NeuronParameters(
        gain=module.dt * numbers["tau_mem_inv"],
        leak=numbers["v_leak"],
        # the box cells have no synaptic current
        decay=-module.dt * numbers["tau_syn_inv"] if type(cell) in (LIFCell, LICell) else None,
        threshold=numbers.get("v_th"),
        reset=numbers.get("v_reset"),
        adds_leak=type(cell) is LIFBoxCell,
    )


def _broadcasts(number: Any, inputs: torch.Tensor) -> bool:
    """Whether a parameter is constant, and broadcasts without changing the inputs' shape and type."""
    if not isinstance(number, torch.Tensor) or number.requires_grad or (number.ndim and number.dtype != inputs.dtype):
        return False
    sides = zip(reversed(number.shape), reversed(inputs.shape[2:]), strict=False)
    # - 2: without steps and batch
    return number.ndim <= inputs.ndim - 2 and all(side in (1, wanted) for side, wanted in sides)
