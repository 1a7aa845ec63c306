"""The options that several commands have, each said once."""

from __future__ import annotations

from pathlib import Path

import click

DONE, DIFFERS = 0, 1
DATA = "digits, mnist, fashion-mnist, cifar10, n-mnist, dvs-gesture, cifar10-dvs, shd, mnist:FILE.npz, or file.py:factory"
ENDS = ("emulator", "lava", "loihi2")


def _sizes(_: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Whole numbers above 0 with commas between."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} is no number of cores, nor several with commas between, as 4,2,1.", param=option)
    return tuple(map(int, parts))


TARGET = click.option("--target", required=True, metavar="CHIP", help="A chip: one of `neurodeploy profiles`, or a YAML file.")
CORES = click.option("--cores", type=int, metavar="N", help="Cores that the network may use; all of the chip's by default.")
SIZES = click.option(
    "--cores", callback=_sizes, metavar="N[,N...]",
    help="Cores that the network may use, all of the chip's by default; several sizes are made one after the other.",
)  # fmt: skip
BITS = click.option("--bits", type=int, default=8, show_default=True, metavar="B", help="Width of a weight, sign included.")
WEIGHTS = click.option("--weights", type=Path, metavar="FILE", help="Trained weights: .safetensors, or .pt (weights only).")
CHIP = click.option(
    "--target", default="loihi2", show_default=True, metavar="CHIP", help="The chip whose integers a .nir file is rounded to."
)
OUT = click.option("--out", type=Path, required=True, metavar="DIR", help="Folder to write to; made if it is not there.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON with documented keys instead of tables.")
TIME_LIMIT = click.option(
    "--time-limit", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True, metavar="SECONDS", help="For Lava."
)
DT = click.option("--dt", type=float, metavar="T", help="Length of a step of a .nir file, in the unit of its time constants.")
METHOD = click.option(
    "--method",
    default="minimax",
    show_default=True,
    metavar="NAME",
    help="Pruning method, by its name in neurodeploy.compression.method.",
)
WAY = click.option(
    "--discretisation", metavar="NAME", help="How a .nir file becomes steps: euler, exponential, or the library that wrote it."
)
DEVICE = click.option("--device", metavar="NAME", help="Run the emulator in torch there: cuda, cuda:1, cpu.  [default: compiled]")
STEPS = click.option("--steps", type=click.IntRange(1), help="Time steps that a sample is coded or cut into.  [default: 12]")
ENCODER = click.option(
    "--encoder", type=click.Choice(["rate", "latency", "direct"]), help="How an image becomes spikes.  [default: rate]"
)
READOUT = click.option(
    "--readout", type=click.Choice(["max", "last", "mean", "sum"]), help="Of the output over time.  [default: max]"
)
DATA_NAME = click.option("--data", required=True, metavar="DATA", help=f"{DATA}.")
DATA_DIR = click.option(
    "--data-dir", type=Path, metavar="DIR", help="Where files of data sets are, or go.  [default: a cache of yours]"
)
BATCH_SIZE = click.option(
    "--batch-size", type=click.IntRange(1), help="Of data sets by name.  [default: 64 for digits, 16 for 128 x 128 pixels, 256]"
)
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")
