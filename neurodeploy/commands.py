"""What the command line can be asked for: arguments to nouns, one call, an exit code."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from neurodeploy.given import Given
from neurodeploy.given import export as write
from neurodeploy.profiles import load_profile, profile_paths
from neurodeploy.terminal import QUIET, busy, show, show_json, station
from neurodeploy.versions import told as told_versions

if TYPE_CHECKING:
    from neurodeploy.deployment import Deployment

DONE, DIFFERS = 0, 1
DATA = "digits, mnist, fashion-mnist, cifar10, n-mnist, dvs-gesture, cifar10-dvs, shd, mnist:FILE.npz, or file.py:factory"
ENDS = ("emulator", "lava", "loihi2")

TARGET = click.option("--target", required=True, metavar="CHIP", help="A chip: one of `neurodeploy profiles`, or a YAML file.")
CORES = click.option("--cores", type=int, metavar="N", help="Cores that the network may use; all of the chip's by default.")
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
WAY = click.option(
    "--discretisation", metavar="NAME", help="How a .nir file becomes steps: euler, exponential, or the library that wrote it."
)
DEVICE = click.option("--device", metavar="NAME", help="Run the emulator in torch there: cuda, cuda:1, cpu.  [default: compiled]")
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(told_versions(), message="%(version)s")
@QUIET
def cli() -> None:
    """Get a spiking network onto a neuromorphic chip.

    MODEL is file.py:factory or package.module:factory, a function without arguments that returns a Norse network (or a
    pair of it and a sample input), or a .net or .nir file. DATA is digits, mnist, fashion-mnist, cifar10, n-mnist, dvs-gesture,
    cifar10-dvs, shd, mnist:FILE.npz, or file.py:factory, a function that returns (train, test), each an iterable of
    (input, target) batches.

    Exit codes: 0 fits, equal or done; 1 does not fit, or differs; 2 bad input.
    """


@cli.command()
@click.argument("name", required=False)
@JSON
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a profile, for editors.")
def profiles(name: str | None, as_json: bool, schema: bool) -> int:
    """List the chips, or show one with the source of each number."""
    from neurodeploy.report.chips import chip_json, chip_list, chip_table

    if schema:
        from neurodeploy.profile_schema import profile_schema

        show_json(profile_schema())
        return DONE
    if name is not None:
        profile = load_profile(name)
        show_json(chip_json(profile)) if as_json else show(chip_table(profile))
        return DONE
    chips = [load_profile(known) for known in profile_paths()]
    if as_json:
        show_json([{"name": chip.name, "description": chip.description, "cores": chip.cores} for chip in chips])
    else:
        show(chip_list(chips))
    return DONE


@cli.command()
@click.argument("model")
@TARGET
@CORES
@click.option("--chips", type=int, metavar="N", help="Chips that the network may use; all of the board's by default.")
@BITS
@click.option("--connectivity", type=click.FloatRange(0, 1), metavar="P", help="What if each weight survived with this chance?")
@WEIGHTS
@DT
@WAY
@JSON
@QUIET
def inspect(
    model: str, target: str, cores: int | None, chips: int | None, bits: int, connectivity: float | None, weights: Path | None,
    as_json: bool, **steps: Any,
) -> int:  # fmt: skip
    """Say what each layer of MODEL needs and may use, whether it fits, and if not, what binds and what would help."""
    from neurodeploy.deployment import inspect as look
    from neurodeploy.report.text import balance_lines, core_table, gain_table, layer_table, traffic_lines, verdict

    with busy("Laying the network out"):
        network = Given(name=model, weights=weights, **steps).network()
        seen = look(network, load_profile(target), cores=cores, chips=chips, bits=bits, connectivity=connectivity)
    if as_json:
        show_json(seen.to_json())
    else:
        hopeless = [f"No compression helps. {seen.hopeless}"] if seen.hopeless else []
        tables = [layer_table(seen.layers), core_table(seen.placement), *([gain_table(seen.gains)] if seen.gains else [])]
        show(*verdict(seen.placement), *hopeless, *tables, *traffic_lines(seen.placement),
               *balance_lines(seen.balances))  # fmt: skip
    return DONE if seen.placement.fits else DIFFERS


@cli.command()
@click.argument("model")
@TARGET
@OUT
@CORES
@BITS
@WEIGHTS
@DT
@WAY
@JSON
@QUIET
def deploy(
    model: str, target: str, out: Path, cores: int | None, bits: int, weights: Path | None, as_json: bool, **steps: Any
) -> int:  # fmt: skip
    """Quantise MODEL, place it, write model.net and a report into DIR.

    A network that does not fit is written all the same, for the simulators; the exit code is then 1.
    """
    from neurodeploy.deployment import deploy as run

    with busy("Quantising and placing"):
        network = Given(name=model, weights=weights, **steps).network()
        deployment = run(network, load_profile(target), out=out, cores=cores, bits=bits, command=_typed())
    return _deliver(deployment, as_json)


@cli.command()
@click.argument("model")
@TARGET
@CORES
@click.option("--data", required=True, metavar="DATA", help=f"{DATA}.")
@click.option("--data-dir", type=Path, metavar="DIR", help="Where files of data sets are, or go.  [default: a cache of yours]")
@OUT
@BITS
@WEIGHTS
@click.option("--steps", type=click.IntRange(1), help="Time steps that a sample is coded or cut into.  [default: 12]")
@click.option("--encoder", type=click.Choice(["rate", "latency", "direct"]), help="How an image becomes spikes.  [default: rate]")
@click.option("--readout", type=click.Choice(["max", "last", "mean", "sum"]), help="Of the output over time.  [default: max]")
@click.option("--epochs", type=(click.IntRange(0), click.IntRange(0), click.IntRange(0)), metavar="DENSE COMPRESS FINETUNE",
              help="Epochs of each phase; 0 dense epochs for a model that is trained.  [default: 10 10 5]")  # fmt: skip
@click.option("--learning-rate", type=float, help="Of Adam.  [default: 0.004]")
@click.option(
    "--batch-size", type=click.IntRange(1), help="Of data sets by name.  [default: 64 for digits, 16 for 128 x 128 pixels, 256]"
)
@click.option("--lava-samples", type=click.IntRange(0), default=8, show_default=True, help="Test samples to run in Lava too.")
@SEED
@JSON
@QUIET
def compress(
    model: str, target: str, cores: int | None, data: str, out: Path, bits: int, weights: Path | None, seed: int,
    data_dir: Path | None, batch_size: int | None, lava_samples: int, epochs: tuple[int, int, int] | None, as_json: bool,
    **settings: Any,
) -> int:  # fmt: skip
    """Train MODEL on DATA under the budget of N cores, then deploy it into DIR."""
    from neurodeploy.deployment import compress as run
    from neurodeploy.training import FitOptions, load_data

    profile = load_profile(target)
    module, sample = Given(name=model, weights=weights).module()
    if epochs is not None:
        settings |= dict(zip(("epochs_dense", "epochs_compress", "epochs_finetune"), epochs, strict=True))
    settings["n_steps"] = settings.pop("steps")
    options = replace(FitOptions(seed=seed), **{name: value for name, value in settings.items() if value is not None})
    samples = load_data(data, batch_size=batch_size, folder=data_dir, n_steps=options.n_steps)
    with station() as (progress, say):
        deployment = run(
            module, sample, profile, samples, options, out=out, cores=cores, bits=bits, lava_samples=lava_samples,
            progress=progress, say=say, command=_typed(),
        )  # fmt: skip
    return _deliver(deployment, as_json)


@cli.command()
@click.argument("network", metavar="FILE")
@click.option(
    "--input", "source", required=True, type=Path, metavar="SPIKES.NPY", help="0 or 1, ([batch,] n_inputs..., n_steps)."
)
@click.option("--graded", is_flag=True, help="Input is whole numbers, as of a network trained with `--encoder direct`.")
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
    time_limit: float, device: str | None, graded: bool, **steps: Any,
) -> int:  # fmt: skip
    """Run FILE, a .net or .nir, on input spikes and record the last layer."""
    from neurodeploy.records import load_spikes, save_record
    from neurodeploy.simulation import simulate as run

    integers = Given(name=network, **steps).integers(target, bits)
    with busy(f"Running it: {end}"):
        record = run(integers, load_spikes(source), end=end, time_limit_s=time_limit, device=device, graded=graded)
    save_record(record, out, network=network, input=str(source))
    size, rate = f"{record.n_samples} samples of {record.n_steps} steps", record.rates()[record.output]
    click.echo(f"{size}, {rate:.4f} spikes a neuron and step in {record.output!r}: {out}")
    return DONE


@cli.command()
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


@cli.command()
@click.argument("model")
@click.option("--to", required=True, type=Path, metavar="FILE", help="File to write; it ends with .net or .nir.")
@click.option("--target", metavar="CHIP", help="The chip whose integers are written; none for the floats, in a .nir file.")
@BITS
@WEIGHTS
@DT
@WAY
def export(model: str, to: Path, target: str | None, bits: int, weights: Path | None, **steps: Any) -> int:
    """Write MODEL as a .net file, for Lava, or as a .nir file, for other libraries."""
    network = write(Given(name=model, weights=weights, **steps), to, target, bits)
    click.echo(f"{len(network.layers)} layers, {network.n_neurons:,} neurons, {network.n_synapses:,} synapses: {to}")
    return DONE


@cli.command()
@click.option("--out", type=Path, default=Path("neurodeploy-demo"), show_default=True, metavar="DIR", help="Folder to write to.")
@SEED
@click.option("--target", default="loihi2", show_default=True, metavar="CHIP", help="A chip profile.")
@click.option("--cores", type=int, default=1, show_default=True, metavar="N", help="Cores that the network may use.")
@JSON
@QUIET
def demo(out: Path, seed: int, target: str, cores: int, as_json: bool) -> int:
    """The whole way on embedded data: train, compress, quantise, place, emulate, and run in Lava."""
    from neurodeploy.demo import run_demo

    with station() as (progress, say):
        deployment = run_demo(load_profile(target), out=out, cores=cores, seed=seed, progress=progress, say=say, command=_typed())
    return _deliver(deployment, as_json)


def _typed() -> str:
    """The command line that is being run, as a shell would take it again."""
    return shlex.join(["neurodeploy", *(click.get_current_context().find_root().obj or ())])


def _deliver(deployment: Deployment, as_json: bool) -> int:
    """The report of a deployment on stdout, and whether it fits as an exit code."""
    if as_json:
        show_json(deployment.report.to_json())
    else:
        show(*deployment.report.tables())
    return DONE if deployment.placement.fits else DIFFERS
