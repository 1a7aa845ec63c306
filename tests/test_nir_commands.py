"""Commands take .nir files as they take .net files, and write either."""

from __future__ import annotations

import json
from pathlib import Path

import nir
import numpy as np
import pytest
from test_nir import cuba, graph, lif

import neurodeploy as nd
from neurodeploy.__main__ import main

EULER = ["--dt", "1e-3"]


def write_model_and_input() -> None:
    """Write ``model.nir``, two layers of 8 and 6 neurons, and ``spikes.npy`` for it."""
    weights = np.random.default_rng(2).normal(0.4, 0.6, size=(8, 6))
    nir.write("model.nir", graph(nir.Linear(weights), lif(8), nir.Linear(weights.T), lif(6), input_shape=(6,)))
    np.save("spikes.npy", (np.random.default_rng(3).random((2, 6, 20)) < 0.5).astype(np.uint8))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network in a NIR file, where commands run."""
    monkeypatch.chdir(tmp_path)
    write_model_and_input()
    return tmp_path


def test_inspect_and_deploy_take_nir_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "model.nir", "--target", "loihi2", *EULER, "--json"]) == 0
    assert [layer["name"] for layer in json.loads(capsys.readouterr().out)["layers"]] == ["n1", "n3"]
    assert main(["deploy", "model.nir", "--target", "loihi2", "--discretisation", "snntorch", "--out", "made"]) == 0
    assert [layer.name for layer in nd.read_netx("made/model.net")] == ["n1", "n3"]


def test_deploy_takes_biases_in_front_of_currents(here: Path) -> None:
    """They come from a neuron that hears nothing, of which reports count no pairs."""
    made = graph(nir.Affine(np.ones((4, 6)), np.ones(4)), cuba(4), input_shape=(6,))
    nir.write("biased.nir", made)
    assert main(["deploy", "biased.nir", "--target", "loihi2", *EULER, "--out", "made"]) == 0
    assert [layer.name for layer in nd.read_netx("made/model.net")] == ["bias", "n1"]


def test_simulate_rounds_a_nir_file_to_the_chip(here: Path) -> None:
    assert main(["simulate", "model.nir", *EULER, "--input", "spikes.npy", "--out", "record.npz"]) == 0
    quantized = nd.quantize(nd.read_nir("model.nir", dt=1e-3), nd.load_profile("loihi2"))
    said = nd.simulate(quantized, np.load("spikes.npy"))
    np.testing.assert_array_equal(np.load("record.npz")["spikes"], said.spikes["n3"])
    assert said.spikes["n3"].any()


@pytest.mark.slow
@pytest.mark.lava
def test_verify_takes_a_nir_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "model.nir", *EULER, "--steps", "6"]) == 0
    assert capsys.readouterr().out.startswith("Equal: ")


def test_export_writes_nir_and_net_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    floats = nd.read_nir("model.nir", dt=1e-3)
    assert main(["export", "model.nir", *EULER, "--to", "floats.nir"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "2 layers, 14 neurons, 96 synapses: floats.nir"
    assert said[1:] == [f"Note: {note}" for note in floats.notes]
    assert nd.read_nir("floats.nir") == floats
    assert main(["export", "floats.nir", "--to", "integers.net", "--bits", "6"]) == 0
    quantized = nd.quantize(floats, nd.load_profile("loihi2"), bits=6)
    assert nd.read_netx("integers.net") == quantized
    assert main(["export", "integers.net", "--to", "integers.nir"]) == 0
    assert nd.read_nir("integers.nir") == nd.dequantize(quantized)
    assert main(["export", "floats.nir", "--to", "again.nir", "--target", "loihi1"]) == 0
    assert nd.read_nir("again.nir") == nd.dequantize(nd.quantize(floats, nd.load_profile("loihi1")))


BAD = {
    "no step": (["inspect", "model.nir", "--target", "loihi2"], "model.nir: does not state the length of a time step"),
    "unknown way": (["verify", "model.nir", "--discretisation", "fast"], "discretisation: 'fast' is not known"),
    "a step for a net": (["simulate", "x.net", *EULER, "--input", "spikes.npy", "--out", "r.npz"], "are for .nir files"),
    "no such kind": (["export", "model.nir", *EULER, "--to", "model.onnx"], "model.onnx: is no kind of file"),
    "no file": (["inspect", "none.nir", "--target", "loihi2"], "none.nir: does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, said = BAD[case]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
