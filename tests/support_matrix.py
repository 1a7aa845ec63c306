"""Support matrix of README.md: one small model a row, run through `inspect`, `compress` and `deploy` of the command line.

`python -m tests.support_matrix` prints the table as Markdown. A cell is what the command did: nothing is stated by hand but
the names of the rows and the notes beside them.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from neurodeploy.__main__ import BAD_INPUT, main
from neurodeploy.hardware.loading import load_profile, profile_paths
from neurodeploy.targets import target_of

MODELS = """
import nir
import numpy as np
import torch
from norse.torch import LIBoxCell, LICell, LIFAdExCell, LIFBoxCell, LIFCell, LIFRecurrentCell, SequentialState

IMAGE, FLAT = torch.zeros(1, 1, 8, 8), torch.zeros(1, 64)


def linear(n_in, n_out, bias=False):
    return torch.nn.Linear(n_in, n_out, bias=bias)


def conv(n_in, n_out, bias=False, **more):
    return torch.nn.Conv2d(n_in, n_out, 3, bias=bias, **more)


def dense():
    return SequentialState(linear(64, 24), LIFCell(), linear(24, 10), LICell()), FLAT


def box():
    return SequentialState(linear(64, 24), LIFBoxCell(), linear(24, 10), LIBoxCell()), FLAT


def biased():
    return SequentialState(linear(64, 24, True), LIFCell(), linear(24, 10, True), LICell()), FLAT


def recurrent():
    return SequentialState(LIFRecurrentCell(64, 24), linear(24, 10), LICell()), FLAT


def convolutional():
    layers = [conv(1, 6, True), torch.nn.BatchNorm2d(6), LIFCell(), torch.nn.AvgPool2d(2), conv(6, 8), LIFCell()]
    return SequentialState(*layers, torch.nn.Flatten(), linear(8, 10), LICell()), IMAGE


def max_pooling():
    layers = [conv(1, 6), LIFCell(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), linear(54, 10), LICell()]
    return SequentialState(*layers), IMAGE


class Graph(torch.nn.Module):
    '''Three populations; `join` says how the first two reach the last.'''

    def __init__(self, join):
        super().__init__()
        self.join = join
        self.first, self.second = linear(64, 24), linear(24, 24)
        self.last = linear(48 if join == "side by side" else 24, 10)
        self.lif, self.out = LIFCell(), LICell()

    def forward(self, x, state=None):
        a, b, c = state or (None, None, None)
        first, a = self.lif(self.first(x), a)
        second, b = self.lif(self.second(first), b)
        both = torch.cat([first, second], -1) if self.join == "side by side" else first + second
        out, c = self.out(self.last(both), c)
        return out, (a, b, c)


def skip():
    return Graph("added"), FLAT


def branches():
    return Graph("side by side"), FLAT


class TwoPopulationLoop(torch.nn.Module):
    '''The first population receives the last step's spikes of the second.'''

    def __init__(self):
        super().__init__()
        self.there, self.back, self.first, self.last = linear(24, 24), linear(24, 24), linear(64, 24), linear(24, 10)
        self.lif, self.out = LIFCell(), LICell()

    def forward(self, x, state=None):
        a, b, c, spikes = state or (None, None, None, torch.zeros(len(x), 24))
        first, a = self.lif(self.first(x) + self.back(spikes), a)
        spikes, b = self.lif(self.there(first), b)
        out, c = self.out(self.last(spikes), c)
        return out, (a, b, c, spikes)


def loop():
    return TwoPopulationLoop(), FLAT


def adaptive():
    return SequentialState(linear(64, 24), LIFAdExCell(), linear(24, 10), LICell()), FLAT


def relu():
    return SequentialState(linear(64, 24), torch.nn.ReLU(), linear(24, 10), LICell()), FLAT


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient / (1 + ctx.saved_tensors[0].abs()) ** 2


class HandWritten(torch.nn.Module):
    def forward(self, x, v=None):
        v = x if v is None else 0.8 * v + x
        spike = Step.apply(v - 0.5)
        return spike, v * (1 - spike)


class OwnNeurons(torch.nn.Module):
    '''Layers of neurons that return spikes and their states, or spikes alone.'''

    def __init__(self, *neurons):
        super().__init__()
        sizes = [64, *[24] * (len(neurons) - 1), 10]
        self.weights = torch.nn.ModuleList(linear(*pair) for pair in zip(sizes, sizes[1:]))
        self.neurons = torch.nn.ModuleList(neurons)

    def forward(self, x, states=None):
        kept = []
        for weights, neurons, state in zip(self.weights, self.neurons, states or [()] * len(self.neurons)):
            answer = neurons(weights(x), *state)
            x, *state = answer if isinstance(answer, tuple) else (answer,)
            kept.append(state)
        return x, kept


def hand_written():
    return OwnNeurons(HandWritten(), HandWritten()), FLAT


def snntorch_neurons():
    from snntorch import Leaky, Synaptic

    options = {"threshold": 0.5, "reset_mechanism": "zero"}
    return OwnNeurons(Leaky(0.8, **options), Synaptic(0.5, 0.8, reset_delay=False, **options)), FLAT


def spikingjelly_nodes():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its docstrings
        from spikingjelly.activation_based.neuron import IFNode, LIFNode, ParametricLIFNode
    return OwnNeurons(IFNode(v_threshold=0.3), LIFNode(v_threshold=0.2), ParametricLIFNode(v_threshold=0.2)), FLAT


def write_nir(path, *, delay=False):
    ones = np.ones(10)
    nodes = [nir.Linear(weight=np.random.default_rng(0).normal(0, 1, (10, 64)))]
    nodes += [nir.Delay(delay=0.003 * ones)] if delay else []
    neurons = nir.LIF(tau=0.02 * ones, r=ones, v_leak=0 * ones, v_threshold=0.5 * ones, v_reset=0 * ones)
    nir.write(path, nir.NIRGraph.from_list(*nodes, neurons))


def data():
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = [(images, torch.arange(16) % 10)]
    return batches, batches
"""
"""A module of models: a factory for each row, and the data that they train on."""


@dataclass(frozen=True)
class Row:
    """One kind of network.

    Attributes
    ----------
    name : str
        First column of the table.
    model : str
        What the command line is asked for: a factory of `MODELS`, or a file.
    note : str
        Last column.
    library : str
        What has to be installed.
    """

    name: str
    model: str
    note: str = ""
    library: str = ""


ROWS = (
    Row("dense layers and `LIFCell`s", "dense"),
    Row("`LIFBoxCell`, `IAFCell` (no synaptic current)", "box"),
    Row("biases", "biased", "before a synaptic current: one extra neuron that fires at every step"),
    Row("recurrent cells", "recurrent", "of one population"),
    Row("convolutions, average pooling, batch norm", "convolutional", "compression removes channels and synapses"),
    Row("max pooling of spikes", "max_pooling", "becomes a layer of neurons"),
    Row("skip connections (sums)", "skip", ""),
    Row("branches (concatenation)", "branches", ""),
    Row("neurons written by hand", "hand_written", "leaky or not, with a synaptic current or not, reset to zero"),
    Row("snnTorch's `Leaky`, `Synaptic`", "snntorch_neurons", "reset to zero; `Synaptic` with `reset_delay=False`", "snntorch"),
    Row("SpikingJelly's `IFNode`, `LIFNode`, `ParametricLIFNode`", "spikingjelly_nodes", "hard reset", "spikingjelly"),
    Row("`.nir` file", "chain.nir", "compress writes `trained.nir`, too"),
    Row("`.nir` file with delays", "delay.nir", ""),
    Row("`.net` file (Lava's netx)", "chain.net", "compress writes `trained.nir`, too"),
    Row("loop through two populations", "loop", "the error shows the equivalent single population"),
    Row("other neuron models", "adaptive", "LIF, IAF and LI only; reset to a value, not by subtraction"),
    Row("layers without spikes between them", "relu", "only linear functions between neurons"),
)
COMMANDS = ("inspect", "compress", "deploy")


def cell(command: str, row: Row, folder: Path) -> str:
    """What a command does with a row's model: ``yes``, or ``no`` where it refuses the input in one line."""
    path = folder / row.model
    model = str(path) if path.suffix else f"{folder / 'models.py'}:{row.model}"
    arguments = [command, model, "--target", "loihi2"]
    if path.suffix == ".nir":
        arguments += ["--dt", "0.001"]
    if command != "inspect":
        arguments += ["--out", str(folder / f"{row.model}-{command}")]
    if command == "compress":
        arguments += ["--cores", "1", "--data", f"{folder / 'models.py'}:data", "--steps", "3", "--lava-samples", "0"]
        arguments += ["--epochs", "0", "1", "0"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(arguments)
    if code == BAD_INPUT:
        return "no"
    if code != 0:
        raise AssertionError(f"{' '.join(arguments)} ended with {code}: {said.getvalue()}")
    return "yes"


def write_models(folder: Path) -> None:
    """Write the module of models and the network files of the rows."""
    (folder / "models.py").write_text(MODELS, encoding="utf-8")
    made: dict[str, object] = {}
    exec(compile(MODELS, "models.py", "exec"), made)
    write_nir = made["write_nir"]
    assert callable(write_nir)
    write_nir(folder / "chain.nir")
    write_nir(folder / "delay.nir", delay=True)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["export", f"{folder / 'models.py'}:dense", "--to", str(folder / "chain.net")]) == 0


def measured(row: Row, folder: Path) -> str:
    """One row of the table, in Markdown."""
    return f"| {' | '.join([row.name, *(cell(command, row, folder) for command in COMMANDS), row.note])} |".replace("|  |", "| |")


def chips() -> str:
    """For which chip profiles there is a target, and for which only counts, in one sentence."""
    profiles = [load_profile(name) for name in profile_paths()]
    named, counted = (
        ", ".join(f"`{chip.name}`" for chip in profiles if (target_of(chip) is not None) is runs) for runs in (True, False)
    )
    return (
        f"Chips with a target: {named}.\nFor {counted}, which have none yet, `inspect` works, and `deploy` and `compress` give"
        " the verdict\nand the report but no network file.\n"
    )


HEAD = ("| network | inspect | compress | deploy | |", "|---|---|---|---|---|")


def table() -> str:
    """The whole support matrix, in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        return "\n".join([*HEAD, *(measured(row, Path(folder)) for row in ROWS)]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n{chips()}")
