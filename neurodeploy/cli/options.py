"""Options and arguments that several commands share, each with its default and its help text."""

from __future__ import annotations

from pathlib import Path

import click

from neurodeploy.compression import METHODS, method_named

DONE, DIFFERS = 0, 1
"""Exit codes of a command that ran: fits, equal or done; does not fit, or differs."""
DATA_SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "n-mnist", "dvs-gesture", "cifar10-dvs", "shd")
"""Names that `load_data` knows, here because its module would import torch to show a help text; a test compares them."""
DATA = f"{', '.join(DATA_SETS)}, mnist:FILE.npz, or file.py:factory"
ENDS = ("emulator", "lava", "loihi2")


def parse_core_counts(_: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Parse ``"4"`` or ``"4,2,1"`` into core counts; None where the option was left out."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    # isdecimal refuses signs and underscores, which int() takes
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} is not a core count, nor several separated by commas, such as 4,2,1.", param=option)
    return tuple(map(int, parts))


def check_data(_: click.Context, option: click.Parameter, text: str) -> str:
    """Refuse data that is not there before anything slow is imported; `load_data` refuses what else is wrong with it."""
    name, colon, rest = text.partition(":")
    if not colon and name not in DATA_SETS:
        raise click.BadParameter(f"{text!r} is no data set: give {DATA}.", param=option)
    file = rest if name == "mnist" else text.rpartition(":")[0]
    if file.endswith((".npz", ".py")) and not Path(file).is_file():
        raise click.BadParameter(f"no file {file}.", param=option)
    return text


def check_method(_: click.Context, __: click.Parameter, text: str) -> str:
    """Refuse an unknown pruning method before anything slow is imported."""
    method_named(text)
    return text


TARGET = click.option("--target", required=True, metavar="CHIP", help="A chip: one of `neurodeploy profiles`, or a YAML file.")
CORES = click.option("--cores", type=int, metavar="N", help="Cores that the network may use.  [default: all of the chip]")
CORE_COUNTS = click.option(
    "--cores", callback=parse_core_counts, metavar="N[,N...]",
    help="Cores that the network may use; several core counts are compressed one after the other.  [default: all of the chip]",
)  # fmt: skip
BITS = click.option(
    "--bits", type=int, metavar="B", help="Width of a weight, sign included.  [default: the widest that the chip has]"
)
WEIGHTS = click.option("--weights", type=Path, metavar="FILE", help="Trained weights: .safetensors, or .pt (weights only).")
CHIP = click.option(
    "--target", default="loihi2", show_default=True, metavar="CHIP", help="The chip whose integers a .nir file is rounded to."
)
OUT = click.option("--out", type=Path, required=True, metavar="DIR", help="Folder to write to; created if missing.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON with documented keys instead of tables.")
TIME_LIMIT = click.option(
    "--time-limit", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True, metavar="SECONDS",
    help="Stop a Lava simulation after this time.",
)  # fmt: skip
DT = click.option("--dt", type=float, metavar="T", help="Time step of a .nir file, in the unit of its time constants.")
METHOD = click.option(
    "--method", default="minimax", show_default=True, callback=check_method, metavar="NAME",
    help=f"Pruning method: {' or '.join(METHODS)}.",
)  # fmt: skip
DISCRETISATION = click.option(
    "--discretisation", metavar="NAME",
    help="How a .nir file is discretised in time: euler, exponential, or the library that wrote it.",
)  # fmt: skip
DEVICE = click.option(
    "--device", metavar="NAME", help="Run the emulator in torch on this device: cuda, cuda:1, cpu.  [default: compiled loops]"
)
# The defaults of these five are those of FitOptions, which would import torch to show a help text; a test compares them.
STEPS = click.option(
    "--steps", type=click.IntRange(1), default=12, show_default=True, help="Time steps into which a sample is encoded or cut."
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
LEARNING_RATE = click.option(
    "--learning-rate", type=float, default=0.004, show_default=True, help="Learning rate of the Adam optimizer."
)
DATA_NAME = click.option("--data", required=True, callback=check_data, metavar="DATA", help=f"{DATA}.")
DATA_DIR = click.option(
    "--data-dir", type=Path, metavar="DIR", help="Folder of the data sets' files.  [default: user cache directory]"
)
BATCH_SIZE = click.option(
    "--batch-size", type=click.IntRange(1),
    help="Batch size (built-in data sets only).  [default: 64 for digits, 16 for 128 x 128 pixels, else 256]",
)  # fmt: skip
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
