"""What is said of the board: shares of its resources, traffic, cost, and what would help; in tables and in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paper import in_integers, layer_of
from test_page import Reader

from neurodeploy.__main__ import main
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.mapping.allocation import gains, share_budget
from neurodeploy.mapping.place import lay_out, with_traffic
from neurodeploy.mapping.placement import Placement
from neurodeploy.pipeline.deploy import deploy
from neurodeploy.pipeline.inspection import inspect
from neurodeploy.report.html import page_of
from neurodeploy.report.summary import Accuracy, board_json, summarize
from neurodeploy.report.text import as_text, core_table, gain_table, traffic_lines, verdict

TINY, KAPOHO_BAY = load_profile("tiny"), load_profile("kapoho_bay")


@pytest.fixture
def forked(make_chip: Callable[..., HardwareProfile]) -> Placement:
    """Two layers of two neurons each on cores of their own, each neuron of the first heard by both of the second.

    Each input fires once a step, a0 every second step, a1 never.
    """
    network = in_integers(layer_of([[1], [1]], name="a", vth=1), layer_of([[1, 1], [1, 1]], name="b", source="a", vth=1))
    chip = make_chip(
        neurons_per_core=2, synop_dense_energy=10.0, synop_sparse_energy=3.0, synop_dense_time=4.0, neuron_update_energy=5.0
    )
    rates = {"input": np.array(1.0), "a": np.array([0.5, 0.0]), "b": np.array(0.0)}
    return with_traffic(lay_out(network, chip), network, rates)


# ---------------------------------------------------------------------------------------------- JSON


def test_utilization_is_the_mean_and_the_fullest_core_beside_the_limit(forked: Placement) -> None:
    """Memory: one axon of 2 * 8 + 10 bits, a unit, on the first core; two on the second; 16,384 bits each."""
    said = board_json(forked)["utilization"]
    assert list(said) == list(forked.resources)
    assert said["neurons"] == {"mean": 1.0, "fullest": 1.0, "limit": 2, "source": "tiny.yaml: neurons_per_core"}
    assert said["synapse_memory_bits"] == {
        "mean": 1.5 * 64 / 16384, "fullest": 2 * 64 / 16384, "limit": 16384, "source": "tiny.yaml: synapse_memory_bits_per_core",
    }  # fmt: skip


def test_traffic_tells_spikes_hops_and_what_they_rest_on(forked: Placement) -> None:
    """One from the input and half a one from a0 to b, which stands on another core: the toy chip has no mesh, so one hop."""
    assert board_json(forked)["traffic"] == {
        "rates": "measured", "spikes": 1.5, "spike_hops": 0.5, "spike_hops_multicast": 0.5, "routings": [],
        "between_chips": 0.0, "busiest_link": None,
    }  # fmt: skip


def test_an_estimate_adds_up_and_names_its_source(forked: Placement) -> None:
    """Each of 1.5 spikes meets two synapses of a dense list, 10 pJ each; four neurons are updated at 5 pJ."""
    said = board_json(forked)["estimate"]
    assert said["energy_j"] == pytest.approx((1.5 * 2 * 10 + 4 * 5) * 1e-12)
    by_kind = {kind: energy for kind, energy in said["energy_j_by_kind"].items() if energy}
    assert by_kind == pytest.approx({"synop_dense": 30e-12, "neuron_update": 20e-12})
    assert said["time_s"] == pytest.approx(2 * 4e-9)  # the first core's, whose spike comes in every step
    assert said["source"] == "a test"


def test_what_is_not_known_of_the_board_is_null(forked: Placement) -> None:
    network = in_integers(layer_of([[1]], vth=1))
    bare = board_json(lay_out(network, TINY))
    assert (bare["traffic"], bare["estimate"]) == (None, None)
    without_figures = board_json(with_traffic(lay_out(network, TINY), network))
    assert without_figures["traffic"]["rates"] == "assumed"
    assert without_figures["estimate"] is None


def test_all_of_it_is_json(forked: Placement, make_network: Callable[..., Network]) -> None:
    seen = inspect(make_network([64, 100, 10]), KAPOHO_BAY, cores=2)
    for said in (board_json(forked), seen.to_json()):
        assert json.loads(json.dumps(said)) == said


# ---------------------------------------------------------------------------------------------- text


def test_the_table_of_cores_names_the_fullest(forked: Placement) -> None:
    (row,) = (line for line in as_text(core_table(forked)).splitlines() if "synapse_memory" in line)
    cells = re.split(r" {2,}", row.strip())
    assert cells == ["synapse_memory_bits", "0.6%", "0.8%", "1", "16,384 bits", "tiny.yaml: synapse_memory_bits_per_core"]


def test_traffic_and_cost_are_told_in_sentences(forked: Placement) -> None:
    assert list(traffic_lines(forked)) == [
        "Traffic per step: 1.5 spikes sent, 0.5 spikes x hops (as multicast: 0.5; how this chip sends copies is not known) "
        "through a crossbar (rates measured).",
        "Estimate per step: 5e-05 uJ and 0.008 us; of the energy synop_dense 60%, neuron_update 40%. Assumed: a test.",
        "Busiest core: 0 ('a'), receiving for 0.008 of 0.008 us: synop_dense 100%. It sets the time of a step.",
    ]


def test_a_chip_with_energies_and_no_times_has_no_busiest_core(make_chip: Callable[..., HardwareProfile]) -> None:
    network = in_integers(layer_of([[1]], vth=1))
    placement = with_traffic(lay_out(network, chip := make_chip(synop_sparse_energy=3.0)), network)
    assert "Busiest core" not in " ".join(traffic_lines(placement))
    assert "Busiest core" not in page_of(summarize(chip, None, placement))


def test_rates_that_are_assumed_are_told_with_the_figure() -> None:
    network = in_integers(layer_of([[1]], vth=1))
    said = list(traffic_lines(with_traffic(lay_out(network, TINY), network)))
    assert said[0].endswith("(rates assumed, 0.1 spikes per neuron and step).")
    assert said[1] == "Energy and time: unknown, because tiny.yaml has no figures."
    assert list(traffic_lines(lay_out(network, TINY))) == []


def test_a_profile_of_ones_own_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: other\ndescription: A chip.\nextends: tiny\ncores_per_chip: {value: 2, unit: cores, source: me}"
    )
    network, chip = in_integers(layer_of([[1]], vth=1)), load_profile(tmp_path / "mine.yaml")
    assert "Energy and time: unknown, because mine.yaml has no figures." in traffic_lines(
        with_traffic(lay_out(network, chip), network)
    )


@pytest.mark.parametrize(
    ("target", "heading"), [("loihi", "accuracy in the chip's integers 25.00%"), (None, "accuracy with rounded weights 75.00%")]
)
def test_a_chip_that_is_counted_alone_is_headed_by_what_was_measured(target: str | None, heading: str) -> None:
    chip = replace(TINY, target=target)
    accuracy = Accuracy(dense=1.0, quantized=0.75, emulated=None if target is None else 0.25, test_samples=100)
    page = page_of(summarize(chip, None, lay_out(in_integers(layer_of([[1]], vth=1)), chip), accuracy=accuracy))
    assert heading in Reader(page).text


def test_chips_are_told_where_more_than_one_is_used(make_chip: Callable[..., HardwareProfile]) -> None:
    """Two chips of one core each; what goes from the first to the second crosses over."""
    network = in_integers(layer_of([[1], [1]], name="a", vth=1), layer_of([[1, 1], [1, 1]], name="b", source="a", vth=1))
    chip = make_chip(neurons_per_core=2, cores_per_chip=1, chips=3)
    placement = with_traffic(lay_out(network, chip), network)
    assert "2 of 3 cores used on 2 of 3 chips; lower bound: " in verdict(placement)[-1]
    assert next(traffic_lines(placement)).startswith("Traffic per step: 0.3 spikes sent, 0.2 of them to another chip, ")
    assert board_json(placement)["traffic"]["between_chips"] == pytest.approx(0.2)


def test_gains_are_told_a_row_a_layer(make_network: Callable[..., Network]) -> None:
    network = make_network([64, 100, 10])
    found = gains(network, TINY, share_budget(network, TINY, cores=2))
    said = as_text(gain_table(found)).splitlines()
    (heading,) = (line for line in said if "with one more core" in line)
    assert re.split(r" {2,}", heading.strip()) == ["layer", "now", "with one more core", "at 6 bits"]
    (row,) = (line for line in said if line.strip().startswith("layer1"))
    first = found[0]
    shares = [first.kept, first.with_a_core_more or 0, first.a_width_narrower or 0]
    assert re.split(r" {2,}", row.strip()) == ["layer1", *(f"{share:.1%}" for share in shares)]


def test_gains_that_cannot_be_had_are_a_dash(
    make_network: Callable[..., Network], make_chip: Callable[..., HardwareProfile]
) -> None:
    chip, network = make_chip(cores_per_chip=1, weight_bits=(8,)), make_network([90, 30, 4])
    said = as_text(gain_table(gains(network, chip, share_budget(network, chip))))
    assert "narrower" in said
    (row,) = (line for line in said.splitlines() if line.strip().startswith("layer1"))
    assert row.split()[-2:] == ["-", "-"]


# ---------------------------------------------------------------------------------------------- whole ways


def inspected(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["inspect", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def net(tmp_path: Path) -> str:
    """Two layers of 700 neurons, dense: 700 axons of 700 synapses take 4.3 of Loihi 1's memories."""
    rng = np.random.default_rng(0)
    first = layer_of(rng.integers(1, 99, (700, 700)), name="first", vth=1)
    second = layer_of(rng.integers(1, 99, (700, 700)), name="second", source="first", vth=1)
    deploy(in_integers(first, second), load_profile("loihi1"), out=tmp_path)
    return str(tmp_path / "model.net")


def test_inspect_asks_what_if_weights_survive_with_a_chance(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, whole = inspected([net, "--target", "kapoho_bay", "--chips", "1"], capsys)
    again, tenth = inspected([net, "--target", "kapoho_bay", "--chips", "1", "--connectivity", "0.1"], capsys)
    assert (code, again) == (0, 0)
    assert whole["cores"]["available"] == tenth["cores"]["available"] == 128
    assert tenth["cores"]["used"] < whole["cores"]["used"]
    for now, then in zip(tenth["layers"], whole["layers"], strict=True):
        assert now["synapses"] == round(then["neurons"] * 700 * 0.1)
        assert now["connectivity"] == pytest.approx(0.1, abs=1e-4)
        assert now["fan_in"] == 70
    assert whole["traffic"]["rates"] == "assumed"
    assert whole["estimate"]["energy_j"] == pytest.approx(sum(whole["estimate"]["energy_j_by_kind"].values()))


def test_inspect_shows_the_board_in_tables(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", net, "--target", "kapoho_bay", "--cores", "8"]) == 1
    said = capsys.readouterr().out
    order = ["Now: does not fit", "Layers: used", "Cores: util", "Budgets: share", "Traffic per step:", "Estimate per step:"]
    assert sorted(order, key=said.index) == order


@pytest.mark.parametrize("command", ["inspect", "check", "deploy --out made", "compress --data digits --out made --cores 4,2"])
def test_chips_that_a_board_does_not_have_are_refused(command: str, net: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *options = command.split()
    assert main([name, net, "--target", "kapoho_bay", "--chips", "3", *options]) == 2
    assert "chips: 3 is outside 1..2 (kapoho_bay.yaml: chips)" in capsys.readouterr().err


def test_deploy_keeps_to_the_chips_that_it_may_use(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["deploy", net, "--target", "kapoho_bay", "--chips", "1", "--out", str(tmp_path / "again"), "--json"])
    assert json.loads(capsys.readouterr().out)["cores"]["available"] == 128


def test_what_takes_more_chips_than_the_board_has_is_told_without_traffic(
    tmp_path: Path, make_chip: Callable[..., HardwareProfile]
) -> None:
    """Two chips of two cores, and a network of eight: those of a third chip talk to each other, by no way that there is."""
    network = in_integers(*(
        layer_of(np.ones((2, 2), np.int64), name=f"layer{n}", source=f"layer{n - 1}" if n else "input", vth=1) for n in range(8)
    ))  # fmt: skip
    board = make_chip(chips=2, cores_per_chip=2, tile_mesh=(2, 1), neurons_per_core=2, synop_sparse_energy=3.0)
    report = deploy(network, board, out=tmp_path).report
    said = json.loads((tmp_path / "report.json").read_text())
    assert (said["binding"][0]["resource"], said["cores"]["used"]) == ("cores", 8)
    assert (said["traffic"], said["estimate"]) == (None, None)
    assert "Traffic per step: unknown, because the board has too few cores." in " ".join(str(report).split())
    assert "the board has too few cores" in (tmp_path / "report.html").read_text()


def test_a_deployed_network_stands_where_spikes_travel_least(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    network = in_integers(*(
        layer_of(rng.integers(1, 99, (1000, 400 if n == 0 else 1000)) * (rng.random((1000, 400 if n == 0 else 1000)) < 0.02),
                 name=f"layer{n}", source=f"layer{n - 1}" if n else "input", vth=1) for n in range(6)
    ))  # fmt: skip
    done = deploy(network, KAPOHO_BAY, out=tmp_path)
    said = json.loads((tmp_path / "report.json").read_text())
    traffic = with_traffic(lay_out(network, KAPOHO_BAY), network).traffic()
    assert traffic is not None
    assert said["traffic"]["spike_hops"] <= traffic.spike_hops()
    assert said["traffic"]["spikes"] == pytest.approx(traffic.links.spikes.sum())
    assert next(traffic_lines(done.placement)) in " ".join((tmp_path / "report.txt").read_text().split())
