"""The numbers of a cell of Norse, where neurons can go through all steps at once with them."""

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
