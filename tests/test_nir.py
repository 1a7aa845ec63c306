"""Every primitive of NIR that a chip can run comes in and means what its equation says; files as they are found, too."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from nir_runs import run_nir

import neurodeploy as nd
from neurodeploy.frontends.nir.reading import read_nir
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Network

DT = 1e-3
RNG = np.random.default_rng(5)


def lif(*shape: int, **others: Any) -> nir.LIF:
    given = {"tau": 5e-3, "r": 5.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | others
    return nir.LIF(**{key: np.full(shape, value) if np.ndim(value) == 0 else value for key, value in given.items()})


def cuba(*shape: int, **others: Any) -> nir.CubaLIF:
    given = (
        {"tau_syn": 4e-3, "tau_mem": 8e-3, "r": 8.0, "w_in": 4.0} | {"v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | others
    )
    return nir.CubaLIF(**{key: np.full(shape, value) if np.ndim(value) == 0 else value for key, value in given.items()})


def weights(*shape: int) -> Any:
    return RNG.normal(0.2, 0.8, size=shape)


def graph(*chain: Any, input_shape: tuple[int, ...], edges: Any = None, **more: Any) -> nir.NIRGraph:
    """Nodes n0, n1, ... one behind another, between an Input and an Output; or with edges, and with nodes beside."""
    nodes = {"input": nir.Input(input_type=np.array(input_shape))} | {f"n{k}": node for k, node in enumerate(chain)} | more
    names = ["input", *(f"n{k}" for k in range(len(chain))), "output"]
    nodes["output"] = nir.Output(output_type=np.array([1]))
    return nir.NIRGraph(nodes=nodes, edges=edges or list(pairwise(names)), type_check=False)


def written(made: nir.NIRGraph, folder: Path) -> Path:
    nir.write(folder / "made.nir", made)
    return folder / "made.nir"


def assert_alike(made: nir.NIRGraph, folder: Path, input_shape: tuple[int, ...], n_steps: int = 12) -> Network:
    """The network that is read spikes, step by step, as the equations of the graph do; and does spike."""
    network = read_nir(written(made, folder), dt=DT)
    spikes = (RNG.random((3, *input_shape, n_steps)) < 0.4).astype(np.uint8)
    theirs, ours = run_nir(made, spikes, DT), nd.simulate(network, spikes.reshape(3, *network.input_shape, -1), record="all")
    fired = 0
    for name, said in theirs.items():
        neuron = network[name].neuron
        mine = (ours.spikes if isinstance(neuron, LIF) else ours.v)[name].reshape(said.shape)
        np.testing.assert_allclose(mine, said, rtol=1e-9, atol=1e-9, err_msg=name)
        fired += int(mine.sum()) if isinstance(neuron, LIF) else 0
    assert fired > 0
    return network


FIXED: dict[str, Any] = {
    "LIF behind Affine": ([nir.Affine(weights(4, 6), weights(4)), lif(4)], (6,)),
    "CubaLIF behind Linear": ([nir.Linear(weights(4, 6)), cuba(4)], (6,)),
    "CubaLIF behind Affine": ([nir.Affine(weights(4, 6), weights(4)), cuba(4)], (6,)),
    "Affine behind Affine": ([nir.Affine(weights(5, 6), weights(5)), nir.Affine(weights(4, 5), weights(4)), lif(4)], (6,)),
    "Conv2d with an even window, same": (
        [nir.Conv2d((5, 5), weights(3, 2, 2, 2), 1, "same", 1, 1, weights(3)), lif(3, 5, 5)], (2, 5, 5),
    ),
    "IF": ([nir.Linear(weights(4, 6)), nir.IF(r=np.full(4, 500.0), v_threshold=np.full(4, 0.6), v_reset=np.zeros(4))], (6,)),
    "reset, leak and threshold elsewhere": (
        [nir.Linear(weights(4, 6)), lif(4, v_leak=-0.5, v_reset=-0.5, v_threshold=RNG.uniform(0.1, 1, 4))], (6,),
    ),
    "a leak that is not where it resets": (
        [nir.Linear(weights(4, 6)), lif(4, v_leak=np.array([0.5, -0.25, 0.0, 1.5]), v_reset=np.array([0.0, 0.25, 0.5, -0.5]),
                                        v_threshold=np.ones(4))], (6,),
    ),
    "a leak that is not where it resets, past a current": (
        [nir.Linear(weights(4, 6)), cuba(4, v_leak=np.array([0.5, -0.25, 0.0, 1.5]), v_reset=np.array([0.0, 0.25, 0.5, -0.5]))],
        (6,),
    ),
    "parameters of each neuron": (
        [nir.Linear(weights(4, 6)),
         cuba(4, tau_mem=RNG.uniform(2e-3, 9e-3, 4), r=RNG.uniform(3, 9, 4), w_in=RNG.uniform(1, 5, 4))], (6,),
    ),
    "LI": (
        [nir.Linear(weights(4, 6)), lif(4), nir.Linear(weights(2, 4)), nir.LI(*(np.full(2, x) for x in (9e-3, 2.0, 0.1)))], (6,),
    ),
    "CubaLI": (
        [nir.Linear(weights(4, 6)), lif(4), nir.Affine(weights(2, 4), weights(2)),
         nir.CubaLI(*(np.full(2, x) for x in (3e-3, 9e-3, 2.0, 0.0, 1.5)))], (6,),
    ),
    "I": ([nir.Linear(weights(4, 6)), lif(4), nir.Affine(weights(2, 4), weights(2)), nir.I(np.full(2, 100.0))], (6,)),
    "Threshold": ([nir.Linear(weights(4, 6)), nir.Threshold(np.full(4, 0.5)), nir.Linear(weights(2, 4)), lif(2)], (6,)),
    "neurons behind neurons": ([nir.Linear(weights(4, 6)), lif(4), lif(4, v_threshold=0.9)], (6,)),
    "Scale": ([nir.Scale(RNG.uniform(0.5, 2, 6)), nir.Linear(weights(4, 6)), nir.Scale(RNG.uniform(0.5, 2, 4)), lif(4)], (6,)),
    "Delay": ([nir.Delay(np.full(6, 3e-3)), nir.Linear(weights(4, 6)), lif(4)], (6,)),
    "Delay of each": ([nir.Delay(np.array([0, 1e-3, 0, 4e-3, 1e-3, 2e-3])), nir.Linear(weights(4, 6)), lif(4)], (6,)),
    "Delay behind weights": ([nir.Linear(weights(4, 6)), nir.Delay(np.array([0, 1e-3, 1e-3, 5e-3])), lif(4)], (6,)),
    "Conv1d": (
        [nir.Conv1d(9, weights(4, 1, 3), 2, 1, 1, 2, weights(4)), lif(4, 5), nir.Flatten({"input": np.array([4, 5])}, 0, -1),
         nir.Linear(weights(3, 20)), lif(3)], (2, 9),
    ),
    "Conv2d": (
        [nir.Conv2d((7, 6), weights(4, 1, 3, 2), (2, 1), (1, 0), (1, 2), 2, weights(4)), lif(4, 4, 4),
         nir.Conv2d((4, 4), weights(2, 4, 3, 3), 1, "same", 1, 1, weights(2)), cuba(2, 4, 4)], (2, 7, 6),
    ),
    "AvgPool2d and Flatten": (
        [nir.Conv2d((6, 6), weights(3, 2, 3, 3), 1, "valid", 1, 1, weights(3)), lif(3, 4, 4),
         nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), nir.Flatten({"input": np.array([3, 2, 2])}, 0, -1),
         nir.Linear(weights(4, 12)), lif(4)], (2, 6, 6),
    ),
    "SumPool2d into Conv2d": (
        [nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
         nir.Conv2d((3, 3), weights(3, 2, 2, 2), 1, 0, 1, 1, weights(3)), cuba(3, 2, 2)], (2, 6, 6),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("case", FIXED)
def test_primitives_mean_what_their_equations_say(case: str, tmp_path: Path) -> None:
    chain, input_shape = FIXED[case]
    assert_alike(graph(*chain, input_shape=input_shape), tmp_path, input_shape)


def test_residual_adds_recurrence_and_delays_in_the_loop(tmp_path: Path) -> None:
    ways = [
        ("input", "n0"), ("n0", "n1"), ("n1", "back"), ("back", "late"), ("late", "n1"), ("n1", "n2"), ("n2", "n3"),
        ("n1", "n3"), ("input", "skip"), ("skip", "n3"), ("n3", "output"),
    ]  # fmt: skip
    made = graph(
        nir.Affine(weights(4, 6), weights(4)), lif(4), nir.Linear(weights(4, 4)), cuba(4), input_shape=(6,), edges=ways,
        back=nir.Affine(weights(4, 4), weights(4)), late=nir.Delay(np.zeros(4)), skip=nir.Linear(weights(4, 6)),
    )  # fmt: skip
    network = assert_alike(made, tmp_path, (6,))
    assert [c.source for c in network["n3"].connections] == ["n1", "n1", "input", "bias"] or len(network["n3"].connections) == 3
    later = graph(
        nir.Linear(weights(4, 6)), lif(4), input_shape=(6,), back=nir.Linear(weights(4, 4)), late=nir.Delay(np.full(4, 2e-3)),
        edges=[("input", "n0"), ("n0", "n1"), ("n1", "late"), ("late", "back"), ("back", "n1"), ("n1", "output")],
    )  # fmt: skip
    network = assert_alike(later, tmp_path, (6,))
    assert [(c.source, c.delay_steps) for c in network["n1"].connections] == [("input", 0), ("n1", 2)]


def test_neurons_that_hear_nobody_else_have_the_shape_of_their_parameters(tmp_path: Path) -> None:
    ways = [("input", "n0"), ("n0", "n1"), ("alone", "back"), ("back", "alone"), ("n1", "output")]
    made = graph(
        nir.Linear(weights(4, 6)),
        lif(4),
        input_shape=(6,),
        alone=lif(3),
        back=nir.Affine(weights(3, 3), np.full(3, 2.0)),
        edges=ways,
    )
    network = assert_alike(made, tmp_path, (6,))
    assert network["alone"].shape == (3,)


def test_subgraphs_are_laid_open(tmp_path: Path) -> None:
    inner = nir.NIRGraph(
        nodes={"in": nir.Input(np.array([4])), "lif": lif(4), "w": nir.Linear(weights(4, 4)), "out": nir.Output(np.array([4]))},
        edges=[("in", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "out")], type_check=False,
    )  # fmt: skip
    made = graph(nir.Linear(weights(4, 6)), inner, nir.Linear(weights(2, 4)), lif(2), input_shape=(6,))
    network = read_nir(written(made, tmp_path), dt=DT)
    assert [layer.name for layer in network] == ["n1.lif", "n3"]
    assert [c.source for c in network["n1.lif"].connections] == ["input", "n1.lif"]


def test_convolutions_and_pooling_stay_windows(tmp_path: Path) -> None:
    chain, input_shape = FIXED["SumPool2d into Conv2d"]
    network = read_nir(written(graph(*chain, input_shape=input_shape), tmp_path), dt=DT)
    synapse = network["n2"].connections[0].synapse
    assert isinstance(synapse, Conv)
    assert (synapse.stride, synapse.weight.shape) == ((2, 2), (3, 2, 4, 4))


# ---------------------------------------------------------------------------------------------- files as they are found


def edited(made: nir.NIRGraph, folder: Path, node: str, **fields: Any) -> Path:
    """The file with fields of a node written otherwise, or taken out where None."""
    path = written(made, folder)
    with h5py.File(path, "r+") as file:
        group = file[f"node/nodes/{node}"]
        for key, value in fields.items():
            if key in group:
                del group[key]
            if value is not None:
                group[key] = value
    return path


PLAIN = graph(nir.Affine(weights(4, 6), weights(4)), lif(4), input_shape=(6,))
IMAGE = graph(nir.Conv2d((5, 5), weights(3, 2, 2, 2), 1, 0, 1, 1, np.zeros(3)), lif(3, 4, 4), input_shape=(2, 5, 5))
FLAT = graph(
    nir.Conv2d((5, 5), weights(3, 2, 2, 2), 1, 0, 1, 1, np.zeros(3)), lif(3, 4, 4),
    nir.Flatten({"input": np.array([3, 4, 4])}, 0, -1), nir.Linear(weights(2, 48)), lif(2), input_shape=(2, 5, 5),
)  # fmt: skip
FOUND: dict[str, Any] = {
    "scalars": (PLAIN, "n1", {"r": 1.0, "v_threshold": 1.0, "tau": 5e-3, "v_leak": 0.0, "v_reset": 0.0}),
    "one of each": (PLAIN, "n1", {"tau": np.array([5e-3]), "v_threshold": 1.0}),
    "no v_reset": (PLAIN, "n1", {"v_reset": None}),
    "half precision": (PLAIN, "n1", {"v_threshold": np.ones(4, dtype=np.float16)}),
    "whole numbers": (PLAIN, "n1", {"v_threshold": np.ones(4, dtype=np.int64), "v_leak": np.zeros(4, dtype=np.int8)}),
    "a batch in parameters": (PLAIN, "n1", {"v_threshold": np.ones((1, 4))}),
    "a batch in the input": (PLAIN, "input", {"shape": np.array([1, 6])}),
    "a batch of images": (IMAGE, "input", {"shape": np.array([1, 2, 5, 5])}),
    "no input_shape": (IMAGE, "n0", {"input_shape": None}),
    "a size of one": (IMAGE, "n1", {key: np.array([1.0]) for key in ("r", "v_threshold")}),
    "one a channel": (IMAGE, "n1", {"v_threshold": np.ones((3, 1, 1))}),
    "flattened with a batch in mind": (FLAT, "n2", {"start_dim": 1}),
    "no word of the output": (PLAIN, "output", {"shape": np.array([1, 4])}),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_files_as_they_are_found_are_read(case: str, tmp_path: Path) -> None:
    made, node, fields = FOUND[case]
    network = read_nir(edited(made, tmp_path, node, **fields), dt=DT)
    plain = read_nir(written(made, tmp_path), dt=DT)
    assert network.input_shape == plain.input_shape
    assert [layer.shape for layer in network] == [layer.shape for layer in plain]
    assert network["n1"].neuron.threshold == plain["n1"].neuron.threshold == 1.0


def test_an_edge_that_stands_twice_is_one(tmp_path: Path) -> None:
    made = graph(nir.Linear(weights(4, 6)), lif(4), input_shape=(6,))
    made.edges.append(made.edges[0])
    assert len(read_nir(written(made, tmp_path), dt=DT)["n1"].connections) == 1


# ---------------------------------------------------------------------------------------------- steps


def test_discretisations_are_what_they_say(tmp_path: Path) -> None:
    path = written(graph(nir.Linear(np.eye(2)), lif(2, tau=4.0, r=3.0), input_shape=(2,)), tmp_path)
    euler, exponential, sinabs = (
        read_nir(path, dt=1.0, discretisation=name)["n1"] for name in ("euler", "exponential", "sinabs")
    )  # fmt: skip
    assert (euler.neuron.voltage_decay, euler.weight[0, 0]) == (0.25, 0.75)
    forgotten = 1 - np.exp(-0.25)
    for each in (exponential, sinabs):
        assert (each.neuron.voltage_decay, each.weight[0, 0]) == (pytest.approx(forgotten), pytest.approx(3 * forgotten))
    assert exponential.neuron.threshold == 1.0
    assert sinabs.neuron.threshold == np.nextafter(1.0, 0)  # it fires at the threshold too
    norse = read_nir(path, dt=2.0, discretisation="norse")["n1"]
    assert norse.neuron.voltage_decay == 1.0  # 2 * 2 / 4: it writes dt times the time constant


def test_sinabs_reads_its_leaks_unweighted(tmp_path: Path) -> None:
    leak = nir.LI(np.full(2, 4.0), np.ones(2), np.zeros(2))
    path = written(graph(nir.Linear(np.eye(2)), leak, input_shape=(2,)), tmp_path)
    layer = read_nir(path, discretisation="sinabs")["n1"]
    assert isinstance(layer.neuron, LI)
    assert layer.weight[0, 0] == 1.0
    assert read_nir(path, discretisation="sinabs").timestep_s == 1e-3  # its steps have no unit
    assert read_nir(path, dt=1.0)["n1"].weight[0, 0] == 0.25


def test_libraries_bring_their_own_step(tmp_path: Path) -> None:
    path = written(graph(nir.Linear(np.eye(2)), lif(2, tau=1e-3), input_shape=(2,)), tmp_path)
    assert read_nir(path, discretisation="snntorch").timestep_s == 1e-4
    assert read_nir(path, discretisation="spikingjelly", dt=2e-4)["n1"].neuron.voltage_decay == pytest.approx(0.2)
    assert isinstance(read_nir(path, dt=1e-4)["n1"].connections[0].synapse, Dense)
