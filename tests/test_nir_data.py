"""Records as NIRData: nir's own reader finds every spike and membrane again, under the names of the network's nodes."""

from __future__ import annotations

from pathlib import Path

import nir
import numpy as np
import pytest
from test_nir_commands import EULER, write_model_and_input

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.errors import DataError, RequestError
from neurodeploy.frontends.nir.writing import write_nir_data
from neurodeploy.simulation.records import SpikeRecord

pytestmark = pytest.mark.skipif(not hasattr(nir, "NIRGraphData"), reason="nir has NIRData since 1.0.8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network in a NIR file and its input."""
    monkeypatch.chdir(tmp_path)
    write_model_and_input()
    return tmp_path


def test_a_record_is_nirdata_of_the_networks_nodes(here: Path) -> None:
    network = nd.read_nir("model.nir", dt=1e-3)
    record = nd.simulate(network, np.load("spikes.npy"), record="all")
    write_nir_data(record, "record.nir", dt=1e-3)
    data = nir.read_data("record.nir")
    data.check_nodes(nir.read("model.nir", type_check=False))
    assert list(data.nodes) == ["n1", "n3"]
    for name, node in data.nodes.items():
        spikes, v = node.observables["spikes"], node.observables["voltages"]
        assert (spikes.dt, v.dt) == (1e-3, 1e-3)
        assert spikes.data.dtype == bool
        np.testing.assert_array_equal(spikes.data, np.moveaxis(record.spikes[name], -1, 1))
        np.testing.assert_array_equal(v.data, np.moveaxis(record.v[name], -1, 1))
    events = data.nodes["n3"].observables["spikes"].to_event(n_events=200)
    assert (events.idx >= 0).sum() == record.spikes["n3"].sum()


def test_images_are_rows_and_several_spikes_a_step_are_numbers(tmp_path: Path) -> None:
    spikes = np.arange(2 * 3 * 2 * 2 * 5, dtype=np.uint8).reshape(2, 3, 2, 2, 5) % 4
    write_nir_data(SpikeRecord(end="reference", spikes={"a": spikes}), tmp_path / "record.nir", dt=2e-3)
    (node,) = nir.read_data(tmp_path / "record.nir").nodes.values()
    assert list(node.observables) == ["spikes"]
    np.testing.assert_array_equal(node.observables["spikes"].data, np.moveaxis(spikes.reshape(2, 12, 5), -1, 1))


def test_simulate_writes_nirdata(here: Path) -> None:
    arguments = ["simulate", "model.nir", *EULER, "--input", "spikes.npy"]
    assert main([*arguments, "--out", "record.npz"]) == 0
    for _ in range(2):  # it replaces its own
        assert main([*arguments, "--out", "record.nir"]) == 0
    (node,) = nir.read_data("record.nir").nodes.values()
    np.testing.assert_array_equal(np.moveaxis(node.observables["spikes"].data, 1, -1), np.load("record.npz")["spikes"])


def test_what_cannot_be_written_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = nd.simulate(nd.read_nir("model.nir", dt=1e-3), np.load("spikes.npy"))
    with pytest.raises(RequestError, match=r"^dt: 0 is not a positive length of a step\.$"):
        write_nir_data(record, "record.nir", dt=0)
    with pytest.raises(DataError, match=r"^nowhere/record\.nir: cannot be written: No such file or directory\.$"):
        write_nir_data(record, "nowhere/record.nir", dt=1e-3)
    monkeypatch.delattr(nir, "NIRGraphData")
    message = r"^record\.nir: nir [\d.]+ has no NIRData.*Install nir 1\.0\.8 or later, or write \.npz\.$"
    with pytest.raises(RequestError, match=message):
        write_nir_data(record, "record.nir", dt=1e-3)
    assert not Path("record.nir").exists()
