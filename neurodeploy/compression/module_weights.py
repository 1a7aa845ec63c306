"""A module's network with trainable weights, and the way back: which parameter of the module each weight comes from.

Copies of the module with drawn weights tell: a connection's weights come from the parameter that they are a multiple of in all
of the copies.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from neurodeploy.compression.trainable_network import (
    LearntDecays,
    Origin,
    TrainableConnection,
    TrainableLayer,
    TrainableNetwork,
    check_decays_learn,
    registered_share,
)
from neurodeploy.errors import DataError, ExtractError, RequestError, TrainingError, check_arguments
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.network import Layer, Network, nearly_equal
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.passes.quantize import dequantize
from neurodeploy.targets import Arithmetic, arithmetic_named

_NORMS = torch.nn.modules.batchnorm._NormBase
_WITH_BIAS = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
_OF_NORSE = {"current_decay": "tau_syn_inv", "voltage_decay": "tau_mem_inv"}
"""Norse's name of each decay: 1 / tau, in 1/s."""


@check_arguments
def trainable(model: torch.nn.Module, sample: torch.Tensor | None) -> TrainableNetwork:
    """Extract a model and return its network with trainable weights, in the units of the model's.

    Weights and biases of zero are part of the network, as they may grow. A trainable network is returned as it is.

    Raises
    ------
    ExtractError
        Anything that is not supported.
    """
    if isinstance(model, TrainableNetwork):
        return model
    if sample is None:
        raise RequestError("sample", "is missing", remedy="Give the input of one step of the model, (batch, *input_shape).")
    copies = [_varied(model, seed) for seed in (0, 1)]
    networks = [extract(one, sample) for one in copies]
    drawn = [TrainableNetwork(network, {layer.name: 1.0 for layer in network}) for network in networks]
    origins = {
        one.layer.name: tuple(_origin(pair, copies, model) for pair in zip(one.inlets, other.inlets, strict=True))
        for one, other in zip(*drawn, strict=True)
    }
    # one number for a layer: the root mean square over its rows, behind a normalisation
    found = {name: [origin.ratios for origin in of_layer if origin is not None] for name, of_layer in origins.items()}
    scales = {name: _typical(np.abs(ratios[0])) for name, ratios in found.items() if ratios}
    made = TrainableNetwork(networks[0], scales)
    made.keep_absent()
    made.load(extract(model, sample))
    made.origins = origins
    return made


def as_module(model: torch.nn.Module | Network | QuantizedNetwork) -> torch.nn.Module:
    """Return a network with trainable weights, and a module as it is."""
    if isinstance(model, torch.nn.Module):
        return model
    return TrainableNetwork(dequantize(model) if isinstance(model, QuantizedNetwork) else model)


def trainable_for(
    model: torch.nn.Module, sample: torch.Tensor | None, arithmetic: Arithmetic, *, with_decays: bool
) -> tuple[torch.nn.Module, TrainableNetwork, torch.Tensor | None]:  # fmt: skip
    """Return a model, its trainable network and its sample as they train for a chip, with decays that learn if asked for.

    Where the chip's decays differ from the model's, its network trains in its place: the loss has the chip's decays.
    """
    network = trainable(model, sample)
    if (adapted := network.adapted_to(arithmetic)) is not network:
        model, network, sample = adapted, adapted, None
    # Here, and not in `fit`, which does not know the chip's registers; it leaves decays that learn as they are.
    if with_decays:
        learn_decays(model, arithmetic)
        network.learn_decays(arithmetic)
    return model, network, sample


def sample_of(model: torch.nn.Module, data: Iterable[tuple[Any, Any]], layers: Sequence[str] | None) -> torch.Tensor:
    """Return the input of one step: that of the data, with or without time, flat or not, at which a model has these layers.

    Raises
    ------
    DataError
        No data.
    ExtractError
        Nothing of that shape is supported.
    TrainingError
        The model has other layers.
    """
    inputs = next((torch.as_tensor(inputs) for inputs, _ in data), None)
    if inputs is None:
        raise DataError("data", "holds no samples")
    errors = []
    shapes = dict.fromkeys([inputs.shape[1:], (inputs[0].numel(),), inputs.shape[2:], (inputs[0, 0].numel(),)])
    for shape in shapes:
        sample = torch.zeros(1, *shape)
        try:
            names = [layer.name for layer in extract(model, sample)]
        except ExtractError as error:
            errors.append(error)
        else:
            if layers is None or names == list(layers):
                return sample
    if len(errors) == len(shapes):
        raise errors[0]
    raise TrainingError("model", "has other layers than the budget", remedy="Make the budget for this model.")


def _typical(ratios: Floats) -> float:
    """Root mean square; of numbers that are equal up to rounding, the number itself, so that weights stay bit for bit."""
    middle = float(np.median(ratios))
    return middle if np.allclose(ratios, middle, rtol=1e-12, atol=0) else float(np.sqrt(np.mean(ratios**2)))


def _varied(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Copy a model with drawn weights, nonzero biases, and normalisations of other means and variances.

    Every weight and bias that could be trained is a synapse of it, whatever it is now; only weights that are one parameter are
    equal, and no two normalisations are.
    """
    model = copy.deepcopy(model)
    draw, of_all = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, weight in _weights(model):
            size = float(weight.abs().max()) or 1.0
            drawn = torch.rand(weight.shape, generator=draw).add_(0.5).mul_(size).to(weight)
            weight.copy_(torch.where(weight < 0, -drawn, drawn))
        for module in model.modules():
            bias = getattr(module, "bias", None) if isinstance(module, _WITH_BIAS) else None
            if isinstance(bias, torch.nn.Parameter) and bias.requires_grad and not bias.any():
                torch.nn.init.constant_(bias, 0.1)
            if isinstance(module, _NORMS) and module.running_mean is not None and module.running_var is not None:
                # a mean of 0 would be folded into a bias of 0
                module.running_mean.add_(torch.linspace(0.1, 0.2, module.num_features).to(module.running_mean))
                # the same in all copies
                module.running_var.mul_(torch.rand(module.num_features, generator=of_all).add_(0.5).to(module.running_var))
    return model


def _weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters of a model that hold synapses."""
    for path, module in model.named_modules():
        for name in ("weight", "input_weights", "recurrent_weights"):
            if isinstance(weight := getattr(module, name, None), torch.nn.Parameter) and weight.ndim >= 2:
                yield (f"{path}.{name}" if path else name), weight


def _flat(weight: torch.Tensor) -> Floats:
    return np.asarray(weight.detach().double().cpu().reshape(len(weight), -1).numpy())


def _origin(
    inlets: tuple[TrainableConnection, TrainableConnection], copies: list[torch.nn.Module], model: torch.nn.Module
) -> Origin | None:  # fmt: skip
    """Where a connection's weights come from, by the connection in two drawn copies; None where from no single parameter."""
    if inlets[0].is_fixed or inlets[0].weight.ndim < 2:
        return None
    # in double precision, so that weights come back bit for bit
    stored = [inlet.chosen(inlet.synapse).reshape(len(inlet.weight), -1) for inlet in inlets]
    rows, n = np.flatnonzero(stored[0].any(axis=1)), stored[0].shape[1]
    stored = [values[rows] for values in stored]
    for (name, weight), (_, other) in zip(*(_weights(one) for one in copies), strict=True):
        if len(weight) != len(rows) or weight[0].numel() < n:
            continue
        own = [_flat(weight), _flat(other)]
        for start in range(0, own[0].shape[1] - n + 1, n if own[0].shape[1] % n == 0 else 1):
            parts = [values[:, start : start + n] for values in own]
            ratios = np.asarray(stored[0][:, 0] / parts[0][:, 0])
            if all(_is_multiple(values, part, ratios) for values, part in zip(stored, parts, strict=True)):
                return _behind_norm(
                    Origin(parameter=name, columns=slice(start, start + n), rows=rows, ratios=ratios), copies[0], model
                )
    return None


def _is_multiple(values: Floats, part: Floats, ratios: Floats) -> bool:
    # single precision
    return bool(np.allclose(values, part * ratios[:, None], rtol=1e-5, atol=1e-5 * np.abs(values).max()))


def _behind_norm(origin: Origin, varied: torch.nn.Module, model: torch.nn.Module) -> Origin:
    """The origin with the model's own ratios, and the normalisation that the weights have in them."""
    for (name, norm), own in zip(_norms(varied), (own for _, own in _norms(model)), strict=True):
        factor = _factor(norm)
        if len(factor) == len(origin.ratios):
            per_row = origin.ratios / np.where(factor == 0, np.inf, factor)
            if np.allclose(per_row, per_row[0], rtol=1e-4) and per_row[0]:
                return replace(origin, ratios=per_row * _factor(own), norm=name)
    return origin


def _norms(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.modules.batchnorm._NormBase]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, _NORMS))


def _factor(norm: torch.nn.modules.batchnorm._NormBase) -> Floats:
    """What a normalisation multiplies each channel by."""
    assert norm.running_var is not None
    gain = 1.0 if norm.weight is None else norm.weight.detach().double()
    return np.asarray((gain / (norm.running_var.double() + norm.eps).sqrt()).cpu().numpy())


# ------------------------------------------------------------------------------------------- and back


@check_arguments
def write_back(network: TrainableNetwork, model: torch.nn.Module, sample: torch.Tensor) -> bool:
    """Set a model's weights and biases to those of the network that `trainable` made from it, where the model can hold them.

    Returns
    -------
    bool
        Whether the model now is the network; it is left as it was otherwise, as where two normalisations share a convolution.
    """
    before = copy.deepcopy(model.state_dict())
    if decays := {layer.layer.name: layer.decays for layer in network if layer.decays is not None}:
        _write_decays(decays, model, sample)
    now, scales = extract(model, sample), {layer.layer.name: layer.scale for layer in network}
    start, shifted = (TrainableNetwork(network.network, scales) for _ in range(2))
    start.load(now)
    # what a bias is multiplied by on its way, by neurons and what stands before them: all biases of a copy are raised by 1
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for layer in network:
            _add_biases(None if layer.bias is None else torch.ones(len(layer.bias)).double(), layer, network, copied)
        shifted.load(extract(copied, sample))
        for layer, old, raised in zip(network, start, shifted, strict=True):
            for inlet, origin in zip(layer.inlets, network.origins.get(layer.layer.name, ()), strict=False):
                if origin is not None:
                    n_rows, weight = len(inlet.weight), model.get_parameter(origin.parameter)
                    ratios = origin.ratios * _gain_change(layer, now[layer.layer.name], n_rows)[origin.rows]
                    new = _flat(inlet.weight)[origin.rows] * layer.scale / np.where(ratios == 0, np.inf, ratios)[:, None]
                    weight.view(len(ratios), -1)[:, origin.columns] = torch.from_numpy(new).to(weight)
            if layer.bias is not None and old.bias is not None and raised.bias is not None:
                gain = (raised.bias - old.bias).double()
                change = (layer.bias.to(gain) - old.bias) / torch.where(gain == 0, torch.inf, gain)
                _add_biases(change, layer, network, model)
    if nearly_equal(extract(model, sample), network.to_network()):
        return True
    model.load_state_dict(before)
    return False


def why_not_held(network: TrainableNetwork, model: torch.nn.Module) -> str:
    """Reason that `write_back` leaves a model as it was."""
    users: dict[tuple[str, int], str] = {}
    for layer in network:
        name = layer.layer.name
        for inlet, origin in zip(layer.inlets, network.origins.get(name, ()), strict=False):
            if origin is None and not inlet.is_fixed:
                return f"the weights of layer {name!r} are not those of one parameter of the model"
            if origin and (user := users.setdefault((origin.parameter, origin.columns.start), name)) != name:
                return (
                    f"{origin.parameter!r} of the model is in layers {user!r} and {name!r}, which now have weights of their own"
                )
        if layer.membrane_bias is not None:
            return f"the biases that layer {name!r} adds to its membranes, beside a synaptic current, have no parameter"
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters()):
        return "the model is in half precision, which would round them"
    return "the model has no parameters that hold all weights and biases of its network"


def takes_weights(network: TrainableNetwork, model: torch.nn.Module, sample: torch.Tensor) -> bool:
    """Whether a model can hold other weights of its network, tried on copies."""
    return write_back(with_other_weights(network), copy.deepcopy(model), sample)


def with_other_weights(network: TrainableNetwork) -> TrainableNetwork:
    """A copy whose weights and biases have changed, as by training."""
    network, draw = copy.deepcopy(network), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(torch.rand(parameter.shape, generator=draw).add_(0.5).to(parameter))
    return network


def _gain_change(layer: TrainableLayer, now: Layer, n_rows: int) -> Floats:
    """What the gain of each row has been multiplied by, with the decay that it is."""
    after, before = (np.broadcast_to(one.neuron.voltage_decay, one.n_neurons) for one in (now, layer.layer))
    change = after / before if layer.decays is not None and before.all() else np.ones(now.n_neurons)
    return change[:: now.n_neurons // n_rows]


def _add_biases(change: torch.Tensor | None, layer: TrainableLayer, network: TrainableNetwork, model: torch.nn.Module) -> None:
    """Add to the biases of the normalisation behind each weight of a layer, or of the weight's own module; each once."""
    if change is None or not change.any():
        return
    for inlet, origin in zip(layer.inlets, network.origins.get(layer.layer.name, ()), strict=False):
        n_rows = len(inlet.weight)
        if origin is None or n_rows % len(change):
            continue
        change = change.repeat_interleave(n_rows // len(change))
        module = model.get_submodule(origin.parameter.rpartition(".")[0])
        norm = None if origin.norm is None else model.get_submodule(origin.norm)
        for bias in (getattr(norm, "bias", None), getattr(module, "bias", None)):
            if isinstance(bias, torch.nn.Parameter) and bias.numel() == len(origin.rows):
                bias.add_(change[origin.rows].to(bias))
                change[origin.rows] = 0.0


def _write_decays(decays: Mapping[str, LearntDecays], model: torch.nn.Module, sample: torch.Tensor) -> None:
    """Set the decays of a model's cells, which learn as well, to those of the layers that were made from them."""
    marked = copy.deepcopy(model)
    n_cells = len(list(_cells(marked)))
    for number, p in enumerate(_cells(marked)):
        for name in _OF_NORSE.values():
            if (log := getattr(p, f"log_{name}", None)) is not None:
                # a decay of its own for each cell tells which layer is which cell's
                torch.nn.init.constant_(log, math.log((number + 1) / (n_cells + 1)))
    network, own = extract(marked, sample), list(zip(_cells(marked), _cells(model), strict=True))
    for name, learnt in decays.items():
        for decay, of_norse in _OF_NORSE.items():
            log = getattr(learnt, decay)
            for mark, p in own:
                if log is not None and _is_marked(network, name, decay, getattr(mark, f"log_{of_norse}", None)):
                    _write(log, getattr(p, f"log_{of_norse}"))


def _cells(model: torch.nn.Module) -> Iterator[Any]:
    """Parameters of the cells whose decays learn."""
    # Norse's cells keep theirs in `p`
    yield from (p for module in model.modules() if isinstance(p := getattr(module, "p", None), torch.nn.Module))


def _is_marked(network: Network, layer: str, decay: str, mark: torch.Tensor | None) -> bool:
    share = float(np.mean(getattr(network[layer].neuron, decay)))
    # registers round: marks of neighbouring cells lie further apart
    return mark is not None and math.isclose(share, float(mark.detach().exp().mean()), rel_tol=1e-2)


@torch.no_grad()
def _write(log: torch.Tensor, own: torch.Tensor) -> None:
    if own.numel() == log.numel():
        own.copy_(log.reshape(own.shape))
    elif own.ndim and own.numel() % log.numel() == 0:
        own.copy_(log.repeat_interleave(own.numel() // log.numel()).reshape(own.shape))


# ------------------------------------------------------------------------------------------- decays of a module's cells


class Decays(torch.nn.Module):
    """A cell's parameters with decays that learn; it takes their place in ``cell.p``, and Norse reads it as before.

    The trainable parameter is the logarithm of the share that is forgotten in a step, dt / tau, which suits the learning rate of
    the weights. It is clamped between one step of the target's decay register and 1, and read as the nearest share that the
    register holds (straight-through gradient).

    Attributes
    ----------
    tau_syn_inv, tau_mem_inv : tensor
        In 1/s, with the shapes that the cell had; only those that it had.
    """

    def __init__(self, p: Any, dt: float, arithmetic: Arithmetic) -> None:
        super().__init__()
        # `_rest`: the parameters that do not learn, such as the threshold
        self._rest, self._dt, self._arithmetic = p, dt, arithmetic
        self._smallest_share = 1 / (1 << arithmetic.registers.decay_bits)
        for name in _OF_NORSE.values():
            if hasattr(p, name):
                share = (torch.as_tensor(getattr(p, name)).detach() * dt).clamp(self._smallest_share, 1.0)
                self.register_parameter(f"log_{name}", torch.nn.Parameter(share.log()))

    def __getattr__(self, name: str) -> Any:
        if name in _OF_NORSE.values() and f"log_{name}" in self._parameters:
            return self._read(cast("torch.nn.Parameter", self._parameters[f"log_{name}"]))
        try:
            return super().__getattr__(name)
        except AttributeError:
            # through __dict__: copy and pickle ask for attributes before __init__ has set any
            return getattr(self.__dict__.get("_rest"), name)

    def _read(self, log: torch.nn.Parameter) -> torch.Tensor:
        return registered_share(log, self._arithmetic) / self._dt


def learn_decays(model: torch.nn.Module, arithmetic: Arithmetic | None = None) -> int:
    """Make the decays of a model's Norse cells trainable parameters, and part of its state.

    Cells whose decays learn already stay as they are.

    Parameters
    ----------
    arithmetic : Arithmetic, optional
        Of the chip that the model is trained for; that of the default target where none is given.

    Returns
    -------
    int
        Number of cells whose decays learn.

    Raises
    ------
    RequestError
        A chip whose decays cannot learn; see `check_decays_learn`.
    """
    check_decays_learn(arithmetic or arithmetic_named())
    cells = [
        module
        for module in model.modules()
        if hasattr(module, "dt") and any(hasattr(getattr(module, "p", None), name) for name in _OF_NORSE.values())
    ]
    for cell in cells:
        if not isinstance(cell.p, Decays):
            decays = Decays(cell.p, float(cast("Any", cell).dt), arithmetic or arithmetic_named())
            del cell.p
            cell.p = decays.to(next((parameter.device for parameter in model.parameters()), None))
    return len(cells)


def is_decay(name: str) -> bool:
    """Whether a name in a model's state is that of a trainable decay."""
    return any(name.endswith(f".p.log_{decay}") or name == f"p.log_{decay}" for decay in _OF_NORSE.values())
