"""Support matrix of docs/operators.md, in part in README.md: small models in `inspect`, `compress` and `deploy`.

`python tests/support_matrix.py` prints the table as Markdown. A cell is what the command did: nothing is stated by hand but
the names of the rows and the notes beside them.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neurodeploy.__main__ import BAD_INPUT, main
from neurodeploy.hardware.loading import load_profile, profile_paths
from neurodeploy.targets import target_of

MODELS = """
import nir
import numpy as np
import torch
from norse.torch import LI, LIBoxCell, LICell, LIF, LIFAdExCell, LIFBoxCell, LIFCell, LIFRecurrentCell, SequentialState

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


class Plain(torch.nn.Module):
    '''A threshold without a surrogate gradient.'''

    def forward(self, x, v=None):
        v = x if v is None else 0.8 * v + x
        spike = (v > 0.5).float()
        return spike, v * (1 - spike)


class Leaks(torch.nn.Module):
    '''A membrane that is read and never fires.'''

    def forward(self, x, v=None):
        v = x if v is None else 0.9 * v + x
        return v, v


class Votes(torch.nn.Module):
    '''Spikes of a population, averaged over groups of neurons.'''

    def __init__(self):
        super().__init__()
        self.hidden, self.last, self.lif = linear(64, 24), linear(24, 30), LIFBoxCell()

    def forward(self, x, state=None):
        a, b = state or (None, None)
        spikes, a = self.lif(self.hidden(x), a)
        spikes, b = self.lif(5 * self.last(spikes), b)
        return spikes.view(len(x), 10, 3).mean(-1), (a, b)


class Delayed(torch.nn.Module):
    '''The readout also receives the spikes of the step before.'''

    def __init__(self):
        super().__init__()
        self.hidden, self.last, self.late = linear(64, 24), linear(24, 10), linear(24, 10)
        self.lif, self.out = LIFCell(), LICell()

    def forward(self, x, state=None):
        a, b, before = state or (None, None, torch.zeros(len(x), 24))
        spikes, a = self.lif(self.hidden(x), a)
        out, b = self.out(self.last(spikes) + self.late(before), b)
        return out, (a, b, spikes)


class Loop(torch.nn.Module):
    '''Time inside forward: over the first dimension of the input, or over an input that stays.'''

    def __init__(self, n_steps=None):
        super().__init__()
        self.n_steps, self.hidden, self.last, self.lif, self.out = n_steps, linear(64, 24), linear(24, 10), LIFCell(), LICell()

    def forward(self, x):
        a = b = None
        outputs = []
        for t in range(self.n_steps or len(x)):
            spikes, a = self.lif(self.hidden(x if self.n_steps else x[t]), a)
            out, b = self.out(self.last(spikes), b)
            outputs.append(out)
        return torch.stack(outputs).amax(0)


class Layerwise(torch.nn.Module):
    '''Whole sequences, layer by layer; steps and samples are one dimension for the convolution.'''

    def __init__(self):
        super().__init__()
        self.conv, self.last, self.lif, self.out = conv(1, 4), linear(144, 10), LIFCell(), LICell()

    def through_time(self, cell, x):
        state, outputs = None, []
        for one in x:
            out, state = cell(one, state)
            outputs.append(out)
        return torch.stack(outputs)

    def forward(self, x):
        images = self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.through_time(self.out, self.last(self.through_time(self.lif, images).flatten(2)))


def no_gradient():
    return OwnNeurons(Plain(), Plain()), FLAT


def leaky_readout():
    return OwnNeurons(HandWritten(), Leaks()), FLAT


def votes():
    return Votes(), FLAT


def weights_behind():
    return SequentialState(linear(64, 24), LIFCell(), linear(24, 10)), FLAT


def delays():
    return Delayed(), FLAT


def loop_static():
    return Loop(5), FLAT


def loop_sequence():
    return Loop(), torch.zeros(5, 1, 64)


def layerwise():
    return Layerwise(), torch.zeros(5, 1, 1, 8, 8)


def lifted():
    return SequentialState(linear(64, 24), LIF(), linear(24, 10), LI()), torch.zeros(5, 1, 64)


def groups():
    layers = [conv(1, 4), LIFCell(), conv(4, 4, groups=4), torch.nn.Conv2d(4, 6, 1, bias=False), LIFCell()]
    return SequentialState(*layers[:3], LIFCell(), *layers[3:], torch.nn.Flatten(), linear(96, 10), LICell()), IMAGE


def upsampling():
    up, down = torch.nn.ConvTranspose2d(4, 2, 2, 2, bias=False), torch.nn.Upsample(scale_factor=0.5, mode="bilinear")
    layers = [conv(1, 4), LIFCell(), up, LIFCell(), down, conv(2, 4), LIFCell(), torch.nn.Flatten()]
    return SequentialState(*layers, linear(64, 10), LICell()), IMAGE


def paddings():
    pool = [torch.nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), torch.nn.ZeroPad2d((0, 1, 0, 1))]
    layers = [torch.nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular", bias=False), LIFCell(), *pool, conv(4, 4), LIFCell()]
    return SequentialState(*layers, torch.nn.Flatten(), linear(64, 10), LICell()), IMAGE


def products():
    layers = [conv(1, 4), torch.nn.Conv2d(4, 6, 1, bias=False), LIFCell(), torch.nn.Flatten()]
    return SequentialState(*layers, linear(216, 8), linear(8, 10), LICell()), IMAGE


def norm_in_front():
    layers = [torch.nn.BatchNorm2d(1), conv(1, 4), LIFCell(), torch.nn.Flatten(), torch.nn.BatchNorm1d(144)]
    return SequentialState(*layers, linear(144, 10), LICell()), IMAGE


def norm_behind():
    layers = [linear(64, 24), torch.nn.BatchNorm1d(24), LIFCell(), linear(24, 10), torch.nn.BatchNorm1d(10), LICell()]
    return SequentialState(*layers), FLAT


def spikingjelly_sequences():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its docstrings
        from spikingjelly.activation_based import layer
        from spikingjelly.activation_based.neuron import LIFNode
    first, last = LIFNode(v_threshold=0.2, step_mode="m"), LIFNode(v_threshold=0.2, step_mode="m")
    convs = [layer.Conv2d(1, 4, 3, bias=False, step_mode="m"), layer.BatchNorm2d(4, step_mode="m"), first]
    rest = [layer.MaxPool2d(2, step_mode="m"), layer.Flatten(step_mode="m"), layer.Linear(36, 10, step_mode="m"), last]
    return torch.nn.Sequential(*convs, *rest), torch.zeros(5, 1, 1, 8, 8)


def snntorch_readout():
    from snntorch import Leaky

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.last = linear(64, 24), linear(24, 10)
            self.lif = Leaky(beta=0.8, threshold=0.3, reset_mechanism="zero")
            self.out = Leaky(beta=0.9, reset_mechanism="none")

        def forward(self, x, v=None, w=None):
            v, w = (self.lif.init_leaky(), self.out.init_leaky()) if v is None else (v, w)
            spikes, v = self.lif(self.hidden(x), v)
            _, w = self.out(self.last(spikes), w)
            return w, v, w

    return Net(), FLAT


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
    name, note : str
        First and last column of the table.
    model : str
        What the command line is asked for: a factory of `MODELS`, or a file.
    in_readme : bool
        Whether the short table of the README has it, too.
    """

    name: str
    model: str
    note: str = ""
    in_readme: bool = False

    @property
    def library(self) -> str:
        """What has to be installed."""
        return next((name for name in ("snntorch", "spikingjelly") if name in self.model), "")


ROWS = (
    Row("dense layers and `LIFCell`s", "dense", in_readme=True),
    Row("`LIFBoxCell`, `IAFCell` (no synaptic current)", "box", in_readme=True),
    Row("biases", "biased", "with a synaptic current, by one extra neuron that always fires", in_readme=True),
    Row("recurrent cells", "recurrent", "of one population", in_readme=True),
    Row("convolutions, average pooling, batch norm", "convolutional", "`compress` removes channels and synapses", in_readme=True),
    Row("max pooling of spikes", "max_pooling", "becomes a layer of neurons", in_readme=True),
    Row("skip connections (sums)", "skip", "", in_readme=True),
    Row("branches (concatenation)", "branches", "", in_readme=True),
    Row("neurons written by hand", "hand_written", "leaky or not; reset to zero; subtractive not on Loihi", in_readme=True),
    Row("snnTorch's `Leaky`, `Synaptic`", "snntorch_neurons", "reset to zero; subtractive not on Loihi", in_readme=True),
    Row("SpikingJelly's `IFNode`, `LIFNode`, `ParametricLIFNode`", "spikingjelly_nodes", "soft reset: no Loihi", in_readme=True),
    Row("groups and depthwise convolutions", "groups", "lose channels"),
    Row("transposed convolutions, upsampling", "upsampling", "synapses are listed one by one"),
    Row("other paddings, windows over the edge", "paddings", "synapses are listed one by one"),
    Row("weights behind weights", "products", "become their product"),
    Row("batch norm behind weights", "norm_behind", "dense layers too"),
    Row("batch norm in front of weights", "norm_in_front"),
    Row("delays (spikes of earlier steps)", "delays"),
    Row("loop over time in `forward`", "loop_sequence", "compress trains the network"),
    Row("loop over an input that stays constant", "loop_static", "compress trains the network"),
    Row("sequences: Norse's `LIF`, `LI`, `Lift`", "lifted", "compress trains the network"),
    Row("sequences layer by layer", "layerwise", "compress trains the network"),
    Row('SpikingJelly with `step_mode="m"`', "spikingjelly_sequences", "compress trains the network"),
    Row("a threshold without a gradient", "no_gradient", "compress trains the network, by SuperSpike"),
    Row("a membrane that is read and never resets", "leaky_readout", "a leaky readout"),
    Row('snnTorch\'s `Leaky(reset_mechanism="none")` as readout', "snntorch_readout", "a leaky readout"),
    Row("weights behind the last neurons", "weights_behind", "membranes that forget at once"),
    Row("votes, averages of the last neurons", "votes", "membranes that forget at once"),
    Row("`.nir` file", "chain.nir", "compress writes `trained.nir`, too", in_readme=True),
    Row("`.nir` file with delays", "delay.nir", "", in_readme=True),
    Row("`.net` file (Lava's netx)", "chain.net", "compress writes `trained.nir`, too; not sigma-delta networks", in_readme=True),
    Row("loop through two populations", "loop", "the error shows the equivalent single population", in_readme=True),
    Row("other neuron models", "adaptive", "LIF, IAF and LI only", in_readme=True),
    Row("activations other than spikes", "relu", "only linear functions between neurons", in_readme=True),
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


def table(rows: Sequence[Row] = ROWS) -> str:
    """The support matrix, in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        return "\n".join([*HEAD, *(measured(row, Path(folder)) for row in rows)]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n{chips()}")
