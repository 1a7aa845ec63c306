"""Figures: they show what the nouns say, on the axes that they are given, whatever the names and however large the board."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from paper import in_integers, layer_of

import neurodeploy as nd
from neurodeploy.errors import RequestError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.mapping.place import lay_out
from neurodeploy.mapping.placement import Placement
from neurodeploy.report.plot_style import COLOURS, UNUSED, colours_of, core_grid
from neurodeploy.simulation.records import EpochRecord, SpikeRecord

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _no_figure_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def axes() -> Axes:
    return Figure().add_subplot()


@pytest.fixture
def placement(make_network: Callable[..., Network], tiny: HardwareProfile) -> Placement:
    """Two layers on several cores of the toy chip."""
    return lay_out(make_network([40, 50, 5]), tiny)


def picture(ax: Axes) -> np.ndarray:
    (image,) = ax.images
    return np.asarray(image.get_array())


def record(name: str = "hidden") -> SpikeRecord:
    """A sample in which neuron 0 fires in step 1, neuron 2 in steps 0 and 2; and one without spikes."""
    spikes = np.zeros((2, 3, 4), np.uint8)
    spikes[0, 0, 1] = spikes[0, 2, 0] = spikes[0, 2, 2] = 1
    return SpikeRecord(end="emulator", spikes={name: spikes})


def epoch(phase: str, loss: float, **more: dict[str, float]) -> EpochRecord:
    told = {"overruns": {}, "multipliers": {}, **more}
    return EpochRecord(
        phase=phase, epoch=0, loss=loss, train_accuracy=0.5, test_accuracy=None, connectivity=1.0, seconds=1.0, **told
    )


# ---------------------------------------------------------------------------------------------- the board


def test_a_core_has_the_colour_of_the_layer_with_most_neurons_on_it(placement: Placement, axes: Axes) -> None:
    assert nd.plot.chip(placement, ax=axes) is axes
    ground, seen = core_grid(placement), picture(axes)
    at = dict(zip(ground.cores.tolist(), zip(ground.y.tolist(), ground.x.tolist(), strict=True), strict=True))
    colours = dict(zip(placement.weight_bits, colours_of(2), strict=True))
    for core in placement.cores:
        neurons = dict.fromkeys(colours, 0)
        for part in placement.slices:
            neurons[part.layer] += part.usage.neurons * (part.core == core)
        assert tuple(seen[at[core]]) == to_rgba(colours[max(neurons, key=lambda name: neurons[name])])
    unused = next(core for core in at if core not in placement.cores)
    assert tuple(seen[at[unused]]) == to_rgba(UNUSED, 0.45)


def test_shares_of_a_resource_are_drawn_on_a_scale_from_nothing_to_all(placement: Placement) -> None:
    ax = nd.plot.chip(placement, "neurons")
    (bar,) = (other for other in ax.figure.axes if other is not ax)
    assert bar.get_ylabel() == "share of neurons used"
    assert bar.get_ylim() == (0.0, 1.0)


def test_a_resource_that_the_chip_has_not_is_refused_with_those_that_it_has(placement: Placement) -> None:
    with pytest.raises(RequestError, match=r"by: 'warmth' is neither 'layer' nor a resource of tiny\. Select one of neurons, "):
        nd.plot.chip(placement, "warmth")


def test_every_core_of_a_board_has_a_cell_of_its_own() -> None:
    hala = nd.load_profile("hala_point")
    slices = lay_out(in_integers(layer_of([[1]], bits=8)), hala)
    last = replace(slices.slices[0], core=hala.cores - 1)
    ground = core_grid(replace(slices, slices=(slices.slices[0], last)))
    assert len(ground.chips) == hala["chips"].number
    assert len(set(zip(ground.x.tolist(), ground.y.tolist(), strict=True))) == len(ground.cores) == hala.cores
    assert ground.x.min() == ground.y.min() == 0
    wide, high = ground.size
    assert ground.x.max() < wide
    assert ground.y.max() < high


def test_chips_that_nobody_needs_are_left_out(axes: Axes) -> None:
    hala = nd.load_profile("hala_point")
    placement = lay_out(in_integers(layer_of([[1]], bits=8)), hala)
    assert len(core_grid(placement).chips) == 1
    nd.plot.chip(placement, ax=axes)
    assert axes.get_title() == f"hala_point: 1 of {hala.cores:,} cores, 1 of 1,152 chips"


# ---------------------------------------------------------------------------------------------- layers


def test_budgets_show_what_may_stay_and_what_is_used(
    make_network: Callable[..., Network], make_chip: Callable[..., HardwareProfile]
) -> None:
    chip, network = make_chip(), make_network([40, 50, 5])
    budget = nd.share_budget(network, chip, cores=chip.cores)
    bars = nd.plot.budget(budget).containers[1]
    assert [bar.get_width() for bar in bars] == [entry.kept for entry in budget.layers]
    placement = lay_out(network, chip)
    used = nd.plot.budget(budget, placement)
    memory = [bar.get_width() for bar in used.containers[0]]
    may = {entry.layer: entry.synapse_memory_bits for entry in budget.placed(placement)}
    assert max(memory) <= 1
    assert memory == [placement.of(name).synapse_memory_bits / may[name] for name in may]


def test_the_bars_of_a_layer_stand_around_its_name_however_many_resources_are_limited(
    make_network: Callable[..., Network],
) -> None:
    network = make_network([40, 50, 5])
    for chip in map(nd.load_profile, ("tiny", "loihi2")):  # loihi2 limits no axons
        used = nd.plot.budget(nd.share_budget(network, chip), lay_out(network, chip))
        middles = np.mean([[bar.get_y() + bar.get_height() / 2 for bar in bars] for bars in used.containers], axis=0)
        assert middles == pytest.approx(used.get_yticks())


def test_weights_are_counted_without_zeros(axes: Axes) -> None:
    nd.plot.weights(in_integers(layer_of([[2, 0, -4], [0, 0, 6]])), ax=axes)
    (steps,) = axes.patches
    assert steps.get_data().values.sum() == 3
    assert axes.get_xlabel() == "weight, the chip's integer"


# ---------------------------------------------------------------------------------------------- spikes


def test_a_raster_has_a_mark_where_a_neuron_fired_and_nowhere_else(axes: Axes) -> None:
    nd.plot.raster(record(), ax=axes)
    marks = picture(axes)[..., 3] > 0
    assert [tuple(at) for at in np.argwhere(marks)] == [(0, 1), (2, 0), (2, 2)]
    assert axes.get_title() == "Emulator, sample 0: 3 spikes"


def test_a_raster_shows_the_few_spikes_of_a_large_layer_and_of_many_steps(axes: Axes) -> None:
    spikes = np.zeros((1, 3328, 1000), np.uint8)
    spikes[0, 7, 3] = spikes[0, 1234, 998] = spikes[0, 3000, 500] = 1
    nd.plot.raster(SpikeRecord(end="emulator", spikes={"layer0": spikes}), ax=axes)
    marks = np.argwhere(picture(axes)[..., 3] > 0)
    assert marks[:, 1].tolist() == [3 // 4, 998 // 4, 500 // 4]  # in the order of their neurons
    assert picture(axes).shape == (300, 250, 4)
    assert axes.get_yticklabels()[0].get_text() == "layer0\n300 of 3,328"
    assert "fire first" in axes.get_xlabel()


@pytest.mark.parametrize("sizes", [(3328, 1, 1, 10, 1), (1,) * 12, (9000, 5000, 1)])
def test_layers_of_one_neuron_are_seen_and_labels_of_a_raster_stand_apart(sizes: tuple[int, ...]) -> None:
    spikes = {f"layer{k}": np.ones((1, n, 20), np.uint8) for k, n in enumerate(sizes)}
    axes = nd.plot.raster(SpikeRecord(end="emulator", spikes=spikes))
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
    heights = [image.get_window_extent().height for image in axes.images]
    rows = [image.get_array().shape[0] for image in axes.images]
    assert all(height >= max(row, 10) for height, row in zip(heights, rows, strict=True))


def test_rates_are_shares_of_neurons(axes: Axes) -> None:
    nd.plot.rates(record(), ax=axes, bins=4)
    (steps,) = axes.patches
    assert steps.get_data().values.tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])  # 1/8 and 0 spikes a step, and 2/8


@pytest.mark.parametrize(("asked", "said"), [
    ({"layer": "other"}, "layer: 'other' was not recorded"), ({"sample": 2}, r"sample: 2 is outside 0\.\.1"),
])  # fmt: skip
def test_what_was_not_recorded_is_refused(asked: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        nd.plot.raster(record(), **asked)


def test_names_are_shown_as_they_are_even_where_they_look_like_mathematics(axes: Axes) -> None:
    nd.plot.raster(record("$\\frac{$"), ax=axes)
    axes.figure.savefig("/dev/null", format="svg")  # mathtext would raise
    assert axes.get_yticklabels()[0].get_text().startswith("\\$")


# ---------------------------------------------------------------------------------------------- the network


def with_branches() -> Network:
    """A loop, a branch with two parallel connections, a skip past it, and a connection back."""
    membrane = {"current_decay": np.array(0.5), "voltage_decay": np.array(0.5), "rest": np.array(0.0)}

    def layer(name: str, n: int, *sources: tuple[str, int, int]) -> nd.Layer:
        connections = tuple(
            nd.Connection(source=source, synapse=nd.Dense(weight=np.ones((n, n_in))), delay_steps=delay)
            for source, n_in, delay in sources
        )
        neuron = nd.LI(**membrane) if name == "out" else nd.LIF(threshold=np.array(1.0), **membrane)
        return nd.Layer(name=name, shape=(n,), neuron=neuron, bias=np.array(0.0), connections=connections)

    return Network(input_shape=(2, 3), timestep_s=0.001, layers=(
        layer("a $x", 4, ("input", 6, 0), ("a $x", 4, 1)), layer("b", 3, ("a $x", 4, 0)),
        layer("c", 3, ("a $x", 4, 0), ("a $x", 4, 2)), layer("out", 2, ("b", 3, 0), ("c", 3, 0), ("input", 6, 3)),
    ))  # fmt: skip


def test_a_network_is_drawn_with_an_arrow_for_each_connection_and_a_box_for_each_layer() -> None:
    network = with_branches()
    axes = nd.plot.network(network)
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    connections = [(layer, connection) for layer in network for connection in layer.connections]
    assert (len(arrows), len(boxes)) == (len(connections), 1 + len(network.layers))
    texts = [text.get_text() for text in axes.texts]
    assert sorted(text for text in texts if "\n" not in text) == sorted(
        f"{c.synapse.n_synapses:,}" + {0: "", 1: ", +1 step"}.get(c.delay_steps, f", +{c.delay_steps} steps")
        for _, c in connections
    )
    assert {"input\n2 x 3", "a \\$x\n4\nLIF", "out\n2\nLI"} <= set(texts)
    left = {text.get_text().split("\n")[0]: text.get_position()[0] for text in axes.texts if "\n" in text.get_text()}
    assert left == {"input": 0, "a \\$x": 1, "b": 2, "c": 2, "out": 3}
    axes.figure.savefig("/dev/null", format="svg")


def test_the_chips_network_is_drawn_as_the_one_in_floats_is(axes: Axes) -> None:
    network = with_branches()
    drawn = nd.plot.network(nd.quantize(network, nd.load_profile("loihi2")), ax=axes)
    assert [text.get_text() for text in drawn.texts] == [text.get_text() for text in nd.plot.network(network).texts]


# ---------------------------------------------------------------------------------------------- training, offers


def test_training_has_a_panel_for_each_thing_asked_for() -> None:
    history = [epoch("dense", 2.0), epoch("compress", 1.0, overruns={"a": 0.5, "b": 0.1}, multipliers={"a": 0.2, "b": 0.1})]
    panels = nd.plot.training(history)
    assert [panel.get_ylabel() for panel in panels] == [
        "loss, training", "share", "largest overrun / budget", "shadow price",
    ]  # fmt: skip
    assert panels[0].lines[0].get_xydata().tolist() == [[1, 2.0], [2, 1.0]]  # epochs from 1, as progress counts them
    assert panels[2].lines[0].get_ydata()[1] == 0.5
    axes = Figure().add_subplot()
    assert nd.plot.training(history, ["loss"], ax=axes).tolist() == [axes]


@pytest.mark.parametrize(("arguments", "said"), [
    (([],), "history: holds no epoch"), (([epoch("dense", 1.0)], ["speed"]), "show: 'speed' is no panel"),
    (([epoch("dense", 1.0)], []), "show: nothing is no panel"),
])  # fmt: skip
def test_panels_that_cannot_be_drawn_are_refused(arguments: tuple[object, ...], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        nd.plot.training(*arguments)


@pytest.mark.parametrize("lengths", [(10, 10, 5), (1, 1, 1), (28, 1, 1), (1, 1, 28)])
def test_no_label_of_training_covers_another_or_is_cut(lengths: tuple[int, int, int]) -> None:
    prices = {
        f"encoder.stages.{i}.blocks.2.projection_and_norm[0:64, 0:32, 0:32] synapse_memory_bits": 2e-6 / (i + 1) for i in range(5)
    }
    phases = [phase for phase, n in zip(("dense", "compress", "finetune"), lengths, strict=True) for _ in range(n)]
    figure = nd.plot.training([epoch(phase, 1.0, overruns=prices, multipliers=prices) for phase in phases])[0].figure
    figure.draw_without_rendering()
    shown = []
    for ax in figure.axes:
        named = [] if ax.get_legend() is None else ax.get_legend().texts
        texts = (*ax.texts, ax.xaxis.label, ax.yaxis.label, ax.yaxis.get_offset_text(), *named)
        shown += [text.get_window_extent() for text in texts if text.get_text()]
    assert len(shown) >= 4 * 5
    whole = figure.bbox.padded(2)  # pixels, of letters 10 high
    assert [box for box in shown if not (whole.contains(box.x0, box.y0) and whole.contains(box.x1, box.y1))] == []
    assert [(one, other) for i, one in enumerate(shown) for other in shown[:i] if one.overlaps(other)] == []


def test_plots_are_all_that_the_module_shows(axes: Axes) -> None:
    assert dir(nd.plot) == ["budget", "chip", "front", "network", "raster", "rates", "training", "weights"]
    assert all("ax" in inspect.signature(getattr(nd.plot, name)).parameters for name in dir(nd.plot))


def test_as_many_axes_as_panels() -> None:
    with pytest.raises(RequestError, match="ax: 1 axes for 2 panels"):
        nd.plot.training([epoch("dense", 1.0)], ["loss", "accuracy"], ax=Figure().add_subplot())


# ---------------------------------------------------------------------------------------------- colours


def test_colours_differ_in_lightness_for_those_who_see_no_red_and_green() -> None:
    """Viénot et al. 1999: what a deuteranope sees of a colour, in linear RGB; pairs must stay apart in it."""
    sees = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    linear = np.array([np.array(to_rgba(colour)[:3]) ** 2.2 for colour in COLOURS])
    seen = np.clip(linear @ sees.T, 0, 1) ** (1 / 2.2)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(len(COLOURS), 1)]
    assert apart.min() > 0.12


def test_many_layers_have_a_colour_each() -> None:
    assert len(set(colours_of(60))) == 60
