"""Options and arguments that several commands share: defaults and help texts of options, MODEL and FILE as a `ModelSpec`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import wraps
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neurodeploy.cli.console import status
from neurodeploy.errors import DataError, RequestError, counted
from neurodeploy.hardware.loading import MAX_WIDTH, load_profile
from neurodeploy.ir.files import CHECKPOINTS, absence, check_replaceable, is_ours

# Imported in the methods that use them: a path that leads nowhere is refused before anything slow is imported.
if TYPE_CHECKING:
    import torch

    from neurodeploy.frontends.assembly import NodeSupport
    from neurodeploy.hardware.profile import HardwareProfile
    from neurodeploy.ir.network import Network
    from neurodeploy.ir.quantized import QuantizedNetwork
    from neurodeploy.pipeline.deploy import IntegerForm
    from neurodeploy.pipeline.evaluation import Evaluation
    from neurodeploy.simulation.records import SpikeRecord
    from neurodeploy.training.forward import Data

DONE, DIFFERS = 0, 1
"""Exit codes of a command that ran: fits, equal or done; does not fit, or differs."""
DATA_SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "n-mnist", "dvs-gesture", "cifar10-dvs", "shd")
"""Names that `load_data` knows, here because its module would import torch to show a help text; a test compares them."""
DATA = f"{', '.join(DATA_SETS)}, mnist:FILE.npz, or file.py:factory"
ENDS = ("emulator", "lava", "loihi2", "xylosim")

MOST_STEPS, LARGEST_SEED = 1_000_000, (1 << 31) - 1
"""More steps fit into no memory; all libraries take such a seed."""


class NumberRange(click.FloatRange):
    """A number in a range; NaN, of which no comparison holds, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert the text of an option."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class OutputPath(click.Path):
    """A path to write to, refused before any work where nothing can be written.

    An empty one, as an unset variable of a shell makes it, is not the current folder.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Convert the text of an option."""
        if not str(value) or "\0" in str(value):
            what = "holds a NUL, which no name of a file has" if str(value) else "is empty; '.' is the current folder"
            self.fail(f"the path {what}.", param, ctx)
        path = Path(str(value))
        kind, folders = ("folder", (path, *path.parents)) if self.dir_okay else ("path", (path.parent,))
        if not self.dir_okay:
            check_replaceable(path)
        nearest = next((folder for folder in folders if os.path.lexists(folder)), None)  # it holds those that will be made
        if nearest is None or not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            why = f"no permission for {nearest}" if nearest and nearest.is_dir() else f"{nearest} is no folder"
            why = why if nearest else f"there is no folder {path.parent}"
            raise RequestError(str(path), f"is no {kind} to write to: {why}", remedy="Write to another path.")
        return path


def parse_core_counts(_: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Parse ``"4"`` or ``"4,2,1"`` into core counts; None where the option was left out."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    # isdecimal refuses signs and underscores, which int() takes
    if not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} is not a core count, nor several separated by commas, such as 4,2,1.", param=option)
    return tuple(map(int, parts))


def parse_targets(_: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    """Parse ``"loihi1,loihi2"`` into names of chips, each once."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise click.BadParameter(f"{text!r} names no chip; give some separated by commas, such as loihi1,loihi2.", param=option)
    return names


def check_data(_: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """Refuse data that is not there before anything slow is imported; `load_data` refuses what else is wrong with it."""
    if text is None:
        return None
    name, colon, rest = text.partition(":")
    if not colon and name not in DATA_SETS:
        raise click.BadParameter(f"{text!r} is no data set: give {DATA}.", param=option)
    file = rest if name == "mnist" else text.rpartition(":")[0]
    if file.endswith((".npz", ".py")) and not Path(file).is_file():
        raise click.BadParameter(f"no file {file}.", param=option)
    return text


TARGET = click.option("--target", required=True, metavar="CHIP", help="A chip: one of `neurodeploy profiles`, or a YAML file.")
CORES = click.option("--cores", type=int, metavar="N", help="Cores that the network may use.  [default: all of the chip]")
CHIPS = click.option(
    "--chips", type=int, metavar="N", help="Chips of a board that the network may use.  [default: all of the board]"
)
CORE_COUNTS = click.option(
    "--cores", callback=parse_core_counts, metavar="N[,N...]",
    help="Cores that the network may use; several core counts are compressed one after the other.  [default: all of the chip]",
)  # fmt: skip
BITS = click.option(
    "--bits",
    type=click.IntRange(1, MAX_WIDTH),
    metavar="B",
    help="Width of a weight, sign included.  [default: the chip's widest]",
)
WEIGHTS = click.option("--weights", type=Path, metavar="FILE", help="Trained weights: .safetensors, or .pt (weights only).")
CHIP = click.option(
    "--target",
    default="loihi2",
    show_default=True,
    metavar="CHIP",
    help="The chip to whose integers floats are rounded; a .net file holds integers.",
)
OUT = click.option(
    "--out", type=OutputPath(file_okay=False), required=True, metavar="DIR", help="Folder to write to; created if missing."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON with documented keys instead of tables.")
TIME_LIMIT = click.option(
    "--time-limit", type=NumberRange(0, min_open=True), default=600.0, show_default=True, metavar="SECONDS",
    help="Stop the vendor's simulator after this time.",
)  # fmt: skip
CHOSEN_BITS = click.option(
    "--bits", type=click.IntRange(1), metavar="B", help="Width of all weights.  [default: chosen for each layer]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NirOptions:
    """What a .nir file does not tell; see `neurodeploy.read_nir`."""

    dt: float | None = None
    discretisation: str | None = None
    reset: str | None = None
    max_spikes: int | None = None


def cores_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command ``--cores`` and ``--chips``; see `requested_profile`."""
    return CORES(CHIPS(command))


def nir_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of .nir files, as one argument `nir`."""

    @click.option("--dt", type=float, metavar="T", help="Time step of a .nir file, in the unit of its time constants.")
    @click.option(
        "--discretisation", metavar="NAME",
        help="How a .nir file is discretised in time: euler, exponential, or the library that wrote it.",
    )  # fmt: skip
    @click.option(
        "--reset", type=click.Choice(["zero", "subtract"]),
        help="What a spike does in a .nir file: reset to v_reset, or subtract the threshold.  [default: zero]",
    )  # fmt: skip
    @click.option(
        "--max-spikes", type=click.IntRange(1), metavar="N", help="Most spikes a step of neurons that subtract, in a .nir file."
    )
    @wraps(command)
    def collected(
        *args: Any, dt: float | None, discretisation: str | None, reset: str | None, max_spikes: int | None, **kwargs: Any
    ) -> int:
        nir = NirOptions(dt=dt, discretisation=discretisation, reset=reset, max_spikes=max_spikes)
        return command(*args, nir=nir, **kwargs)

    return collected


DEVICE = click.option(
    "--device", metavar="NAME", help="Run the emulator in torch on this device: cuda, cuda:1, cpu.  [default: compiled loops]"
)
# The defaults of these five are those of FitOptions, which would import torch to show a help text; a test compares them.
STEPS = click.option(
    "--steps",
    type=click.IntRange(1, MOST_STEPS),
    default=12,
    show_default=True,
    help="Time steps that a sample is encoded or cut into.",
)
ENCODER = click.option(
    "--encoder", type=click.Choice(["rate", "latency", "direct"]), default="rate", show_default=True,
    help="How an image is encoded in spikes.",
)  # fmt: skip
READOUT = click.option(
    "--readout", type=click.Choice(["max", "last", "mean", "sum"]), default="max", show_default=True,
    help="How outputs are reduced over time.",
)  # fmt: skip
EPOCHS = click.option(
    "--epochs", type=(click.IntRange(0), click.IntRange(0), click.IntRange(0)), default=(10, 10, 5), show_default="10 10 5",
    metavar="DENSE COMPRESS FINETUNE", help="Epochs of each phase; 0 dense epochs for a model that is already trained.",
)  # fmt: skip
LEARN_DECAYS = click.option(
    "--learn-decays", is_flag=True, help="Train the decays of currents and membranes together with the weights."
)
DATA_NAME = click.option("--data", required=True, callback=check_data, metavar="DATA", help=f"{DATA}.")
DATA_DIR = click.option(
    "--data-dir", type=Path, metavar="DIR", help="Folder of the data sets' files.  [default: user cache directory]"
)
BATCH_SIZE = click.option(
    "--batch-size", type=click.IntRange(1),
    help="Batch size (built-in data sets only).  [default: 64 for digits, 16 for 128 x 128 pixels, else 256]",
)  # fmt: skip
RESUME = click.option("--resume", is_flag=True, help="Resume an interrupted run of the same command from its checkpoints in DIR.")
CHECKPOINT_EVERY = click.option(
    "--checkpoint-every", type=NumberRange(0), default=30.0, show_default=True, metavar="SECONDS",
    help="Time between two checkpoints of a run.",
)  # fmt: skip
SEED = click.option("--seed", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True, help="Random seed.")


OUTPUTS = (
    "model.net", "model.npz", "model.json", "weights.safetensors", "trained.nir", "record.npz", "report.html", "report.json",
    "report.txt", *CHECKPOINTS,
)  # fmt: skip
"""Names of the files that `deploy` and `compress` write."""


def check_output(out: Path, *inputs: str | Path | None) -> None:
    """Raise `RequestError` where a command would write over one of its own inputs, or a file that neurodeploy did not write."""
    check_inputs([out], *inputs)
    check_replaceable(out, ours=is_ours(out))


def check_inputs(files: Iterable[Path], *inputs: str | Path | None) -> None:
    """Raise `RequestError` where one of the files that a command writes is one of its inputs."""
    for out, source in product(files, inputs):
        if source and "\0" not in str(source) and out.exists() and Path(source).exists() and out.samefile(source):
            raise RequestError(str(out), "is an input of this command, and would be replaced", remedy="Write to another path.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model specification with what its kind of file needs to be read.

    Attributes
    ----------
    name : str
        ``file.py:factory``, ``package.module:factory``, or a file that ends with .net or .nir.
    weights : Path or None
        Trained weights of a factory's model.
    nir : NirOptions
        Of a .nir file.

    Raises
    ------
    RequestError
        No such file, or options of .nir files with another file.
    """

    name: str
    weights: Path | None = None
    nir: NirOptions = NirOptions()

    def __post_init__(self) -> None:
        if not self.name.endswith(".nir") and self.nir != NirOptions():
            options = "--dt, --discretisation, --reset and --max-spikes"
            raise RequestError(options, "are for .nir files", remedy=f"{self.name} has its own time step, and reset.")
        file, colon, _ = self.name.rpartition(":")
        if colon:
            if file.endswith(".py") and not Path(file).is_file():
                raise RequestError(self.name, f"no file {file}")
        elif why := absence(self.name):
            raise RequestError(self.name, why, remedy="Give a .net or .nir file, file.py:factory, or package.module:factory.")
        if self.weights is not None and (why := absence(self.weights)):
            raise RequestError(str(self.weights), why)

    def network(self) -> Network | QuantizedNetwork:
        """Read the network; it is in the chip's integers if it comes from a .net file."""
        from neurodeploy.targets import target_of_file

        # a target's own kind of file, such as .net; it holds integers already
        if (target := target_of_file(Path(self.name))) is not None:
            return target.read(Path(self.name))
        if self.name.endswith(".nir"):
            from neurodeploy.frontends.nir.reading import read_nir

            return read_nir(self.name, **asdict(self.nir))
        # the factory first: it may be missing, and importing Norse for `extract` takes seconds
        module, sample = self.module()
        from neurodeploy.frontends.torch.extract import extract

        return extract(module, sample)

    def checked(self) -> tuple[tuple[NodeSupport, ...], Network | QuantizedNetwork | None]:
        """Read the model node by node: what becomes of each, and the network where all are supported."""
        if ":" in self.name:
            module, sample = self.module()
            from neurodeploy.frontends.torch.support import check_model

            return check_model(module, sample)
        if self.name.endswith(".nir"):
            from neurodeploy.frontends.nir.reading import check_nir

            return check_nir(self.name, **asdict(self.nir))
        from neurodeploy.frontends.assembly import NodeSupport

        # a target's own kind of file has nothing but layers of its chips
        network = self.network()
        kinds = {layer.name: type(layer.neuron).__name__ for layer in network.layers}
        return tuple(NodeSupport(name=name, kind=kind, layers=(name,)) for name, kind in kinds.items()), network

    def to_place(
        self, profile: HardwareProfile, bits: int | None, network: Network | QuantizedNetwork | None = None
    ) -> tuple[Network | QuantizedNetwork, IntegerForm | None]:  # fmt: skip
        """Read the network to count and place: in the integers that `compress` chose, where the file of weights has them.

        The form is the one that made them, with the plan of `compress`; None elsewhere.

        Parameters
        ----------
        bits : int or None
            A width that the user asked for, which is used in place of those in the file.
        network : optional
            What `network` returns, where it has been read.
        """
        with status("Reading the model") if network is None else nullcontext():
            network = self.network() if network is None else network
            return (None if bits else self._compressed(network, profile, None)) or (network, None)

    def _compressed(
        self, network: Network | QuantizedNetwork, profile: HardwareProfile, levels: int | None
    ) -> tuple[QuantizedNetwork, IntegerForm] | None:  # fmt: skip
        """The network in the integers it was compressed to, without relays, and their form; None where the weights name none."""
        from neurodeploy.ir.network import Network

        if self.weights is None or not isinstance(network, Network):
            return None
        from neurodeploy.training.checkpoint import read_form

        if not (text := read_form(self.weights)):
            return None
        from neurodeploy.pipeline.deploy import IntegerForm
        from neurodeploy.training.encoders import in_levels

        try:
            form = IntegerForm.from_json(text, network)
        except ValueError as error:
            raise DataError(
                str(self.weights), f"has a header that is damaged, or of another network: {error}",
                remedy="Give --bits to round its weights to one width.",
            ) from error  # fmt: skip
        form = replace(form, n_weights={layer.name: layer.n_weights for layer in network})
        return form.quantized(in_levels(network, form.levels if levels is None else levels), profile)[1], form

    def quantized_network(
        self, target: str, bits: int | None, levels: int | None = None, network: Network | QuantizedNetwork | None = None
    ) -> QuantizedNetwork:  # fmt: skip
        """Read the network in the chip's integers; a float network is quantised for the chip `target`.

        Parameters
        ----------
        target : str
            A chip's name or YAML file; a .net file is already in integers and ignores it.
        bits : int or None
            Width of a weight, sign included; None for the widest that the chip has.
        levels : int, optional
            Above 1: the float network's input of 0..1 becomes whole numbers 0..levels. By default those that its weights were
            compressed with, or 1.
        network : optional
            What `network` returns, where it has been read.
        """
        from neurodeploy.ir.quantized import QuantizedNetwork

        network = self.network() if network is None else network
        if isinstance(network, QuantizedNetwork):
            return network
        from neurodeploy.hardware.loading import load_profile
        from neurodeploy.passes.quantize import quantize

        profile = load_profile(target)
        if bits is None and (compressed := self._compressed(network, profile, levels)) is not None:
            return compressed[0]
        if levels is not None and levels > 1:
            from neurodeploy.training.encoders import in_levels  # brings torch

            network = in_levels(network, levels)
        return quantize(network, profile, bits=bits)

    def trained(self) -> tuple[torch.nn.Module | Network | QuantizedNetwork, torch.Tensor | None]:
        """What `neurodeploy.compress` trains: a factory's module and sample, or the network of a file."""
        return self.module() if ":" in self.name else (self.network(), None)

    def module(self) -> tuple[torch.nn.Module, torch.Tensor]:
        """Call the factory: its model, with `weights` if there are any, and a sample of its input."""
        from neurodeploy.frontends import load_model

        module, sample = load_model(self.name)
        if self.weights is not None:
            from neurodeploy.training.checkpoint import load_weights  # brings the training with it

            # after the factory, whose own weights they replace
            load_weights(module, self.weights)
        return module, sample

    def evaluated(
        self, target: str, data: Data, bits: int | None, options: dict[str, Any], *,
        network: Network | QuantizedNetwork | None = None, device: str | None = None, progress: bool = False,
    ) -> Evaluation:  # fmt: skip
        """Run the network in the integers of a chip on data; `options` are those of `FitOptions`."""
        from neurodeploy.pipeline.evaluation import evaluate
        from neurodeploy.training.encoders import levels_of
        from neurodeploy.training.options import FitOptions

        with status("Reading the network"):
            quantized = self.quantized_network(target, bits, levels_of(options["encoder"]), network)
        return evaluate(quantized, data, FitOptions(**options), device=device, progress=progress)


def load_test_data(data: str, folder: Path | None, batch_size: int | None, n_steps: int) -> Data:
    """Load the test half of DATA."""
    from neurodeploy.training.data_loading import load_data

    with status("Reading data"):
        return load_data(data, batch_size=batch_size, folder=folder, n_steps=n_steps).test


def requested_profile(target: str, cores: int | None, chips: int | None = None) -> tuple[HardwareProfile, int | None]:
    """Load the profile of a chip, and return with it the cores that were asked for, by their number or by whole chips.

    Of both the smaller number counts; None is neither.

    Raises
    ------
    RequestError
        It has fewer cores or chips.
    """
    profile = load_profile(target)
    most = profile.core_count(cores, chips)
    return profile, cores if chips is None else most


def export(spec: ModelSpec, to: Path, target: str | None, bits: int | None) -> Network | QuantizedNetwork:
    """Write a network as the kind of file that `to` ends with, .net or .nir, and return what was written.

    Parameters
    ----------
    target : str or None
        The chip whose integers are written. None writes floats into a .nir file and the integers of Loihi 2 into a .net file.

    Raises
    ------
    RequestError
        Another ending than .net or .nir.
    """
    from neurodeploy.targets import target_of_file

    network: Network | QuantizedNetwork
    if (writer := target_of_file(to)) is not None:
        network = quantized = spec.quantized_network(target or "loihi2", bits)
        if quantized.target != writer.name:
            raise RequestError(
                str(to), f"is a file of target {writer.name!r}, and the network's integers are those of {quantized.target!r}",
                remedy=f"Choose a chip whose profile names target {writer.name!r}.",
            )  # fmt: skip
        writer.write(quantized, to)
        return network
    if to.suffix == ".nir":
        from neurodeploy.frontends.nir.writing import write_nir

        network = spec.network() if target is None else spec.quantized_network(target, bits)
        write_nir(network, to)
        return network
    raise RequestError(str(to), "is no kind of file that networks are written to", remedy="Let it end with .net or .nir.")


def write_record(record: SpikeRecord, to: Path, **meta: str) -> str:
    """Write a record, as NIRData where `to` ends with .nir, else as .npz with entries of `meta`; say what was written."""
    if to.suffix == ".nir":
        from neurodeploy.frontends.nir.writing import write_nir_data

        write_nir_data(record, to)
    else:
        from neurodeploy.simulation.records import save_record

        save_record(record, to, **meta)
    size, rate = f"{counted(record.n_samples, 'sample')} of {counted(record.n_steps, 'step')}", record.rates()[record.output]
    return f"{size}, {f'{rate:.4f} spikes per neuron and step' if rate else 'membranes and no spikes'} in {record.output!r}: {to}"
