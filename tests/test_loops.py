"""Populations are put behind those that they hear; a loop through several is refused, with a way round that is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from norse.torch import LIFCell, LIFRecurrentCell
from norse_runs import answers, assert_read, drive, given, hears, read
from test_nir import DT, graph, lif, written
from torch import nn

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.assembly import MEMORYLESS, LayerSpec, NeuronSpec, assemble, topological_order
from neurodeploy.frontends.expressions import spikes
from neurodeploy.frontends.nir.reading import read_nir
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import LIF


class Both(nn.Module):
    """Two populations, each of which hears what the other fired a step before; or the second at once."""

    def __init__(self, *, at_once: bool = False) -> None:
        super().__init__()
        self.at_once = at_once
        self.give, self.down, self.up = (nn.Linear(n, 4, bias=False) for n in (6, 4, 4))
        self.low, self.high = LIFCell(), LIFCell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        nothing = torch.zeros(len(x), 4, dtype=x.dtype)
        low, high, s, t = (nothing, nothing, None, None) if state is None else state
        new_low, s = self.low(self.give(x) + self.down(high), s)
        new_high, t = self.high(self.up(new_low if self.at_once else low), t)
        return new_high, (new_low, new_high, s, t)


def test_a_loop_is_named_with_its_steps_and_its_delay() -> None:
    sample = torch.zeros(1, 6)
    with pytest.raises(
        ExtractError,
        match=r"^low \(LIFCell\): is in a loop, 'give' -> 'up' -> 'give', which takes 2 steps on the chip, one per synapse, and "
        r"has a delay of 1 \(a layer receives spikes from .* itself\)\. Replace them by one population that feeds back to itself "
        r"one step later, so that its spikes take 2 steps around the loop, and train with that",
    ):
        extract(Both(at_once=True), sample)
    with pytest.raises(ExtractError, match=r"'give' -> 'high' -> 'give', which takes 2 steps on the chip, .* has a delay of 2"):
        extract(Both(), sample)


def test_one_population_of_both_is_what_two_were() -> None:
    """The way round that the text names: a loop that is delayed by a step a synapse, as one recurrence."""
    both, fed = drive(Both()), given(6)

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = LIFRecurrentCell(6, 8, autapses=True)

        def forward(self, x: torch.Tensor, state: Any = None) -> Any:
            return self.cell(x, state)

    one = One().double()
    with torch.no_grad():
        for weight in (one.cell.input_weights, one.cell.recurrent_weights):
            weight.zero_()
        one.cell.input_weights[:4] = both.give.weight
        one.cell.recurrent_weights[:4, 4:] = both.down.weight
        one.cell.recurrent_weights[4:, :4] = both.up.weight
    theirs = answers(both, fed)
    _, ours = read(one, fed)
    np.testing.assert_array_equal(ours[:, 4:], theirs)
    assert 0 < theirs.mean() < 1


def test_who_is_heard_a_step_later_may_answer_later_too() -> None:
    class Late(nn.Module):
        """The population that the model runs first hears what the second fired before; the second does not hear the first."""

        def __init__(self) -> None:
            super().__init__()
            self.side, self.give, self.late = (nn.Linear(n, 4, bias=False) for n in (6, 6, 4))
            self.first, self.second = LIFCell(), LIFCell()

        def forward(self, x: torch.Tensor, state: Any = None) -> Any:
            before, s, t = (torch.zeros(len(x), 4, dtype=x.dtype), None, None) if state is None else state
            z, s = self.first(self.give(x) + self.late(before), s)
            before, t = self.second(self.side(x), t)
            return z, (before, s, t)

    network = assert_read(Late(), 6)
    assert hears(network) == {"side": [INPUT], "give": [INPUT, "side"]}
    assert [c.delay_steps for c in network["give"].connections] == [0, 1]


def test_a_loop_of_nodes_counts_the_fewest_steps_that_delays_take(tmp_path: Path) -> None:
    ways = [
        ("input", "n0"), ("n0", "n1"), ("n1", "a"), ("a", "n2"), ("n2", "late"), ("late", "b"), ("n2", "later"), ("later", "b"),
        ("b", "n1"), ("n2", "output"),
    ]  # fmt: skip
    made = graph(
        nir.Linear(np.ones((4, 6))), lif(4), lif(4), input_shape=(6,), edges=ways, a=nir.Linear(np.eye(4)),
        b=nir.Linear(np.eye(4)), late=nir.Delay(np.array([3, 2, 4, 3]) * DT), later=nir.Delay(np.full(4, 5 * DT)),
    )  # fmt: skip
    with pytest.raises(
        ExtractError, match=r"^node 'n1' \(LIF\): is in a loop, 'n1' -> 'n2' -> 'n1', which takes 2 steps .* has a delay of 2 "
    ):
        read_nir(written(made, tmp_path), dt=DT)


def test_order_is_as_it_stands_where_nobody_waits() -> None:
    assert topological_order({"c": {}, "b": {"c": 0, "b": 0}, "d": {"a": 3}, "a": {"c": 1}}, {}) == ["c", "b", "a", "d"]


def test_a_network_is_no_heap_of_populations() -> None:
    neuron = LIF(threshold=np.ones(()), **MEMORYLESS)
    heap = [
        LayerSpec(name=name, where=name, expression=spikes(source, (2,)), neurons=NeuronSpec(neuron=neuron, gain=np.ones(())))
        for name, source in (("a", "b"), ("b", INPUT))
    ]
    with pytest.raises(ExtractError, match=r"^layer 'a': receives spikes from 'b', which is no layer before it\. List each"):
        assemble((2,), heap, 1e-3)


def test_a_long_loop_is_told_without_those_that_only_hear_it() -> None:
    loop = {"ear": {"c": 0}, "a": {"c": 2}, "b": {"a": 0}, "c": {"b": 1, "c": 0}}
    with pytest.raises(ExtractError, match=r"^A: is in a loop, 'a' -> 'b' -> 'c' -> 'a', which takes 3 steps .* a delay of 3 "):
        topological_order(loop, {name: name.upper() for name in loop})
