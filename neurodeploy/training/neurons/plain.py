"""A layer of neurons through all its steps in torch: on any device, in any precision.

Sums are those of Norse's cells, in the same order, so spikes and membranes are the cells' bit for bit.
"""

from __future__ import annotations

import torch

from neurodeploy.training.neurons.cells import Neurons


def forward(neurons: Neurons, inputs: torch.Tensor, answers: torch.Tensor, membranes: torch.Tensor | None) -> None:
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


def backward(neurons: Neurons, answers: torch.Tensor, membranes: torch.Tensor, inputs: torch.Tensor) -> None:
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
