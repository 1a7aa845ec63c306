"""A `Network` with torch parameters: the graph that is counted is the graph that is trained and quantised.

Each layer's weights are stored in the units in which its neurons take their input (`TrainableLayer.scale`), so that a learning
rate means for them what it meant for the modules they come from. Source neurons with equal weights, as behind average pooling,
share one column. Pools and skips without weights of their own do not train.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import RequestError, check_arguments, unsupported_kind
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.ir.graph import Connection, bias_sources
from neurodeploy.ir.network import Conv, Dense, Layer, Network, Neuron, Sparse, Synapse, by_wiring, wiring_of
from neurodeploy.targets import Arithmetic


class TrainableConnection(torch.nn.Module):
    """Synapses of a connection with their weights as a parameter.

    Parameters
    ----------
    connection : Connection
        With the weights to start from.
    scale : float
        Network weight = parameter * scale.
    tied : TrainableConnection, optional
        Connection of the same layer whose parameter this one shares.

    Attributes
    ----------
    source : str
    delay_steps : int
    synapse : Dense, Sparse or Conv
        The wiring; its weights are those at the start.
    weight : Parameter; tensor without gradient where the connection is fixed
        (n_out, n_columns), (out, in / groups, n_taps) or (out, in / groups, rows, columns), or (n_synapses,).
    places : tensor of int64, or None
        Column of each source neuron, or tap of each kernel position, where several share their weights.
    axons : int
        Source neurons behind each column.
    """

    weight: torch.Tensor

    def __init__(self, connection: Connection[Synapse], scale: float, tied: TrainableConnection | None = None) -> None:
        super().__init__()
        self.source, self.delay_steps, self.synapse = connection.source, connection.delay_steps, connection.synapse
        self.scale, self.is_fixed = scale, connection.is_fixed
        places, first = _shared_places(connection.synapse) if not connection.is_fixed else (None, None)
        self._first = first
        self.register_buffer("places", None if places is None else torch.from_numpy(places), persistent=False)
        self.axons = 1 if places is None or first is None else places.size // first.size
        weight = torch.from_numpy(self._stored(connection.synapse))
        if connection.is_fixed:
            self.register_buffer("weight", weight, persistent=False)
        else:
            self.weight = torch.nn.Parameter(weight) if tied is None else tied.weight

    def _stored(self, synapse: Synapse) -> NDArray[np.float32]:
        """The weights of a synapse of this wiring in the parameter's shape and units."""
        return (self.chosen(synapse) / self.scale).astype(np.float32)

    def chosen(self, synapse: Synapse) -> Floats:
        """The weights of a synapse of this wiring in the parameter's shape, one of those that are shared."""
        weight: Floats = synapse.weight
        if self._first is not None:
            weight = weight[:, self._first] if weight.ndim == 2 else weight.reshape(*weight.shape[:2], -1)[..., self._first]
        return weight

    def expanded(self, stored: torch.Tensor) -> torch.Tensor:
        """Values like the parameter's, one for each weight of the synapse, in the synapse's shape."""
        if self.places is None:
            return stored
        return stored.index_select(stored.ndim - 1, cast("torch.Tensor", self.places)).reshape(self.synapse.weight.shape)

    @property
    def pool_window(self) -> tuple[int, int] | None:
        """Window of the average pooling that a convolution's equal taps stand for, where it divides stride and padding."""
        if self._first is None or not isinstance(self.synapse, Conv) or self.synapse.dilation != (1, 1):
            return None
        conv, (rows, columns) = self.synapse, self.synapse.weight.shape[2:]
        grid = cast("torch.Tensor", self.places).reshape(rows, columns)
        # equal taps lie side by side: the first row and column tell the window
        window = int((grid[:, 0] == grid[0, 0]).sum()), int((grid[0] == grid[0, 0]).sum())
        blocks = torch.arange(rows // window[0] * (columns // window[1])).reshape(rows // window[0], columns // window[1])
        sides = (*conv.stride, *conv.padding, rows, columns)
        divides = all(side % window[n % 2] == 0 for n, side in enumerate(sides))
        if not divides or not torch.equal(blocks.repeat_interleave(window[0], 0).repeat_interleave(window[1], 1), grid.cpu()):
            return None
        # pooling leaves out the pixels beyond its last whole window, which the convolution must not see either
        return window if all(n % w == 0 for n, w in zip(conv.input_shape[1:], window, strict=True)) else None

    def to_connection(self, stored: Mapping[torch.Tensor, torch.Tensor] | None = None) -> Connection[Synapse]:
        """The connection with the weights of now; with other values, by parameter, where there are any."""
        if self.is_fixed:
            return Connection(source=self.source, synapse=self.synapse, delay_steps=self.delay_steps, is_fixed=True)
        other = None if stored is None else stored.get(self.weight)
        values = self.weight.detach().double() * self.scale if other is None else other.detach().double()
        weight = self.expanded(values).cpu().numpy()
        return Connection(source=self.source, synapse=replace(self.synapse, weight=weight), delay_steps=self.delay_steps)

    @torch.no_grad()
    def load(self, synapse: Synapse) -> None:
        """Take the weights of a synapse between the same neurons; a list may leave out synapses of zero."""
        match self.synapse:
            case Sparse() as wiring:
                assert isinstance(synapse, Sparse)
                targets = np.repeat(np.arange(wiring.n_out), np.diff(wiring.starts))
                synapse = replace(wiring, weight=np.asarray(synapse.csr()[targets, wiring.sources]).reshape(-1))
            case Dense() | Conv():
                pass  # of the same shape
            case _:
                raise unsupported_kind(self.synapse)
        self.weight.copy_(torch.from_numpy(self._stored(synapse)))

    def extra_repr(self) -> str:
        return f"from {self.source!r}, {type(self.synapse).__name__} {tuple(self.weight.shape)}, delay {self.delay_steps}"


def _shared_places(synapse: Synapse) -> tuple[Integers, Integers] | tuple[None, None]:
    """Column (tap) of each source neuron (kernel position), and the first of each; None where they share no weights."""
    match synapse:
        case Dense():
            columns = synapse.weight
        case Conv():
            columns = synapse.weight.reshape(-1, synapse.weight.shape[2] * synapse.weight.shape[3])
        case Sparse():
            return None, None
        case _:
            raise unsupported_kind(synapse)
    if columns.shape[1] < 2 or not columns.any():
        return None, None
    # equal columns have equal sums of their rows under fixed random factors; others differ
    key = np.random.default_rng(0).standard_normal(len(columns)) @ columns
    _, first, places, sizes = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    # one size for all: the columns of a pooled image; anything else is a coincidence, as columns of zeros are
    if sizes[0] == 1 or (sizes != sizes[0]).any() or not np.array_equal(columns[:, first][:, places.reshape(-1)], columns):
        return None, None
    order = np.argsort(first)  # columns in the order of the source neurons
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return rank[places.reshape(-1)], first[order]


_DECAYS = ("current_decay", "voltage_decay")


def registered_share(log: torch.nn.Parameter, arithmetic: Arithmetic) -> torch.Tensor:
    """Share that the register nearest to exp(log) holds, with the gradient of exp(log) (straight-through)."""
    with torch.no_grad():
        # the stored number itself, so that it cannot drift away where its clamp has no gradient
        log.data.clamp_(math.log(1 / (1 << arithmetic.registers.decay_bits)), 0.0)
    share = log.exp()
    return share + (torch.as_tensor(_registered(share, arithmetic)).to(share) - share.detach())


def _registered(share: torch.Tensor, arithmetic: Arithmetic) -> Floats:
    return arithmetic.decay_shares(arithmetic.decay_registers(share.detach().cpu().numpy()))


def check_decays_learn(arithmetic: Arithmetic) -> None:
    """Refuse to let decays learn for a chip whose decays are not the multiples of one number, as `LearntDecays` has them.

    Raises
    ------
    RequestError
    """
    first, second, third = arithmetic.decay_shares(np.array([1, 2, 3]))
    if not np.isclose(third - second, second - first, rtol=1e-9, atol=0):
        raise RequestError(
            "learn_decays", f"target {arithmetic.name!r} has few decays, far apart ({first:.4g}, {second:.4g}, {third:.4g} ...): "
            "they cannot learn", source=arithmetic.registers.source,
            remedy="Leave it out (on the command line --learn-decays): weights are trained with the chip's decays.",
        )  # fmt: skip


class LearntDecays(torch.nn.Module):
    """Decays of a layer's neurons that learn: those that keep a part of their state, and forget a part.

    The weights stay in their units while a membrane's decay learns.

    Attributes
    ----------
    current_decay, voltage_decay : Parameter or None
        Logarithm of the share, which suits the learning rate of the weights: one, one for each channel, or for each neuron.
    """

    current_decay: torch.nn.Parameter | None
    voltage_decay: torch.nn.Parameter | None

    def __init__(self, layer: Layer, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.layer, self.arithmetic = layer, arithmetic
        for name in _DECAYS:
            share: Floats = getattr(layer.neuron, name)
            learns = bool(((share > 0) & (share < 1)).all())
            self.register_parameter(name, torch.nn.Parameter(self._stored(share)) if learns else None)

    def _stored(self, share: Floats) -> torch.Tensor:
        """Logarithms of shares in the parameter's shape."""
        if share.ndim:
            by_channel = share.reshape(self.layer.shape[0], -1)
            share = by_channel[:, 0] if (by_channel == by_channel[:, :1]).all() else share
        least = 1 / (1 << self.arithmetic.registers.decay_bits)
        return torch.as_tensor(np.log(np.maximum(share, least)), dtype=torch.float32)

    def shares(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares of current and membrane that a step forgets, () or (n_neurons,)."""
        current, voltage = (self._share(name) for name in _DECAYS)
        return current, voltage

    def _share(self, name: str) -> torch.Tensor:
        log = cast("torch.nn.Parameter | None", getattr(self, name))
        if log is None:
            device = next(self.parameters(), torch.zeros(())).device
            return torch.as_tensor(np.asarray(getattr(self.layer.neuron, name), dtype=np.float32)).to(device)
        share = registered_share(log, self.arithmetic)
        return share.repeat_interleave(self.layer.n_neurons // share.numel()) if share.ndim else share

    def of_neuron(self) -> Neuron:
        """The layer's neuron with the decays of now."""
        current, voltage = (self._exactly(name) for name in _DECAYS)
        return replace(self.layer.neuron, current_decay=current, voltage_decay=voltage)

    def _exactly(self, name: str) -> Floats:
        log = cast("torch.nn.Parameter | None", getattr(self, name))
        if log is None:
            return cast("Floats", getattr(self.layer.neuron, name))
        share = np.asarray(_registered(log.exp(), self.arithmetic))
        return np.repeat(share, self.layer.n_neurons // share.size) if share.ndim else share

    @torch.no_grad()
    def load(self, layer: Layer) -> None:
        """Take the decays of a layer."""
        for name in _DECAYS:
            log = cast("torch.nn.Parameter | None", getattr(self, name))
            if log is not None:
                log.copy_(torch.broadcast_to(self._stored(getattr(layer.neuron, name)), log.shape))


class TrainableLayer(torch.nn.Module):
    """Neurons of a layer, and the connections into it, with weights and biases as parameters.

    Attributes
    ----------
    layer : Layer
        As at the start.
    scale : float
        Network weight = parameter * scale, for all connections and biases.
    connections : ModuleList of TrainableConnection
        Without those that bring biases.
    bias : Parameter or None
        Added to the input of each step: (channels,) where the neurons of a channel share theirs, else (n_neurons,).
    membrane_bias : Parameter or None
        Added to v at each step; of neurons with a synaptic current only.
    decays : LearntDecays or None
        None where they stay as they are.
    """

    bias: torch.nn.Parameter | None
    membrane_bias: torch.nn.Parameter | None
    decays: LearntDecays | None

    def __init__(self, layer: Layer, scale: float, bias_names: frozenset[str]) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        self._bias_source = next((c.source for c in layer.connections if c.source in bias_names), None)
        made: list[TrainableConnection] = []
        for connection in layer.connections:
            if connection.source != self._bias_source:
                # the weights of a sum of spikes are one parameter, as in the model
                equal = (one for one in made if not one.is_fixed and one.synapse == connection.synapse)
                tied = None if connection.is_fixed else next(equal, None)
                made.append(TrainableConnection(connection, scale, tied))
        self.connections = torch.nn.ModuleList(made)
        current, membrane = self._biases(layer)
        self.register_module("decays", None)
        for name, values in (("bias", current), ("membrane_bias", membrane)):
            self.register_parameter(name, None if values is None else torch.nn.Parameter(self._per_channel(values)))

    def _biases(self, layer: Layer) -> tuple[Floats | None, Floats | None]:
        """What is added to the input, and to v, at each step: (n_neurons,) each."""
        brought = self._brought(layer)
        own = np.broadcast_to(layer.bias, layer.n_neurons) if layer.bias.any() else None
        # a current that lasts one step is the input itself
        return (own, None) if brought is None and (layer.neuron.current_decay == 1).all() else (brought, own)

    def _brought(self, layer: Layer) -> Floats | None:
        """Biases that synapses bring to a layer with these connections, (n_neurons,)."""
        return next(
            # the sum: every neuron of the source fires at every step
            (np.asarray(c.synapse.matrix().sum(axis=1)).reshape(-1) for c in layer.connections if c.source == self._bias_source),
            None,
        )

    def _per_channel(self, values: Floats) -> torch.Tensor:
        grid = values.reshape(self.layer.shape[0], -1)
        stored = grid[:, 0] if (grid == grid[:, :1]).all() else values
        return torch.from_numpy((stored / self.scale).astype(np.float32))

    @property
    def brings_biases(self) -> bool:
        """Whether `bias` reaches the neurons by synapses; a register adds it otherwise."""
        return self._bias_source is not None

    @property
    def neuron(self) -> Neuron:
        """The neurons with the decays of now."""
        return self.layer.neuron if self.decays is None else self.decays.of_neuron()

    @property
    def inlets(self) -> Iterator[TrainableConnection]:
        """The connections, with their type."""
        return (cast("TrainableConnection", c) for c in self.connections)

    def pairs(self) -> Iterator[tuple[Connection[Synapse], TrainableConnection | None]]:
        """The layer's connections, each with the one that trains; None for the one that brings biases."""
        inlets = self.inlets
        return ((c, None if c.source == self._bias_source else next(inlets)) for c in self.layer.connections)

    def to_layer(self, stored: Mapping[torch.Tensor, torch.Tensor] | None = None) -> Layer:
        """The layer with the weights of now, or with other values in their place, which are not scaled.

        Parameters
        ----------
        stored : mapping of parameter to tensor of its shape, optional
            Biases count as ones then: they may grow.
        """

        def per_neuron(parameter: torch.nn.Parameter | None) -> Floats | None:
            if parameter is None or stored is not None:
                return None if parameter is None else np.ones(self.layer.n_neurons)
            values = parameter.detach().cpu().double().numpy() * self.scale
            return np.repeat(values, self.layer.n_neurons // values.size)

        current, membrane = per_neuron(self.bias), per_neuron(self.membrane_bias)
        connections = list[Connection[Synapse]]()
        for connection, inlet in self.pairs():
            if inlet is not None:
                connections.append(inlet.to_connection(stored))
            else:
                assert current is not None  # for mypy: the connection brings it
                n_in = connection.synapse.n_in
                brought = np.repeat(current.reshape(-1, 1) / (1 if stored is not None else n_in), n_in, axis=1)
                connections.append(replace(connection, synapse=Dense(weight=brought)))
        own = membrane if membrane is not None or self.brings_biases else current
        return replace(
            self.layer, neuron=self.neuron, connections=tuple(connections), bias=self.layer.bias if own is None else own
        )

    @torch.no_grad()
    def load(self, layer: Layer) -> None:
        """Take the weights and biases of a layer with these connections; those that it does not have are zero."""
        if self.decays is not None:
            self.decays.load(layer)
        found = by_wiring(layer.connections)
        for connection, inlet in self.pairs():
            if inlet is not None and not inlet.is_fixed:
                synapses = found.get(wiring_of(connection))
                inlet.load(synapses.pop(0)) if synapses else inlet.weight.zero_()
        own = np.broadcast_to(layer.bias, layer.n_neurons)
        current = self._brought(layer) if self.brings_biases else own
        for parameter, values in ((self.bias, current), (self.membrane_bias, own)):
            if parameter is not None:
                stored = np.zeros(parameter.shape) if values is None else values.reshape(len(parameter), -1)[:, 0]
                parameter.copy_(torch.from_numpy((stored / self.scale).astype(np.float32)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Origin:
    """Parameter of a module that a connection's weights come from.

    Attributes
    ----------
    parameter : str
        Its name in the module.
    columns : slice
        Of the parameter, flattened to two dimensions.
    rows : array of int
        Rows of the connection that the parameter's rows are.
    ratios : array of float
        Weight of the network over parameter, for each of these rows.
    norm : str or None
        Module between the weights and the neurons that normalises.
    """

    parameter: str
    columns: slice
    rows: Integers
    ratios: Floats
    norm: str | None = None


@check_arguments
class TrainableNetwork(torch.nn.Module):
    """A network whose weights and biases train; `neurodeploy.training.forward.run_model` runs it.

    Parameters
    ----------
    network : Network
        Wiring and initial weights. Weights of zero are synapses that may grow.
    scales : mapping of layer to float, optional
        Network weight over parameter, for each layer; by default what its neurons multiply their input by (`input_gain`).

    Attributes
    ----------
    network : Network
        As at the start.
    origins : mapping of layer to tuple of (Origin or None)
        Of its connections; empty where the network is not from a module.
    """

    origins: Mapping[str, tuple[Origin | None, ...]] = MappingProxyType({})

    def __init__(self, network: Network, scales: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.network, self.bias_names = network, bias_sources(network)
        scales = scales or {}
        self.layers = torch.nn.ModuleDict({
            _key(layer.name): TrainableLayer(layer, scales.get(layer.name, input_gain(layer)), self.bias_names)
            for layer in network if layer.name not in self.bias_names
        })  # fmt: skip

    def __getitem__(self, name: str) -> TrainableLayer:
        """The layer of that name."""
        return cast("TrainableLayer", self.layers[_key(name)])

    def __iter__(self) -> Iterator[TrainableLayer]:
        return (cast("TrainableLayer", layer) for layer in self.layers.values())

    def learn_decays(self, arithmetic: Arithmetic) -> int:
        """Make the decays of the neurons parameters that a chip's registers hold; returns the number of layers that have some.

        Layers whose decays learn already stay as they are. `RequestError` for a chip whose decays cannot: `check_decays_learn`.
        """
        check_decays_learn(arithmetic)
        for layer in self:
            made = LearntDecays(layer.layer, arithmetic)
            if layer.decays is None and next(made.parameters(), None) is not None:
                layer.decays = made.to(next(self.parameters()).device)
        return sum(layer.decays is not None for layer in self)

    def adapted_to(self, arithmetic: Arithmetic) -> TrainableNetwork:
        """Return the network with the decays and spikes of a target, and the weights of now; itself where nothing changes."""
        if (changed := arithmetic.adapted(self.network)) is self.network:
            return self
        made = TrainableNetwork(changed, {layer.layer.name: layer.scale for layer in self})
        if self.origins:
            made.keep_absent()
        made.load(arithmetic.adapted(self.to_network()))  # those of `network` are drawn where it is of a module
        return made

    def keep_absent(self) -> None:
        """Give no gradient to weights of zero in the wiring: of a module, between neurons that no weight of it joins."""
        for inlet in (inlet for layer in self for inlet in layer.inlets if not inlet.is_fixed):
            absent = inlet.weight == 0
            if absent.any():
                inlet.weight.register_hook(partial(_without, absent))  # type: ignore[no-untyped-call]  # torch has no type for it

    @torch.no_grad()
    def load(self, network: Network) -> None:
        """Take the weights and biases of another network with these layers; what it does not have is zero."""
        for layer in self:
            layer.load(network[layer.layer.name])

    def to_network(self, stored: Mapping[torch.Tensor, torch.Tensor] | None = None) -> Network:
        """The network with the weights of now; with other values by parameter, as `TrainableLayer.to_layer` takes them."""
        layers = [layer if layer.name in self.bias_names else self[layer.name].to_layer(stored) for layer in self.network]
        return replace(self.network, layers=tuple(layers))


def _without(absent: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return gradient.masked_fill(absent.to(gradient.device), 0.0)


def _key(name: str) -> str:
    """Name of a layer in a module's state, where a dot would be a path."""
    return name.replace(".", "/")


def input_gain(layer: Layer) -> float:
    """What Norse's neurons multiply their input by on its way to v: dt / tau_mem; 1 for a membrane without leak."""
    gain = float(layer.neuron.voltage_decay.mean())
    return gain if gain > 0 else 1.0
