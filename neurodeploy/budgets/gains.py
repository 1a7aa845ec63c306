"""What one core more, or one bit less a weight, would give each layer."""

from __future__ import annotations

from dataclasses import dataclass

from neurodeploy.budgets.budget import Budget
from neurodeploy.budgets.plan import Unpruned
from neurodeploy.budgets.sharing import share_budget
from neurodeploy.errors import BudgetError
from neurodeploy.hardware import HardwareProfile
from neurodeploy.network import Network
from neurodeploy.quantized import QuantizedNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Share of its unpruned synapse memory that a layer may keep, 0..1: as things stand, and if they stood otherwise.

    Attributes
    ----------
    kept : float
    with_a_core_more : float or None
        None where the profile has no more, or it helps nobody.
    a_width_narrower : float or None
        Of its memory at the narrower width; None where the chip has no narrower one.
    narrower_bits : int or None
    """

    layer: str
    kept: float
    with_a_core_more: float | None
    a_width_narrower: float | None
    narrower_bits: int | None


def gains(
    network: Network | QuantizedNetwork, profile: HardwareProfile, budget: Budget, *, unpruned: Unpruned | None = None
) -> tuple[Gain, ...]:
    """A line a layer; none where every layer may be kept whole. `unpruned` as `share_budget` takes it."""
    if all(layer.kept >= 1 and not layer.binds for layer in budget.layers):
        return ()
    narrower = max((bits for bits in profile["weight_bits"].choices if 1 < bits < budget.weight_bits), default=None)
    more = _kept(network, profile, budget.cores + 1, budget.weight_bits, unpruned) if budget.cores < profile.cores else {}
    thinner = _kept(network, profile, budget.cores, narrower, None) if narrower is not None else {}
    return tuple(
        Gain(
            layer=layer.layer,
            kept=layer.kept,
            with_a_core_more=more.get(layer.layer),
            a_width_narrower=thinner.get(layer.layer),
            narrower_bits=narrower,
        )
        for layer in budget.layers
    )


def _kept(
    network: Network | QuantizedNetwork, profile: HardwareProfile, cores: int, bits: int, unpruned: Unpruned | None
) -> dict[str, float]:
    try:
        budget = share_budget(network, profile, cores=cores, bits=bits, unpruned=unpruned, explain=False)
        return {layer.layer: layer.kept for layer in budget.layers}
    except BudgetError:  # what helps elsewhere may cut a slice that had just enough
        return {}
