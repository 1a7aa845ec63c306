"""Decays that learn: the share of a state that a step forgets, as a parameter that is read as the target's registers.

The parameter is the logarithm of the share, which suits the learning rate of the weights. A network's weights stay in their
units while a membrane's decay learns.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from neurodeploy.frontends.torch.extract import extract
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.network import LI, LIF, Layer, Network
from neurodeploy.targets import Arithmetic

_NAMES = {"current_decay": "tau_syn_inv", "voltage_decay": "tau_mem_inv"}
"""Norse's name of each decay."""


def registered_share(log: torch.nn.Parameter, arithmetic: Arithmetic) -> torch.Tensor:
    """Share that the register nearest to exp(log) holds, with the gradient of exp(log) (straight-through)."""
    with torch.no_grad():
        # the stored number itself, so that it cannot drift away where its clamp has no gradient
        log.data.clamp_(math.log(1 / (1 << arithmetic.registers.decay_bits)), 0.0)
    share = log.exp()
    return share + (torch.as_tensor(_registered(share, arithmetic)).to(share) - share.detach())


def _registered(share: torch.Tensor, arithmetic: Arithmetic) -> Floats:
    return arithmetic.decay_shares(arithmetic.decay_registers(share.detach().cpu().numpy()))


class LearntDecays(torch.nn.Module):
    """Decays of a layer's neurons that learn: those that keep a part of their state, and forget a part.

    Attributes
    ----------
    current_decay, voltage_decay : Parameter or None
        Logarithm of the share: one number, one for each channel, or one for each neuron.
    """

    current_decay: torch.nn.Parameter | None
    voltage_decay: torch.nn.Parameter | None

    def __init__(self, layer: Layer, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.layer, self.arithmetic = layer, arithmetic
        for name in _NAMES:
            share: Floats = getattr(layer.neuron, name)
            learns = bool(((share > 0) & (share < 1)).all())
            self.register_parameter(name, torch.nn.Parameter(self._stored(share)) if learns else None)

    def _stored(self, share: Floats) -> torch.Tensor:
        """Logarithms of shares in the parameter's shape."""
        if share.ndim:
            by_channel = share.reshape(self.layer.shape[0], -1)
            share = by_channel[:, 0] if (by_channel == by_channel[:, :1]).all() else share
        least = 1 / (1 << self.arithmetic.registers.decay_bits)
        return torch.as_tensor(np.log(np.maximum(share, least)), dtype=torch.float32)

    def shares(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares of current and membrane that a step forgets, () or (n_neurons,)."""
        current, voltage = (self._share(name) for name in _NAMES)
        return current, voltage

    def _share(self, name: str) -> torch.Tensor:
        log = cast("torch.nn.Parameter | None", getattr(self, name))
        if log is None:
            device = next(self.parameters(), torch.zeros(())).device
            return torch.as_tensor(np.asarray(getattr(self.layer.neuron, name), dtype=np.float32)).to(device)
        share = registered_share(log, self.arithmetic)
        return share.repeat_interleave(self.layer.n_neurons // share.numel()) if share.ndim else share

    def of_neuron(self) -> LIF | LI:
        """The layer's neuron with the decays of now."""
        current, voltage = (self._exactly(name) for name in _NAMES)
        return replace(self.layer.neuron, current_decay=current, voltage_decay=voltage)

    def _exactly(self, name: str) -> Floats:
        log = cast("torch.nn.Parameter | None", getattr(self, name))
        if log is None:
            return cast("Floats", getattr(self.layer.neuron, name))
        share = np.asarray(_registered(log.exp(), self.arithmetic))
        return np.repeat(share, self.layer.n_neurons // share.size) if share.ndim else share

    @torch.no_grad()
    def load(self, layer: Layer) -> None:
        """Take the decays of a layer."""
        for name in _NAMES:
            log = cast("torch.nn.Parameter | None", getattr(self, name))
            if log is not None:
                log.copy_(torch.broadcast_to(self._stored(getattr(layer.neuron, name)), log.shape))


def write_decays(decays: Mapping[str, LearntDecays], model: torch.nn.Module, sample: torch.Tensor) -> None:
    """Set the decays of a model's cells, which learn as well, to those of the layers that were made from them."""
    marked = copy.deepcopy(model)
    n_cells = len(list(_cells(marked)))
    for number, p in enumerate(_cells(marked)):
        for name in _NAMES.values():
            if (log := getattr(p, f"log_{name}", None)) is not None:
                # a decay of its own for each cell tells which layer is which cell's
                torch.nn.init.constant_(log, math.log((number + 1) / (n_cells + 1)))
    network, own = extract(marked, sample), list(zip(_cells(marked), _cells(model), strict=True))
    for name, learnt in decays.items():
        for decay, of_norse in _NAMES.items():
            log = getattr(learnt, decay)
            for mark, p in own:
                if log is not None and _is_marked(network, name, decay, getattr(mark, f"log_{of_norse}", None)):
                    _write(log, getattr(p, f"log_{of_norse}"))


def _cells(model: torch.nn.Module) -> Iterator[Any]:
    """Parameters of the cells whose decays learn."""
    # Norse's cells keep theirs in `p`
    yield from (p for module in model.modules() if isinstance(p := getattr(module, "p", None), torch.nn.Module))


def _is_marked(network: Network, layer: str, decay: str, mark: torch.Tensor | None) -> bool:
    share = float(np.mean(getattr(network[layer].neuron, decay)))
    # registers round: marks of neighbouring cells lie further apart
    return mark is not None and math.isclose(share, float(mark.detach().exp().mean()), rel_tol=1e-2)


@torch.no_grad()
def _write(log: torch.Tensor, own: torch.Tensor) -> None:
    if own.numel() == log.numel():
        own.copy_(log.reshape(own.shape))
    elif own.ndim and own.numel() % log.numel() == 0:
        own.copy_(log.repeat_interleave(own.numel() // log.numel()).reshape(own.shape))
