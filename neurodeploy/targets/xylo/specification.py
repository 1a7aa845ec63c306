"""Xylo's network files, and runs of them in SynSense's simulator XyloSim.

A file is an .npz of the plain arrays that rockpool's ``config_from_specification`` takes as keywords on a machine with a board
(rockpool, ``devices/xylo/syns61201/xylo_samna.py``): weights (sources, targets) as stored, before the shift of their memory;
decays, thresholds and biases of hidden and of readout neurons. Arrays with a slash in their name have the layers again, as
`read_specification` needs them; no board does.

XyloSim exists for Python 3.10 alone and may end its process, so a worker runs it (`neurodeploy.targets.simulator_process`).
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, NeurodeployError, SimulationError
from neurodeploy.ir.arrays import load_numpy
from neurodeploy.ir.files import in_memory
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import (
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLI,
    QuantizedNetwork,
    QuantizedSparse,
    QuantizedSubtractiveLIF,
    QuantizedSynapse,
)
from neurodeploy.simulation.records import Recorded, SpikeRecord, recorded_layers
from neurodeploy.targets.simulator_process import XYLO, python_of, read_results, run_worker
from neurodeploy.targets.xylo import HIDDEN_SPIKES, READOUT_SPIKES, XYLO_TARGET
from neurodeploy.targets.xylo.emulator import Core, core_of, recorded_parts, steps_of

# ---------------------------------------------------------------------------------------------- the board's specification

POPULATIONS = (("hidden", "", "bias_hidden"), ("readout", "_out", "bias_out"))
"""Population of `Core`, ending of its arrays' names, and the name of its biases."""


def specification_of(core: Core) -> dict[str, NDArray[Any]]:
    """Return the arrays of a specification; biases only where there are some, because a board enables them then."""
    arrays: dict[str, NDArray[Any]] = {}
    for memory in ("in", "rec", "out"):
        shift = core.shift(memory)
        arrays |= {f"weights_{memory}": core.weights[memory] >> shift, f"weight_shift_{memory}": np.array(shift)}
    for population, ending, bias_name in POPULATIONS:
        vth, du, dv, bias, _ = getattr(core, population)
        arrays |= {f"dash_mem{ending}": dv, f"dash_syn{ending}": du, f"threshold{ending}": vth}
        if bias.any():
            arrays[bias_name] = bias
    return arrays


def json_specification(network: QuantizedNetwork) -> str:
    """Return the arrays of a network's specification as JSON: lists by name, and numbers for the shifts of the weights."""
    arrays = specification_of(core_of(network))
    return json.dumps({name: array.tolist() for name, array in arrays.items()}) + "\n"


KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (QuantizedSubtractiveLIF, QuantizedLI, QuantizedDense, QuantizedSparse, QuantizedConv)
}


def write_specification(network: QuantizedNetwork, path: Path) -> Path:
    """Write a network, whole or not at all.

    Raises
    ------
    NetworkError
        The chip cannot hold it; see `XyloTarget.check`.
    """
    arrays, described = specification_of(core_of(network)), []
    for layer in network:
        here = {"bias": layer.bias, "scale": layer.scale} | arrays_of(layer.neuron, "neuron/")
        connections = []
        for k, c in enumerate(layer.connections):
            here |= arrays_of(c.synapse, f"{k}/")
            plain = {f.name: getattr(c.synapse, f.name) for f in fields(c.synapse)}
            plain = {name: value for name, value in plain.items() if not isinstance(value, np.ndarray)}
            about = {"kind": type(c.synapse).__name__, "source": c.source, "delay": c.delay_steps, "fixed": c.is_fixed}
            connections.append(about | {"fields": plain})
        arrays |= {f"{layer.name}/{name}": array for name, array in here.items()}
        about = {"name": layer.name, "shape": layer.shape, "neuron": type(layer.neuron).__name__, "connections": connections}
        described.append(about)
    facts = {"input_shape": network.input_shape, "layers": described}
    with in_memory(path) as file:
        np.savez_compressed(file, **arrays, **{LAYERS: np.array(json.dumps(facts))})
    return path


LAYERS = "/layers"
"""Name of the array that describes the layers, in JSON."""


def arrays_of(part: Any, prefix: str) -> dict[str, NDArray[Any]]:
    """Return the array fields of a dataclass by name."""
    found = {f"{prefix}{f.name}": getattr(part, f.name) for f in fields(part)}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def read_specification(path: Path) -> QuantizedNetwork:
    """Read a file of `write_specification`, or a specification of rockpool: the latter as one hidden layer and a readout.

    Raises
    ------
    DataError
        No such file, not a specification, or one whose layers are not what its matrices say.
    """
    arrays = load_numpy(path)
    try:
        if not isinstance(arrays, dict):
            raise ValueError("it holds a single array")
        if LAYERS not in arrays:
            network = as_two_layers(arrays)
            core_of(network)
            return network
        network = as_layers(arrays)
        made = specification_of(core_of(network))
        stored = {name: array for name, array in arrays.items() if "/" not in name}
        different = [name for name in {**made, **stored} if not np.array_equal(made.get(name, 0), stored.get(name, 0))]
    except (NeurodeployError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # KeyError's text is the bare name
        missing = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            str(path), f"is no network for Xylo: {missing}", source="rockpool, config_from_specification"
        ) from error  # fmt: skip
    if different:
        raise DataError(
            str(path), f"has layers that do not make its {min(different)}",
            remedy="Leave out the arrays with a slash in their name to read the others as one hidden layer.",
        )  # fmt: skip
    return network


def as_layers(arrays: Mapping[str, NDArray[Any]]) -> QuantizedNetwork:
    """Read the layers that `write_specification` adds to the arrays."""
    facts = json.loads(str(arrays[LAYERS]))
    layers = []
    for about in facts["layers"]:
        prefix = f"{about['name']}/"
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

        def part(kind: str, at: str, own: dict[str, Any] = own, **plain: Any) -> Any:
            of = {name.removeprefix(at): array for name, array in own.items() if name.startswith(at)}
            tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
            return KINDS[kind](**of, **tuples)

        connections = tuple(
            Connection(
                source=c["source"], synapse=part(c["kind"], f"{k}/", **c["fields"]), delay_steps=c["delay"], is_fixed=c["fixed"]
            )
            for k, c in enumerate(about["connections"])
        )
        layers.append(QuantizedLayer(
            name=about["name"], shape=tuple(about["shape"]), neuron=part(about["neuron"], "neuron/"), connections=connections,
            bias=own["bias"], scale=own["scale"],
        ))  # fmt: skip
    return QuantizedNetwork(input_shape=tuple(facts["input_shape"]), layers=tuple(layers), target=XYLO_TARGET.name)


def as_two_layers(arrays: Mapping[str, NDArray[Any]]) -> QuantizedNetwork:
    """Read the arrays of a specification alone."""
    n_hidden, n_readout = arrays["weights_out"].shape
    if "aliases" in arrays and arrays["aliases"].size:
        raise ValueError("its hidden neurons have aliases, and neurodeploy's none")
    weights = {}
    for memory in ("in", "rec", "out"):
        # what rockpool takes for weights that are not given
        stored = arrays.get(f"weights_{memory}", np.zeros((n_hidden, n_hidden), np.int64)) if memory == "rec" else arrays[
            f"weights_{memory}"
        ]  # fmt: skip
        if stored.ndim == 3:
            if stored.shape[2] > 1 and stored[..., 1].any():
                raise ValueError("its hidden neurons have two synaptic currents, and neurodeploy's one")
            stored = stored[..., 0]
        weights[memory] = stored.astype(np.int64).T << int(arrays.get(f"weight_shift_{memory}", np.array(0)))
    missing = n_hidden - weights["in"].shape[0]
    weights["in"] = np.pad(weights["in"], ((0, max(missing, 0)), (0, 0)))

    def layer(name: str, n: int, ending: str, biases: tuple[str, ...], most: int, *from_: tuple[str, str]) -> QuantizedLayer:
        # decays have defaults, as in rockpool; a threshold of 0, which is its default there, is refused
        numbers = {key: arrays.get(f"{name}{ending}", np.full(n, key != "vth", np.int64)) for key, name in REGISTER_NAMES.items()}
        neuron = QuantizedSubtractiveLIF(**numbers, max_spikes=np.array(most))
        connections: tuple[Connection[QuantizedSynapse], ...] = tuple(
            Connection(source=source, synapse=QuantizedDense(weight=weights[memory], weight_bits=8)) for source, memory in from_
        )
        bias = next((arrays[key] for key in biases if key in arrays), np.zeros(n, np.int64))
        return QuantizedLayer(
            name=name, shape=(n,), neuron=neuron, connections=connections, bias=bias, scale=np.zeros(())
        )  # fmt: skip

    loops = (("hidden", "rec"),) if weights["rec"].any() else ()
    hidden = layer("hidden", n_hidden, "", ("bias_hidden", "bias"), HIDDEN_SPIKES, (INPUT, "in"), *loops)
    readout = layer("readout", n_readout, "_out", ("bias_out",), READOUT_SPIKES, ("hidden", "out"))
    return QuantizedNetwork(input_shape=(weights["in"].shape[1],), layers=(hidden, readout), target=XYLO_TARGET.name)


REGISTER_NAMES = {"vth": "threshold", "du": "dash_syn", "dv": "dash_mem"}
"""Register of a neuron: its array in a specification, without the ending."""

# ---------------------------------------------------------------------------------------------- XyloSim


def missing_simulator() -> str:
    """Reason that XyloSim cannot run here, in one line; empty where it can."""
    try:
        python_of(XYLO)
    except SimulationError as error:
        return str(error)
    return ""


def run_xylosim(
    network: QuantizedNetwork, spikes: NDArray[Any], *, record: Recorded = "output", time_limit_s: float
) -> SpikeRecord:
    """Run each sample from rest in XyloSim; what runs is the specification that `write_specification` makes.

    Raises
    ------
    SimulationError
        XyloSim is not installed, died, or took longer than the limit.
    """
    core, recorded, n_steps = core_of(network), recorded_layers(network, record), spikes.shape[-1]
    steps = steps_of(network, core, spikes)
    with TemporaryDirectory() as made:
        folder = Path(made)
        np.savez(folder / "network.npz", **specification_of(core))
        np.save(folder / "input.npy", steps)
        (folder / "xylosim_worker.py").write_text(worker_source())
        run_worker(XYLO, folder / "xylosim_worker.py", folder, steps.shape[0] * steps.shape[1], time_limit_s)
        shape = (*steps.shape[:2], core.hidden.shape[1] + core.readout.shape[1])
        fired, v = read_results(XYLO, folder / "record.npz", {"fired": shape, "v": shape}).values()
    found, membranes, counts = recorded_parts(network, core, fired, v, n_steps, recorded)
    return SpikeRecord(end="xylosim", spikes=found, v=membranes, counts=counts, steps=n_steps)


def worker_source() -> str:
    """Return the worker as one file that imports nothing of neurodeploy, since it may run in another Python."""
    imports = (
        "from __future__ import annotations\n\nimport importlib\nimport sys\nfrom pathlib import Path\n\nimport numpy as np\n"
    )
    functions = "\n\n".join(inspect.getsource(function) for function in (layer_of_xylosim, work))
    return f"{imports}\n\n{functions}\n\nwork(Path(sys.argv[1]))\n"


def layer_of_xylosim(arrays: Mapping[str, NDArray[Any]]) -> tuple[Any, Any]:
    """Return XyloSim's layer of a specification, and its synapses: the layer points to them, and they have to live as long."""
    v2 = importlib.import_module("xylosim.v2")

    def synapses(memory: str) -> list[list[Any]]:
        return [[v2.XyloSynapse(int(k), 0, int(row[k])) for k in np.flatnonzero(row)] for row in arrays[f"weights_{memory}"]]

    def numbers(name: str, like: str) -> list[int]:
        return [int(n) for n in arrays.get(name, np.zeros_like(arrays[like]))]

    n_hidden = len(arrays["threshold"])
    lists = {name: synapses(memory) for name, memory in (("in", "in"), ("rec", "rec"), ("out", "out"))}
    layer = v2.XyloLayer(
        **{f"synapses_{name}": each for name, each in lists.items()}, aliases=[[] for _ in range(n_hidden)],
        threshold=numbers("threshold", "threshold"), threshold_out=numbers("threshold_out", "threshold_out"),
        has_bias="bias_hidden" in arrays or "bias_out" in arrays, bias=numbers("bias_hidden", "threshold"),
        bias_out=numbers("bias_out", "threshold_out"), weight_shift_inp=int(arrays["weight_shift_in"]),
        weight_shift_rec=int(arrays["weight_shift_rec"]), weight_shift_out=int(arrays["weight_shift_out"]),
        dash_mem=numbers("dash_mem", "threshold"), dash_mem_out=numbers("dash_mem_out", "threshold_out"),
        # the second current of a hidden neuron, which nothing reaches
        dash_syns=[[d, 1] for d in numbers("dash_syn", "threshold")],
        dash_syns_out=[[d] for d in numbers("dash_syn_out", "threshold_out")], name="neurodeploy",
    )  # fmt: skip
    return layer, lists


def work(folder: Path) -> None:
    """Run the network and the input in a folder, each sample from rest; write its spikes and membranes there."""
    with np.load(folder / "network.npz") as file:
        arrays = dict(file)
    fired, v, samples = [], [], np.load(folder / "input.npy")
    for done, sample in enumerate(samples):
        (folder / "steps").write_text(str(done * samples.shape[1]))
        layer, synapses = layer_of_xylosim(arrays)  # a new one: its state is at rest
        readout = np.array(layer.evolve(sample.tolist()))
        fired.append(np.concatenate([np.array(layer.rec_recurrent_spikes), readout], axis=1))
        v.append(np.concatenate([np.array(layer.rec_v_mem), np.array(layer.rec_v_mem_out)]).T)
        del layer, synapses  # in this order
    np.savez(folder / "record.npz", fired=np.array(fired, np.uint8), v=np.array(v, np.int32))
