"""What a module may not do with the steps of its input is refused where it does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from norse.torch import LIF, LIFBoxCell, LIFCell, Lift, SequentialState
from torch import nn
from torch.nn import functional as F  # noqa: N812  (as everybody calls it)

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.torch.extract import extract


def test_what_comes_with_many_steps() -> None:
    cell_of_many = SequentialState(nn.Linear(4, 4), LIFCell(), Lift(nn.Linear(4, 4)))
    with pytest.raises(
        ExtractError, match=r"^1 \(LIFCell\): receives many steps where it takes one\. Use the cell for one step, Lift"
    ):
        extract(cell_of_many, torch.zeros(3, 2, 4))
    with pytest.raises(ExtractError, match=r"^1 \(Conv2d\): fails on the sample"):
        extract(SequentialState(LIF(), nn.Conv2d(1, 2, 3)), torch.zeros(3, 2, 1, 4, 4))
    with pytest.raises(ExtractError, match=r"avg_pool1d receives all steps at once; wrap it in norse\.torch\.Lift"):
        extract(SequentialState(LIF(), nn.AvgPool1d(2), LIF()), torch.zeros(3, 2, 4))
    with pytest.raises(ExtractError, match=r"^sample: has shape \(1, 2, 4\), but the model takes \(time, batch, .* at least two"):
        extract(SequentialState(nn.Linear(4, 4), LIF()), torch.zeros(1, 2, 4))


class Loops(nn.Module):
    """A loop over the steps of the input, and what `then` makes of the spikes of all steps and of the input."""

    def __init__(self, then: Callable[[Any, Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.fc, self.lif, self.out, self.then = nn.Linear(4, 4), LIFCell(), LIFBoxCell(), then

    def forward(self, x: torch.Tensor) -> Any:
        state, said = None, []
        for step in range(len(x)):
            z, state = self.lif(self.fc(x[step]), state)
            said.append(z)
        return self.then(self, said, x)


def hears_all_at_once(net: Any, _said: Any, x: torch.Tensor) -> Any:
    return net.out(x)


def adds_one_to_all(net: Any, said: Any, _x: torch.Tensor) -> Any:
    return net.out(torch.stack(said) + said[0])


def hears_ahead(net: Any, said: Any, _x: torch.Tensor) -> Any:
    state = None
    for step in (1, 2):
        z, state = net.out(said[step], state)
    return z


def skips_a_step(net: Any, said: Any, _x: torch.Tensor) -> Any:
    state = None
    for step in (0, 2):
        z, state = net.out(F.max_pool1d(said[step].view(2, 1, 4), 2).flatten(1), state)
    return z


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (hears_all_at_once, r"^out \(LIFBoxCell\): takes many steps of the input as if they were one\. Give it one"),
        (adds_one_to_all, r"^model \(Loops\): add combines one step with many, or batches of different sizes"),
        (hears_ahead, r"^out \(LIFBoxCell\): receives what 'fc' fires 1 step later .*\. Call all cells equally often"),
        (skips_a_step, r"^model \(Loops\): max_pool1d is left out at some steps"),
    ],
)
def test_what_a_loop_over_time_may_not_do(then: Any, message: str) -> None:
    with pytest.raises(ExtractError, match=message):
        extract(Loops(then), torch.zeros(3, 2, 4))
