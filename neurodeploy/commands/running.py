"""The commands that run a network: on spikes that are given, on random ones at two ends, on data."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import click

from neurodeploy.commands.options import (
    BATCH_SIZE,
    BITS,
    CHIP,
    DATA_DIR,
    DATA_NAME,
    DEVICE,
    DIFFERS,
    DONE,
    DT,
    ENCODER,
    ENDS,
    JSON,
    READOUT,
    SEED,
    STEPS,
    TIME_LIMIT,
    WAY,
    WEIGHTS,
)
from neurodeploy.given import Given
from neurodeploy.terminal import QUIET, busy, quiet, show, show_json


@click.command()
@click.argument("network", metavar="FILE")
@click.option(
    "--input", "source", required=True, type=Path, metavar="SPIKES.NPY", help="0 or 1, ([batch,] n_inputs..., n_steps)."
)
@click.option("--graded", is_flag=True, help="Input is whole numbers, as of a network trained with `--encoder direct`.")
@click.option("--raw", is_flag=True, help="Input is numbers that set the biases of the file's input population.")
@click.option("--end", type=click.Choice(ENDS), default="emulator", show_default=True, help="Where to run it.")
@click.option("--out", type=Path, required=True, metavar="RECORD.NPZ", help="Gets spikes and v of the last layer, and meta.")
@DEVICE
@CHIP
@BITS
@DT
@WAY
@TIME_LIMIT
@QUIET
def simulate(
    network: str, source: Path, end: Literal["emulator", "lava", "loihi2"], out: Path, target: str, bits: int,
    time_limit: float, device: str | None, graded: bool, raw: bool, **steps: Any,
) -> int:  # fmt: skip
    """Run FILE, a .net or .nir, on input spikes and record the last layer."""
    from neurodeploy.records import load_spikes, save_record
    from neurodeploy.simulation import simulate as run

    integers = Given(name=network, **steps).integers(target, bits)
    with busy(f"Running it: {end}"):
        given = load_spikes(source)
        record = run(integers, given, end=end, time_limit_s=time_limit, device=device, graded=graded, raw=raw)
    save_record(record, out, network=network, input=str(source))
    size, rate = f"{record.n_samples} samples of {record.n_steps} steps", record.rates()[record.output]
    click.echo(f"{size}, {rate:.4f} spikes a neuron and step in {record.output!r}: {out}")
    return DONE


@click.command()
@click.argument("network", metavar="FILE")
@click.option("--steps", "n_steps", type=click.IntRange(1), default=32, show_default=True, help="Steps of random input a sample.")
@SEED
@DEVICE
@CHIP
@BITS
@DT
@WAY
@TIME_LIMIT
@JSON
@QUIET
def verify(
    network: str, n_steps: int, seed: int, target: str, bits: int, time_limit: float, device: str | None, as_json: bool,
    **steps: Any,
) -> int:  # fmt: skip
    """Run FILE, a .net or .nir, in the emulator and in Lava on random input; say where they part, if they do."""
    from neurodeploy.simulation.verify import verify as run

    integers = Given(name=network, **steps).integers(target, bits)
    with busy("Running it at both ends"):
        result = run(integers, n_steps=n_steps, seed=seed, time_limit_s=time_limit, device=device)
    if as_json:
        first = result.first
        said = None if first is None else {key: getattr(first, key) for key in ("layer", "neuron", "step", "emulator", "lava")}
        show_json({"equal": result.equal, "steps": n_steps, "mismatches": result.mismatches, "first": said})
    elif result.first is None:
        click.echo(f"Equal: spikes and membranes of every layer in {n_steps} steps.")
    else:
        f = result.first
        click.echo(f"They part: {result.mismatches:,} values differ. First {f.quantity} of neuron {f.neuron} of {f.layer!r} "
                   f"at step {f.step}: {f.emulator:,} in the emulator, {f.lava:,} in Lava.")  # fmt: skip
    return DONE if result.equal else DIFFERS


@click.command()
@click.argument("model")
@DATA_NAME
@DATA_DIR
@STEPS
@ENCODER
@READOUT
@BATCH_SIZE
@DEVICE
@WEIGHTS
@CHIP
@BITS
@DT
@WAY
@JSON
@QUIET
def evaluate(
    model: str, data: str, data_dir: Path | None, steps: int | None, encoder: str | None, readout: str | None,
    batch_size: int | None, device: str | None, weights: Path | None, target: str, bits: int, as_json: bool,
    dt: float | None, discretisation: str | None,
) -> int:  # fmt: skip
    """Run MODEL in the chip's integers on the test data of DATA; say how well it does, and what it does for that."""
    from neurodeploy.evaluation import evaluate as run
    from neurodeploy.training import FitOptions, load_data
    from neurodeploy.training.encoders import levels_of

    chosen: dict[str, Any] = {"n_steps": steps, "encoder": encoder, "readout": readout}
    options = replace(FitOptions(), **{name: value for name, value in chosen.items() if value is not None})
    given = Given(name=model, weights=weights, dt=dt, discretisation=discretisation)
    with busy("Reading network and data"):
        network = given.integers(target, bits, levels=levels_of(options.encoder))
        samples = load_data(data, batch_size=batch_size, folder=data_dir, n_steps=options.n_steps)
    found = run(network, samples.test, options, device=device, progress=not quiet())
    show_json(asdict(found)) if as_json else show(str(found))
    return DONE
