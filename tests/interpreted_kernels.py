"""The kernels for a GPU beside the compiled loops, on a CPU: TRITON_INTERPRET=1 python interpreted_kernels.py.

A module to start, not a test: Triton decides when it is imported whether it compiles or interprets.
"""

from __future__ import annotations

import torch
from test_neurons import cells

from neurodeploy.training.neurons import Neurons, kernels, loops, neurons_of


def both_ways(given: Neurons, inputs: torch.Tensor, gradient: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Answers, membranes and gradients by the inputs, each way."""
    found = []
    for way in (loops, kernels):
        answers, membranes, by_inputs = (torch.zeros(gradient.shape) for _ in range(3))
        fires = given.threshold is not None
        way.forward(given, inputs, answers, membranes if fires else None)
        way.backward(given, gradient, membranes if fires else by_inputs, by_inputs)
        found.append((answers, membranes, by_inputs))
    return found


def main() -> None:
    """Compare them, cell by cell."""
    torch.manual_seed(0)
    for shape in ((5, 3, 7), (4, 7, 80), (3, 2, 4, 5, 6)):
        each = torch.linspace(0.5, 1.5, shape[-1])
        for spread in (torch.tensor, each.mul):
            for kind, cell in cells(spread).items():
                inputs, gradient = torch.randn(shape), torch.randn(shape)
                given = neurons_of(cell, inputs)
                assert given is not None
                for drives in (inputs, inputs[:1].expand(shape)):
                    for one, other in zip(*both_ways(given, drives, gradient), strict=True):
                        assert torch.equal(one, other), (kind, shape)
    print("equal")


if __name__ == "__main__":
    main()
