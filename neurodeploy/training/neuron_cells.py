"""The constants of a Norse cell, and decays that learn with the weights, one number a layer.

A threshold that all neurons of a layer share needs none of this: whatever it comes to, weights of another scale come to as well,
and these learn already.
"""

from __future__ import annotations

import math
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

from neurodeploy.targets import Arithmetic, arithmetic_named

DECAYS = ("tau_syn_inv", "tau_mem_inv")
"""What Norse calls them: 1 / tau, in 1/s."""


class Decays(torch.nn.Module):
    """A cell's numbers, read as Norse reads them, of which those in `DECAYS` learn; it stands where they stood, in ``cell.p``.

    What learns is the logarithm of the share that is forgotten in a step, dt / tau, so that one learning rate serves it as it
    serves weights. It is held between one step of the target's decay register and 1, and read as the nearest share that the
    register holds; the gradient passes unchanged.

    Attributes
    ----------
    tau_syn_inv, tau_mem_inv : tensor
        In 1/s, of the shapes that the cell had; where it had them.
    """

    def __init__(self, p: Any, dt: float, arithmetic: Arithmetic) -> None:
        super().__init__()
        self._rest, self._dt, self._arithmetic = p, dt, arithmetic
        self._least = 1 / (1 << arithmetic.registers.decay_bits)
        for name in DECAYS:
            if hasattr(p, name):
                share = (torch.as_tensor(getattr(p, name)).detach() * dt).clamp(self._least, 1.0)
                self.register_parameter(f"log_{name}", torch.nn.Parameter(share.log()))

    def __getattr__(self, name: str) -> Any:
        if name in DECAYS and f"log_{name}" in self._parameters:
            return self._read(cast("torch.nn.Parameter", self._parameters[f"log_{name}"]))
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__.get("_rest"), name)

    def _read(self, log: torch.nn.Parameter) -> torch.Tensor:
        with torch.no_grad():
            log.data.clamp_(math.log(self._least), 0.0)
        share = log.exp()
        registers = self._arithmetic.decay_registers(share.detach().cpu().numpy())
        steps = torch.as_tensor(self._arithmetic.decay_shares(registers)).to(share)
        return (share + (steps - share.detach())) / self._dt


def learn_decays(model: torch.nn.Module, arithmetic: Arithmetic | None = None) -> int:
    """Let the decays of a model's Norse cells learn: parameters of the model from now on, and part of its state.

    Cells whose decays learn already stay as they are.

    Parameters
    ----------
    arithmetic : Arithmetic, optional
        Of the chip that the model is trained for; that of the default target where none is given.

    Returns
    -------
    int
        How many cells there are whose decays learn.
    """
    cells = [module for module in model.modules() if _has_decays(module)]
    for cell in cells:
        if not isinstance(cell.p, Decays):
            decays = Decays(cell.p, float(cast("Any", cell).dt), arithmetic or arithmetic_named())
            del cell.p
            cell.p = decays.to(next((parameter.device for parameter in model.parameters()), None))
    return len(cells)


def is_decay(name: str) -> bool:
    """Whether that is what a decay that learns is called in a model's state."""
    return any(name.endswith(f".p.log_{decay}") or name == f"p.log_{decay}" for decay in DECAYS)


def _has_decays(module: torch.nn.Module) -> bool:
    p = getattr(module, "p", None)
    return hasattr(module, "dt") and any(hasattr(p, name) for name in DECAYS)


_STEPS: dict[type[torch.nn.Module], Callable[..., Any]] = {
    LIFCell: lif_feed_forward_step,
    LIFBoxCell: lif_box_feed_forward_step,
    LICell: li_feed_forward_step,
    LIBoxCell: li_box_feed_forward_step,
}
_NUMBERS = ("tau_mem_inv", "tau_syn_inv", "v_leak", "v_th", "v_reset")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neurons:
    """A cell's numbers, each a tensor () or one that spreads over a sample's neurons.

    Attributes
    ----------
    gain : tensor
        dt / tau_mem.
    leak : tensor
        Where membranes start and leak to.
    decay : tensor or None
        -dt / tau_syn; None where a current lasts one step.
    threshold, reset : tensor or None
        None where neurons never fire and their membranes are the answer.
    adds_leak : bool
        Whether the leak is added to the current, as LIFBox does, before the membrane is taken off.
    """

    gain: torch.Tensor
    leak: torch.Tensor
    decay: torch.Tensor | None
    threshold: torch.Tensor | None
    reset: torch.Tensor | None
    adds_leak: bool

    @property
    def rest(self) -> bool:
        """Whether one that hears nothing answers nothing."""
        return not bool(self.leak.any()) if self.threshold is None else bool((self.leak < self.threshold).all())


def neurons_of(cell: torch.nn.Module, inputs: torch.Tensor) -> Neurons | None:
    """The numbers of a cell that `run` can take through inputs (n_steps, batch, \\*shape); None where only the module can.

    That is another module than Norse's LIFCell, LIFBoxCell, LICell or LIBoxCell, or one whose parameters learn or differ from
    sample to sample, whose surrogate gradient is not SuperSpike's, that does not reset to a value, or that somebody listens to.
    """
    if type(cell) not in _STEPS or not inputs.is_floating_point() or cell._forward_hooks or cell._forward_pre_hooks:
        return None
    module = cast("Any", cell)
    numbers = {name: getattr(module.p, name) for name in _NUMBERS if hasattr(module.p, name)}
    usual = (
        module.activation is _STEPS[type(cell)]
        and getattr(module.p, "method", "super") == "super"
        and getattr(module.p, "reset_method", reset_value) is reset_value
        and all(_spreads(number, inputs) for number in numbers.values())
    )
    if not usual:
        return None
    return Neurons(
        gain=module.dt * numbers["tau_mem_inv"],
        leak=numbers["v_leak"],
        decay=-module.dt * numbers["tau_syn_inv"] if type(cell) in (LIFCell, LICell) else None,
        threshold=numbers.get("v_th"),
        reset=numbers.get("v_reset"),
        adds_leak=type(cell) is LIFBoxCell,
    )


def _spreads(number: Any, inputs: torch.Tensor) -> bool:
    """Whether a parameter is a constant for each neuron that leaves the inputs' shape and type as they are."""
    if not isinstance(number, torch.Tensor) or number.requires_grad or (number.ndim and number.dtype != inputs.dtype):
        return False
    sides = zip(reversed(number.shape), reversed(inputs.shape[2:]), strict=False)
    return number.ndim <= inputs.ndim - 2 and all(side in (1, wanted) for side, wanted in sides)
