"""What a module with a forward of its own may not do is refused where it does it, with the reason and the way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import norse.torch as norse
import pytest
import torch
from norse.torch import IAFCell, LICell, LIFBoxCell, LIFCell, SequentialState
from torch import nn
from torch.nn import functional as F  # noqa: N812  (as everybody calls it)

from neurodeploy.errors import ArgumentTypeError, ExtractError
from neurodeploy.frontends.torch.extract import extract

Forward = Callable[["Net", torch.Tensor, Any], Any]


class Net(nn.Module):
    """Two layers, and a forward from outside."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.fc1, self.lif, self.fc2, self.lif2, self.out = nn.Linear(4, 4), LIFCell(), nn.Linear(4, 4), LIFCell(), LICell()
        self.run, self.count = forward, 0

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        return self.run(self, x, state)


def one(net: Net, x: torch.Tensor, state: Any, then: Callable[[torch.Tensor], torch.Tensor] = lambda z: z) -> Any:
    """A layer, what `then` does to its spikes, and a readout."""
    first, second = (None, None) if state is None else state
    z, first = net.lif(net.fc1(x), first)
    v, second = net.out(net.fc2(then(z)), second)
    return v, (first, second)


def between(then: Callable[[torch.Tensor], torch.Tensor]) -> Net:
    return Net(lambda net, x, state: one(net, x, state, then))


def decides(net: Net, x: torch.Tensor, state: Any) -> Any:
    v, state = one(net, x, state)
    return (v, state) if v.sum() > 0 else (-v, state)


def counts(net: Net, x: torch.Tensor, state: Any) -> Any:
    net.count += 1
    return one(net, x if net.count == 1 else 2 * x, state)


def forgets(net: Net, x: torch.Tensor, _state: Any) -> Any:
    return one(net, x, None)[0]


def swaps(net: Net, x: torch.Tensor, state: Any) -> Any:
    first, second = (None, None) if state is None else state
    z, first = net.lif(net.fc1(x), first)
    z, second = net.lif2(net.fc2(z), second)
    return z, (second, first)


def halves_state(net: Net, x: torch.Tensor, state: Any) -> Any:
    v, (first, second) = one(net, x, state)
    return v, (first._replace(v=first.v / 2), second)


def starts_high(net: Net, x: torch.Tensor, state: Any) -> Any:
    if state is None:
        high = norse.LIFFeedForwardState(v=torch.full((len(x), 4), 0.5), i=torch.zeros(len(x), 4))
        state = (high, None)
    return one(net, x, state)


def hears_membrane(net: Net, x: torch.Tensor, state: Any) -> Any:
    first, second = (None, None) if state is None else state
    _, first = net.lif(net.fc1(x), first)
    v, second = net.out(net.fc2(first.v), second)
    return v, (first, second)


def feeds_back(net: Net, x: torch.Tensor, state: Any) -> Any:
    before, first, second = (torch.zeros(len(x), 4), None, None) if state is None else state
    z, first = net.lif(net.fc1(x) + before, first)
    z, second = net.lif2(net.fc2(z), second)
    return z, (z, first, second)


def state_as_input(net: Net, x: torch.Tensor, state: Any) -> Any:
    _, first = net.lif(net.fc1(x), None)
    return net.out(first.v, None)


def escapes(net: Net, x: torch.Tensor, state: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        x.mul_(2)
    return one(net, x, state)


def rectified(net: Net, x: torch.Tensor, state: Any) -> Any:
    z, state = net.lif(net.fc1(x), state)
    return net.fc2(F.relu(net.fc2(z))), state


def writes(z: torch.Tensor) -> torch.Tensor:
    z = z.clone()
    z[:, :2] = 0
    return z


def starts_later(net: Net, x: torch.Tensor, state: Any) -> Any:
    net.count += 1
    v, state = one(net, x, state)
    if net.count > 1:
        net.lif2(net.fc2(v * 0 + x), None)
    return v, state


PIXELS = torch.arange(4.0).view(2, 2)
CHIP = r"\(a chip's synapses add up weighted spikes\)\. docs/operators.md lists what is"

WRONG: dict[str, tuple[nn.Module, str]] = {
    "an activation": (between(F.relu), r"^model \(Net\): relu is not supported .*in front of neurons, leave it out\.$"),
    "a product of sums": (between(lambda z: (z + z) * z), r"^model \(Net\): mul takes two tensors that both depend on spikes"),
    "silence of both": (between(lambda z: (1 - z) * (1 - z.flip(1))), r"^model \(Net\): mul fires without any spikes"),
    "a maximum above 1": (between(lambda z: (z + z.flip(1)).clamp(max=2)), r"^model \(Net\): clamp is not supported"),
    "weights that are spikes": (
        between(lambda z: F.linear(torch.ones(2, 2), z.T).T.repeat(1, 2)),
        r"^model \(Net\): T mixes samples",
    ),
    "weights by spikes": (between(lambda z: torch.div(torch.ones(4), z + 1)), r"div multiplies constants by weights that"),
    "no matrix": (
        between(lambda z: (z.unsqueeze(1) @ torch.ones(2, 4, 4)).squeeze(1)),
        r"^model \(Net\): matmul multiplies by something that is not a matrix of weights",
    ),
    "one row of weights": (
        between(lambda z: F.linear(z, torch.ones(4)).unsqueeze(1).repeat(1, 4)),
        r"^model \(Net\): Dense\.weight has shape \(4,\), not \(n_out, n_in\)",
    ),
    "arguments": (
        between(lambda z: torch.add(z, 1, out=torch.zeros(2, 4))),
        r"^model \(Net\): add is called with arguments that are not supported",
    ),
    "samples that meet": (
        between(lambda z: z - z.mean(0)),
        r"^model \(Net\): mean adds up over samples or steps",
    ),
    "samples moved": (
        between(lambda z: z.flatten().view(1, -1)[:, :4].expand(2, 4)),
        r"^model \(Net\): flatten mixes samples or steps",
    ),
    "chance": (between(lambda z: F.dropout(z, 0.5)), r"^model \(Net\): dropout drops spikes by chance, in eval mode too"),
    "a constant a sample": (between(lambda z: z + torch.tensor([[0.0], [1.0]])), r"add has another constant for each sample"),
    "a constant that spreads": (between(lambda z: (z[:, :1] * torch.ones(4))), r"mul broadcasts its input to a larger shape"),
    "what is not finite": (between(lambda z: z * float("inf")), r"^model \(Net\): has a constant that is not finite"),
    "a write into a part": (between(writes), rf"^model \(Net\): writes into a part of a tensor {CHIP}"),
    "a decision": (Net(decides), r"^model \(Net\): reads numbers out of its tensors \(__bool__\), .*Take it out of forward"),
    "a number read": (between(lambda z: z * z.sum().item()), r"^model \(Net\): reads numbers out of its tensors \(item\)"),
    "another network each step": (
        Net(counts),
        r"^lif \(LIFCell\): receives something else at its step 1 than at step 0 \(steps counted from 0\)",
    ),
    "states forgotten": (Net(forgets), r"^lif \(LIFCell\): makes 1 step in 2 calls: its state is not kept .*Return the states"),
    "states swapped": (
        Net(swaps),
        r"^lif \(LIFCell\): receives a state that is not the one it returned .*unchanged, at the next step",
    ),
    "a state changed": (
        Net(halves_state),
        r"^lif \(LIFCell\): receives a state that is not the one it returned a step before \(on the",
    ),
    "a start that is not rest": (Net(starts_high), r"^lif \(LIFCell\): starts from a state that is not rest .*Start with None"),
    "a membrane heard": (
        Net(hears_membrane),
        r"^fc2 \(Linear\): linear takes the state 'v' of 'fc1', which the chip does not send",
    ),
    "a state as input": (Net(state_as_input), r"^out \(LICell\): takes the state of neurons, which the chip does not send"),
    "a loop through layers": (
        Net(feeds_back),
        r"^lif \(LIFCell\): is in a loop, 'fc1' -> 'fc2' -> 'fc1', which takes 2 steps on the chip, .*one population only",
    ),
    "an end beyond": (Net(rectified), r"^fc2 \(Linear\): ends the model without neurons: .* compute it on the host"),
    "what escapes": (
        Net(escapes),
        r"^lif \(LIFCell\): was not read correctly: at step 0 neuron .* hidden from torch",
    ),
    "a neuron that the chip has not": (
        SequentialState(nn.Linear(4, 4), norse.LIFAdExCell()),
        r"^1 \(LIFAdExCell\): is no neuron that the chip has\. Supported are LIFCell",
    ),
    "maximum of a sum": (
        SequentialState(nn.Linear(4, 4), LIFBoxCell(), nn.Unflatten(1, (1, 2, 2)), nn.AvgPool2d(1), nn.MaxPool2d(2)),
        r"^4 \(MaxPool2d\): takes the maximum of the output of 3 \(AvgPool2d\), which is not spikes",
    ),
    "where the maximum is": (
        between(lambda z: F.max_pool2d(z.view(2, 1, 2, 2), 1, return_indices=True)[0].flatten(1)),
        r"^model \(Net\): max_pool2d_with_indices returns the positions of the maxima",
    ),
    "no neurons": (
        SequentialState(nn.Unflatten(1, (1, 2, 2)), nn.MaxPool2d(2, return_indices=True), nn.Identity()),
        r"^model: holds no neurons",
    ),
    "a root of powers": (
        SequentialState(nn.Unflatten(1, (1, 2, 2)), nn.LPPool2d(2, 2), IAFCell()),
        r"lp_pool2d takes the root of a sum of powers of 2",
    ),
    "compiled": (
        SequentialState(torch.jit.script(nn.Linear(4, 4)), LIFCell()),
        r"^0 \(RecursiveScriptModule\): is compiled by torch\.jit, .*\. Give the module as it was before",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "message"), WRONG.values(), ids=list(WRONG))
def test_what_a_module_may_not_do(model: nn.Module, message: str) -> None:
    with pytest.raises(ExtractError, match=message):
        extract(model.eval(), torch.zeros(2, 4))


def test_a_model_is_a_module() -> None:
    with pytest.raises(ArgumentTypeError, match=r"^extract, argument 'model': is of type function, and has to be Module"):
        extract(lambda x: x, torch.zeros(2, 4))  # type: ignore[arg-type]  # wrong on purpose


def test_a_cell_that_hears_nothing() -> None:
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lif = LIFBoxCell()

        def forward(self, x: torch.Tensor, state: Any = None) -> Any:
            return self.lif(torch.ones(len(x), 3), state)

    with pytest.raises(ExtractError, match=r"^lif \(LIFBoxCell\): receives no spikes\. Put a layer with weights before it"):
        extract(Deaf(), torch.zeros(2, 4))
