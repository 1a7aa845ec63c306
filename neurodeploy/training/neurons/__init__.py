"""How a layer of Norse's neurons goes through all steps at once, and how gradients come back.

Norse runs a cell step by step, and autograd keeps every sum on the way. Here all steps of a layer are one function of autograd:
the same sums in the same order, so spikes and membranes are Norse's bit for bit; backwards it follows the same recurrence, from
the membranes before their reset alone. In single precision `loops` does that on a CPU and `kernels` on a GPU, in compiled
code; elsewhere torch does, in `plain`. `cells` says which of Norse's cells these are.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from neurodeploy.training.neurons import loops, plain
from neurodeploy.training.neurons.cells import Neurons, neurons_of

__all__ = ["Neurons", "neurons_of", "run"]


def run(neurons: Neurons, inputs: torch.Tensor) -> torch.Tensor:
    """Spikes, or membranes, (n_steps, batch, \\*shape) in answer to inputs of that shape, from the initial state.

    Inputs in half precision are answered in float32: membranes add up over many steps.
    """
    inputs = inputs.float() if inputs.dtype in (torch.bfloat16, torch.float16) else inputs
    answers: torch.Tensor = _Run.apply(inputs, neurons)  # type: ignore[no-untyped-call]  # of torch
    return answers


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, neurons: Neurons) -> torch.Tensor:
        answers = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
        fires = neurons.threshold is not None
        membranes = torch.empty_like(answers) if fires and ctx.needs_input_grad[0] else None if fires else answers
        _way(inputs).forward(neurons, inputs, answers, membranes)
        ctx.neurons = neurons
        if fires and membranes is not None:
            ctx.save_for_backward(membranes)
        return answers

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # of torch
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        inputs = torch.empty(gradient.shape, dtype=gradient.dtype, device=gradient.device)
        membranes = ctx.saved_tensors[0] if ctx.saved_tensors else inputs
        _way(gradient).backward(ctx.neurons, gradient, membranes, inputs)
        return inputs, None


def _way(tensor: torch.Tensor) -> ModuleType:
    """What takes neurons through a tensor (n_steps, batch, \\*shape), forwards, and through gradients like it backwards."""
    if tensor.dtype == torch.float32 and tensor.device.type == "cpu":
        return loops
    if tensor.dtype == torch.float32 and tensor.device.type == "cuda":
        from neurodeploy.training.neurons import kernels  # Triton takes a moment

        return kernels if kernels.takes(tensor) else plain
    return plain
