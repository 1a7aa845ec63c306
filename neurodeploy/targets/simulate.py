"""One verb, three ends: run a network on spikes, in floats, in the chip's integers, or in Lava itself."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import Encoder, QuantizedNetwork
from neurodeploy.simulation.records import Comparison, Recorded, SpikeRecord, compare
from neurodeploy.simulation.reference import run_reference
from neurodeploy.targets.loihi.emulator import OnOverflow, check_resets, run_emulator
from neurodeploy.targets.loihi.neuron_step import InputPopulation, bias_mantissas, encoder_of

DEFAULT_TIME_LIMIT_S = 600.0
RANDOM_RATE = 0.3
"""Probability of a spike in `random_spikes`."""


def simulate(
    network: Network | QuantizedNetwork,
    spikes: NDArray[Any],
    *,
    end: Literal["emulator", "lava", "loihi2"] = "emulator",
    record: Recorded = "output",
    graded: bool = False,
    raw: bool = False,
    reset_interval: int = 0,
    reset_offset: int = 0,
    on_overflow: OnOverflow = "wrap",
    device: str | None = None,
    threads: int | None = None,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
) -> SpikeRecord:
    """Run a network from rest on each sample of input spikes.

    For input that comes bit by bit see `neurodeploy.targets.loihi.emulator.Emulator`.

    Parameters
    ----------
    network : Network or QuantizedNetwork
        Floats run in the reference simulator, the chip's integers at the `end` asked for.
    spikes : array (batch, \\*input_shape, n_steps) or (\\*input_shape, n_steps)
        0 or 1; any whole numbers where they are graded, any numbers where they are raw.
    end : "emulator" | "lava" | "loihi2"
        Our own integer emulator, or Lava's simulator in processes of its own (Python 3.10 with lava-nc and lava-dl).
        Both give the same integers. ``"loihi2"`` is a board, through Intel's extension of Lava: spikes of the output alone.
    record : "output" | "all" | sequence of layer names
        Layers to record, spikes and membranes alike. The emulator counts spikes in all layers, and needs none recorded: ``()``.
    graded : bool
        Whether the input is graded: whole numbers that weights are multiplied by.
    raw : bool
        Whether the input is raw: numbers x that at every step set the bias of the network's input population (`Encoder`), which
        fires in their stead; as for netx's ``input`` layers, x * weight + bias. An image that stays is repeated over the steps.
    reset_interval, reset_offset : int
        Neurons go back to rest before step `reset_offset` and every `reset_interval` from there on, as netx's arguments of these
        names have it; spikes under way go on. 0 for never. For the chip's integers only.
    on_overflow : "wrap" | "raise" | "warn"
        What the emulator does after a state left its 24 bits, beside what the chip does.
    device : str, optional
        A torch device on which the emulator is to run, ``"cuda"`` or ``"cpu"``; by default it runs in compiled loops, which are
        faster on a processor. All give the same integers.
    threads : int, optional
        Parts of the batch that the emulator runs beside each other; by default as many as pay.
    time_limit_s : float
        Seconds after which a Lava run is given up.

    Raises
    ------
    DataError
        Spikes of another shape than the network's input, or other values than 0 and 1 (whole numbers, where graded; what biases
        of 13 bits hold, where raw).
    SimulationError
        Lava is missing, died or took too long; an overflow, where that is to raise.
    RequestError
        An unknown end or record, an interval that is none, a device that is not here or for what is not the emulator.
    """
    if end not in ("emulator", "lava", "loihi2"):
        raise RequestError("end", f"{end!r} is no simulator", remedy="Give 'emulator', 'lava' or, for a board, 'loihi2'.")
    if device is not None and (end != "emulator" or isinstance(network, Network)):
        raise RequestError("device", "is the emulator's: nothing else runs on one", remedy="Leave it out.")
    check_resets(reset_interval, reset_offset)
    resets = {"reset_interval": reset_interval, "reset_offset": reset_offset}
    if raw and graded:
        raise RequestError("raw", "input sets biases, and graded input is multiplied by weights", remedy="Give one of the two.")
    encoder = encoder_of(network) if raw else None
    batch = as_batch(spikes, network.input_shape, graded=graded) if encoder is None else _biases(encoder, spikes, network)
    if isinstance(network, Network):
        if end != "emulator":
            raise RequestError("end", "Lava runs integers, and this network is in floats", remedy="Quantize it first.")
        if reset_interval:
            raise RequestError("reset_interval", "is the chip's, and this network is in floats", remedy="Quantize it first.")
        return run_reference(network, batch, record=record)
    if end == "emulator":
        if encoder is not None:
            batch = InputPopulation(encoder, **resets).advance(batch)
        return run_emulator(network, batch, record=record, on_overflow=on_overflow, device=device, threads=threads, **resets)
    from neurodeploy.targets.loihi.lava import run_lava

    return run_lava(network, batch, record=record, time_limit_s=time_limit_s, end=end, raw=raw, **resets)


def random_spikes(input_shape: tuple[int, ...], *, n_samples: int, n_steps: int, seed: int = 0) -> NDArray[np.uint8]:
    """Input to try a network on: spikes (n_samples, \\*input_shape, n_steps), each there with probability `RANDOM_RATE`."""
    rng = np.random.default_rng(seed)
    return (rng.random((n_samples, *input_shape, n_steps)) < RANDOM_RATE).astype(np.uint8)


def as_batch(spikes: NDArray[Any], input_shape: tuple[int, ...], *, graded: bool = False) -> NDArray[Any]:
    """Spikes as (batch, \\*input_shape, n_steps) in uint8, from one sample or a batch of them; graded ones in int32."""
    given = _samples(spikes, input_shape)
    if given.dtype.kind not in "biuf" or not _may_be(given, graded):
        wanted = ("no whole numbers of 32 bits", "Round them.") if graded else ("other values than 0 and 1", _ENCODE)
        raise DataError("input spikes", f"hold {wanted[0]}", remedy=wanted[1])
    return given.astype(np.int32 if graded else np.uint8)


def _samples(spikes: NDArray[Any], input_shape: tuple[int, ...]) -> NDArray[Any]:
    given = np.asarray(spikes)
    if given.ndim == len(input_shape) + 1:
        given = given[np.newaxis]
    if given.ndim != len(input_shape) + 2 or given.shape[1:-1] != input_shape:
        sides = ", ".join(map(str, input_shape))
        raise DataError(
            "input spikes", f"have shape {np.shape(spikes)}, not ({sides}, n_steps) or (batch, {sides}, n_steps)",
            remedy="Time is the last axis.",
        )  # fmt: skip
    if 0 in given.shape:
        raise DataError("input spikes", f"have shape {given.shape}: nothing to run")
    return given


def _biases(encoder: Encoder, raw: NDArray[Any], network: Network | QuantizedNetwork) -> NDArray[np.int32]:
    return bias_mantissas(encoder, _samples(raw, network.input_shape))


_ENCODE = "Encode analogue input as spikes first."


def _may_be(given: NDArray[Any], graded: bool) -> bool:
    if graded:
        return bool((np.abs(given) < 1 << 31).all() and (given == np.trunc(given)).all())
    if given.dtype.kind in "bu":
        return bool(given.max() <= 1)
    return bool(((given == 0) | (given == 1)).all())


def verify(
    network: QuantizedNetwork, *, n_steps: int = 32, n_samples: int = 2, seed: int = 0, device: str | None = None,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
) -> Comparison:  # fmt: skip
    """Run random input spikes at both ends and compare spikes and membranes of every layer at every step.

    Parameters
    ----------
    n_steps, n_samples : int
        Samples of so many steps each, at least 1.
    seed : int
        Of the input spikes.
    device : str, optional
        Of torch's, on which the emulator is to run; by default it runs in compiled loops.
    """
    if n_steps < 1 or n_samples < 1:
        raise RequestError("verify", f"{n_samples} samples of {n_steps} steps are nothing to run")
    spikes = random_spikes(network.input_shape, n_samples=n_samples, n_steps=n_steps, seed=seed)
    emulator = simulate(network, spikes, record="all", device=device)
    lava = simulate(network, spikes, end="lava", record="all", time_limit_s=time_limit_s)
    return compare(emulator, lava)
