"""Support of a torch module, node by node: what comes in as it is, what is rewritten, and every reason against the rest.

`extract` stops at the first problem. Where it does, the model runs once more: what cannot be read is noted, and what it gives is
taken for spikes of unknown neurons, so that the problems behind it are found, too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from neurodeploy.errors import ExtractError, NeurodeployError
from neurodeploy.frontends.assembly import LayerSpec, NeuronSpec, NodeSupport
from neurodeploy.frontends.expressions import LinearExpression, ModuleId, Term, spikes
from neurodeploy.frontends.torch import functions
from neurodeploy.frontends.torch.extract import as_written, check_output, in_order, read_model
from neurodeploy.frontends.torch.model_run import ModelRun
from neurodeploy.frontends.torch.populations import (
    ExpressionValue,
    PopulationTrace,
    TracedPopulation,
    is_cell,
    is_node,
    layer_specs,
)
from neurodeploy.frontends.torch.tracer import REMEDY, TracedTensor, UnsupportedValue, untraced
from neurodeploy.ir.network import Network, Sparse

LISTED = "its synapses are listed one by one"
FOLDED = "folds into the weights beside it"
REWRITTEN_FUNCTIONS = {
    "batch_norm": FOLDED, "avg_pool2d": FOLDED, "avg_pool1d": FOLDED, "adaptive_avg_pool2d": FOLDED,
    "adaptive_avg_pool1d": FOLDED, "lp_pool2d": FOLDED, "conv_transpose2d": LISTED, "conv_transpose1d": LISTED,
    "interpolate": LISTED,
}  # fmt: skip
"""Functions that become something else wherever they stand."""


def check_model(model: torch.nn.Module, sample: torch.Tensor) -> tuple[tuple[NodeSupport, ...], Network | None]:
    """Return what becomes of each module, in the order of their calls, and the network; None where a module is not supported.

    Parameters
    ----------
    model, sample
        As of `extract`, which supports exactly the models that have a network here.

    Raises
    ------
    ExtractError
        A sample that is none, or that the model cannot run on.
    """
    try:
        run, populations, network = read_model(model, sample, NotedRun)
    except ExtractError as error:
        if not isinstance(model, torch.nn.Module) or error.where == "sample" or is_crash(error):
            raise
        return tuple(_tolerant_run(model, sample, error).nodes()), None
    assert isinstance(run, NotedRun)
    run.specs = {population.name: population.layer_spec() for population in populations}
    return tuple(run.nodes()), network


def is_crash(error: ExtractError) -> bool:
    """Whether the model itself failed, and not the reading of it."""
    return error.__cause__ is not None and not isinstance(error.__cause__, NeurodeployError)


def _tolerant_run(model: torch.nn.Module, sample: torch.Tensor, first: ExtractError) -> TolerantRun:
    """Run a model that `extract` refuses, for its `first` reason, in the sense of time in which most of it is understood."""
    model = as_written(model)

    def attempt(**options: bool) -> TolerantRun:
        run = TolerantRun(model, **options)
        try:
            run.call_model(sample)
        except ExtractError as error:
            if not (is_crash(error) and run.refused):  # what is refused may fail by itself, too
                run.refuse(error)
        run.finish()
        return run

    runs = [attempt()]
    if runs[0].axis is not None and not runs[0].trace.has_steps:
        runs.append(attempt(may_step=False))
    elif runs[0].axis is None and sample.ndim > 2 and len(sample) > 1:
        runs += [run for run in (attempt(of_sequences=True),) if run.trace.has_steps]
    run = min(runs, key=lambda run: len(run.refused))
    # a model in which neurons were refused has none, or none at its end
    follows = first.what.startswith(("holds no neurons", "ends the model without neurons"))
    if first.where not in run.refused and not (run.refused and follows):
        run.refuse(first)
    return run


class NotedRun(ModelRun):
    """A run that notes which functions each module calls, and what it gives.

    Attributes
    ----------
    called : dict of label to module
        In the order of their first calls.
    calls : dict of label to set of str
        Functions that a module calls itself, by torch's names without underscores.
    shapes : dict of label to shape
    host : set of label
        Modules that give something that no synapse computes; if neurons receive it, the model is refused.
    multiplied : dict of label to label
        Weights that become a product with those of another module behind them.
    specs : dict of name to LayerSpec
        Of the populations that the chip has.
    refused : dict of label to list of ExtractError
    """

    def __init__(self, model: torch.nn.Module, may_step: bool = True, of_sequences: bool = False) -> None:
        super().__init__(model, may_step, of_sequences)
        self.called: dict[str, torch.nn.Module] = {}
        self.calls: dict[str, set[str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.host: set[str] = set()
        self.multiplied: dict[str, str] = {}
        self.specs: dict[str, LayerSpec] = {}
        self.refused: dict[str, list[ExtractError]] = {}

    def answer(self, func: Any, args: Any, kwargs: Any, found: list[TracedTensor]) -> Any:
        """Note the function and its module, and answer as every run does."""
        label, name = self.module[1], functions.names_of(func)[1]
        if name in functions.WITH_WEIGHTS:
            values = (leaf.traced_value for leaf in found)
            steps = (step for value in values if isinstance(value, ExpressionValue) for step in value.steps)
            self.multiplied |= {term.where: label for step in steps for term in step.terms if term.has_weights}
        answer = super().answer(func, args, kwargs, found)
        is_traced = any(isinstance(leaf, TracedTensor) for leaf in tree_flatten(answer)[0])
        if is_traced and name not in functions.IDENTITIES | functions.SHAPE_ONLY:
            self.calls.setdefault(label, set()).add(name)
        return answer

    def _following(self, path: str, module: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        follow = super()._following(path, module, forward)

        def noted(*args: Any, **kwargs: Any) -> Any:
            label = f"{self.called_as or path or 'model'} ({type(module).__name__})"
            self.called.setdefault(label, module)
            answer = self.ran(label, forward, follow, args, kwargs)
            tensors = [leaf for leaf in tree_flatten(answer)[0] if isinstance(leaf, torch.Tensor)]
            values = [getattr(leaf, "traced_value", None) for leaf in tensors]
            for first, value in zip(tensors[:1], values, strict=False):
                lead = value.lead if isinstance(value, ExpressionValue) else self.lead_of(first)
                self.shapes.setdefault(label, tuple(first.shape[len(lead) :]))
            if tensors and all(isinstance(value, UnsupportedValue) and value.where == label for value in values):
                self.host.add(label)
            return answer

        noted.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]  # Norse looks for 'state' in it
        return noted

    def ran(self, label: str, forward: Any, follow: Any, args: Any, kwargs: Any) -> Any:
        """Run a module, followed; `forward` is its own."""
        del label, forward
        return follow(*args, **kwargs)

    def lead_of(self, tensor: torch.Tensor) -> tuple[int, ...]:
        """Return the sizes in front of a tensor's own shape: (batch,), or (time, batch) where it begins as the input does."""
        whole = tuple(self.inputs[0].shape[:2])
        return whole if self.trace.has_time and tensor.ndim > 2 and tuple(tensor.shape[:2]) == whole else tuple(tensor.shape[:1])

    # ----------------------------------------------------------------------------------------------------------- nodes

    def nodes(self) -> Iterator[NodeSupport]:
        """Yield what became of each module that has no others in it, and of containers that call functions themselves."""
        for label in (label for label in self.refused if label not in self.called):
            yield NodeSupport(name=label, reasons=tuple(self.refused[label]))
        rewrites, layers = self._rewrites(), self._layers()
        inner = tuple(f"{path}." for path, module in self.model.named_modules() if path and (is_cell(module) or is_node(module)))
        for label, module in self.called.items():
            if label.startswith(inner):
                continue
            if module._modules and not (self.calls.get(label) or label in self.refused or label in layers):
                continue
            path, _, kind = label.rpartition(" ")
            kind = kind.strip("()")
            if module._modules and not is_node(module) and label in self.calls:
                kind = f"{kind}: {', '.join(sorted(self.calls[label]))}"
            reasons, changed = tuple(self.refused.get(label, ())), tuple(dict.fromkeys(rewrites.get(label, ())))
            shape, own = self.shapes.get(label, ()), list(module.parameters(recurse=False))
            yield NodeSupport(
                name=path, kind=kind, reasons=reasons, rewrites=changed, layers=tuple(layers.get(label, ())),
                is_host=label in self.host and label not in layers, shape=shape,
                n_parameters=sum(parameter.numel() for parameter in own),
                n_products=sum(one.numel() for one in own if one.ndim > 1) * math.prod(shape[1:]),
            )  # fmt: skip
        called = {id(module) for module in self.called.values()}
        for path, module in self.model.named_modules():
            if not module._modules and id(module) not in called and not path.startswith(inner):
                yield NodeSupport(name=path, kind=type(module).__name__, is_used=False)

    def _layers(self) -> dict[str, list[str]]:
        """Return the layers of each module's neurons."""
        found: dict[str, list[str]] = {}
        for population in self.trace.by_name.values():
            found.setdefault(population.module[1], []).append(population.name)
        return found

    def _rewrites(self) -> dict[str, list[str]]:
        """Return what modules become, where that is something else than themselves."""
        found: dict[str, list[str]] = {}

        def note(label: str, text: str) -> None:
            found.setdefault(label, []).append(text)

        for name, spec in self.specs.items():
            population = self.trace.by_name[name]
            terms, where = spec.expression.terms, population.module[1]
            if population.is_of_spikes:
                note(where, f"becomes a layer of {spec.expression.bias.size:,} neurons, {name!r}")
            elif isinstance(population.cell, NeuronSpec):
                forgets = bool((spec.neurons.neuron.voltage_decay == 1).all())
                note(where, f"becomes a readout, {name!r}: membranes that {'forget at once' if forgets else 'leak'}")
            if spec.neurons.after_spike.any():
                note(where, "subtracts one step late: its neurons send that to themselves")
            sources = list(dict.fromkeys(term.where for term in terms if term.where)) or [where]
            if spec.neurons.has_current and spec.expression.bias.any():
                biased = [one for one in sources if getattr(self.called.get(one), "bias", None) is not None]
                for one in biased or sources:
                    note(one, "its bias comes from one extra neuron that fires at every step")
            for term in terms:
                if isinstance(term.synapse, Sparse) and not population.is_of_spikes:
                    note(term.where or where, LISTED)
                elif term.is_pool and term.where:
                    note(term.where, "becomes a convolution of equal weights")
                if (late := -term.step - (term.source == name)) > 0:
                    note(where, f"receives spikes of {term.source!r} {late} step{'s' * (late > 1)} late, by a delay")
        for label, names in self.calls.items():
            for text in (
                REWRITTEN_FUNCTIONS[name] for name in sorted(names) if name in REWRITTEN_FUNCTIONS and label not in found
            ):
                note(label, text)
        for label, behind in self.multiplied.items():
            note(label, f"becomes a product with the weights of {behind}")
        return found


def where_refused(leaf: Any) -> str:
    """Return which module makes a tensor that no synapse computes; empty for any other argument."""
    value = leaf.traced_value if isinstance(leaf, TracedTensor) else None
    return value.where if isinstance(value, UnsupportedValue) else ""


def is_of_neurons(tensor: Any) -> bool:
    """Whether a tensor is part of what neurons of the model's own compute after their first spikes."""
    return bool(tensor.operation is not None and tensor.operation.populations)


# ------------------------------------------------------------------------------------------------ behind the first problem


@dataclass
class TolerantTrace(PopulationTrace):
    """Populations that may receive spikes of unknown neurons, which no check sees.

    Attributes
    ----------
    unknown : dict of source to (UnsupportedValue or ExtractError)
        What the spikes of unknown neurons stand for.
    received : set of source
        Unknown neurons of which a population receives spikes.
    left_out : dict of name to tuple of Term
        What populations receive of unknown neurons.
    """

    unknown: dict[str, Any] = field(default_factory=dict)
    received: set[str] = field(default_factory=set)
    left_out: dict[str, tuple[Term, ...]] = field(default_factory=dict)

    def receive(self, population: TracedPopulation, expression: LinearExpression) -> None:
        """Set what a population receives of known sources."""
        self.received |= self.unknown_of(expression)
        self.left_out[population.name] = tuple(term for term in expression.terms if term.source in self.unknown)
        known = tuple(term for term in expression.terms if term.source not in self.unknown)
        super().receive(population, replace(expression, terms=known))

    def of_spikes(self, module: ModuleId, name: str, received: LinearExpression, output: NDArray[Any]) -> LinearExpression | None:
        """Return a function of unknown spikes as unknown spikes."""
        if unknown := sorted(self.unknown_of(received)):
            self.received |= {*unknown[1:]}
            return spikes(unknown[0], received.shape)
        return super().of_spikes(module, name, received, output)

    def unknown_of(self, expression: LinearExpression) -> set[str]:
        """Return the unknown sources of an expression."""
        return {term.source for term in expression.terms} & self.unknown.keys()


class TolerantRun(NotedRun):
    """A run that goes on behind what it cannot read.

    Attributes
    ----------
    replaced : dict of label to ExtractError
        Modules that run by themselves since they were refused.
    origins : dict of (where, what) to set of source
        Unknown neurons from which something is computed that no synapse computes.
    further : dict of (where, what) to list of UnsupportedValue
        Other functions that a module applies to what no synapse computes; the value itself names the first alone.
    """

    def __init__(self, model: torch.nn.Module, may_step: bool = True, of_sequences: bool = False) -> None:
        super().__init__(model, may_step, of_sequences)
        self.trace: TolerantTrace = TolerantTrace()
        self.replaced: dict[str, ExtractError] = {}
        self.origins: dict[tuple[str, str], set[str]] = {}
        self.further: dict[tuple[str, str], list[UnsupportedValue]] = {}

    def refuse(self, error: ExtractError) -> None:
        """Note why something is not supported: of a module of torch the first reason, of any other all."""
        reasons = self.refused.setdefault(error.where, [])
        module = self.called.get(error.where)
        is_single = module is not None and not module._modules and type(module).__module__.startswith("torch.")
        if not (is_single and reasons) and all(one.what != error.what for one in reasons):
            reasons.append(error)

    def unknown(self, tensor: torch.Tensor, reason: Any) -> TracedTensor:
        """Return a tensor as spikes of unknown neurons."""
        tensor = untraced(tensor)  # its shape is a function of torch, too, which would come back to `answer`
        source, lead = f"?{reason.where}: {reason.what}", self.lead_of(tensor)
        self.trace.unknown[source] = reason
        fired = spikes(source, tuple(tensor.shape[len(lead) :]))
        return self.mark(tensor, ExpressionValue((fired,) * (lead[0] if len(lead) == 2 else 1), lead))

    def known(self, leaf: Any) -> Any:
        """Return an argument that no synapse computes as spikes of unknown neurons, any other as it is."""
        is_refused = where_refused(leaf) and not is_of_neurons(leaf) and untraced(leaf).ndim > 1
        return self.unknown(leaf, leaf.traced_value) if is_refused else leaf

    def answer(self, func: Any, args: Any, kwargs: Any, found: list[TracedTensor]) -> Any:
        """Answer as every run does; what a refused function gives is unknown."""
        name, here = functions.names_of(func)[1], self.module[1]
        unread = {
            id(leaf): self.known(leaf) for leaf in found if name not in functions.ELEMENTWISE or where_refused(leaf) != here
        }
        args, kwargs, found = tree_map(lambda leaf: unread.get(id(leaf), leaf), (args, kwargs, found))
        try:
            return super().answer(func, args, kwargs, found)
        except ExtractError as error:
            self.refuse(error)
            return self._as_unknown(func(*untraced(args), **untraced(kwargs)), error)

    def ran(self, label: str, forward: Any, follow: Any, args: Any, kwargs: Any) -> Any:
        """Run a module; one that is refused runs by itself, and what it gives is unknown."""
        module = self.called[label]
        if module._modules and not is_cell(module) and not is_node(module):
            return follow(*args, **kwargs)
        args, kwargs = tree_map(self.known, (args, kwargs))
        if label not in self.replaced:
            try:
                return follow(*args, **kwargs)
            except ExtractError as error:
                if is_crash(error):
                    raise
                self.refuse(error)
                self.replaced[label] = error
        return self._as_unknown(forward(*untraced(args), **untraced(kwargs)), self.replaced[label])

    def _as_unknown(self, answer: Any, reason: Any) -> Any:
        """Return what a call gave with its first tensor unknown; others may be states."""
        leaves, spec = tree_flatten(answer)
        for index, leaf in enumerate(leaves[:1]):
            if isinstance(leaf, torch.Tensor) and leaf.ndim > 1:
                leaves[index] = self.unknown(leaf, reason)
        return tree_unflatten(leaves, spec)

    def _unsupported(self, found: Sequence[TracedTensor], what: str) -> UnsupportedValue:
        value = super()._unsupported(found, what)
        further, name = self.further.setdefault((value.where, value.what), []), what.split()[0]
        # arithmetic with what no synapse computes is no reason of its own
        known = (functions.LINEAR_FUNCTIONS, functions.SPIKE_FUNCTIONS, functions.COMPARISONS, functions.REARRANGEMENTS)
        if what == f"{name} is not linear" and not any(name in names for names in (*known, functions.CASTS)):
            remedy = functions.WAYS_ROUND.get(name, REMEDY)
            further.append(UnsupportedValue(self.module[1], f"{name} is not supported", remedy, value.is_weighted))
        further += (leaf.traced_value for leaf in found if isinstance(leaf.traced_value, UnsupportedValue))
        origins = self.origins.setdefault((value.where, value.what), set())
        for leaf in found:
            if isinstance(leaf.traced_value, ExpressionValue):
                origins |= self._unknown_of(leaf.traced_value)
        return value

    def _unknown_of(self, value: ExpressionValue) -> set[str]:
        return set().union(*(self.trace.unknown_of(step) for step in value.steps))

    def _check_steps(self, call: int) -> None:
        if not self.refused:  # what is refused makes no steps
            self._try([lambda: super(TolerantRun, self)._check_steps(call)])

    def finish(self) -> None:
        """Refuse what populations received that no synapse computes, neurons that the chip does not have, and loops."""
        populations = list(self.trace.by_name.values())
        refusals: list[Callable[[], object]] = []
        if self.outputs:
            refusals += [lambda: check_output(self)] if populations else []
            self.trace.received |= set().union(*(self._unknown_of(reading.value) for reading in self.readings()))
        refusals += [partial(self._add_spec, population) for population in populations]
        refusals.append(lambda: in_order(populations, None))
        self._try(refusals)
        if len(self.specs) == len(populations):
            self._try([lambda: layer_specs(populations)])
        waiting, done = set(self.trace.received), set()
        while waiting:
            source = waiting.pop()
            done.add(source)
            reason = self.trace.unknown[source]
            computed = self.all_of(reason) if isinstance(reason, UnsupportedValue) else []
            for one in computed:
                self.refuse(one.error())
            for one in computed or [reason]:
                waiting |= self.origins.get((one.where, one.what), set()) - done

    def all_of(self, reason: UnsupportedValue) -> list[UnsupportedValue]:
        """Return a reason, and those of all values that it is computed from or with."""
        found, waiting = {}, [reason]
        while waiting:
            one = waiting.pop()
            if (one.where, one.what) not in found:
                found[one.where, one.what] = one
                waiting += self.further.get((one.where, one.what), ())
        return list(found.values())

    def _try(self, refusals: Iterable[Callable[[], object]]) -> None:
        for one in refusals:
            try:
                one()
            except ExtractError as error:
                self.refuse(error)

    def _add_spec(self, population: TracedPopulation) -> None:
        if population.module[1] not in self.replaced:
            spec = population.layer_spec()
            terms = (*spec.expression.terms, *self.trace.left_out.get(population.name, ()))
            self.specs[population.name] = replace(spec, expression=replace(spec.expression, terms=terms))
