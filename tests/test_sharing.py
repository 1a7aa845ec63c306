"""How the level is found at which all layers fit: roughly first, where there are many slices to lay."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import with_values

from benchmarks.placement.drawing import Drawing
from neurodeploy.budgets import sharing
from neurodeploy.budgets.sharing import share_budget
from neurodeploy.graph import INPUT
from neurodeploy.profiles import load_profile


def test_networks_of_many_slices_are_laid_in_all_ways_only_near_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Drawing((2, 8, 8), seed=0)
    drawing.conv("conv3", drawing.conv("conv2", drawing.conv("conv1", (INPUT,), 12), 16), 20, stride=2)
    network, profile = drawing.network(), with_values(load_profile("loihi2"), memory_bits_per_core=40_000)
    thorough = share_budget(network, profile, cores=13)
    ways: list[bool] = []

    def laid(*args: Any, is_quick: bool = False, filled: Any = sharing.filled) -> Any:
        ways.append(is_quick)
        return filled(*args, is_quick=is_quick)

    monkeypatch.setattr(sharing, "filled", laid)
    monkeypatch.setattr(sharing, "_MANY_SLICES", 0)
    roughly = share_budget(network, profile, cores=13)
    kept = [sum(layer.synapse_memory_bits for layer in budget.layers) for budget in (thorough, roughly)]
    assert 0.97 * kept[0] < kept[1] < 1.03 * kept[0]
    assert 0 < min(layer.kept for layer in roughly.layers) < 1
    assert ways.count(False) <= 5 < ways.count(True)
