"""What was measured: how two records compare, where they part first, and how a record is kept in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from paper import in_integers, layer_of

from neurodeploy.errors import DataError, RequestError
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.simulation.records import Mismatch, SpikeRecord, compare, load_spikes, save_record
from neurodeploy.targets.simulate import simulate, verify

NETWORK = in_integers(
    layer_of([[40, 0], [20, -12], [10, 10]], name="first", vth=30, du=2048, dv=1024),
    layer_of([[9, 8, 7], [3, 2, 1]], name="second", source="first", vth=5, du=1000, dv=100),
)
SPIKES = np.random.default_rng(0).integers(0, 2, (2, 2, 6))
RECORD = simulate(NETWORK, SPIKES, record="all")


def changed(*places: tuple[str, str, tuple[int, ...], int]) -> SpikeRecord:
    """`RECORD` with other values at (spikes or v, layer, (sample, neuron, step))."""
    arrays = {kind: {name: array.copy() for name, array in getattr(RECORD, kind).items()} for kind in ("spikes", "v")}
    for kind, layer, index, value in places:
        arrays[kind][layer][index] = value
    return SpikeRecord(end="lava", **arrays)


# ---------------------------------------------------------------------------------------------- records


def test_a_record_is_not_to_be_changed() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        RECORD.spikes["first"] = np.zeros(1)  # type: ignore[index]


def test_layers_of_a_record_are_of_one_batch_and_one_time() -> None:
    arrays = {"first": np.zeros((2, 3, 6), dtype=np.uint8), "second": np.zeros((2, 2, 5), dtype=np.uint8)}
    with pytest.raises(DataError, match=r"^SpikeRecord: layers differ in batch and steps: \[\(2, 5\), \(2, 6\)\]\.$"):
        SpikeRecord(end="emulator", spikes=arrays)
    with pytest.raises(DataError, match=r"layers differ in batch and steps: \[\(1, 6\), \(2, 6\)\]"):
        SpikeRecord(end="emulator", spikes={"first": arrays["first"]}, v={"first": arrays["first"][:1]})


# ---------------------------------------------------------------------------------------------- where they part


def test_equal_records_are_equal() -> None:
    comparison = compare(RECORD, changed())
    assert (comparison.equal, comparison.mismatches, comparison.first, comparison.n_steps) == (True, 0, None, 6)


def test_a_comparison_counts_the_spikes_that_it_compared() -> None:
    fired = sum(int(array.sum()) for array in RECORD.spikes.values())
    assert fired > 0
    assert (compare(RECORD, changed()).n_spikes, compare(RECORD, changed()).mismatches) == (fired, 0)
    silent = SpikeRecord(end="emulator", spikes={name: np.zeros_like(array) for name, array in RECORD.spikes.items()}, v=RECORD.v)
    assert (compare(silent, silent).n_spikes, compare(silent, silent).equal) == (0, True)
    assert (compare(silent, RECORD).n_spikes, compare(silent, RECORD).mismatches) == (fired, fired)


def test_every_value_that_differs_is_counted() -> None:
    other = changed(("v", "first", (0, 0, 3), -7), ("v", "second", (1, 1, 5), -7), ("v", "second", (0, 1, 5), -7))
    comparison = compare(RECORD, other)
    assert (comparison.equal, comparison.mismatches) == (False, 3)


def test_the_first_to_differ_is_the_earliest_then_of_the_layer_nearest_the_input_then_a_spike() -> None:
    late = ("v", "first", (0, 0, 5), -7)
    deep, near = ("v", "second", (0, 1, 2), -7), ("v", "first", (1, 2, 2), -7)
    fired = ("spikes", "first", (1, 2, 2), 9)
    whole = RECORD.v["first"][1, 2, 2], RECORD.spikes["first"][1, 2, 2]
    found = compare(RECORD, changed(late, deep)).first
    assert found is not None
    assert (found.layer, found.neuron, found.step, found.sample, found.quantity, found.lava) == ("second", 1, 2, 0, "v", -7)
    assert compare(RECORD, changed(late, deep, near)).first == Mismatch(
        layer="first", neuron=2, step=2, sample=1, quantity="v", emulator=int(whole[0]), lava=-7
    )
    assert compare(RECORD, changed(late, deep, near, fired)).first == Mismatch(
        layer="first", neuron=2, step=2, sample=1, quantity="spikes", emulator=int(whole[1]), lava=9
    )


def test_neurons_are_numbered_through_the_sides_of_their_layer() -> None:
    ours = np.zeros((1, 2, 3, 4), dtype=np.uint8)
    theirs = ours.copy()
    theirs[0, 1, 0, 2] = 1
    first = compare(SpikeRecord(end="emulator", spikes={"a": ours}), SpikeRecord(end="lava", spikes={"a": theirs})).first
    assert first is not None
    assert (first.neuron, first.step) == (3, 2)


def test_layers_that_one_record_lacks_are_passed_over() -> None:
    output = simulate(NETWORK, SPIKES)
    assert compare(RECORD, output).equal
    assert compare(output, RECORD).equal


def test_records_that_cannot_be_compared() -> None:
    shorter = simulate(NETWORK, SPIKES[..., :5], record="all")
    with pytest.raises(DataError, match=r"^first: records differ in shape: \(2, 3, 6\) and \(2, 3, 5\)\.$"):
        compare(RECORD, shorter)
    with pytest.raises(DataError, match=r"^compare: the records hold no layer in common\.$"):
        compare(RECORD, SpikeRecord(end="lava", spikes={"third": SPIKES}))


# ---------------------------------------------------------------------------------------------- verify


@pytest.fixture
def lava_that_differs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """``lava_that_differs("first", (1, 2, 3))``: from now on Lava is our emulator with one spike more or less."""

    def install(layer: str = "", place: tuple[int, ...] = ()) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def lava(network: QuantizedNetwork, spikes: NDArray[Any], **options: Any) -> SpikeRecord:
            calls.append({"spikes": spikes, **options})
            record = simulate(network, spikes, record=options["record"])
            fired = {name: array.copy() for name, array in record.spikes.items()}
            if layer:
                fired[layer][place] ^= 1
            return replace(record, end="lava", spikes=fired)

        monkeypatch.setattr("neurodeploy.targets.loihi.lava_client.run_lava", lava)
        return calls

    return install


def test_verify_says_where_lava_parts(lava_that_differs: Callable[..., list[dict[str, Any]]]) -> None:
    lava_that_differs("first", (1, 2, 3))
    comparison = verify(NETWORK, n_steps=8, n_samples=2, seed=5)
    assert (comparison.equal, comparison.mismatches, comparison.n_steps) == (False, 1, 8)
    assert comparison.first is not None
    assert (comparison.first.layer, comparison.first.neuron, comparison.first.step, comparison.first.sample) == ("first", 2, 3, 1)
    assert comparison.first.emulator == 1 - comparison.first.lava


def test_verify_runs_every_layer_on_spikes_of_its_seed(lava_that_differs: Callable[..., list[dict[str, Any]]]) -> None:
    calls = lava_that_differs()
    assert all(verify(NETWORK, n_steps=200, n_samples=3, seed=seed, time_limit_s=7).equal for seed in (0, 0, 1))
    first, again, other = (call["spikes"] for call in calls)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == (3, *NETWORK.input_shape, 200)
    assert first.mean() == pytest.approx(0.3, abs=0.05)
    assert (calls[0]["record"], calls[0]["time_limit_s"]) == ("all", 7)


@pytest.mark.parametrize(("samples", "steps"), [(0, 5), (2, 0), (1, -1)])
def test_nothing_to_verify(samples: int, steps: int) -> None:
    with pytest.raises(RequestError, match=rf"^verify: {samples} samples? of {steps} steps are nothing to run\.$"):
        verify(NETWORK, n_samples=samples, n_steps=steps)


# ---------------------------------------------------------------------------------------------- files


def test_a_record_is_kept_with_what_it_is(tmp_path: Path) -> None:
    save_record(RECORD, tmp_path / "record.npz", network="model.net")
    with np.load(tmp_path / "record.npz") as kept:
        assert sorted(kept) == ["meta", "spikes", "v"]
        np.testing.assert_array_equal(kept["spikes"], RECORD.spikes["second"])
        np.testing.assert_array_equal(kept["v"], RECORD.v["second"])
        meta = json.loads(str(kept["meta"]))
    assert meta == {
        "end": "emulator", "layer": "second", "n_samples": 2, "n_steps": 6, "network": "model.net",
        "rates": RECORD.rates(), "overflows": {"first": 0, "second": 0},
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["record.npz"]


def test_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/record\.npz: cannot be written: No such file or directory\.$"):
        save_record(RECORD, tmp_path / "nowhere" / "record.npz")


def test_spikes_come_back_as_they_were_saved(tmp_path: Path) -> None:
    np.save(tmp_path / "spikes.npy", SPIKES)
    np.testing.assert_array_equal(load_spikes(tmp_path / "spikes.npy"), SPIKES)
    np.testing.assert_array_equal(load_spikes(str(tmp_path / "spikes.npy")), SPIKES)


def lying(path: Path) -> None:
    """A header that promises 8 PB, more than any address space."""
    np.save(path, np.zeros(3))
    path.write_bytes(path.read_bytes().replace(b"(3,), }" + 14 * b" ", b"(999999999999999,), }"))


def several(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=SPIKES, b=SPIKES)


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (Path.exists, "does not exist"),
    "a folder": (Path.mkdir, "is not a file"),
    "an empty file": (Path.touch, r"is not a NumPy file of numbers \(it does not begin as one"),
    "text": (lambda path: path.write_text("0 1 1"), r"is not a NumPy file of numbers \(it does not begin as one"),
    "half a file": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'"), r"is not a NumPy file of numbers \(EOF"),
    "half a zip": (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "is not a NumPy file of numbers"),
    "objects": (lambda path: np.save(path, np.array([None]), allow_pickle=True), r"is not a NumPy .*Python objects"),
    "a promise": (lying, r"is not a NumPy file of numbers \(.*"),
    "several": (
        several,
        r"holds several arrays\. Save one array with numpy\.save",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_holds_no_spikes(tmp_path: Path, what: str) -> None:
    make, message = FILES[what]
    make(tmp_path / "spikes.npy")
    with pytest.raises(DataError, match=rf"spikes\.npy: {message}"):
        load_spikes(tmp_path / "spikes.npy")
