"""The kernels for a GPU, where there is none: python kernel_runs.py, with TRITON_INTERPRET=1 beside the compiled loops on a CPU,
without it compiled for a GPU that is elsewhere.

A module to start, not a test: Triton decides when it is imported whether it compiles or interprets.
"""

from __future__ import annotations

import os
from itertools import product

import torch
from test_neurons import cells

from neurodeploy.training.forward import neurons_of
from neurodeploy.training.neurons import (
    NeuronParameters,
    backward_compiled,
    backward_on_gpu,
    forward_compiled,
    forward_on_gpu,
    gpu_kernels,
)


def both_ways(given: NeuronParameters, inputs: torch.Tensor, gradient: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Answers, membranes and gradients by the inputs, each way."""
    found = []
    for forward, backward in ((forward_compiled, backward_compiled), (forward_on_gpu, backward_on_gpu)):
        answers, membranes, by_inputs = (torch.zeros(gradient.shape) for _ in range(3))
        fires = given.threshold is not None
        forward(given, inputs, answers, membranes if fires else None)
        backward(given, gradient, membranes if fires else by_inputs, by_inputs)
        found.append((answers, membranes, by_inputs))
    return found


def compare() -> None:
    """Loops and kernels, cell by cell."""
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


def compile_all() -> None:
    """Both kernels, for cells of all kinds; their products are not fused into sums."""
    from triton import compiler
    from triton.backends.compiler import GPUTarget

    flags = {"decays": (False, True), "fires": (False, True), "keeps": (True,), "adds_leak": (False, True)}
    for kernel in gpu_kernels():
        asked = {name: kinds for name, kinds in flags.items() if name in kernel.arg_names}
        for values in product(*asked.values()):
            constants = dict(zip(asked, values, strict=True)) | {"block": 256}
            numbers = dict.fromkeys(("n_steps", "size", "n", "stride"), "i32")
            kinds = {name: "constexpr" if name in constants else numbers.get(name, "*fp32") for name in kernel.arg_names}
            source = compiler.ASTSource(fn=kernel, signature=kinds, constexprs=constants)
            made = compiler.compile(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": False})
            assert "fma" not in made.asm["ptx"]


if __name__ == "__main__":
    compare() if "TRITON_INTERPRET" in os.environ else compile_all()
    print("done")
