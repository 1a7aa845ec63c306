"""Norse's neurons through all time steps of a layer at once, and back.

Norse runs a cell step by step, and autograd keeps every intermediate sum. Here all steps of a layer are one autograd function, in
compiled loops on a CPU, in Triton kernels on a GPU, in torch elsewhere. Sums are the same in the same order, and no product is
fused into one, so spikes and membranes equal Norse's bit for bit; the backward pass follows the same recurrence from the
membranes before their reset alone. Gradients of a GPU differ in rounding, since it divides differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from neurodeploy.simulation.kernels import Array, compiled
from neurodeploy.simulation.layer_schedule import PARALLEL_UPDATES, WorkerPool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NeuronParameters:
    """Parameters of a layer of neurons, each a tensor () or one that broadcasts over a sample's neurons.

    Attributes
    ----------
    gain : tensor
        dt / tau_mem.
    leak : tensor
        Resting membrane; the initial one, too.
    decay : tensor or None
        -dt / tau_syn; None where a current lasts one step.
    threshold, reset : tensor or None
        None for integrators, whose output is the membrane.
    adds_leak : bool
        Whether the leak is added to the current before the membrane is subtracted, as LIFBox does; it matters for rounding.
    """

    gain: torch.Tensor
    leak: torch.Tensor
    decay: torch.Tensor | None
    threshold: torch.Tensor | None
    reset: torch.Tensor | None
    adds_leak: bool


# Typed: a Python float would make the compiled sums float64, and those round differently from Norse.
_ZERO, _ONE = np.float32(0), np.float32(1)


def run(neurons: NeuronParameters, inputs: torch.Tensor) -> torch.Tensor:
    """Run neurons through all steps: spikes, or membranes, (n_steps, batch, \\*shape) for inputs of that shape.

    They start from the initial state. Inputs in half precision give float32: membranes add up over many steps.
    """
    # autocast leaves the products before in bfloat16
    inputs = inputs.float() if inputs.dtype in (torch.bfloat16, torch.float16) else inputs
    outputs: torch.Tensor = _AllSteps.apply(inputs, neurons)  # type: ignore[no-untyped-call]  # torch has no type for it
    return outputs


class _AllSteps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, neurons: NeuronParameters) -> torch.Tensor:
        # Contiguous, unlike empty_like: `_flat` of any other layout would fill a copy.
        outputs = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
        fires = neurons.threshold is not None
        # an integrator's outputs are its membranes; a neuron's are kept only for a backward pass
        membranes = torch.empty_like(outputs) if fires and ctx.needs_input_grad[0] else None if fires else outputs
        _engine(inputs)[0](neurons, inputs, outputs, membranes)
        # constants without gradients: they need not go through save_for_backward
        ctx.neurons = neurons
        if fires and membranes is not None:
            ctx.save_for_backward(membranes)
        return outputs

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch has no type for it
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        inputs = torch.empty(gradient.shape, dtype=gradient.dtype, device=gradient.device)
        # integrators need none to go back: any array of the shape serves
        membranes = ctx.saved_tensors[0] if ctx.saved_tensors else inputs
        _engine(gradient)[1](ctx.neurons, gradient, membranes, inputs)
        return inputs, None


def run_recurrent(
    neurons: NeuronParameters, inputs: torch.Tensor, loops: Sequence[tuple[torch.Tensor, int]]
) -> torch.Tensor | None:  # fmt: skip
    """Run neurons that also receive their own spikes, (n_steps, batch, n); None where there are no compiled loops for them.

    Parameters
    ----------
    loops : sequence of (tensor (n, n), int)
        Weights by target and source, in the units of `inputs`, and steps that a spike waits beyond one.
    """
    if inputs.device.type != "cpu" or neurons.threshold is None:
        return None
    weights, delays = zip(*loops, strict=True)
    outputs: torch.Tensor = _Recurrence.apply(inputs.float(), neurons, delays, *weights)  # type: ignore[no-untyped-call]
    return outputs


class _Recurrence(torch.autograd.Function):
    """All steps of neurons with loops, one after the other: products with the weights in torch, neurons in compiled loops."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, neurons: NeuronParameters, delays: tuple[int, ...], *weights: torch.Tensor
    ) -> torch.Tensor:  # fmt: skip
        drive = inputs.clone(memory_format=torch.contiguous_format)
        outputs, membranes = torch.empty_like(drive), torch.empty_like(drive)
        sources, targets, kept = _flat(drive), _flat(outputs), _flat(membranes)
        gain, leak, decay, threshold, reset = _of_each(neurons, drive)
        v, current = np.broadcast_to(leak, targets.shape[1:]).copy(), np.zeros(targets.shape[1:], np.float32)
        for step in range(len(drive)):
            for weight, delay in zip(weights, delays, strict=True):
                if step > delay:
                    drive[step].addmm_(outputs[step - 1 - delay], weight.T)
            now = slice(step, step + 1)
            _forward(
                sources[now], targets[now], kept[now], gain, leak, decay, threshold, reset, False, v, current, 0, targets.shape[1]
            )  # fmt: skip
        ctx.neurons, ctx.delays = neurons, delays
        ctx.save_for_backward(outputs, membranes, *weights)
        return outputs

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch has no type for it
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        outputs, membranes, *weights = ctx.saved_tensors
        gradient, inputs = gradient.clone(memory_format=torch.contiguous_format), torch.empty_like(outputs)
        sources, kept, targets = _flat(gradient), _flat(membranes), _flat(inputs)
        gain, _, decay, threshold, reset = _of_each(ctx.neurons, gradient)
        v, current = np.zeros((2, *targets.shape[1:]), np.float32)
        for step in reversed(range(len(inputs))):
            for weight, delay in zip(weights, ctx.delays, strict=True):
                if step + 1 + delay < len(inputs):
                    gradient[step].addmm_(inputs[step + 1 + delay], weight)
            now = slice(step, step + 1)
            _backward(sources[now], kept[now], targets[now], gain, decay, threshold, reset, v, current, 0, targets.shape[1])
        by_weights = [
            inputs[1 + delay :].flatten(0, 1).T @ outputs[: max(len(inputs) - 1 - delay, 0)].flatten(0, 1) for delay in ctx.delays
        ]
        return inputs, None, None, *by_weights


def _engine(tensor: torch.Tensor) -> tuple[Callable[..., None], Callable[..., None]]:
    """Choose the forward and backward pass for a tensor (n_steps, batch, \\*shape)."""
    if tensor.dtype == torch.float32 and tensor.device.type == "cpu":
        return forward_compiled, backward_compiled
    if tensor.dtype == torch.float32 and tensor.device.type == "cuda" and 0 < tensor.numel() < _MAX_SIZE and gpu_kernels():
        return forward_on_gpu, backward_on_gpu
    return forward_in_torch, backward_in_torch


def forward_in_torch(
    neurons: NeuronParameters, inputs: torch.Tensor, outputs: torch.Tensor, membranes: torch.Tensor | None
) -> None:
    """Run all steps in torch, filling `outputs`, and `membranes` (v before its reset) where these are kept."""
    v, current = neurons.leak.to(outputs).expand_as(outputs[0]), torch.zeros_like(outputs[0])
    scratch, after = torch.empty_like(current), torch.empty_like(current)
    unkept = torch.empty_like(after) if membranes is None else after
    for step, drive in enumerate(inputs.unbind()):
        before = unkept if membranes is None else membranes[step]
        if neurons.decay is not None:
            drive = current.add_(drive)
        # leak - v + drive, in the order of the cell's own sum
        if neurons.adds_leak:
            pull = torch.add(drive, neurons.leak, out=scratch).sub_(v)
        else:
            pull = torch.sub(neurons.leak, v, out=scratch).add_(drive)
        torch.add(v, pull.mul_(neurons.gain), out=before)
        if neurons.decay is not None:
            current.add_(torch.mul(current, neurons.decay, out=scratch))
        if neurons.threshold is None or neurons.reset is None:
            v = before
            continue
        # v - threshold > 0, as Norse computes it: the same as v > threshold, except where subnormals are flushed to 0
        fired = torch.gt(torch.sub(before, neurons.threshold, out=scratch), 0, out=outputs[step])
        # (1 - z) v + z reset, the terms of Norse's reset in its order
        v = torch.mul(torch.sub(1, fired, out=scratch), before, out=after)
        v.add_(torch.mul(fired, neurons.reset, out=scratch))


def backward_in_torch(neurons: NeuronParameters, outputs: torch.Tensor, membranes: torch.Tensor, inputs: torch.Tensor) -> None:
    """Compute gradients by the inputs into `inputs` from those by the outputs, with v before its reset in `membranes`."""
    v, current, scratch = torch.zeros_like(inputs[0]), torch.zeros_like(inputs[0]), torch.empty_like(inputs[0])
    for step in reversed(range(len(inputs))):
        gradient, out = outputs[step], inputs[step]
        if neurons.threshold is None or neurons.reset is None:
            v.add_(gradient)
        else:
            above = torch.sub(membranes[step], neurons.threshold, out=scratch)
            # a spike also moves v, from the membrane to the reset
            by_spike = torch.sub(neurons.reset, membranes[step], out=out).mul_(v).add_(gradient)
            # a neuron that fired was reset: what it was before does not reach the next step
            v.mul_(above <= 0)
            v.add_(by_spike.div_(above.abs_().add_(1).square_()))
        torch.mul(v, neurons.gain, out=out)
        v.sub_(out)
        if neurons.decay is not None:
            current.add_(torch.mul(current, neurons.decay, out=scratch)).add_(out)
            out.copy_(current)


def forward_compiled(
    neurons: NeuronParameters, inputs: torch.Tensor, outputs: torch.Tensor, membranes: torch.Tensor | None
) -> None:
    """Run all steps in compiled loops on the CPU, float32; arguments as of `forward_in_torch`."""
    gain, leak, decay, threshold, reset = _of_each(neurons, inputs)
    # stride 0: all steps are the same memory, so one of them is enough
    sources = _flat(inputs[:1] if len(inputs) and inputs.stride(0) == 0 else inputs)
    targets, kept = _flat(outputs), None if membranes is None else _flat(membranes)

    v, current = np.broadcast_to(leak, targets.shape[1:]).copy(), np.zeros(targets.shape[1:], np.float32)

    def chunk(start: int, stop: int) -> None:
        _forward(sources, targets, kept, gain, leak, decay, threshold, reset, neurons.adds_leak, v, current, start, stop)

    WorkerPool(torch.get_num_threads()).map_ranges(chunk, targets.shape[1], parallel=targets.size > PARALLEL_UPDATES)


def backward_compiled(neurons: NeuronParameters, outputs: torch.Tensor, membranes: torch.Tensor, inputs: torch.Tensor) -> None:
    """Compute gradients in compiled loops on the CPU, float32; arguments as of `backward_in_torch`."""
    gain, _, decay, threshold, reset = _of_each(neurons, outputs)
    sources, kept, targets = _flat(outputs), _flat(membranes), _flat(inputs)
    v, current = np.zeros((2, *targets.shape[1:]), np.float32)

    def chunk(start: int, stop: int) -> None:
        _backward(sources, kept, targets, gain, decay, threshold, reset, v, current, start, stop)

    WorkerPool(torch.get_num_threads()).map_ranges(chunk, targets.shape[1], parallel=targets.size > PARALLEL_UPDATES)


def _of_each(neurons: NeuronParameters, inputs: torch.Tensor) -> list[Any]:
    """Expand gain, leak, decay, threshold and reset to the neurons of a sample: arrays (n,), or None as in `NeuronParameters`."""
    # float(): torch does not promote by a float64 number of no dimensions; the compiled loops would
    numbers = (neurons.gain, neurons.leak, neurons.decay, neurons.threshold, neurons.reset)
    shape = inputs.shape[2:]
    return [None if number is None else number.float().expand(shape).reshape(-1).contiguous().numpy() for number in numbers]


def _flat(tensor: torch.Tensor) -> Array:
    """Flatten to a contiguous array (n_steps, batch, n), without a copy where the tensor allows it."""
    array: Array = tensor.detach().contiguous().view(*tensor.shape[:2], math.prod(tensor.shape[2:])).numpy()
    return array


@compiled
def _forward(
    inputs: Array, outputs: Array, membranes: Array | None, gain: Array, leak: Array, decay: Array | None,
    threshold: Array | None, reset: Array | None, adds_leak: bool, states: Array, currents: Array, start: int, stop: int,
) -> None:  # fmt: skip
    """Fill the outputs of samples start..stop - 1, from a state, and leave the last one in its place.

    Parameters
    ----------
    inputs : array (n_steps or 1, batch, n)
        One step stands for all of them.
    outputs : array (n_steps, batch, n)
        Filled with spikes, or with membranes where there is no threshold.
    membranes : array (n_steps, batch, n) or None
        Filled with membranes before their reset.
    gain, leak, decay, threshold, reset : array (n,) or None
        Of each neuron, as `NeuronParameters` has them.
    states, currents : array (batch, n)
        Membranes and synaptic currents.
    """
    n_steps, _, n = outputs.shape
    for sample in range(start, stop):
        v, current = states[sample], currents[sample]
        for step in range(n_steps):
            # min: a single step stands for all
            drives, output = inputs[min(step, inputs.shape[0] - 1), sample], outputs[step, sample]
            for i in range(n):
                drive = drives[i]
                if decay is not None:
                    drive = current[i] + drive
                    current[i] = drive + drive * decay[i]
                pull = (drive + leak[i]) - v[i] if adds_leak else (leak[i] - v[i]) + drive
                before = v[i] + pull * gain[i]
                if threshold is None or reset is None:
                    v[i] = before
                    output[i] = before
                else:
                    if membranes is not None:
                        membranes[step, sample, i] = before
                    fired = _ONE if before - threshold[i] > _ZERO else _ZERO
                    v[i] = (_ONE - fired) * before + fired * reset[i]
                    output[i] = fired


@compiled
def _backward(
    gradients: Array, membranes: Array, by_inputs: Array, gain: Array, decay: Array | None,
    threshold: Array | None, reset: Array | None, states: Array, currents: Array, start: int, stop: int,
) -> None:  # fmt: skip
    """Fill `by_inputs` (n_steps, batch, n) with gradients by the inputs, from those by the outputs; otherwise as `_forward`.

    `states` and `currents` (batch, n) are the gradients by those of the step after.
    """
    n_steps, _, n = gradients.shape
    for sample in range(start, stop):
        v, current = states[sample], currents[sample]
        for step in range(n_steps - 1, -1, -1):
            gradient, out = gradients[step, sample], by_inputs[step, sample]
            for i in range(n):
                by_v = v[i] + gradient[i]
                if threshold is not None and reset is not None:
                    above = membranes[step, sample, i] - threshold[i]
                    by_spike = (reset[i] - membranes[step, sample, i]) * v[i] + gradient[i]
                    # Norse's SuperSpike is 1 / (|x| + 1)^2: it does not use the `alpha` of the cell's parameters.
                    steepness = np.abs(above) + _ONE
                    by_v = (v[i] if above <= _ZERO else _ZERO) + by_spike / (steepness * steepness)
                by_drive = by_v * gain[i]
                v[i] = by_v - by_drive
                if decay is not None:
                    by_drive = (current[i] + current[i] * decay[i]) + by_drive
                    current[i] = by_drive
                out[i] = by_drive


# ------------------------------------------------------------------------------------------------------------------ on a GPU

_BLOCK = 256
_MAX_SIZE = 2**31 - 2**10
"""Membranes of all steps that a kernel addresses: offsets have 32 bits."""
tl: Any = None
"""``triton.language``, once `gpu_kernels` has imported it: Triton's compiler looks the kernels' names up in their module."""


@cache
def gpu_kernels() -> tuple[Any, ...]:
    """Triton kernels of the forward and the backward pass, which are compiled when first called; none without Triton."""
    global tl  # importing Triton takes a second, so it waits for the first tensor on a GPU
    try:
        import triton
        import triton.language as tl
    except ImportError:  # it comes with torch where that runs on CUDA under Linux
        return ()
    return triton.jit(_forward_kernel), triton.jit(_backward_kernel)


def forward_on_gpu(
    neurons: NeuronParameters, inputs: torch.Tensor, outputs: torch.Tensor, membranes: torch.Tensor | None
) -> None:
    """Run all steps in a Triton kernel, float32; arguments as of `forward_in_torch`."""
    sources, targets, numbers = _in_a_row(inputs), _in_a_row(outputs), _numbers(neurons, inputs)
    n_steps, size = targets.shape
    with torch.cuda.device_of(inputs):  # type: ignore[no-untyped-call]  # torch has no type for it
        gpu_kernels()[0][(math.ceil(size / _BLOCK),)](
            sources, targets, targets if membranes is None else _in_a_row(membranes), numbers, n_steps, size, numbers.shape[1],
            sources.stride(0), decays=neurons.decay is not None, fires=neurons.threshold is not None, keeps=membranes is not None,
            # no fused multiply-add: it rounds once where Norse rounds twice
            adds_leak=neurons.adds_leak, block=_BLOCK, enable_fp_fusion=False,
        )  # fmt: skip


def backward_on_gpu(neurons: NeuronParameters, outputs: torch.Tensor, membranes: torch.Tensor, inputs: torch.Tensor) -> None:
    """Compute gradients in a Triton kernel, float32; arguments as of `backward_in_torch`."""
    sources, targets, numbers = _in_a_row(outputs), _in_a_row(inputs), _numbers(neurons, outputs)
    n_steps, size = targets.shape
    with torch.cuda.device_of(outputs):  # type: ignore[no-untyped-call]  # torch has no type for it
        gpu_kernels()[1][(math.ceil(size / _BLOCK),)](
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


def _forward_kernel(  # type: ignore[no-untyped-def]  # a kernel: Triton reads its arguments
    inputs, outputs, membranes, numbers, n_steps, size, n, stride,
    decays: tl.constexpr, fires: tl.constexpr, keeps: tl.constexpr, adds_leak: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    # one program takes a block of neurons through all steps; their state stays in registers
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


def _backward_kernel(  # type: ignore[no-untyped-def]  # a kernel: Triton reads its arguments
    gradients, membranes, by_inputs, numbers, n_steps, size, n, stride,
    decays: tl.constexpr, fires: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    # as `_forward_kernel`, from the last step to the first
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
