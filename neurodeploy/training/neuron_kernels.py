"""A layer of neurons through all its steps in one kernel: on a GPU, in single precision.

The twin of `loops`: the same sums in the same order, no product fused into a sum, so spikes and membranes are the cells' bit for
bit; gradients are to rounding, for a GPU divides so. A neuron's state stays in a register from the first step to the last.
Triton compiles the kernels when they are first called.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from neurodeploy.training.neuron_cells import Neurons

try:
    import triton
    import triton.language as tl
except ImportError:  # torch brings it along where it runs on CUDA under Linux
    triton = None

_BLOCK = 256
_MOST = 2**31 - 2**10
"""Membranes of all steps: places are counted in 32 bits."""


def takes(tensor: torch.Tensor) -> bool:
    """Whether kernels can take neurons through a tensor like this, (n_steps, batch, \\*shape)."""
    return triton is not None and 0 < tensor.numel() < _MOST


def forward(neurons: Neurons, inputs: torch.Tensor, answers: torch.Tensor, membranes: torch.Tensor | None) -> None:
    """All steps of some samples into `answers`; `membranes`, where they are kept, gets v before its reset."""
    given, filled, numbers = _in_a_row(inputs), _in_a_row(answers), _numbers(neurons, inputs)
    n_steps, size = filled.shape
    with torch.cuda.device_of(inputs):  # type: ignore[no-untyped-call]  # of torch
        _forward[(triton.cdiv(size, _BLOCK),)](
            given, filled, filled if membranes is None else _in_a_row(membranes), numbers, n_steps, size, numbers.shape[1],
            given.stride(0), decays=neurons.decay is not None, fires=neurons.threshold is not None, keeps=membranes is not None,
            adds_leak=neurons.adds_leak, block=_BLOCK, enable_fp_fusion=False,
        )  # fmt: skip


def backward(neurons: Neurons, answers: torch.Tensor, membranes: torch.Tensor, inputs: torch.Tensor) -> None:
    """Gradients by the inputs, into `inputs`, from those by the answers; `membranes` holds v before its reset."""
    given, filled, numbers = _in_a_row(answers), _in_a_row(inputs), _numbers(neurons, answers)
    n_steps, size = filled.shape
    with torch.cuda.device_of(answers):  # type: ignore[no-untyped-call]  # of torch
        _backward[(triton.cdiv(size, _BLOCK),)](
            given, _in_a_row(membranes), filled, numbers, n_steps, size, numbers.shape[1], given.stride(0),
            decays=neurons.decay is not None, fires=neurons.threshold is not None, block=_BLOCK, enable_fp_fusion=False,
        )  # fmt: skip


def _numbers(neurons: Neurons, inputs: torch.Tensor) -> torch.Tensor:
    """Gain, leak, decay, threshold and reset of each neuron of a sample (5, n), or of all alike (5, 1); 0 where there is none."""
    numbers = [neurons.gain, neurons.leak, neurons.decay, neurons.threshold, neurons.reset]
    given = [torch.zeros(()) if number is None else number.detach() for number in numbers]
    if all(number.ndim == 0 and number.device.type == "cpu" for number in given):
        return _alike(tuple(number.item() for number in given), inputs.device)
    return torch.stack([number.to(inputs).expand(inputs.shape[2:]).flatten() for number in given])


@lru_cache(maxsize=64)
def _alike(numbers: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Numbers (n, 1) that are on the GPU already when a layer comes by again."""
    return torch.tensor(numbers, dtype=torch.float32, device=device)[:, None]


def _in_a_row(tensor: torch.Tensor) -> torch.Tensor:
    """(n_steps, size), samples and neurons in a row; one step that stands for all stays one."""
    if len(tensor) and tensor.stride(0) == 0:
        return tensor[0].contiguous().view(1, -1).expand(len(tensor), -1)
    return tensor.contiguous().view(len(tensor), -1)


# ---------------------------------------------------------------------------------------------- kernels


def _kernel(function: Any) -> Any:
    """A function that Triton compiles, where there is one."""
    return function if triton is None else triton.jit(function)


@_kernel
def _forward(  # type: ignore[no-untyped-def]  # Triton reads them
    inputs, answers, membranes, numbers, n_steps, size, n, stride,
    decays: tl.constexpr, fires: tl.constexpr, keeps: tl.constexpr, adds_leak: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * block + tl.arange(0, block)
    there = at < size
    number = numbers + at % n
    gain, leak = tl.load(number), tl.load(number + n)
    decay, threshold, reset = tl.load(number + 2 * n), tl.load(number + 3 * n), tl.load(number + 4 * n)
    v, current = leak, leak * 0
    drives, answer, before = inputs + at, answers + at, membranes + at
    for _ in range(n_steps):
        drive = tl.load(drives, mask=there, other=0.0)
        if decays:
            drive = current + drive
            current = drive + drive * decay
        if adds_leak:
            v += ((drive + leak) - v) * gain
        else:
            v += ((leak - v) + drive) * gain
        if fires:
            if keeps:
                tl.store(before, v, mask=there)
            fired = tl.where(v - threshold > 0, 1.0, 0.0)
            v = (1.0 - fired) * v + fired * reset
            tl.store(answer, fired, mask=there)
        else:
            tl.store(answer, v, mask=there)
        drives += stride
        answer += size
        before += size


@_kernel
def _backward(  # type: ignore[no-untyped-def]  # Triton reads them
    gradients, membranes, by_inputs, numbers, n_steps, size, n, stride,
    decays: tl.constexpr, fires: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * block + tl.arange(0, block)
    there = at < size
    number = numbers + at % n
    gain, decay = tl.load(number), tl.load(number + 2 * n)
    threshold, reset = tl.load(number + 3 * n), tl.load(number + 4 * n)
    v, current = gain * 0, gain * 0
    last = n_steps - 1
    gradient, before, out = gradients + at + last * stride, membranes + at + last * size, by_inputs + at + last * size
    for _ in range(n_steps):
        by_answer = tl.load(gradient, mask=there, other=0.0)
        if fires:
            membrane = tl.load(before, mask=there, other=0.0)
            above = membrane - threshold
            by_spike = (reset - membrane) * v + by_answer
            steepness = tl.abs(above) + 1.0
            v = tl.where(above <= 0, v, 0.0) + by_spike / (steepness * steepness)
        else:
            v += by_answer
        by_drive = v * gain
        v -= by_drive
        if decays:
            by_drive = (current + current * decay) + by_drive
            current = by_drive
        tl.store(out, by_drive, mask=there)
        gradient -= stride
        before -= size
        out -= size
