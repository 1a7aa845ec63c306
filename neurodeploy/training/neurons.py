"""How a layer of Norse's neurons goes through all steps at once, and how gradients come back.

Norse runs a cell step by step, and autograd keeps every sum on the way. Here all steps of a layer are one function of autograd:
the same sums in the same order, so spikes and membranes are Norse's bit for bit; backwards it follows the same recurrence, from
the membranes before their reset alone. In single precision `loops` does that on a CPU and `kernels` on a GPU, in compiled
code; elsewhere torch does, in `plain`. `cells` says which of Norse's cells these are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from neurodeploy.training import neuron_loops
from neurodeploy.training.neuron_cells import Neurons


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
        _engine(inputs)[0](neurons, inputs, answers, membranes)
        ctx.neurons = neurons
        if fires and membranes is not None:
            ctx.save_for_backward(membranes)
        return answers

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # of torch
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        inputs = torch.empty(gradient.shape, dtype=gradient.dtype, device=gradient.device)
        membranes = ctx.saved_tensors[0] if ctx.saved_tensors else inputs
        _engine(gradient)[1](ctx.neurons, gradient, membranes, inputs)
        return inputs, None


def _engine(tensor: torch.Tensor) -> tuple[Callable[..., None], Callable[..., None]]:
    """The forward and backward pass for a tensor (n_steps, batch, \\*shape): compiled loops, GPU kernels, or plain torch."""
    if tensor.dtype == torch.float32 and tensor.device.type == "cpu":
        return neuron_loops.forward, neuron_loops.backward
    if tensor.dtype == torch.float32 and tensor.device.type == "cuda":
        from neurodeploy.training import neuron_kernels  # Triton takes a moment

        if neuron_kernels.takes(tensor):
            return neuron_kernels.forward, neuron_kernels.backward
    return forward_in_torch, backward_in_torch


def forward_in_torch(neurons: Neurons, inputs: torch.Tensor, answers: torch.Tensor, membranes: torch.Tensor | None) -> None:
    """All steps of some samples into `answers`; `membranes`, where they are kept, gets v before its reset."""
    v, current = neurons.leak.to(answers).expand_as(answers[0]), torch.zeros_like(answers[0])
    scratch, after = torch.empty_like(current), torch.empty_like(current)
    unkept = torch.empty_like(after) if membranes is None else after
    for step, drive in enumerate(inputs.unbind()):
        before = unkept if membranes is None else membranes[step]
        if neurons.decay is not None:
            drive = current.add_(drive)
        torch.add(v, _pull(neurons, v, drive, scratch).mul_(neurons.gain), out=before)
        if neurons.decay is not None:
            current.add_(torch.mul(current, neurons.decay, out=scratch))
        if neurons.threshold is None or neurons.reset is None:
            v = before
            continue
        fired = torch.gt(torch.sub(before, neurons.threshold, out=scratch), 0, out=answers[step])
        v = torch.mul(torch.sub(1, fired, out=scratch), before, out=after)
        v.add_(torch.mul(fired, neurons.reset, out=scratch))


def _pull(neurons: Neurons, v: torch.Tensor, drive: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """What v is drawn by: leak - v + drive, in the order of the cell's own sum."""
    if neurons.adds_leak:
        return torch.add(drive, neurons.leak, out=out).sub_(v)
    return torch.sub(neurons.leak, v, out=out).add_(drive)


def backward_in_torch(neurons: Neurons, answers: torch.Tensor, membranes: torch.Tensor, inputs: torch.Tensor) -> None:
    """Gradients by the inputs, into `inputs`, from those by the answers; `membranes` holds v before its reset."""
    v, current, scratch = torch.zeros_like(inputs[0]), torch.zeros_like(inputs[0]), torch.empty_like(inputs[0])
    for step in reversed(range(len(inputs))):
        gradient, out = answers[step], inputs[step]
        if neurons.threshold is None or neurons.reset is None:
            v.add_(gradient)
        else:
            above = torch.sub(membranes[step], neurons.threshold, out=scratch)
            by_spike = torch.sub(neurons.reset, membranes[step], out=out).mul_(v).add_(gradient)
            v.mul_(above <= 0)
            v.add_(by_spike.div_(above.abs_().add_(1).square_()))
        torch.mul(v, neurons.gain, out=out)
        v.sub_(out)
        if neurons.decay is not None:
            current.add_(torch.mul(current, neurons.decay, out=scratch)).add_(out)
            out.copy_(current)
