"""One run of the user's model, followed from cell to cell; afterwards the model is as it was before.

The model runs as its user calls it. Cells do not forward their own spikes but random ones, so that every synapse carries some,
however silent the model is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from norse.torch.module.lift import Lift
from norse.torch.module.sequential import SequentialState
from numpy.typing import NDArray
from torch.utils._pytree import tree_flatten

from neurodeploy.errors import ExtractError, NetworkError, NeurodeployError, counted, said_by, text_of
from neurodeploy.frontends.expressions import LinearExpression, ModuleId, constant, spikes
from neurodeploy.frontends.torch import functions
from neurodeploy.frontends.torch.custom_neurons import SPIKE_PROBABILITY
from neurodeploy.frontends.torch.functions import CallContext, NotLinearError
from neurodeploy.frontends.torch.populations import (
    CELL_READERS,
    SEQUENCE_CELLS,
    SUPPORTED_CELLS,
    ExpressionValue,
    TracedPopulation,
    is_cell,
    is_node,
    read_cell,
    resting_state,
    step_cell,
    step_node,
)
from neurodeploy.frontends.torch.tracer import (
    InputValue,
    Reading,
    StateValue,
    TracedTensor,
    Tracer,
    UnsupportedValue,
    readings_of,
    untraced,
)
from neurodeploy.ir.arrays import memory_shortage
from neurodeploy.ir.graph import INPUT

N_CALLS = 3
"""Number of calls of a model of one step, to check that it does the same at every step."""
_N_MORE_CALLS = 2


class ModelRun(Tracer):
    """The tracer of one model.

    Parameters
    ----------
    model : torch.nn.Module
    may_step : bool
        Whether selecting from the input along a dimension may mean to take a step of time.
    of_sequences : bool
        Whether the first dimension of the input is known to be time.

    Attributes
    ----------
    outputs : list
        What the model returned at each call, without states.
    """

    def __init__(self, model: torch.nn.Module, may_step: bool = True, of_sequences: bool = False) -> None:
        super().__init__(may_step)
        self.model = model
        self.of_sequences = of_sequences or any(_takes_sequences(module) for module in model.modules())
        self.called_as: str | None = None
        self.inputs: list[torch.Tensor] = []
        self.outputs: list[Any] = []

    def call_model(self, sample: torch.Tensor) -> None:
        """Call the model, `N_CALLS` times if it takes one step per call, and more often if it is a readout by itself.

        Raises
        ------
        ExtractError
            The sample has no time dimension and the model needs one; a cell does not step once a call; anything unsupported.
        """
        of_sequences = self.of_sequences
        if of_sequences and (sample.ndim < 3 or len(sample) < 2):
            raise ExtractError(
                "sample",
                f"has shape {tuple(sample.shape)}, but the model takes (time, batch, *input_shape)",
                remedy="Give a sample of at least two steps, or let the model take single steps (SpikingJelly: step_mode='s').",
            )
        states: Sequence[Any] = ()
        # Under autocast linear modules give bfloat16, which cells cannot take and in which no answer could be checked.
        batch = sample.shape[1] if of_sequences else len(sample)
        with self._followed(), at_rest(self.model, batch), torch.autocast("cpu", enabled=False):
            for call in range(N_CALLS + _N_MORE_CALLS):
                if call >= N_CALLS and not self._remembers_sums():
                    break
                self.trace.call = call
                answer = self.model(self._random_input(sample, of_sequences), *states)
                # models return (output, states)
                self.outputs.append(answer[0] if isinstance(answer, (tuple, list)) and len(answer) else answer)
                if call == 0 and (self.trace.has_time or self.trace.has_steps):  # all steps were in this call
                    break
                self._check_steps(call)
                states = states_of(self.model, answer)
        self.trace.input_spikes = self._input_spikes()

    def readings(self, call: int = -1) -> list[Reading]:
        """Return the weighted sums of spikes that the output of a call is computed from."""
        leaves = [leaf for leaf in tree_flatten(self.outputs[call])[0] if isinstance(leaf, TracedTensor)]
        return list(dict.fromkeys(one for leaf in leaves for one in readings_of(leaf)))

    def _remembers_sums(self) -> bool:
        """Whether the last output has sums of spikes of several steps, of which three calls do not tell all."""
        steps = [{term.step for term in one.value.steps[0].terms} for one in self.readings()]
        return any(len(one) > 1 for one in steps)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one step of the input, without the batch."""
        shape = list(self.inputs[0].shape)
        if self.axis is not None:
            del shape[self.axis]
        return tuple(shape[1:])

    def _random_input(self, sample: torch.Tensor, of_sequences: bool) -> TracedTensor:
        """Return random spikes in the sample's shape; `of_sequences`: the first dimension is known to be time."""
        dtypes = (p.dtype for p in (*self.model.parameters(), sample) if p.is_floating_point())
        dtype = next(dtypes, torch.get_default_dtype())
        dtype = dtype if dtype == torch.float64 else torch.float32  # a sample may be in half precision
        x = (torch.rand(sample.shape, generator=self.random) < SPIKE_PROBABILITY).to(dtype)
        self.inputs.append(x.clone())  # the model may write into its input
        if not of_sequences:
            return self.mark(x, InputValue(torch.arange(x.numel()).reshape(x.shape), tuple(x.shape), self.trace.call))
        self.axis, self.trace.has_time = 0, True
        steps = tuple(spikes(INPUT, tuple(x.shape[2:]), t) for t in range(len(x)))
        return self.mark(x, ExpressionValue(steps, tuple(x.shape[:2])))

    def _input_spikes(self) -> list[NDArray[np.float64]]:
        """Return what the input held, (batch, n), one array a step or a call."""
        steps = self.inputs if self.axis is None else self.inputs[0].unbind(self.axis)
        # `np.array` copies: asarray shares the tensor's memory.
        return [np.array(np.asarray(x), dtype=np.float64).reshape(len(x), -1) for x in steps]

    def _check_steps(self, call: int) -> None:
        """Refuse, after the first call, a population that has not made exactly one step a call."""
        self.trace.check_resets()
        late = (p for p in self.trace.by_name.values() if call and len(p.steps) != call + 1)
        population = next(late, None)
        if population is not None:
            raise ExtractError(
                population.module[1],
                f"makes {counted(len(population.steps), 'step')} in {call + 1} calls: its state is not kept between them",
                remedy="Return the states and take them as further arguments of forward, or loop over time in forward.",
            )

    # --------------------------------------------------------------------------------------------------------- modules

    @contextmanager
    def _followed(self) -> Iterator[None]:
        """Put the model into eval mode and replace every module's forward; restore all attributes afterwards."""
        parameters = (leaf for m in self.model.modules() for leaf in tree_flatten(getattr(m, "p", None))[0])
        flags = [(p, p.requires_grad) for p in parameters if isinstance(p, torch.Tensor) and p.is_leaf]
        with _restored(self.model):
            for path, module in self.model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    raise ExtractError(
                        f"{path or 'model'} ({type(module).__name__})",
                        "is compiled by torch.jit, so its tensors cannot be followed",
                        remedy="Give the module as it was before torch.jit.script or torch.jit.trace.",
                    )
                module.training = False  # not eval(): a model may override it
                # An entry of the instance hides the class's forward.
                module.__dict__["forward"] = self._following(path, module, module.forward)
            try:
                with torch.no_grad(), _scripts_traced():
                    yield
            finally:
                for parameter, flag in flags:  # writing a traced tensor into one may have changed it
                    parameter.requires_grad_(flag)

    def _following(self, path: str, module: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return a forward that notes which module runs, and reads cells and sequences instead of running them."""

        def followed(*args: Any, **kwargs: Any) -> Any:
            # A module that is used twice has one path only; the sequence around it says under which it runs now.
            called, self.called_as = self.called_as or path, None
            outer = self.module
            label = f"{called or 'model'} ({type(module).__name__})"
            self.module = ("" if len(module._modules) else called, label)  # layers are named after leaves, not after containers
            try:
                if is_cell(module):
                    return self._cell((called, label), module, *args, **kwargs)
                if is_node(module):
                    return self._node(label, module, *args, **kwargs)
                if _is_sequence(module) and (path == "" or not _is_plain_sequence(module) or not _takes_state(module)):
                    return self._sequence(called, module, *args, **kwargs)
                return forward(*args, **kwargs)
            except NetworkError as error:
                raise ExtractError(label, f"{error.where} {error.what}", remedy=error.remedy) from error
            except NeurodeployError:
                raise
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit and others are no Exception, and would end the command
                shape, remedy = tuple(self.inputs[0].shape), "Use a machine, or a limit, with more memory, or a smaller model."
                if not (said := memory_shortage(error)):
                    said = (isinstance(error, Exception) and text_of(error)) or said_by(error)
                    remedy = (
                        "Give a sample of the shape that the model takes (from a factory, return (model, sample)), or make the "
                        "sizes of its layers agree."
                    )
                raise ExtractError(label, f"fails on the sample {shape}: {said}", remedy=remedy) from error
            finally:
                self.module = outer

        followed.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]  # Norse looks for 'state' in it
        return followed

    def _sequence(self, path: str, module: Any, x: Any, state: Any = None) -> Any:
        """Run the children one after another, each under its own path, with a state where it takes one."""
        states = [None] * len(module._modules) if state is None else state
        hidden = []
        for index, (name, child) in enumerate(module._modules.items()):
            self.called_as = f"{path}.{name}" if path else name
            if not _takes_state(child):
                x = child(x)
            elif _is_plain_sequence(child):
                x, states[index] = self._sequence(self.called_as, child, x, states[index])
            else:
                x, states[index] = child(x, states[index])
            self.called_as = None
            hidden.append(x)
        if not _takes_state(module):
            return x
        return (hidden if getattr(module, "return_hidden", False) else x), states

    # ----------------------------------------------------------------------------------------------------------- cells

    def _cell(self, module: ModuleId, cell: Any, x: Any, state: Any = None) -> Any:
        """Run a cell for one step, or for all steps of a sequence: random spikes, marked as its own, and its new state."""
        where = module[1]
        if type(cell) not in CELL_READERS:
            raise ExtractError(where, "is no neuron that the chip has", remedy=f"Supported are {SUPPORTED_CELLS}.")
        received = self._cell_input(where, cell, x)
        population = self._population_of(module, cell, received, state, x)
        inputs = untraced(x) if isinstance(cell, SEQUENCE_CELLS) else untraced(x).unsqueeze(0)  # steps first, for both kinds
        inner = untraced(state) if state is not None else resting_state(cell, inputs[0])
        outputs = []
        for expression, value in zip(received.steps, inputs, strict=True):
            self.trace.receive(population, self._weighted(module, cell, population, expression, received.lead[-1:]))
            forwarded, inner = self._step(population, cell, value, inner)
            outputs.append(forwarded)
        first = len(population.steps) - len(outputs)  # a second call of a sequence cell goes on from the first
        fired = tuple(spikes(population.name, tuple(outputs[0].shape[1:]), first + k) for k in range(len(outputs)))
        answer = torch.stack(outputs) if isinstance(cell, SEQUENCE_CELLS) else outputs[0]
        return (
            self.mark(answer, ExpressionValue(fired, received.lead)),
            self._marked_state(population, inner, fired[-1], received.lead[-1:]),
        )

    def _node(self, where: str, node: Any, x: Any) -> Any:
        """Run a node of SpikingJelly in torch's functions, for one step or all, and compare with what it does itself."""
        if node.step_mode == "m":
            return torch.stack([self._node_step(where, node, one) for one in x.unbind()])
        return self._node_step(where, node, x)

    def _node_step(self, where: str, node: Any, x: Any) -> Any:
        v = node.v
        node.v = v.operation.actual.clone() if isinstance(v, TracedTensor) and v.operation else untraced(v)
        theirs = node.single_step_forward(untraced(x))
        node.v = v
        spike = step_node(node, x)
        fired = getattr(spike, "operation", None)
        for population in (self.trace.by_name[name] for name in (fired.populations if fired else ())):
            is_sure = population.cell.potentials[-1].actual.abs() > 1e-5
            if fired is not None and ((theirs != fired.actual) & is_sure).any():
                raise ExtractError(where, "does something else than the SpikingJelly that is known (0.0.0.0.14 and 2.0.0)")
        return spike

    def _cell_input(self, where: str, cell: Any, x: Any) -> ExpressionValue:
        """Return what a cell receives; refuse what no synapse computes."""
        try:
            value = self.settled(x)
        except NotLinearError as reason:
            raise ExtractError(where, str(reason), remedy="Give it one step, or loop over the steps.") from None
        if isinstance(value, UnsupportedValue):
            raise value.error()
        if isinstance(value, torch.Tensor):  # untraced, so it does not depend on spikes
            return ExpressionValue((constant(np.array(np.asarray(value[0]), dtype=np.float64)),), tuple(value.shape[:1]))
        if not isinstance(value, ExpressionValue):
            raise ExtractError(where, "takes the state of neurons, which the chip does not send", remedy="Give it their spikes.")
        if (len(value.lead) == 2) != isinstance(cell, SEQUENCE_CELLS):
            got, takes = ("many steps", "one") if len(value.lead) == 2 else ("one step", "many")
            raise ExtractError(
                where,
                f"receives {got} where it takes {takes}",
                remedy="Use the cell for one step, Lift or the layer without 'Cell' in its name for many.",
            )
        return value

    def _population_of(self, module: ModuleId, cell: Any, received: ExpressionValue, state: Any, x: Any) -> TracedPopulation:
        """Return the population whose state a cell continues, or a new one where it starts from rest."""
        where = module[1]
        values = [leaf.traced_value for leaf in tree_flatten(state)[0] if isinstance(leaf, TracedTensor)]
        if not values:
            if state is not None:
                rest = resting_state(cell, untraced(x)[0] if isinstance(cell, SEQUENCE_CELLS) else untraced(x))
                is_rest = type(state) is type(rest) and all(
                    bool((torch.as_tensor(theirs) == torch.as_tensor(ours)).all())
                    for theirs, ours in zip(state, rest, strict=True)
                )
                if not is_rest:
                    raise ExtractError(
                        where,
                        "starts from a state that is not rest",
                        source="the chip's neurons start at rest",
                        remedy="Start with None, or with v at v_leak and currents and spikes at 0.",
                    )
            expression = self._weighted(module, cell, None, received.steps[0], received.lead[-1:])
            read_cell(where, cell, expression.shape)  # refuse its parameters before its first step
            return self.trace.new(module, cell, expression)
        states = [value for value in values if isinstance(value, StateValue)]
        population = states[0].population if states else None
        is_changed = any(isinstance(value, UnsupportedValue) for value in values)
        if (
            is_changed
            or population is None
            or population.cell is not cell
            # Parts of different cells, or of an earlier step.
            or any(s.population is not population or s.step != len(population.steps) - 1 for s in states)
        ):
            raise ExtractError(
                where,
                "receives a state that is not the one it returned a step before",
                source="on the chip each population keeps its own state, and forgets none",
                remedy="Pass each cell's state back to the same cell, unchanged, at the next step.",
            )
        return population

    def _weighted(
        self, module: ModuleId, cell: Any, population: TracedPopulation | None, x: LinearExpression, lead: tuple[int, ...]
    ) -> LinearExpression:
        """Return what arrives at the neurons of a cell that has weights of its own."""
        call = CallContext(module, lead)
        if hasattr(cell, "input_weights"):
            x = functions.linear(call, x, cell.input_weights)
        if hasattr(cell, "recurrent_weights") and population is not None and population.steps:  # at rest no spike comes back
            own = spikes(population.name, x.shape, len(population.steps) - 1)
            x = functions.add(call, x, functions.linear(call, own, cell.recurrent_weights))
        return x

    def _step(self, population: TracedPopulation, cell: Any, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Compute and record one step; return what the cell forwards, and its state with that as its spikes."""
        output, state = step_cell(cell, x, state)
        forwarded = output
        if population.is_spiking:
            forwarded = (torch.rand(output.shape, generator=self.random) < SPIKE_PROBABILITY).to(output.dtype)
        self.trace.answer(population, output, forwarded, state.v)
        # A recurrent cell reads its own spikes from z.
        return forwarded, state._replace(z=forwarded) if "z" in state._fields else state

    def _marked_state(self, population: TracedPopulation, state: Any, fired: LinearExpression, lead: tuple[int, ...]) -> Any:
        """Return a state whose parts are marked; its spikes z are the population's spikes."""
        step = len(population.steps) - 1
        parts = {
            name: self.mark(part, ExpressionValue((fired,), lead) if name == "z" else StateValue(population, step, name))
            for name, part in state._asdict().items()
        }
        return type(state)(**parts)


def _takes_sequences(module: torch.nn.Module) -> bool:
    """Whether a module takes all steps at once, with time as the first dimension; SpikingJelly's tell it in an attribute."""
    return isinstance(module, (*SEQUENCE_CELLS, Lift)) or getattr(module, "step_mode", None) == "m"


def _is_sequence(module: torch.nn.Module) -> bool:
    """Whether a module runs its children one after another, and does nothing else."""
    kinds: list[type[torch.nn.Module]] = [SequentialState, torch.nn.Sequential]
    # A subclass may do more in its forward.
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def _is_plain_sequence(module: torch.nn.Module) -> bool:
    return _is_sequence(module) and not isinstance(module, SequentialState)


def _takes_state(module: torch.nn.Module) -> bool:
    """Return whether a child of a sequence takes a state; a `Sequential` counts as `SequentialState` if a child of it does."""
    if _is_plain_sequence(module):
        return any(child is not None and _takes_state(child) for child in module._modules.values())
    return "state" in inspect.signature(module.forward).parameters


def n_states(model: torch.nn.Module) -> float:
    """Number of states that a model's forward takes after its input; infinite for ``*states``."""
    parameters = list(inspect.signature(model.forward).parameters.values())[1:]  # without the input
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return np.inf
    if type(model).forward is torch.nn.Sequential.forward:
        return 1  # it is run as a SequentialState, which takes one
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def states_of(model: torch.nn.Module, answer: Any) -> Sequence[Any]:
    """Return the states that a model returned after its output, if its forward takes them after its input."""
    rest = answer[1:] if isinstance(answer, (tuple, list)) else ()
    return rest if len(rest) <= n_states(model) else ()


@contextmanager
def at_rest(model: torch.nn.Module, batch: int) -> Iterator[None]:
    """Reset the neurons that keep their state in attributes, as snnTorch's and SpikingJelly's do, and put it back afterwards.

    Parameters
    ----------
    model : torch.nn.Module
        Modules with a method ``reset_mem`` or ``reset`` are reset by it.
    batch : int
        Number of samples. What has that many rows, and was not there before, is a state.
    """
    holders = [holder for module in model.modules() for holder in _attributes(module)]
    before = [dict(holder) for holder in holders]
    for module in model.modules():
        reset = getattr(module, "reset_mem", getattr(module, "reset", None))
        if callable(reset):
            reset()
    try:
        yield
    finally:
        for holder, old in zip(holders, before, strict=True):
            for name in [name for name, value in holder.items() if value is not old.get(name) and _has_rows(value, batch)]:
                if name in old:
                    holder[name] = old[name]
                else:
                    del holder[name]


def _attributes(module: torch.nn.Module) -> Iterator[dict[str, Any]]:
    """Attributes of a module, and dicts among them: buffers, SpikingJelly's memories."""
    yield from (module.__dict__, *(value for value in module.__dict__.values() if isinstance(value, dict)))


def _has_rows(value: Any, batch: int) -> bool:
    leaves = tree_flatten(value)[0]
    return any(isinstance(leaf, torch.Tensor) and leaf.ndim > 1 and len(leaf) == batch for leaf in leaves)


@contextmanager
def _scripts_traced() -> Iterator[None]:
    """Run functions compiled by ``torch.jit.script`` as Python on traced tensors, which compiled code would hand on untraced."""
    kind: Any = torch.jit.ScriptFunction
    compiled = kind.__call__

    def call(script: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(leaf, TracedTensor) for leaf in tree_flatten((args, kwargs))[0]):
            return compiled(script, *args, **kwargs)
        python = getattr(script, "_torchdynamo_inline", None)  # torch keeps the function that it has compiled
        if python is None:
            raise ExtractError(
                script.name, "is compiled by torch.jit, so its tensors cannot be followed", remedy="Leave out torch.jit.script."
            )
        return python(*args, **kwargs)

    kind.__call__ = call
    try:
        yield
    finally:
        kind.__call__ = compiled


@contextmanager
def _restored(model: torch.nn.Module) -> Iterator[None]:
    """Restore the attributes of all modules afterwards, and the contents of dicts, lists and sets among them."""
    kept: list[tuple[dict[str, Any], dict[str, tuple[Any, Any]]]] = [
        (
            module.__dict__,
            {name: (v, v.copy() if isinstance(v, (dict, list, set)) else None) for name, v in module.__dict__.items()},
        )
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for attributes, contents in kept:
            attributes.clear()
            for name, (value, copy) in contents.items():
                if isinstance(value, list):  # restored in place: other objects may hold the same list or dict
                    value[:] = copy
                elif copy is not None:
                    value.clear()
                    value.update(copy)
                attributes[name] = value
