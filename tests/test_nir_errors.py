"""What a chip cannot run, or what is no NIR file, is refused by node and kind, with the way round it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from test_nir import DT, IMAGE, PLAIN, cuba, edited, graph, lif, weights, written

from neurodeploy.errors import ExtractError, RequestError
from neurodeploy.frontends.nir.reading import read_nir
from neurodeploy.ir import arrays

W = nir.Linear(np.ones((4, 6)))
LEAK = nir.LI(*(np.full(4, x) for x in (9e-3, 2.0, 0.0)))


def one(*chain: Any, input_shape: tuple[int, ...] = (6,), **more: Any) -> nir.NIRGraph:
    return graph(*chain, input_shape=input_shape, **more)


def pool(size: int, padding: int = 0) -> nir.AvgPool2d:
    return nir.AvgPool2d(*(np.array([n, n]) for n in (size, size, padding)))


def subgraph(n_inputs: int) -> nir.NIRGraph:
    entries = {f"in{k}": nir.Input(np.array([4])) for k in range(n_inputs)}
    nodes = entries | {"lif": lif(4), "out": nir.Output(np.array([4]))}
    return nir.NIRGraph(nodes=nodes, edges=[*((name, "lif") for name in entries), ("lif", "out")], type_check=False)


def assert_says(path: Path, said: str) -> None:
    """Reading the file fails with an error of which `said` has the parts: node and kind, what, the way round it."""
    with pytest.raises(ExtractError) as caught:
        read_nir(path, dt=DT)
    sentence = str(caught.value).replace("node '", "").replace("' (", " (")
    for part in said.split(" ... "):
        assert part in sentence


STRAIGHT = [("input", "n0"), ("n0", "n1"), ("n1", "output")]
CIRCLE = [("input", "n0"), ("n0", "n1"), ("n1", "a"), ("a", "n2"), ("n2", "b"), ("b", "n1"), ("n2", "output")]
REFUSED: dict[str, tuple[nir.NIRGraph, str]] = {
    "tau below dt": (one(W, lif(4, tau=5e-4)), "n1 (LIF): its tau of 0.0005 is shorter than a step of 0.001 ... exponential"),
    "tau_syn below dt": (one(W, cuba(4, tau_syn=5e-4)), "n1 (CubaLIF): its tau_syn of 0.0005 is shorter"),
    "no tau": (one(W, lif(4, tau=0.0)), "n1 (LIF): its tau of 0 is no time constant"),
    "infinite": (one(W, lif(4, tau=np.inf)), "n1 (LIF): its tau is not finite ... beta of 1"),
    "threshold": (one(W, lif(4, v_threshold=0.0)), "n1 (LIF): LIF.threshold 0.0 is not above the reset ... raise v_th"),
    "shape": (one(W, lif(5)), "n1 (LIF): its tau has shape (5,), but it receives something of shape (4,)"),
    "membrane": (one(W, LEAK, nir.Linear(np.ones((2, 4))), lif(2)), "n3 (LIF): takes the membrane of 'n1', which never"),
    "inputs": (one(nir.Linear(np.ones((4, 7))), lif(4)), "n0 (Linear): expects 7 inputs, but receives something of shape (6,)"),
    "matrices": (one(nir.Linear(np.ones((1, 4, 6))), lif(4)), "n0 (Linear): its weight has shape (1, 4, 6), not (n_out"),
    "bias": (one(nir.Affine(np.ones((4, 6)), np.ones(3)), lif(4)), "n0 (Affine): its bias has 3 numbers, its weight 4 rows"),
    "channels": (
        one(nir.Conv2d((5, 5), np.ones((3, 1, 2, 2)), 1, 0, 1, 1, np.zeros(3)), lif(3, 4, 4), input_shape=(2, 5, 5)),
        "n0 (Conv2d): expects 1 channels, but receives something of shape (2, 5, 5)",
    ),
    "kernel": (
        one(nir.Conv1d(5, np.ones((3, 2, 2, 2)), 1, 0, 1, 1, np.zeros(3)), lif(3, 4, 4), input_shape=(2, 5)),
        "n0 (Conv1d): its weight has shape (3, 2, 2, 2), not (out, in / groups, n)",
    ),
    "lines": (
        one(nir.Conv1d(5, np.ones((3, 2, 2)), 1, 0, 1, 1, np.zeros(3)), lif(3, 4), input_shape=(2, 5, 5)),
        "n0 (Conv1d): needs lines (channels, n), but its input has shape (2, 5, 5)",
    ),
    "no image": (one(pool(2), W, lif(4)), "n0 (AvgPool2d): needs images (channels, rows, columns), but its input has shape (6,)"),
    "flatten": (
        one(nir.Flatten({"input": np.array([6])}, 1, 2), W, lif(4)),
        "n0 (Flatten): flattens dimensions 1..2 of something of shape (6,)",
    ),
    "part of a step": (one(nir.Delay(np.full(6, 1.5e-3)), W, lif(4)), "n0 (Delay): delays by 1.5 steps of 0.001 ... whole steps"),
    "back in time": (one(nir.Delay(np.full(6, -1e-3)), W, lif(4)), "n0 (Delay): delays by -1 steps"),
    "delayed bias": (
        one(nir.Affine(np.ones((4, 6)), np.ones(4)), nir.Delay(np.full(4, 1e-3)), lif(4)), "n1 (Delay): delays a bias",
    ),
    "no end": (one(W, lif(4), nir.Linear(np.ones((2, 4)))), "output (Output): gives the output of n2 (Linear), not of"),
    "loose end": (
        one(W, lif(4), loose=nir.Linear(np.ones((2, 4))), edges=[*STRAIGHT, ("n1", "loose")]),
        "loose (Linear): ends without neurons",
    ),
    "membrane of its own": (
        one(W, LEAK, back=nir.Linear(np.eye(4)), edges=[*STRAIGHT, ("n1", "back"), ("back", "n1")]),
        "n1 (LI): takes the membrane of 'n1', which never fires",
    ),
    "two ends": (
        one(W, lif(4), lif(4), edges=[("input", "n0"), ("n0", "n1"), ("n0", "n2"), ("n1", "output"), ("n2", "output")]),
        "output (Output): gives the output of more than one population, not of one population of neurons",
    ),
    "heard after the end": (
        one(W, lif(4), lif(4), edges=[*STRAIGHT, ("n1", "n2")]),
        "output (Output): gives the output of 'n1', but 'n2' receives that and comes after it",
    ),
    "circle": (
        one(W, lif(4), lif(4), a=nir.Linear(np.eye(4)), b=nir.Linear(np.eye(4)), edges=CIRCLE),
        "n1 (LIF): is in a loop, 'n1' -> 'n2' -> 'n1', which takes 2 steps on the chip ... feed back to one population only.",
    ),
    "loop without neurons": (
        one(W, lif(4), a=nir.Scale(np.ones(4)), edges=[("input", "n0"), ("n0", "a"), ("a", "a"), ("a", "n1"), ("n1", "output")]),
        "a (Scale): is in a loop without neurons",
    ),
    "deaf": (one(W, lif(4), deaf=lif(4), edges=STRAIGHT), "deaf (LIF): receives nothing"),
    "no neurons": (one(W), "made.nir: holds no neurons"),
    "two inputs": (
        one(W, lif(4), other=nir.Input(np.array([4])), edges=[*STRAIGHT, ("other", "n1")]),
        "made.nir: has 2 Input nodes (input, other), not one",
    ),
    "sum of shapes": (
        one(W, lif(4), a=nir.Linear(np.ones((3, 6))), edges=[*STRAIGHT, ("input", "a"), ("a", "n1")]),
        "n1 (LIF): adds (3,) from 'a' to (4,) from 'n0'",
    ),
    "two ways in": (one(W, subgraph(2)), "n1 (NIRGraph): is a subgraph with 2 Input nodes ... Give it one"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_chip_runs_is_refused_by_node_and_kind(case: str, tmp_path: Path) -> None:
    made, said = REFUSED[case]
    assert_says(written(made, tmp_path), said)


EDITED: dict[str, Any] = {
    "no r": (PLAIN, "n1", {"r": None}, "n1 (LIF): has no r. Export it again"),
    "words": (PLAIN, "n1", {"r": "much"}, "n1 (LIF): its r is 'much', not numbers"),
    "no kind": (PLAIN, "n1", {"type": None}, "n1': has no type"),
    "unknown kind": (PLAIN, "n1", {"type": "Izhikevich"}, "n1 (Izhikevich): is not supported. Supported are Input, Output,"),
    "no shape": (PLAIN, "input", {"shape": None}, "input (Input): has no shape. Export the graph with a sample"),
    "half a stride": (IMAGE, "n0", {"stride": np.array([0.5, 1])}, "n0 (Conv2d): its stride is  ... , not 2 whole numbers"),
    "padding": (IMAGE, "n0", {"padding": "mirror"}, "n0 (Conv2d): its padding is 'mirror', not 'valid', 'same' or numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITED)
def test_damaged_nodes_are_refused_by_name(case: str, tmp_path: Path) -> None:
    made, node, fields, said = EDITED[case]
    assert_says(edited(made, tmp_path, node, **fields), said)


def test_what_is_no_nir_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.nir").write_text("no")
    with pytest.raises(ExtractError, match=r"text\.nir: is no NIR file"):
        read_nir(tmp_path / "text.nir", dt=DT)
    with pytest.raises(ExtractError, match=r"none\.nir: does not exist"):
        read_nir(tmp_path / "none.nir", dt=DT)
    nir.write(tmp_path / "node.nir", W)
    with pytest.raises(ExtractError, match=r"node\.nir: holds a node of type Linear, not a NIRGraph"):
        read_nir(tmp_path / "node.nir", dt=DT)
    path = written(PLAIN, tmp_path)
    with h5py.File(path, "r+") as file:
        del file["node/nodes/n0"]
    with pytest.raises(ExtractError, match="has an edge from 'input' to 'n0', but no node 'n0'"):
        read_nir(path, dt=DT)


def test_texts_that_the_library_would_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "READ_LIMIT_S", 2.0)
    path = written(PLAIN, tmp_path)
    content = bytearray(path.read_bytes())
    heap = content.find(b"GCOL")
    content[heap + 8] = 0x58  # of the heap's size, which was 4096, and zeros behind its end
    content[heap + 4096 : heap + 4096 + 0x58] = bytes(0x58)
    path.write_bytes(content)
    with pytest.raises(ExtractError, match=r"is no NIR file: it is damaged: "):
        read_nir(path, dt=DT)


def test_what_is_neither_numbers_nor_text_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = written(one(lif(6)), tmp_path)
    with h5py.File(path, "a") as file:
        file["node"].create_dataset("lists", shape=(2,), dtype=h5py.vlen_dtype(np.int32))
    with pytest.raises(ExtractError, match=r"\.nir: lists is neither numbers nor text"):
        read_nir(path, dt=DT)
    with h5py.File(path, "a") as file:
        del file["node"]
        file["node"] = 1
    with pytest.raises(ExtractError, match=r"is no NIR file: .*its node is no group"):
        read_nir(path, dt=DT)


def test_a_step_has_to_be_given(tmp_path: Path) -> None:
    path = written(graph(nir.Linear(weights(4, 6)), lif(4), input_shape=(6,)), tmp_path)
    with pytest.raises(
        ExtractError, match=r"does not state the length of a time step.*snntorch, spikingjelly, sinabs, norse"
    ) as caught:
        read_nir(path)
    assert "continuous time" in caught.value.source
    with pytest.raises(RequestError, match="dt: -1 is not a positive length of a step"):
        read_nir(path, dt=-1)
    with pytest.raises(RequestError, match=r"discretisation: 'midpoint' is not known\. Choose from euler, exponential,"):
        read_nir(path, dt=DT, discretisation="midpoint")
