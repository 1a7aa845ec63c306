"""`inspect` says what `deploy` does: networks with odd numbers on every chip, and layers that nothing reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import neurodeploy as nd
from neurodeploy.hardware.loading import load_profile, profile_paths
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Dense, Layer, Network, SubtractiveLIF
from neurodeploy.pipeline.evaluation import evaluate

CHIPS = sorted(profile_paths())


@pytest.fixture
def verdict_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deploy without arranging cores and drawing figures, which take most of its time and decide nothing."""
    monkeypatch.setattr("neurodeploy.report.html.write_page", lambda *_: None)
    monkeypatch.setattr("neurodeploy.pipeline.deploy.arrange_placement", lambda placement: placement)


def odd_network(seed: int) -> Network:
    """A chain in which one layer has odd numbers: too large, too small, of one sign, none, decays at the ends, long delays."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 20, size=rng.integers(3, 5)).tolist()
    is_subtractive, odd, layers = bool(rng.integers(2)), int(rng.integers(len(sizes) - 1)), list[Layer]()
    for place, (n_in, n_out) in enumerate(pairwise(sizes)):

        def number(usual: Any, *others: Any, is_odd: bool = place == odd) -> NDArray[np.float64]:
            """One of the others in a third of the cases, in the odd layer."""
            return np.asarray(others[rng.integers(len(others))] if is_odd and rng.integers(3) == 0 else usual, dtype=np.float64)

        weight = rng.normal(size=(n_out, n_in)) * number(1.0, 1e30, 1e-30, 1e-300, 0.0, 1e5)
        spike = np.where(np.arange(weight.size).reshape(weight.shape) == 0, 1e9 * weight, weight)
        weight = number(weight, -np.abs(weight), np.where(rng.random(weight.shape) < 0.1, weight, 0.0), spike)
        settings = {
            "current_decay": number(0.3, 0.0, 1.0, 1e-9, 0.9999, rng.random(n_out)), "rest": number(0.0, 3.0),
            "voltage_decay": number(0.2, 0.0, 1.0, 1e-9, rng.random(n_out)),
        }  # fmt: skip
        threshold = number(1.0, 1e30, 1e-30, 1e7, 1 + rng.random(n_out))
        neuron: Any = LIF(threshold=threshold, **settings)
        if is_subtractive:
            neuron = SubtractiveLIF(threshold=threshold, max_spikes=np.array(31), **settings)
        if place == len(sizes) - 2 and rng.integers(2):
            neuron = LI(**settings)
        source = layers[-1].name if layers else INPUT
        connections = [Connection(source=source, synapse=Dense(weight=weight), delay_steps=int(number(0, 1, 5, 70)))]
        if number(0, 1):
            connections.append(Connection(source=f"layer{place}", synapse=Dense(weight=rng.normal(size=(n_out, n_out)))))
        bias = number(0.0, 1e30, -1e9, 0.3, rng.normal(size=n_out))
        layers.append(
            Layer(name=f"layer{place}", shape=(n_out,), neuron=neuron, bias=bias, connections=tuple(connections))
        )  # fmt: skip
    return Network(input_shape=(sizes[0],), layers=tuple(layers), timestep_s=1e-3)


def said_and_done(seed: int, folder: Path) -> tuple[str, str]:
    """Verdict of `inspect`, and what becomes of `deploy` and the emulator: ``fits``, or why not."""
    network, chip = odd_network(seed), load_profile(CHIPS[seed % len(CHIPS)])
    seen = nd.inspect(network, chip)
    said = str(seen.unwritable or "") or ("fits" if seen.fits else "does not fit")
    try:
        made = nd.deploy(network, chip, out=folder / str(seed))
    except nd.NeurodeployError as error:
        return said, str(error)
    if chip.target is not None:
        nd.simulate(made.quantized, np.ones((1, *network.input_shape, 4), dtype=np.uint8))
    return said, "fits" if made.placement.fits else "does not fit"


def assert_alike(seeds: range, folder: Path) -> None:
    verdicts = []
    for seed in seeds:
        said, done = said_and_done(seed, folder)
        assert said == done, f"seed {seed} on {CHIPS[seed % len(CHIPS)]}"
        verdicts.append(done if done in ("fits", "does not fit") else "refused")
    assert {*verdicts} == {"fits", "does not fit", "refused"}


def test_inspect_says_what_deploy_does(verdict_only: None, tmp_path: Path) -> None:
    assert_alike(range(36), tmp_path)


@pytest.mark.slow
def test_inspect_says_what_deploy_does_with_many_networks(verdict_only: None, tmp_path: Path) -> None:
    assert_alike(range(100, 500), tmp_path)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["weight", "bias", "threshold"])
def test_numbers_that_are_none_make_no_network(field: str, number: float, make_network: Callable[..., Network]) -> None:
    layer = make_network([3, 2, 1]).layers[0]
    of: Any = {"weight": layer.connections[0].synapse, "bias": layer, "threshold": layer.neuron}[field]
    with pytest.raises(nd.NetworkError, match=rf"\.{field}: .*(NaN|infinit|finite)"):
        replace(of, **{field: np.full((2, 3) if field == "weight" else (), number)})


@pytest.mark.parametrize("kind", ["no synapses", "nothing reaches it"])
def test_a_silent_readout_is_said_by_inspect_evaluate_and_the_report(
    kind: str, make_network: Callable[..., Network], verdict_only: None, tmp_path: Path
) -> None:
    network = make_network([6, 5, 4, 3])
    first, middle, last = network.layers
    sign = {"no synapses": 0.0, "nothing reaches it": 1.0}[kind]

    def scaled(layer: Layer, weight: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Layer:
        (connection,) = layer.connections
        synapse = replace(connection.synapse, weight=weight(connection.synapse.weight))
        return replace(layer, connections=(replace(connection, synapse=synapse),))

    middle = middle if kind == "no synapses" else scaled(middle, lambda weight: -np.abs(weight))
    network = replace(network, layers=(first, middle, scaled(last, lambda weight: sign * weight)))
    silent = {"layer3"} if kind == "no synapses" else {"layer2", "layer3"}
    seen = nd.inspect(network, "odin")
    assert {*seen.silent} == silent
    sentences = [f"Layer {name!r} is silent, whatever the input is: {seen.silent[name]}." for name in sorted(silent)]
    assert [line for line in seen.sentences if "is silent" in line] == sentences
    report = nd.deploy(network, "odin", out=tmp_path / "out").report
    assert [line for line in report.warnings if "is silent" in line] == sentences
    data = [(torch.ones(2, 8, 6), torch.tensor([0, 1]))]
    found = evaluate(nd.quantize(network, "loihi2"), data, nd.FitOptions(n_steps=8))
    assert silent <= {*found.silent}
    assert all(f"{name!r} is silent: " in str(found) for name in silent)
