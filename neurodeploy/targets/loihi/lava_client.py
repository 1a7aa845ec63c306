"""Lava: check that it is installed, and run networks in its simulator, or on a board through Intel's extension.

Lava starts an operating system process for each of its own processes and passes messages between them. It can hang, and it can
leave processes behind. So a worker runs it (`neurodeploy.targets.simulator_process`), with files for input and output.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import SimulationError, unsupported_kind
from neurodeploy.ir.graph import INPUT, early_steps, pipeline_depths, wait_steps
from neurodeploy.ir.quantized import (
    QuantizedConv,
    QuantizedDense,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedNeuron,
    QuantizedSigmaDelta,
    QuantizedSparse,
    QuantizedSubtractiveLIF,
    QuantizedSynapse,
    is_sigma_delta,
    no_sigma_delta,
)
from neurodeploy.simulation.records import Recorded, SpikeRecord, recorded_layers
from neurodeploy.targets.loihi.netx_format import plain_kinds
from neurodeploy.targets.loihi.netx_io import read_netx, write_netx
from neurodeploy.targets.loihi.target import (
    MANTISSA_SHIFT,
    NEVER_FIRES,
    SIGMA_DELTA_SENT,
    SIGMA_DELTA_SHIFT,
    is_mixed,
    resets_by_subtraction,
)
from neurodeploy.targets.simulator_process import LAVA, is_importable, python_of, read_results, run_worker

# ---------------------------------------------------------------------------------------------- installation

EXTENSION = ("lava.utils.loihi2_profiler", "lava.magma.compiler.subcompilers.nc", "lava.proc.embedded_io")
"""Modules of Intel's extension of Lava that a run on a board needs."""


def require_lava() -> None:
    """Raise `SimulationError` where no Python here can import Lava and its network files."""
    python_of(LAVA)


def require_extension() -> None:
    """Raise where Lava cannot reach a Loihi 2 board from here.

    Raises
    ------
    SimulationError
        It names the parts of Intel's extension that are missing.
    """
    missing = [name for name in EXTENSION if not is_importable(name)]
    if missing:
        raise SimulationError(
            "loihi2", f"Lava cannot reach a board: {' and '.join(missing)} cannot be imported",
            source="lava-nc 0.10 utils/loihi.py: is_installed",
            remedy="They are Intel's extension of Lava for Loihi (lava-loihi), which Intel gives to members of its Neuromorphic "
            "Research Community, to be run where a board is. The emulator and Lava's simulator give the same spikes.",
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------- runs

WAIT_MAX = 63
"""Steps that Lava's synapses hold a spike: six bits (proc/dense/models.py: PyDelayDenseModelBitAcc)."""

LavaEnd: TypeAlias = 'Literal["lava", "loihi2"]'

WORKER = Path(__file__).with_name("lava_worker.py")

Job = tuple[QuantizedNetwork, NDArray[Any]]


def run_lava(
    network: QuantizedNetwork,
    spikes: NDArray[Any],
    *,
    record: Recorded = "output",
    time_limit_s: float,
    reset_interval: int = 0,
    reset_offset: int = 0,
    end: LavaEnd = "lava",
    raw: bool = False,
) -> SpikeRecord:
    """Run each sample from rest; see `neurodeploy.targets.simulate.simulate`, which checks its arguments.

    What runs is the file that `write_netx` makes: a chain as netx builds it, other networks from Lava's own processes with the
    same synapses and neurons. The samples follow one another in a single run of Lava, with a reset between them.

    Parameters
    ----------
    spikes : array (batch, \\*input_shape, n_steps), 0 or 1, or graded: whole numbers; bias mantissas, where raw
    time_limit_s : float
        Seconds for all of it: starting Lava takes some of them.
    reset_interval, reset_offset : int
        As in `neurodeploy.targets.loihi.emulator.Emulator`: netx's arguments of the same names. 0 for never.
    end : "lava" | "loihi2"
        Lava's simulator, or a Loihi 2 board through Intel's extension of Lava; from a board come the spikes of the output alone.
    raw : bool
        Whether the network's input population is to run too, on these biases, in blocks of equal ones: Lava's own ``Input``
        leaves its port unconnected, and its neurons get their biases from outside (netx/blocks/process.py).

    Raises
    ------
    SimulationError
        Lava is not installed, died, or took longer than the limit; none of its processes is left. Or its synapses cannot
        hold spikes as long as the network's delays and paths ask for. Or Intel's extension is missing, or cannot do it.
    NetxError
        Lava cannot run the network.
    """
    resets = [(reset_interval, reset_offset)]
    return run_lava_jobs([(network, spikes)], record=record, time_limit_s=time_limit_s, resets=resets, end=end, raw=raw)[0]


def run_lava_jobs(
    jobs: Sequence[Job], *, record: Recorded = "output", time_limit_s: float, resets: Sequence[tuple[int, int]] = (),
    end: LavaEnd = "lava", raw: bool = False,
) -> list[SpikeRecord]:  # fmt: skip
    """Run many networks with one start of Lava, as `run_lava` runs one; `resets` has interval and offset for each, or nothing."""
    if end == "loihi2":
        require_extension()
    require_lava()
    with TemporaryDirectory(prefix="neurodeploy-lava-") as name:
        folder = Path(name)
        plans = [_plan(*job, *reset) for job, reset in zip(jobs, resets or [(0, 0)] * len(jobs), strict=True)]
        if end == "loihi2":
            _check_board(jobs, plans, record, raw)
        listed = []
        for index, (plan, (network, spikes)) in enumerate(zip(plans, jobs, strict=True)):
            layers_of, arrays = described(read_netx(write_netx(network, folder / f"{index}.net"), trusted=True))
            np.savez(folder / f"{index}.graph.npz", **({} if plan.is_chain and not raw else arrays))
            np.save(folder / f"{index}.npy", _samples_in_a_row(spikes, plan))
            recorded = recorded_layers(network, record)
            layers = [k for k, layer in enumerate(network.layers) if layer.name in recorded]
            sigma_delta = is_sigma_delta(network)
            graded = sigma_delta or (not raw and bool((spikes > 1).any() or (spikes < 0).any()))
            job = {"name": str(index), "recorded": layers, "graded": graded, "end": end, "raw": raw, "layers": layers_of}
            job |= {"sigma_delta": sigma_delta, "spike_exponent": SIGMA_DELTA_SHIFT - SIGMA_DELTA_SENT}
            listed.append(asdict(plan) | job | {"state_exponent": SIGMA_DELTA_SENT, "bias_exponent": MANTISSA_SHIFT})
        (folder / "jobs.json").write_text(json.dumps(listed))
        run_worker(LAVA, WORKER, folder, sum(plan.n_steps for plan in plans), time_limit_s)
        return [
            _recorded(folder / f"{index}.npz", network, spikes, record, plan, end)
            for index, (plan, (network, spikes)) in enumerate(zip(plans, jobs, strict=True))
        ]


def described(network: QuantizedNetwork) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Describe a network for the worker, which has none of its classes: numbers for JSON, and arrays by their keys.

    Keys are ``LAYER.vth``, ``LAYER.CONNECTION.weight`` and so on, with positions for names, and ``encoder.vth``.
    """
    depth, waiting = pipeline_depths(network), wait_steps(network)
    position = {layer.name: index for index, layer in enumerate(network)} | {INPUT: -1}
    layers: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {}
    if network.encoder is not None:
        arrays |= {f"encoder.{name}": register for name, register in registers_of(network.encoder.neuron, "input").items()}
    if is_sigma_delta(network):
        return layers, arrays  # netx builds them
    for index, layer in enumerate(network):
        arrays |= {f"{index}.{name}": register for name, register in registers_of(layer.neuron, layer.name).items()}
        arrays[f"{index}.bias"] = layer.bias
        connections = []
        for number, (connection, steps) in enumerate(zip(layer.connections, waiting[layer.name], strict=True)):
            about, of_synapse = _described(connection.synapse, steps)
            connections.append(about | {"source": position[connection.source], "wait_steps": steps})
            arrays |= {f"{index}.{number}.{name}": array for name, array in of_synapse.items()}
        layers.append({"n_neurons": layer.n_neurons, "depth": depth[layer.name], "connections": connections})
    return layers, arrays


def registers_of(neuron: QuantizedNeuron, where: str) -> dict[str, NDArray[Any]]:
    """Return the registers of a layer's neurons by name."""
    match neuron:
        case QuantizedLIF(vth=vth, du=du, dv=dv):
            return {"vth": vth, "du": du, "dv": dv}
        case QuantizedSubtractiveLIF():
            raise resets_by_subtraction(where)
        case QuantizedLI(du=du, dv=dv):
            return {"vth": np.array(NEVER_FIRES), "du": du, "dv": dv}
        case QuantizedSigmaDelta(vth=vth):
            return {"vth": vth}
        case _:
            raise unsupported_kind(neuron)


def _described(synapse: QuantizedSynapse, steps: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Kind and arrays of the Lava process for a connection; convolutions with a delay are listed, for Lava's have none."""
    match synapse:
        case QuantizedDense():
            return {"kind": "dense"}, {"weight": synapse.weight.astype(np.int32)}
        case QuantizedConv() if steps == 0:
            about = {key: getattr(synapse, key) for key in ("input_shape", "stride", "padding", "dilation", "groups")}
            return about | {"kind": "conv"}, {"weight": synapse.weight.astype(np.int32)}
        case QuantizedSparse() | QuantizedConv():
            listed = synapse.csr().astype(np.int32)
            arrays = {"data": listed.data, "indices": listed.indices, "starts": listed.indptr, "shape": np.array(listed.shape)}
            # of all weights: the padding can leave those of one sign
            return {"kind": "sparse", "is_mixed": bool(is_mixed(synapse.weight))}, arrays
        case _:
            raise unsupported_kind(synapse)


def _check_board(jobs: Sequence[Job], plans: Sequence[_Plan], record: Recorded, raw: bool) -> None:
    """Raise for what a board cannot do: reset neurons between samples, return membranes, take raw input."""
    if raw:
        raise SimulationError("loihi2", "takes spikes, not raw input", remedy="The emulator and Lava's simulator take raw input.")
    for (network, _), plan in zip(jobs, plans, strict=True):
        match network.output.neuron:
            case QuantizedLIF():
                has_spikes = True
            case QuantizedSigmaDelta():
                raise no_sigma_delta("loihi2", "which are run in Lava's simulator alone")
            case QuantizedSubtractiveLIF():
                raise resets_by_subtraction(network.output.name)
            case QuantizedLI():
                has_spikes = False
            case _:
                raise unsupported_kind(network.output.neuron)
        if tuple(recorded_layers(network, record)) != (network.output.name,) or not has_spikes:
            raise SimulationError(
                "loihi2", "sends the spikes of the output alone, no membranes and no other layers",
                remedy="Give the network an output that fires, and record that; the emulator shows all else.",
            )  # fmt: skip
        if len(plan.parts) > 1:
            raise SimulationError(
                "loihi2", "cannot put this network to rest between samples: its spikes wait in synapses, or neurons have a bias",
                remedy="Run one sample at a time, of a network without biases.",
            )  # fmt: skip


# ---------------------------------------------------------------------------------------------- clocks


@dataclass(frozen=True)
class _Plan:
    """Schedule of the samples on the chip.

    Attributes
    ----------
    is_chain : bool
        Built by netx; otherwise from Lava's processes.
    period : int
        Steps from the first of one sample to the first of the next.
    reset_interval : int or None
        For layers that reset themselves, each one step after the one before.
    reset_offset : int
        At which step of the interval the first does, on the network's clock.
    parts : tuple of (n_steps, depth)
        Steps to run, and from what depth on all is put to rest then; -1 for nothing.
    """

    is_chain: bool
    period: int
    reset_interval: int | None
    reset_offset: int
    parts: tuple[tuple[int, int], ...]

    @property
    def n_steps(self) -> int:
        return sum(steps for steps, _ in self.parts)


def _plan(network: QuantizedNetwork, spikes: NDArray[Any], reset_interval: int, reset_offset: int) -> _Plan:
    """Plan the samples: back to back where neurons reset themselves in time, otherwise one by one.

    Synapses with delays or loops still hold spikes when a sample ends. They must not reach the next sample, so there samples run
    one by one. In the first steps of each, neurons with a bias may fire before their first input comes; these spikes must have no
    effect. A sample with resets of its own takes a whole number of intervals.
    """
    batch, n_steps = spikes.shape[0], spikes.shape[-1]
    check_waits(network)
    depth = max(pipeline_depths(network).values())
    is_chain = plain_kinds(network) is not None
    if is_sigma_delta(network):  # they have no reset of their own, and what biases send before the first input counts
        return _Plan(is_chain, depth + n_steps, None, 0, ((depth + n_steps, 0),) * batch)
    waiting = any(steps for layer in wait_steps(network).values() for steps in layer)
    if not reset_interval and is_chain and not waiting and all(len(layer.connections) == 1 for layer in network):
        # netx resets each layer a step after the one before, so samples never mix. `depth` steps more bring the last one out.
        return _Plan(is_chain, n_steps, n_steps, 0, ((batch * n_steps + depth, -1),))
    # -a % b is what a needs to reach a multiple of b.
    period = depth + n_steps + (-(depth + n_steps) % reset_interval if reset_interval else 0)
    if any(layer.bias.any() for layer in network):
        # One step at a time, until the input has reached the last layer; after step k, layers from depth k on go back to rest.
        sample = (*((1, k) for k in range(1, depth + 1)), (period - depth, 0))
    else:
        sample = ((period, 0),)
    return _Plan(is_chain, period, reset_interval or None, reset_offset, sample * batch)


def check_waits(network: QuantizedNetwork) -> None:
    """Raise `SimulationError` where spikes would wait longer than Lava's synapses hold them; it names layer and source."""
    waiting, steps_early = wait_steps(network), early_steps(network)
    for layer in network:
        for steps, n, connection in zip(waiting[layer.name], steps_early[layer.name], layer.connections, strict=True):
            if steps > WAIT_MAX:
                raise SimulationError(
                    f"layer {layer.name!r}",
                    f"steps for which spikes from {connection.source!r} wait in a synapse, {n} of them for longer paths",
                    need=steps, limit=WAIT_MAX, source="lava-nc 0.10 proc/dense/models.py",
                    remedy="Shorten the delay, or take the emulator, which gives the same spikes.",
                )  # fmt: skip


def _samples_in_a_row(spikes: NDArray[Any], plan: _Plan) -> NDArray[Any]:
    """Return spikes (batch, *shape, n_steps) as (n, steps of the plan), one sample after another."""
    batch, n_steps = spikes.shape[0], spikes.shape[-1]
    samples = np.moveaxis(spikes.reshape(batch, -1, n_steps), 0, 1)
    chip = np.zeros((samples.shape[0], plan.n_steps), dtype=spikes.dtype)
    for index in range(batch):
        chip[:, index * plan.period : index * plan.period + n_steps] = samples[:, index]
    return chip


def _recorded(
    path: Path, network: QuantizedNetwork, spikes: NDArray[Any], record: Recorded, plan: _Plan, end: LavaEnd
) -> SpikeRecord:
    """Read a record on the network's clock; on the chip's, a layer of depth k answers its first input at step k, from 0."""
    batch, n_steps = spikes.shape[0], spikes.shape[-1]
    depth = pipeline_depths(network)
    shifted: dict[str, dict[str, NDArray[Any]]] = {"spikes": {}, "v": {}} if end == "lava" else {"spikes": {}}
    layers = [network[name] for name in recorded_layers(network, record)]
    shapes = {f"{kind}{index}": (layer.n_neurons, plan.n_steps) for kind in shifted for index, layer in enumerate(layers)}
    chip = read_results(LAVA, path, shapes)
    for kind, of_layer in shifted.items():
        for index, layer in enumerate(layers):
            first = depth[layer.name] + plan.period * np.arange(batch)
            steps = chip[f"{kind}{index}"][:, first[:, np.newaxis] + np.arange(n_steps)]
            of_layer[layer.name] = np.moveaxis(steps, 1, 0).reshape(batch, *layer.shape, n_steps)
    return SpikeRecord(end=end, spikes=shifted["spikes"], v=shifted.get("v", {}))
