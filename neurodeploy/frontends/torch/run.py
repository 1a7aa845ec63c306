"""A model runs as its user calls it, followed from cell to cell; afterwards it is as it was before.

What cells say is not passed on: spikes drawn at random are, so that every synapse carries some, however silent the model is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from norse.torch.module.sequential import SequentialState
from numpy.typing import NDArray
from torch.utils._pytree import tree_flatten

from neurodeploy.errors import ExtractError, NetworkError, NeurodeployError
from neurodeploy.frontends.expressions import Form, Where, constant, spikes
from neurodeploy.frontends.torch import functions
from neurodeploy.frontends.torch.cells import CELLS, READERS, SEQUENCES, is_cell, read_cell, resting_state, stepped
from neurodeploy.frontends.torch.functions import Call, NotAMap
from neurodeploy.frontends.torch.populations import Beyond, Known, Population, Raw, State, Step
from neurodeploy.frontends.torch.tracer import Trace, Traced, plain
from neurodeploy.ir.graph import INPUT

RATE = 0.5
"""Probability of a spike that is passed on."""


class Run(Trace):
    """A model on its way through some calls.

    Parameters
    ----------
    model : torch.nn.Module
    may_step : bool
        Whether taking a number of the input's sides out of it may mean to take a step of time.
    """

    def __init__(self, model: torch.nn.Module, may_step: bool = True) -> None:
        super().__init__(may_step)
        self.model = model
        self.random = torch.Generator().manual_seed(0)
        self.called_as: str | None = None
        self.inputs: list[torch.Tensor] = []

    def drawn(self, sample: torch.Tensor, of_sequences: bool) -> Traced:
        """Random spikes in the sample's shape, as the input of a call; `of_sequences`: its first side is known to be time."""
        types = (p.dtype for p in (*self.model.parameters(), sample) if p.is_floating_point())
        dtype = next(types, torch.get_default_dtype())
        x = (torch.rand(sample.shape, generator=self.random) < RATE).to(dtype)
        self.inputs.append(x.clone())
        if not of_sequences:
            return self.mark(x, Raw(torch.arange(x.numel()).reshape(x.shape), tuple(x.shape), self.populations.call))
        self.axis, self.populations.has_time = 0, True
        return self.mark(x, Known(tuple(spikes(INPUT, tuple(x.shape[2:]), t) for t in range(len(x))), tuple(x.shape[:2])))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one step, without the batch."""
        shape = list(self.inputs[0].shape)
        if self.axis is not None:
            del shape[self.axis]
        return tuple(shape[1:])

    def given(self) -> list[NDArray[np.float64]]:
        """What the input held, (batch, n), step by step or call by call."""
        steps = self.inputs if self.axis is None else self.inputs[0].unbind(self.axis)
        return [np.array(np.asarray(x), dtype=np.float64).reshape(len(x), -1) for x in steps]

    @contextmanager
    def followed(self) -> Iterator[None]:
        """The model in eval mode, every module followed; all that the run leaves in them is taken out again."""
        kept = [(module, _contents(module.__dict__)) for module in self.model.modules()]
        flags = [(tensor, tensor.requires_grad) for tensor in _tensors(self.model)]
        try:
            for path, module in self.model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    raise ExtractError(f"{path} ({type(module).__name__})", "is compiled", remedy="Give the module itself.")
                module.training = False
                module.__dict__["forward"] = self._follow(path, module, module.forward)
            with torch.no_grad():
                yield
        finally:
            for module, contents in kept:
                _put_back(module.__dict__, contents)
            for tensor, flag in flags:
                tensor.requires_grad_(flag)

    def _follow(self, path: str, module: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        def followed(*args: Any, **kwargs: Any) -> Any:
            called, self.called_as = self.called_as or path, None
            outer = self.module
            label = f"{called or 'model'} ({type(module).__name__})"
            self.module = ("" if len(module._modules) else called, label)
            try:
                if is_cell(module):
                    return self._cell((called, label), module, *args, **kwargs)
                if _is_sequence(module) and (path == "" or not _is_plain(module) or not _has_state(module)):
                    return self._sequence(called, module, *args, **kwargs)
                return forward(*args, **kwargs)
            except NetworkError as error:
                raise ExtractError(label, f"{error.where} {error.what}", remedy=error.remedy) from error
            except NeurodeployError:
                raise
            except Exception as error:
                raise ExtractError(label, f"fails on the sample: {error}", remedy="Give it a sample as it takes.") from error
            finally:
                self.module = outer

        followed.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]  # Norse looks for 'state' in it
        return followed

    def _sequence(self, path: str, module: Any, x: Any, state: Any = None) -> Any:
        """Children one after another, each under the name of its place, with a state where it has one."""
        states = [None] * len(module._modules) if state is None else state
        hidden = []
        for index, (name, child) in enumerate(module._modules.items()):
            self.called_as = f"{path}.{name}" if path else name
            if _has_state(child):
                x, states[index] = (
                    self._sequence(self.called_as, child, x, states[index]) if _is_plain(child) else child(x, states[index])
                )
            else:
                x = child(x)
            self.called_as = None
            hidden.append(x)
        if not _has_state(module):
            return x
        return (hidden if getattr(module, "return_hidden", False) else x), states

    # ------------------------------------------------------------------------------------------ cells

    def _cell(self, module: Where, cell: Any, x: Any, state: Any = None) -> Any:
        where = module[1]
        if type(cell) not in READERS:
            raise ExtractError(where, "is no neuron that the chip has", remedy=f"Supported are {CELLS}.")
        known = self._given(where, cell, x)
        population = self._whose(module, cell, known, state, x)
        values = plain(x) if isinstance(cell, SEQUENCES) else plain(x).unsqueeze(0)
        inner = plain(state)
        if state is None:
            inner = resting_state(cell, values[0])
        said = []
        for form, value in zip(known.forms, values, strict=True):
            self.populations.hear(population, self._weighed(module, cell, population, form, known.lead[-1:]))
            passed, inner = self._step(population, cell, value, inner)
            said.append(passed)
        first = len(population.steps) - len(said)
        forms = tuple(spikes(population.name, tuple(said[0].shape[1:]), first + k) for k in range(len(said)))
        answer = torch.stack(said) if isinstance(cell, SEQUENCES) else said[0]
        return self.mark(answer, Known(forms, known.lead)), self._kept(population, inner, forms[-1], known.lead[-1:])

    def _given(self, where: str, cell: Any, x: Any) -> Known:
        try:
            meaning = self.settled(x)
        except NotAMap as reason:
            raise ExtractError(where, str(reason), remedy="Give it one step, or loop over the steps.") from None
        if isinstance(meaning, Beyond):
            raise meaning.error()
        if isinstance(meaning, torch.Tensor):
            return Known((constant(np.array(np.asarray(meaning[0]), dtype=np.float64)),), tuple(meaning.shape[:1]))
        if not isinstance(meaning, Known):
            raise ExtractError(where, "takes the state of neurons, which the chip does not send", remedy="Give it their spikes.")
        if (len(meaning.lead) == 2) != isinstance(cell, SEQUENCES):
            given, takes = ("many steps", "one") if len(meaning.lead) == 2 else ("one step", "many")
            raise ExtractError(
                where, f"is given {given} where it takes {takes}", remedy="Use the cell, or Lift, as its input asks."
            )
        return meaning

    def _whose(self, module: Where, cell: Any, known: Known, state: Any, x: Any) -> Population:
        """The population whose state a cell goes on from, or a new one."""
        where = module[1]
        leaves = tree_flatten(state)[0]
        meanings = [leaf.meaning for leaf in leaves if isinstance(leaf, Traced)]
        states = [meaning for meaning in meanings if isinstance(meaning, State)]
        if not meanings:
            if state is not None and not _is_rest(cell, state, plain(x)[0] if isinstance(cell, SEQUENCES) else plain(x)):
                raise ExtractError(
                    where, "starts from a state that is not rest", source="the chip's neurons start at rest",
                    remedy="Start with None, or with v at v_leak and currents and spikes at 0.",
                )  # fmt: skip
            form = self._weighed(module, cell, None, known.forms[0], known.lead[-1:])
            read_cell(where, cell, form.shape)
            return self.populations.new(module, cell, form)
        population = states[0].population if states else None
        expected = {(id(population), len(population.steps) - 1) for _ in states} if population is not None else set()
        changed = any(isinstance(meaning, Beyond) for meaning in meanings)
        if (
            changed
            or population is None
            or population.cell is not cell
            or {(id(s.population), s.step) for s in states} != expected
        ):
            raise ExtractError(
                where, "is given a state that is not the one it left a step before",
                source="on the chip each population keeps its own state, and forgets none",
                remedy="Hand each cell's state back to the same cell, unchanged, at the next step.",
            )  # fmt: skip
        return population

    def _weighed(self, module: Where, cell: Any, population: Population | None, form: Form, lead: tuple[int, ...]) -> Form:
        """What a cell with weights of its own makes of what it is given."""
        call = Call(module, lead)
        if hasattr(cell, "input_weights"):
            form = functions.linear(call, form, cell.input_weights)
        if hasattr(cell, "recurrent_weights") and population is not None and population.steps:
            own = spikes(population.name, form.shape, len(population.steps) - 1)
            form = functions.add(call, form, functions.linear(call, own, cell.recurrent_weights))
        return form

    def _step(self, population: Population, cell: Any, value: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        said, state = stepped(cell, value, state)
        passed = said
        if population.is_spiking:
            passed = (torch.rand(said.shape, generator=self.random) < RATE).to(said.dtype)
        v = np.broadcast_to(np.array(np.asarray(state.v), dtype=np.float64), said.shape).reshape(len(said), -1)
        rows = [np.array(np.asarray(tensor)).reshape(len(tensor), -1) for tensor in (said, passed)]
        population.steps.append(Step(rows[0], rows[1], v))
        return passed, state._replace(z=passed) if "z" in state._fields else state

    def _kept(self, population: Population, state: Any, form: Form, lead: tuple[int, ...]) -> Any:
        """A state, marked as what it is; its spikes are spikes."""
        step = len(population.steps) - 1
        parts = {
            name: self.mark(part, Known((form,), lead) if name == "z" else State(population, step, name))
            for name, part in state._asdict().items()
        }
        return type(state)(**parts)


# ---------------------------------------------------------------------------------------------- modules


def _is_sequence(module: torch.nn.Module) -> bool:
    """Whether the module runs its children one after another, and does nothing else."""
    kinds: list[type[torch.nn.Module]] = [SequentialState, torch.nn.Sequential]
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def _is_plain(module: torch.nn.Module) -> bool:
    return _is_sequence(module) and not isinstance(module, SequentialState)


def _has_state(module: torch.nn.Module) -> bool:
    """Whether a child of a sequence takes a state: `Sequential` does, read as `SequentialState`, if a child of it does."""
    if _is_plain(module):
        return any(child is not None and _has_state(child) for child in module._modules.values())
    return "state" in inspect.signature(module.forward).parameters


def _is_rest(cell: Any, state: Any, x: torch.Tensor) -> bool:
    rest = resting_state(cell, x)
    return type(state) is type(rest) and all(
        bool((torch.as_tensor(theirs) == torch.as_tensor(ours)).all()) for theirs, ours in zip(state, rest, strict=True)
    )


def _tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters of cells, which running them may mark."""
    found = [leaf for module in model.modules() for leaf in tree_flatten(getattr(module, "p", None))[0]]
    return [leaf for leaf in found if isinstance(leaf, torch.Tensor) and leaf.is_leaf]


def _contents(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (value, value.copy() if isinstance(value, (dict, list, set)) else None) for name, value in attributes.items()}


def _put_back(attributes: dict[str, Any], contents: dict[str, tuple[Any, Any]]) -> None:
    attributes.clear()
    for name, (value, copy) in contents.items():
        if isinstance(value, list):
            value[:] = copy
        elif copy is not None:
            value.clear()
            value.update(copy)
        attributes[name] = value
