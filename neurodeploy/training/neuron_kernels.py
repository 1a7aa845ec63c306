"""Triton kernels that take a layer of neurons through all its steps on a GPU, in single precision.

The same sums in the same order as the compiled loops in `neurons`, no product fused into a sum, so spikes and membranes equal the
cells' bit for bit; gradients differ in rounding, since a GPU divides differently. A neuron's state stays in a register from the
first step to the last. Triton compiles the kernels when they are first called.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from neurodeploy.training.neurons import NeuronParameters

try:
    import triton
    import triton.language as tl
except ImportError:  # it comes with torch where that runs on CUDA under Linux
    triton = None

_BLOCK = 256
_MAX_SIZE = 2**31 - 2**10
"""Membranes of all steps that a kernel addresses: offsets have 32 bits."""


def supports(tensor: torch.Tensor) -> bool:
    """Whether the kernels support a tensor (n_steps, batch, \\*shape)."""
    return triton is not None and 0 < tensor.numel() < _MAX_SIZE


def forward(neurons: NeuronParameters, inputs: torch.Tensor, outputs: torch.Tensor, membranes: torch.Tensor | None) -> None:
    """Run all steps, filling `outputs`, and `membranes` (v before its reset) where these are kept."""
    sources, targets, numbers = _in_a_row(inputs), _in_a_row(outputs), _numbers(neurons, inputs)
    n_steps, size = targets.shape
    with torch.cuda.device_of(inputs):  # type: ignore[no-untyped-call]  # of torch
        _forward[(triton.cdiv(size, _BLOCK),)](
            sources, targets, targets if membranes is None else _in_a_row(membranes), numbers, n_steps, size, numbers.shape[1],
            sources.stride(0), decays=neurons.decay is not None, fires=neurons.threshold is not None, keeps=membranes is not None,
            # no fused multiply-add: it rounds once where Norse rounds twice
            adds_leak=neurons.adds_leak, block=_BLOCK, enable_fp_fusion=False,
        )  # fmt: skip


def backward(neurons: NeuronParameters, outputs: torch.Tensor, membranes: torch.Tensor, inputs: torch.Tensor) -> None:
    """Compute gradients by the inputs into `inputs` from those by the outputs, with v before its reset in `membranes`."""
    sources, targets, numbers = _in_a_row(outputs), _in_a_row(inputs), _numbers(neurons, outputs)
    n_steps, size = targets.shape
    with torch.cuda.device_of(outputs):  # type: ignore[no-untyped-call]  # of torch
        _backward[(triton.cdiv(size, _BLOCK),)](
            sources, _in_a_row(membranes), targets, numbers, n_steps, size, numbers.shape[1], sources.stride(0),
            decays=neurons.decay is not None, fires=neurons.threshold is not None, block=_BLOCK, enable_fp_fusion=False,
        )  # fmt: skip


def _numbers(neurons: NeuronParameters, inputs: torch.Tensor) -> torch.Tensor:
    """Gain, leak, decay, threshold and reset of each neuron of a sample (5, n), or (5, 1) if shared; 0 for None."""
    numbers = [neurons.gain, neurons.leak, neurons.decay, neurons.threshold, neurons.reset]
    values = [torch.zeros(()) if number is None else number.detach() for number in numbers]
    if all(number.ndim == 0 and number.device.type == "cpu" for number in values):
        return _on_device(tuple(number.item() for number in values), inputs.device)
    return torch.stack([number.to(inputs).expand(inputs.shape[2:]).flatten() for number in values])


@lru_cache(maxsize=64)
def _on_device(numbers: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Copy numbers (n, 1) to the GPU once; later steps of the layer reuse them."""
    return torch.tensor(numbers, dtype=torch.float32, device=device)[:, None]


def _in_a_row(tensor: torch.Tensor) -> torch.Tensor:
    """Flatten to (n_steps, size); steps that share their memory still share it."""
    if len(tensor) and tensor.stride(0) == 0:
        return tensor[0].contiguous().view(1, -1).expand(len(tensor), -1)
    return tensor.contiguous().view(len(tensor), -1)


_kernel: Any = (lambda function: function) if triton is None else triton.jit


@_kernel  # type: ignore[untyped-decorator]  # of triton
def _forward(  # type: ignore[no-untyped-def]  # Triton reads them
    inputs, outputs, membranes, numbers, n_steps, size, n, stride,
    decays: tl.constexpr, fires: tl.constexpr, keeps: tl.constexpr, adds_leak: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * block + tl.arange(0, block)
    there = at < size
    number = numbers + at % n
    gain, leak = tl.load(number), tl.load(number + n)
    decay, threshold, reset = tl.load(number + 2 * n), tl.load(number + 3 * n), tl.load(number + 4 * n)
    # zeros with the shape and type of a block
    v, current = leak, leak * 0
    drives, output, before = inputs + at, outputs + at, membranes + at
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
            tl.store(output, fired, mask=there)
        else:
            tl.store(output, v, mask=there)
        drives += stride
        output += size
        before += size


@_kernel  # type: ignore[untyped-decorator]  # of triton
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
        by_output = tl.load(gradient, mask=there, other=0.0)
        if fires:
            membrane = tl.load(before, mask=there, other=0.0)
            above = membrane - threshold
            by_spike = (reset - membrane) * v + by_output
            steepness = tl.abs(above) + 1.0
            v = tl.where(above <= 0, v, 0.0) + by_spike / (steepness * steepness)
        else:
            v += by_output
        by_drive = v * gain
        v -= by_drive
        if decays:
            by_drive = (current + current * decay) + by_drive
            current = by_drive
        tl.store(out, by_drive, mask=there)
        gradient -= stride
        before -= size
        out -= size
