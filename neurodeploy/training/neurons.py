"""How a layer of Norse's neurons goes through all steps at once, and how gradients come back.

Norse runs a cell step by step, and autograd keeps every sum on the way. Here all steps of a layer are one function of autograd:
the same sums in the same order, so spikes and membranes are Norse's bit for bit; backwards it follows the same recurrence, from
the membranes before their reset alone. In single precision on a CPU `loops` does that, in compiled code; elsewhere torch does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from norse.torch.functional.leaky_integrator import li_feed_forward_step
from norse.torch.functional.leaky_integrator_box import li_box_feed_forward_step
from norse.torch.functional.lif import lif_feed_forward_step
from norse.torch.functional.lif_box import lif_box_feed_forward_step
from norse.torch.functional.reset import reset_value
from norse.torch.module.leaky_integrator import LICell
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.module.lif import LIFCell
from norse.torch.module.lif_box import LIFBoxCell
from torch.autograd.function import once_differentiable

from neurodeploy.machine_code import Array
from neurodeploy.simulation.threads import SHARED_STATES, Team
from neurodeploy.training import loops

_STEPS: dict[type[torch.nn.Module], Callable[..., Any]] = {
    LIFCell: lif_feed_forward_step,
    LIFBoxCell: lif_box_feed_forward_step,
    LICell: li_feed_forward_step,
    LIBoxCell: li_box_feed_forward_step,
}
_NUMBERS = ("tau_mem_inv", "tau_syn_inv", "v_leak", "v_th", "v_reset")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neurons:
    """A cell's numbers, each a tensor () or one that spreads over a sample's neurons.

    Attributes
    ----------
    gain : tensor
        dt / tau_mem.
    leak : tensor
        Where membranes start and leak to.
    decay : tensor or None
        -dt / tau_syn; None where a current lasts one step.
    threshold, reset : tensor or None
        None where neurons never fire and their membranes are the answer.
    adds_leak : bool
        Whether the leak is added to the current, as LIFBox does, before the membrane is taken off.
    """

    gain: torch.Tensor
    leak: torch.Tensor
    decay: torch.Tensor | None
    threshold: torch.Tensor | None
    reset: torch.Tensor | None
    adds_leak: bool


def neurons_of(cell: torch.nn.Module, inputs: torch.Tensor) -> Neurons | None:
    """The numbers of a cell that `run` can take through inputs (n_steps, batch, \\*shape); None where only the module can.

    That is another module than Norse's LIFCell, LIFBoxCell, LICell or LIBoxCell, or one whose parameters learn or differ from
    sample to sample, whose surrogate gradient is not SuperSpike's, that does not reset to a value, or that somebody listens to.
    """
    if type(cell) not in _STEPS or not inputs.is_floating_point() or cell._forward_hooks or cell._forward_pre_hooks:
        return None
    module = cast("Any", cell)
    numbers = {name: getattr(module.p, name) for name in _NUMBERS if hasattr(module.p, name)}
    usual = (
        module.activation is _STEPS[type(cell)]
        and getattr(module.p, "method", "super") == "super"
        and getattr(module.p, "reset_method", reset_value) is reset_value
        and all(_spreads(number, inputs) for number in numbers.values())
    )
    if not usual:
        return None
    return Neurons(
        gain=module.dt * numbers["tau_mem_inv"],
        leak=numbers["v_leak"],
        decay=-module.dt * numbers["tau_syn_inv"] if type(cell) in (LIFCell, LICell) else None,
        threshold=numbers.get("v_th"),
        reset=numbers.get("v_reset"),
        adds_leak=type(cell) is LIFBoxCell,
    )


def _spreads(number: Any, inputs: torch.Tensor) -> bool:
    """Whether a parameter is a constant for each neuron that leaves the inputs' shape and type as they are."""
    if not isinstance(number, torch.Tensor) or number.requires_grad or (number.ndim and number.dtype != inputs.dtype):
        return False
    sides = zip(reversed(number.shape), reversed(inputs.shape[2:]), strict=False)
    return number.ndim <= inputs.ndim - 2 and all(side in (1, wanted) for side, wanted in sides)


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
        (_forward_in_loops if _is_for_loops(inputs) else _forward)(neurons, inputs, answers, membranes)
        ctx.neurons = neurons
        if fires and membranes is not None:
            ctx.save_for_backward(membranes)
        return answers

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # of torch
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        inputs = torch.empty(gradient.shape, dtype=gradient.dtype, device=gradient.device)
        membranes = ctx.saved_tensors[0] if ctx.saved_tensors else inputs
        (_backward_in_loops if _is_for_loops(gradient) else _backward)(ctx.neurons, gradient, membranes, inputs)
        return inputs, None


# ---------------------------------------------------------------------------------------------- in compiled loops


def _is_for_loops(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def _forward_in_loops(neurons: Neurons, inputs: torch.Tensor, answers: torch.Tensor, membranes: torch.Tensor | None) -> None:
    gain, leak, decay, threshold, reset = _of_each(neurons, inputs)
    given = _flat(inputs[:1] if len(inputs) and inputs.stride(0) == 0 else inputs)
    filled, kept = _flat(answers), None if membranes is None else _flat(membranes)

    def some(start: int, stop: int) -> None:
        loops.forward(given, filled, kept, gain, leak, decay, threshold, reset, neurons.adds_leak, start, stop)

    Team(torch.get_num_threads()).share(some, filled.shape[1], worth_it=filled.size > SHARED_STATES)


def _backward_in_loops(neurons: Neurons, gradient: torch.Tensor, membranes: torch.Tensor, inputs: torch.Tensor) -> None:
    gain, _, decay, threshold, reset = _of_each(neurons, gradient)
    given, kept, filled = _flat(gradient), _flat(membranes), _flat(inputs)

    def some(start: int, stop: int) -> None:
        loops.backward(given, kept, filled, gain, decay, threshold, reset, start, stop)

    Team(torch.get_num_threads()).share(some, filled.shape[1], worth_it=filled.size > SHARED_STATES)


def _of_each(neurons: Neurons, inputs: torch.Tensor) -> list[Any]:
    """Gain, leak, decay, threshold and reset of each neuron of a sample, arrays (n,), or None as there."""
    numbers = (neurons.gain, neurons.leak, neurons.decay, neurons.threshold, neurons.reset)
    shape = inputs.shape[2:]
    return [None if number is None else number.float().expand(shape).reshape(-1).numpy() for number in numbers]


def _flat(tensor: torch.Tensor) -> Array:
    """(n_steps, batch, n), in a row; the tensor's own memory where that is so already."""
    array: Array = tensor.detach().contiguous().view(*tensor.shape[:2], math.prod(tensor.shape[2:])).numpy()
    return array


# ---------------------------------------------------------------------------------------------- in torch


def _forward(neurons: Neurons, inputs: torch.Tensor, answers: torch.Tensor, membranes: torch.Tensor | None) -> None:
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


def _backward(neurons: Neurons, answers: torch.Tensor, membranes: torch.Tensor, inputs: torch.Tensor) -> None:
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
