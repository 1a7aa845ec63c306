"""Another method than ours in the loop: it is asked in this order, and its answers are told."""

from __future__ import annotations

from collections.abc import Callable

import torch
from spiking import SHORT, budget_for, build, few

from neurodeploy.budgets.budget import Budget
from neurodeploy.hardware import HardwareProfile
from neurodeploy.training import fit


class LargestTenth:
    """Keeps the largest tenth of the first layer's weights, once the compress phase is over, and notes what it is asked."""

    def __init__(self, _: Budget, model: torch.nn.Module) -> None:
        self.weight = next(model.parameters())
        self.kept = torch.ones_like(self.weight, dtype=torch.bool)
        self.multipliers: dict[str, float] = {}
        self.asked: list[str] = []

    @property
    def connectivity(self) -> float:
        return float(self.kept.float().mean())

    def overruns(self) -> dict[str, float]:
        return {"connectivity": self.connectivity / 0.1 - 1}

    def choose(self, progress: float) -> None:
        self.asked.append(f"choose {progress:g}")

    def after_step(self, phase: str, learning_rate: float) -> None:
        self.asked.append(f"{phase} {learning_rate:g}" if phase == "compress" else phase)
        self._hold()

    def close(self) -> None:
        self.asked.append("close")
        size = self.weight.abs().flatten()
        self.kept = self.weight.abs() > size.kthvalue(int(0.9 * size.numel())).values
        self._hold()

    @torch.no_grad()
    def _hold(self) -> None:
        self.weight.mul_(self.kept)


def test_another_method_prunes_where_it_is_asked_and_nowhere_else(make_chip: Callable[..., HardwareProfile]) -> None:
    model, methods = build(12, 70, 3), []

    def method(budget: Budget, given: torch.nn.Module) -> LargestTenth:
        methods.append(LargestTenth(budget, given))
        return methods[0]

    budget = budget_for(model, make_chip(synapse_memory_bits_per_core=2048), 2)
    _, history = fit(model, budget, few(), SHORT, method=method)
    compress = [f"compress {SHORT.learning_rate:g}"] * 2
    assert methods[0].asked == ["choose 0", *compress, "choose 1", *compress, "close", "finetune", "finetune"]
    assert int((model[0].weight != 0).sum()) == 84
    assert [round(record.connectivity, 2) for record in history] == [1.0, 1.0, 1.0, 0.1]
    assert all(dict(record.multipliers) == {} for record in history)
    assert list(history[-1].overruns) == ["connectivity"]
