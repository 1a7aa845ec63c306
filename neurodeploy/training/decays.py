"""Decays that learn with the weights: how fast a Norse cell's currents and membranes forget, one number a layer.

A threshold that all neurons of a layer share needs none of this: whatever it comes to, weights of another scale come to as well,
and these learn already.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch

from neurodeploy.fixedpoint import DECAY_UNITY

DECAYS = ("tau_syn_inv", "tau_mem_inv")
"""What Norse calls them: 1 / tau, in 1/s."""
_LEAST = 1 / DECAY_UNITY


class Decays(torch.nn.Module):
    """A cell's numbers, read as Norse reads them, of which those in `DECAYS` learn; it stands where they stood, in ``cell.p``.

    What learns is the logarithm of the share that is forgotten in a step, dt / tau, so that one learning rate serves it as it
    serves weights. It is held within 1/4096..1, and read as the nearest of the chip's 4096 steps; the gradient goes through.

    Attributes
    ----------
    tau_syn_inv, tau_mem_inv : tensor
        In 1/s, of the shapes that the cell had; where it had them.
    """

    def __init__(self, p: Any, dt: float) -> None:
        super().__init__()
        self._rest, self._dt = p, dt
        for name in DECAYS:
            if hasattr(p, name):
                share = (torch.as_tensor(getattr(p, name)).detach() * dt).clamp(_LEAST, 1.0)
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
            log.data.clamp_(math.log(_LEAST), 0.0)
        share = log.exp()
        steps = (share.detach() * DECAY_UNITY).round() / DECAY_UNITY
        return (share + (steps - share.detach())) / self._dt


def learn_decays(model: torch.nn.Module) -> int:
    """Let the decays of a model's Norse cells learn: parameters of the model from now on, and part of its state.

    Cells whose decays learn already stay as they are.

    Returns
    -------
    int
        How many cells there are whose decays learn.
    """
    cells = [module for module in model.modules() if _has_decays(module)]
    for cell in cells:
        if not isinstance(cell.p, Decays):
            decays = Decays(cell.p, float(cast("Any", cell).dt))
            del cell.p
            cell.p = decays.to(next((parameter.device for parameter in model.parameters()), None))
    return len(cells)


def is_decay(name: str) -> bool:
    """Whether that is what a decay that learns is called in a model's state."""
    return any(name.endswith(f".p.log_{decay}") or name == f"p.log_{decay}" for decay in DECAYS)


def _has_decays(module: torch.nn.Module) -> bool:
    p = getattr(module, "p", None)
    return hasattr(module, "dt") and any(hasattr(p, name) for name in DECAYS)
