"""What every test may lean on: small chips, small networks, and whether Lava is here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: threads that share a busy core wait for each other for long
if sys.dont_write_bytecode:  # then every process of the tests would compile torch anew, for seconds: bytecode goes to a cache
    cache = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode, sys.pycache_prefix = False, cache

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import KEYS, HardwareProfile, Limit, Value
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Dense, Layer, Network
from neurodeploy.report import html
from neurodeploy.targets import target_named

# No deadlines: the cores are shared, and one slow example says nothing.
settings.register_profile(
    "fixed", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, print_blob=True, max_examples=40
)  # fmt: skip
settings.register_profile("brief", parent=settings.get_profile("fixed"), max_examples=15)  # the gate's second Python
settings.register_profile("random", parent=settings.get_profile("fixed"), derandomize=False, max_examples=100)
settings.load_profile("fixed")


def examples(n: int) -> settings:
    """Decorator for a drawn test: `n` examples in runs that include the slow tests, 40 % in the others, 15 % in brief ones."""
    return settings(max_examples=max(5, n * settings.default.max_examples // 100))


@pytest.fixture(autouse=True)
def without_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print tables in the width of a pipe, whatever terminal the tests run in."""
    monkeypatch.delenv("COLUMNS", raising=False)


def pytest_configure(config: pytest.Config) -> None:
    """Draw the same examples in every run, and others in each run that includes the slow tests."""
    if "not slow" not in config.option.markexpr and not config.getoption("hypothesis_profile"):
        settings.load_profile("random")


WITH_FIGURES = (
    "test_page", "test_page_browser", "test_report", "test_board_report", "test_deployment", "test_files",
    "test_pictures", "test_plot", "test_notebooks", "test_wheel",
)  # fmt: skip
"""Files whose pages have their figures in every run: those that look at pages, and some that compress, deploy and compare."""
FIGURES = html.figures


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed torch, and leave figures out of pages that no test looks at, before each test and its fixtures.

    Of 627,200 drawn weights one is exactly 0, so no synapse, in 4 % of draws. Figures take longer than most deployments of a
    test; in runs that include the slow tests all pages have them.
    """
    torch.manual_seed(0)
    is_drawn = "not slow" not in item.config.option.markexpr or item.path.stem in WITH_FIGURES
    html.figures = FIGURES if is_drawn else lambda *_: {}


SLOW_FIRST = (
    "test_readme", "test_drawn_compression", "test_replicas", "test_lava_graphs", "test_channels", "test_resuming",
    "test_deployment", "test_lava", "test_exactness", "test_relays", "test_answers", "test_neuron_counts",
    "test_operators_compress", "test_board_report", "test_minimax_saddle", "test_scale", "test_axon_limits", "test_biases",
)  # fmt: skip
"""Files of more than ten seconds, the slowest first: begun last, one would keep one worker busy and leave the other idle."""

collect_ignore = ["killed_runs.py"]  # a program: to look for doctests in it would prepare its training run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files, and skip what is marked `lava` where no Python has it, `lava_here` where this one has not."""
    place = {name: n for n, name in enumerate(SLOW_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    asks = [item for item in items if item.get_closest_marker("lava")]
    if asks and (reason := target_named("loihi").simulator_missing("lava")):
        for item in asks:
            item.add_marker(pytest.mark.skip(reason=reason))
    if find_spec("lava") is None:
        for item in items:
            if item.get_closest_marker("lava_here"):
                item.add_marker(pytest.mark.skip(reason="Lava installs in the Python of these tests on 3.10 only"))


@pytest.fixture(scope="session")
def tiny() -> HardwareProfile:
    return load_profile("tiny")


@pytest.fixture(scope="session")
def loihi1() -> HardwareProfile:
    return load_profile("loihi1")


def with_values(profile: HardwareProfile, **values: Value | None) -> HardwareProfile:
    """A profile with other numbers under some keys, and without the keys that are None."""
    limits = {key: limit for key, limit in profile.limits.items() if key not in values}
    for key, value in values.items():
        if value is not None:
            limits[key] = Limit(key=key, value=value, unit=KEYS[key].unit, source="a test", assumed=True, profile=profile.name)
    return replace(profile, limits=limits)


@pytest.fixture(scope="session")
def make_chip(tiny: HardwareProfile) -> Callable[..., HardwareProfile]:
    """``make_chip(neurons_per_core=10, weight_bits=(1, 8))``: the tiny chip with other numbers; None takes one away."""

    def make(**values: Value | None) -> HardwareProfile:
        return with_values(tiny, **values)

    return make


@pytest.fixture
def load_chip(tmp_path: Path) -> Callable[[str | bytes], HardwareProfile]:
    """Write a text to ``chip.yaml`` and load that."""

    def write_and_load(text: str | bytes) -> HardwareProfile:
        path = tmp_path / "chip.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_profile(path)

    return write_and_load


@pytest.fixture(scope="session")
def make_network() -> Callable[..., Network]:
    """``make_network([20, 30, 10])``: 20 inputs, 30 LIF, a readout of 10; each weight there with chance `connectivity`."""

    def make(sizes: Sequence[int], *, connectivity: float = 1.0, seed: int = 0) -> Network:
        rng = np.random.default_rng(seed)
        layers: list[Layer] = []
        for depth, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
            weight = np.where(rng.random((n_out, n_in)) < connectivity, rng.normal(size=(n_out, n_in)), 0.0)
            last = depth == len(sizes) - 1
            decays = {"current_decay": np.array(0.5), "voltage_decay": np.array(0.1), "rest": np.array(0.0)}
            layers.append(Layer(
                name=f"layer{depth}",
                shape=(n_out,),
                neuron=LI(**decays) if last else LIF(threshold=np.array(1.0), **decays),
                connections=(Connection(source=layers[-1].name if layers else INPUT, synapse=Dense(weight=weight)),),
                bias=np.array(0.0),
            ))  # fmt: skip
        return Network(input_shape=(sizes[0],), layers=tuple(layers), timestep_s=0.001)

    return make
