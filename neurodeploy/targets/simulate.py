"""Simulation of a network: floats in the reference simulator, integers in a target's emulator or its vendor's.

Input is spikes, or raw numbers that drive an input population, which `with_input_population` makes of a network's first layer.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, NetworkError, RequestError, check_arguments, counted, unsupported_kind
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import (
    Encoder,
    QuantizedConv,
    QuantizedDense,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSigmaDelta,
    QuantizedSparse,
    QuantizedSubtractiveLIF,
    QuantizedSynapse,
    is_sigma_delta,
)
from neurodeploy.simulation.layer_schedule import run_reference
from neurodeploy.simulation.records import Comparison, Recorded, SpikeRecord, compare
from neurodeploy.targets import arithmetic_named, target_named

DEFAULT_TIME_LIMIT_S = 600.0
RANDOM_RATE = 0.3
"""Probability of a spike in `random_spikes`."""


@check_arguments
def simulate(
    network: Network | QuantizedNetwork,
    spikes: NDArray[Any],
    *,
    end: str = "emulator",
    record: Recorded = "output",
    graded: bool = False,
    raw: bool = False,
    reset_interval: int = 0,
    reset_offset: int = 0,
    on_overflow: Literal["wrap", "raise", "warn"] = "wrap",
    device: str | None = None,
    threads: int | None = None,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
) -> SpikeRecord:
    """Run a network from rest on each sample of input spikes.

    For input that comes bit by bit see `neurodeploy.targets.loihi.emulator.Emulator`.

    Parameters
    ----------
    network : Network or QuantizedNetwork
        A network in floats runs in the reference simulator, one in integers at the `end` asked for.
    spikes : array (batch, \\*input_shape, n_steps) or (\\*input_shape, n_steps)
        0 or 1; any whole numbers with `graded`, any numbers with `raw`.
    end : str
        ``"emulator"``: the emulator of the network's target. Otherwise a simulator of the target's vendor; for Loihi ``"lava"``,
        Lava's simulator in processes of its own (Python 3.10 with lava-nc and lava-dl), or ``"loihi2"``, a board through Intel's
        extension of Lava, which returns spikes of the output alone. All compute the same integers.
    record : "output" | "all" | sequence of layer names
        Layers of which spikes and membranes are recorded. The emulator counts spikes in all layers, also with ``()``.
    graded : bool
        Whether the input is graded: whole numbers that weights are multiplied by.
    raw : bool
        Whether the input is numbers x that set the bias of the network's input population (`Encoder`) at every step, to
        x * weight + bias, as netx's ``input`` layers do. To show an image for several steps, repeat it.
    reset_interval, reset_offset : int
        Neurons return to rest before step `reset_offset` and every `reset_interval` steps from there on; spikes in transit are
        still delivered. netx has arguments of the same names. 0 for never. For integers only.
    on_overflow : "wrap" | "raise" | "warn"
        What the emulator does after a state left its register, in addition to what the chip does.
    device : str, optional
        Torch device for the emulator, ``"cuda"`` or ``"cpu"``. Without one it runs in compiled loops, which are faster on a
        processor. The integers are the same.
    threads : int, optional
        Number of threads of the emulator; by default as many as make it faster.
    time_limit_s : float
        Seconds after which a run in the vendor's simulator is stopped.

    Raises
    ------
    DataError
        Spikes of another shape than the network's input, or values other than 0 and 1 (whole numbers with `graded`; what the
        biases hold with `raw`).
    SimulationError
        The vendor's simulator is missing, died or took too long; an overflow with ``on_overflow="raise"``.
    RequestError
        An unknown end or record, an invalid interval, a device that does not exist or that is not for the emulator, or a network
        that was rounded for counting only.
    NetworkError
        A number outside the registers of the network's target.
    """
    if raw and graded:
        raise RequestError("raw", "input sets biases, and graded input is multiplied by weights", remedy="Give one of the two.")
    if isinstance(network, Network):
        if end != "emulator":
            raise RequestError("end", f"{end!r} runs integers, and this network is in floats", remedy="Quantise it first.")
        if device is not None:
            raise RequestError("device", "applies to the emulator alone", remedy="Leave it out.")
        if reset_interval:
            raise RequestError(
                "reset_interval", "applies to networks in integers, and this one is in floats", remedy="Quantise it first."
            )
        if raw:
            raise RequestError(
                "raw", "input needs an input population to drive, and this network has none",
                remedy="Give it an Encoder, or its first layer graded input.",
            )  # fmt: skip
        return run_reference(network, as_batch(spikes, network.input_shape, graded=graded), record=record)
    target = target_named(network.target)
    if end not in ("emulator", *target.simulators):
        known = ", ".join(map(repr, ("emulator", *target.simulators)))
        raise RequestError("end", f"{end!r} is no simulator", remedy=f"Give one of {known}.")
    options: dict[str, Any] = {"reset_interval": reset_interval, "reset_offset": reset_offset}
    graded = graded or is_sigma_delta(network)  # whose layers receive numbers
    batch = samples_of(spikes, network.input_shape) if raw else as_batch(spikes, network.input_shape, graded=graded)
    if end == "emulator":
        options |= {"on_overflow": on_overflow, "device": device, "threads": threads}
        defaults = {"reset_interval": 0, "reset_offset": 0, "on_overflow": "wrap", "device": None, "threads": None}
        # A target need not know options that nobody set.
        changed = {name: value for name, value in options.items() if value != defaults[name]}
        return target.emulate(network, batch, record=record, raw=raw, **changed)
    if device is not None:
        raise RequestError("device", "applies to the emulator alone", remedy="Leave it out.")
    return target.run_simulator(network, batch, simulator=end, record=record, raw=raw, time_limit_s=time_limit_s, **options)


def random_spikes(input_shape: tuple[int, ...], *, n_samples: int, n_steps: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return random spikes (n_samples, \\*input_shape, n_steps), each with probability `RANDOM_RATE`."""
    rng = np.random.default_rng(seed)
    return (rng.random((n_samples, *input_shape, n_steps)) < RANDOM_RATE).astype(np.uint8)


def as_batch(spikes: NDArray[Any], input_shape: tuple[int, ...], *, graded: bool = False) -> NDArray[Any]:
    """Return spikes of one sample or of a batch as (batch, \\*input_shape, n_steps), uint8; int32 with `graded`.

    Raises
    ------
    DataError
        Another shape, or values other than 0 and 1 (whole numbers of 32 bits, where graded).
    """
    batch = samples_of(spikes, input_shape)
    if batch.dtype.kind not in "biuf":
        valid = False
    elif graded:
        # Floats are accepted if they hold whole numbers.
        valid = bool((np.abs(batch) < 1 << 31).all() and (batch == np.trunc(batch)).all())
    elif batch.dtype.kind in "bu":
        valid = bool(batch.max() <= 1)  # nothing below 0 in unsigned types
    else:
        valid = bool(((batch == 0) | (batch == 1)).all())
    if not valid and graded:
        raise DataError("input spikes", "hold no whole numbers of 32 bits", remedy="Round them.")
    if not valid:
        raise DataError("input spikes", "hold other values than 0 and 1", remedy="Encode analogue input as spikes first.")
    return batch.astype(np.int32 if graded else np.uint8)


def samples_of(values: NDArray[Any], input_shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the input of one sample or of a batch as (batch, \\*input_shape, n_steps).

    Raises
    ------
    DataError
        Another shape, or no samples or steps.
    """
    batch = np.asarray(values)
    if batch.ndim == len(input_shape) + 1:
        batch = batch[np.newaxis]
    if batch.ndim != len(input_shape) + 2 or batch.shape[1:-1] != input_shape:
        sides, found = ", ".join(map(str, input_shape)), np.shape(values)
        # as a model takes them: steps before the shape
        first = {len(input_shape) + 1: 0, len(input_shape) + 2: 1}.get(len(found))
        is_transposed = first is not None and found[first + 1 :] == input_shape
        flat = next((n for n in (0, 1) if math.prod(found[n:-1]) == math.prod(input_shape)), None) if found[1:] else None
        if is_transposed:
            remedy = f"Steps come last here: np.moveaxis(spikes, {first}, -1)."
        elif found == input_shape:
            remedy = "Steps come last here, and one step is spikes[..., np.newaxis]."
        elif flat is not None:
            remedy = f"Its values are as many: spikes.reshape({', '.join(map(str, (*found[:flat], *input_shape, found[-1])))})."
        else:
            remedy = f"Give {counted(math.prod(input_shape), 'input')} a step, and steps as the last axis."
        raise DataError(
            "input spikes", f"have shape {found}, not ({sides}, n_steps) or (batch, {sides}, n_steps)",
            remedy=remedy,
        )  # fmt: skip
    if 0 in batch.shape:
        raise DataError("input spikes", f"have shape {batch.shape}: nothing to run")
    return batch


@check_arguments
def verify(
    network: QuantizedNetwork, *, n_steps: int = 32, n_samples: int = 2, seed: int = 0, device: str | None = None,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
) -> Comparison:  # fmt: skip
    """Compare the emulator with the vendor's simulator: spikes and membranes of every layer at every step, on random input.

    Networks of sigma-delta neurons get numbers, which drive their input population where they have one.

    Parameters
    ----------
    n_steps, n_samples : int
        Steps of each sample, and samples; at least 1.
    seed : int
        Seed of the input spikes.
    device : str, optional
        Torch device for the emulator; by default it runs in compiled loops.

    Raises
    ------
    RequestError
        Nothing to run, or the network's target has no simulator to compare with.
    """
    if n_steps < 1 or n_samples < 1:
        raise RequestError("verify", f"{counted(n_samples, 'sample')} of {counted(n_steps, 'step')} are nothing to run")
    if seed < 0:
        raise RequestError("seed", f"is {seed}, below 0")
    target = target_named(network.target)
    if not target.simulators:
        raise RequestError("verify", f"has nothing to compare with: target {target.name!r} has no simulator of its vendor")
    inputs: NDArray[Any] = random_spikes(network.input_shape, n_samples=n_samples, n_steps=n_steps, seed=seed)
    kind: dict[str, Any] = {}
    if is_sigma_delta(network):
        # at most 7 bits: what 8-bit weights make of them stays far below 32 bits in networks of usual size
        inputs, kind = np.random.default_rng(seed).integers(-64, 65, inputs.shape), {"graded": network.encoder is None}
        if network.encoder is not None:
            inputs, kind = inputs / max(abs(network.encoder.weight), 1), {"raw": True}
    # Targets name the simulator to verify against first. It runs first: where it is missing, nothing else is worth running.
    vendors = simulate(network, inputs, end=target.simulators[0], record="all", time_limit_s=time_limit_s, **kind)
    return compare(simulate(network, inputs, record="all", device=device, **kind), vendors)


@check_arguments
def with_input_population(network: QuantizedNetwork) -> QuantizedNetwork:
    """The network with its first layer as its input population, for chips whose spikes carry no numbers.

    ``simulate(..., raw=True)`` on the result gives, spike for spike, what ``graded=True`` gives on `network`: a current that
    lasts one step is a bias. A model that was trained on intensities and begins with neurons can so run on a chip without graded
    spikes. The population belongs to the input: it is written to network files, but neither counted nor placed. Place the
    original network.

    Raises
    ------
    NetworkError
        Its first layer is more than an input population can be.
    """
    first, *others = network.layers
    # The register of a decay of 1, after which nothing of a current is left.
    forgets_all = arithmetic_named(network.target).decay_registers(np.ones(()))
    one_input = len(first.connections) == 1 and not first.connections[0].delay_steps
    weight = one_to_one_weight(first.connections[0].synapse) if one_input else None
    feeds_others = any(layer is not first for layer, _ in network.targets(INPUT))
    neuron: QuantizedLIF | None = None
    match first.neuron:
        case QuantizedLIF(vth=vth, du=du, dv=dv):
            is_uniform = all((numbers == numbers.flat[0]).all() for numbers in (vth, dv, first.bias))
            if is_uniform and (du == forgets_all).all():
                neuron = QuantizedLIF(**{name: np.array(getattr(first.neuron, name).flat[0]) for name in ("vth", "du", "dv")})
        case QuantizedLI() | QuantizedSubtractiveLIF() | QuantizedSigmaDelta():
            pass
        case _:
            raise unsupported_kind(first.neuron)
    if weight is None or feeds_others or not others or neuron is None:
        raise NetworkError(
            f"layer {first.name!r}", "is more than an input population can be",
            remedy="It has to receive the input one to one by one weight, to forget currents in a step "
            f"(du of {int(forgets_all)}), to have one threshold, one decay and one bias, and nothing else may receive the input.",
        )  # fmt: skip
    encoder = Encoder(neuron=neuron, weight=weight, bias=int(first.bias.flat[0]))

    def moved(connection: Any) -> Any:
        return replace(connection, source=INPUT) if connection.source == first.name else connection

    # The spikes of the population are the network's input now.
    layers = tuple(replace(layer, connections=tuple(map(moved, layer.connections))) for layer in others)
    return replace(network, input_shape=first.shape, layers=layers, encoder=encoder)


def one_to_one_weight(synapse: QuantizedSynapse) -> int | None:
    """Return the weight by which each neuron receives the input of its own index; None for any other wiring."""
    match synapse:
        case QuantizedConv():
            # A 1 x 1 depthwise convolution multiplies each pixel.
            sides = (synapse.weight.shape, synapse.stride, synapse.padding)
            one_to_one, values = sides == ((synapse.groups, 1, 1, 1), (1, 1), (0, 0)), synapse.weight.ravel()
        case QuantizedSparse():
            each = np.arange(synapse.n_in)
            one_to_one = np.array_equal(synapse.sources, each) and np.array_equal(synapse.starts, np.arange(synapse.n_in + 1))
            values = synapse.weight
        case QuantizedDense():
            values = np.diagonal(synapse.weight)
            one_to_one = synapse.n_in == synapse.n_out and np.array_equal(synapse.weight, np.diag(values))
        case _:
            raise unsupported_kind(synapse)
    return int(values[0]) if one_to_one and (values == values[0]).all() else None
