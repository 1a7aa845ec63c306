"""A new neuron or synapse kind is reported by mypy wherever kinds are told apart, and refused by name at run time."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurodeploy.errors import ArgumentTypeError, NetworkError
from neurodeploy.frontends.nir.writing import write_nir
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import ByValue
from neurodeploy.ir.connectivity import DenseWiring, is_convolution, is_dense, product_of
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LIF, Layer, Network
from neurodeploy.ir.quantized import QuantizedLIF, QuantizedNetwork
from neurodeploy.mapping.place import lay_out
from neurodeploy.passes.dead_neurons import trim
from neurodeploy.passes.quantize import dequantize, quantize, quantized_kind
from neurodeploy.resources.counting import counter_of
from neurodeploy.resources.usage import Formula
from neurodeploy.simulation.kernel_dispatch import kernels_of
from neurodeploy.targets.loihi.netx_io import write_netx
from neurodeploy.targets.simulate import random_spikes, simulate

ROOT = Path(__file__).parent.parent
LOIHI1 = load_profile("loihi1")
PACKAGE = ROOT / "neurodeploy"
LEAST_ERRORS = 20
"""Places that mypy has to report for a new kind of neuron, and for a new kind of synapse."""

NEURONS = {kind + end for kind in ("", "Quantized") for end in ("LIF", "SubtractiveLIF", "LI")} | {"QuantizedSigmaDelta"}
SYNAPSES = {kind + end for kind in ("Dense", "Sparse", "Conv") for end in ("", "Wiring")} | {
    "QuantizedDense", "QuantizedSparse", "QuantizedConv",
}  # fmt: skip

# ---------------------------------------------------------------------------------------------- in the source


def matches_of_kinds() -> Iterator[tuple[str, ast.Match]]:
    """Every `match` of the package with a case for a neuron or synapse kind, and where it is."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Match):
                classes = {
                    ast.unparse(p.cls) for case in node.cases for p in ast.walk(case.pattern) if isinstance(p, ast.MatchClass)
                }
                if classes & (NEURONS | SYNAPSES):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_match_of_kinds_refuses_what_it_does_not_know() -> None:
    found = dict(matches_of_kinds())
    assert len(found) > 2 * LEAST_ERRORS
    for where, node in found.items():
        last = node.cases[-1]
        is_refused = isinstance(last.pattern, ast.MatchAs) and isinstance(last.body[-1], ast.Raise)
        assert is_refused, f"{where} has no last case that refuses unknown kinds"


def test_no_isinstance_tells_neurons_apart() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_test = isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
            if is_test and set(re.findall(r"\w+", ast.unparse(node))) & NEURONS:
                found.add(path.relative_to(PACKAGE).as_posix())
    assert not found


# ---------------------------------------------------------------------------------------------- by mypy


class Tree:
    """A copy of the package, to be changed and checked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(PACKAGE, folder / "neurodeploy", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)

    def edit(self, file: str, change: Callable[[str], str]) -> None:
        path = self.folder / "neurodeploy" / "ir" / file
        before = path.read_text(encoding="utf-8")
        after = change(before)
        assert after != before
        path.write_text(after, encoding="utf-8")

    def copy_class(self, file: str, old: str, new: str, *, base: tuple[str, str] = ("", "")) -> None:
        """Write a class a second time, under another name and on another base."""

        def change(text: str) -> str:
            found = re.search(rf"@dataclass\([^\n]*\nclass {old}\b.*?(?=\n\n\n)", text, re.DOTALL)
            assert found
            copy = found[0].replace(f"class {old}", f"class {new}", 1).replace(*base)
            return f"{text[: found.end()]}\n\n\n{copy}{text[found.end() :]}"

        self.edit(file, change)

    def add_to_union(self, file: str, union: str, kind: str) -> None:
        self.edit(file, lambda text: text.replace(f'{union}: TypeAlias = "', f'{union}: TypeAlias = "{kind} | ', 1))

    def errors(self) -> list[str]:
        """Places that mypy reports to have no case for a kind."""
        command = [sys.executable, "-m", "mypy", "neurodeploy", "--cache-dir", str(self.folder / "cache")]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        run = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        return [line for line in run.stdout.splitlines() if 'expected "Never"' in line]


@pytest.mark.slow
def test_mypy_reports_a_new_kind_of_neuron(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for file, union, kind in (("network.py", "Neuron", "LIF"), ("quantized.py", "QuantizedNeuron", "QuantizedLIF")):
        tree.copy_class(file, kind, f"Adaptive{kind}")
        tree.add_to_union(file, union, f"Adaptive{kind}")
    assert len(tree.errors()) >= LEAST_ERRORS


@pytest.mark.slow
def test_mypy_reports_a_new_kind_of_synapse(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.copy_class("connectivity.py", "DenseWiring", "LowRankWiring")
    tree.add_to_union("connectivity.py", "Wiring", "LowRankWiring")
    for file, union, kind in (("network.py", "Synapse", "Dense"), ("quantized.py", "QuantizedSynapse", "QuantizedDense")):
        tree.copy_class(file, kind, f"LowRank{kind}", base=("DenseWiring", "LowRankWiring"))
        tree.add_to_union(file, union, f"LowRank{kind}")
        tree.edit(file, lambda text: text.replace("import ConvWiring,", "import ConvWiring, LowRankWiring,", 1))
    assert len(tree.errors()) >= LEAST_ERRORS


# ---------------------------------------------------------------------------------------------- at run time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adaptive(ByValue):
    """A neuron of a kind that nothing knows, with all that an LIF has."""

    threshold: Any
    current_decay: Any
    voltage_decay: Any
    rest: Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedAdaptive(ByValue):
    """The same in integers."""

    vth: Any
    du: Any
    dv: Any


LowRank: Any = type("LowRank", (ByValue,), {k: v for k, v in vars(DenseWiring).items() if k not in ("weight", "__slots__")})
"""A synapse of a kind that nothing knows, with all that a matrix has."""


@pytest.fixture
def adaptive(make_network: Callable[..., Network]) -> Network:
    network = make_network([4, 3, 2])
    neuron = network.layers[0].neuron
    assert isinstance(neuron, LIF)
    names = ("threshold", "current_decay", "voltage_decay", "rest")
    unknown: Any = Adaptive(**{name: getattr(neuron, name) for name in names})
    return replace(network, layers=(replace(network.layers[0], neuron=unknown), network.layers[1]))


@pytest.fixture
def quantized_adaptive(make_network: Callable[..., Network], loihi1: HardwareProfile) -> QuantizedNetwork:
    network = quantize(make_network([4, 3, 2]), loihi1)
    neuron = network.layers[0].neuron
    assert isinstance(neuron, QuantizedLIF)
    unknown: Any = QuantizedAdaptive(vth=neuron.vth, du=neuron.du, dv=neuron.dv)
    return replace(network, layers=(replace(network.layers[0], neuron=unknown), network.layers[1]))


def test_an_unknown_neuron_is_refused_in_floats(adaptive: Network, loihi1: HardwareProfile, tmp_path: Path) -> None:
    spikes = random_spikes((4,), n_samples=1, n_steps=3)
    calls: dict[str, Callable[[], Any]] = {
        "quantize": lambda: quantize(adaptive, loihi1),
        "reference": lambda: simulate(adaptive, spikes),
        "dead neurons": lambda: trim(adaptive),
        "counting": lambda: lay_out(adaptive, loihi1),
        "NIR": lambda: write_nir(adaptive, tmp_path / "model.nir"),
    }
    for call in calls.values():
        with pytest.raises(NetworkError, match=r"^kind Adaptive: is not handled here"):
            call()
    assert not (tmp_path / "model.nir").exists()


def test_an_unknown_neuron_is_refused_in_integers(
    quantized_adaptive: QuantizedNetwork, loihi1: HardwareProfile, tmp_path: Path
) -> None:
    spikes = random_spikes((4,), n_samples=1, n_steps=3)
    calls: dict[str, Callable[[], Any]] = {
        "dequantize": lambda: dequantize(quantized_adaptive),
        "emulator": lambda: simulate(quantized_adaptive, spikes),
        "emulator on a device": lambda: simulate(quantized_adaptive, spikes, device="cpu"),
        "counting": lambda: lay_out(quantized_adaptive, loihi1),
        "netx": lambda: write_netx(quantized_adaptive, tmp_path / "model.net"),
    }
    for call in calls.values():
        with pytest.raises(Exception, match=r"kind QuantizedAdaptive:? is not handled here"):
            call()
    assert not (tmp_path / "model.net").exists()


def test_an_unknown_synapse_is_refused(make_network: Callable[..., Network]) -> None:
    """A layer does not take it; nor does what is called with it alone."""
    unknown = object.__new__(LowRank)
    object.__setattr__(unknown, "weight", np.ones((3, 4)))
    with pytest.raises(
        ArgumentTypeError, match=r"^Connection, argument 'synapse': is of type LowRank, and has to be DenseWiring, "
    ):
        Layer(
            name="only", shape=(3,), neuron=make_network([4, 3]).output.neuron, bias=np.zeros(()),
            connections=(Connection(source=INPUT, synapse=unknown),),
        )  # fmt: skip
    calls: tuple[Callable[[Any], Any], ...] = (
        is_dense, is_convolution, quantized_kind, kernels_of,
        lambda synapse: product_of(synapse, np.float64),
        lambda synapse: counter_of(synapse, Formula.of(LOIHI1, 8), LOIHI1, 0.5, {}),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(NetworkError, match=r"^kind LowRank: is not handled here"):
            call(unknown)
