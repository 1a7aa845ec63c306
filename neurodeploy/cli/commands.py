"""The commands that fit a network to a chip: show chips, inspect, deploy, compress, export, and the demo of it all.

The commands that run a network: on spikes that are given, on random ones at two ends, on data.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from neurodeploy.cli.console import QUIET, busy, quiet, show, show_json, station
from neurodeploy.cli.model_spec import Given
from neurodeploy.cli.model_spec import export as write
from neurodeploy.cli.options import (
    BATCH_SIZE,
    BITS,
    CHIP,
    CORES,
    DATA_DIR,
    DATA_NAME,
    DEVICE,
    DIFFERS,
    DONE,
    DT,
    ENCODER,
    ENDS,
    JSON,
    METHOD,
    OUT,
    READOUT,
    SEED,
    SIZES,
    STEPS,
    TARGET,
    TIME_LIMIT,
    WAY,
    WEIGHTS,
)
from neurodeploy.hardware.loading import load_profile, profile_paths

if TYPE_CHECKING:
    from neurodeploy.pipeline.deploy import Deployment

# -------------------- commands.fitting


@click.command()
@click.argument("name", required=False)
@JSON
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a profile, for editors.")
def profiles(name: str | None, as_json: bool, schema: bool) -> int:
    """List the chips, or show one with the source of each number."""
    from neurodeploy.report.text import chip_json, chip_list, chip_table

    if schema:
        from neurodeploy.hardware.loading import profile_schema

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


@click.command()
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
    from neurodeploy.pipeline.deploy import inspect as look
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


@click.command()
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
    from neurodeploy.pipeline.deploy import deploy as run

    with busy("Quantising and placing"):
        network = Given(name=model, weights=weights, **steps).network()
        deployment = run(network, load_profile(target), out=out, cores=cores, bits=bits, command=_typed())
    return _deliver(deployment, as_json)


@click.command()
@click.argument("model")
@TARGET
@SIZES
@DATA_NAME
@DATA_DIR
@OUT
@click.option("--bits", type=int, metavar="B", help="Width of all weights.  [default: chosen layer by layer]")
@METHOD
@WEIGHTS
@STEPS
@ENCODER
@READOUT
@click.option("--epochs", type=(click.IntRange(0), click.IntRange(0), click.IntRange(0)), metavar="DENSE COMPRESS FINETUNE",
              help="Epochs of each phase; 0 dense epochs for a model that is trained.  [default: 10 10 5]")  # fmt: skip
@click.option("--learning-rate", type=float, help="Of Adam.  [default: 0.004]")
@click.option("--learn-decays", is_flag=True, help="Let decays of currents and membranes learn with the weights.")
@BATCH_SIZE
@click.option("--lava-samples", type=click.IntRange(0), default=8, show_default=True, help="Test samples to run in Lava too.")
@SEED
@click.option("--resume", is_flag=True, help="Go on from the checkpoints in DIR, if the same command was broken off.")
@click.option("--checkpoint-every", type=click.FloatRange(0), default=30.0, show_default=True, metavar="SECONDS",
              help="How often to write one into DIR.")  # fmt: skip
@JSON
@QUIET
def compress(
    model: str, target: str, cores: tuple[int, ...] | None, data: str, out: Path, bits: int | None, method: str,
    weights: Path | None, seed: int, data_dir: Path | None, batch_size: int | None, lava_samples: int,
    epochs: tuple[int, int, int] | None,
    as_json: bool, resume: bool, checkpoint_every: float, **settings: Any,
) -> int:  # fmt: skip
    """Train MODEL on DATA under the budget of N cores, then deploy it into DIR.

    Of several sizes, 4,2,1 say, each goes on from the one before, and has a folder of its own in DIR.

    While it trains it writes checkpoints into DIR. Broken off, it goes on from there with --resume, to the same network.

    Under torchrun, `torchrun --nproc-per-node N -m neurodeploy compress ...`, N processes train it together, on GPUs one each.
    """
    from neurodeploy.compression.method import pruning_method
    from neurodeploy.pipeline.compress import compress as run
    from neurodeploy.pipeline.compress import compress_to
    from neurodeploy.training.data.loading import load_data
    from neurodeploy.training.distributed import seeded, together
    from neurodeploy.training.options import FitOptions

    pruning_method(method)  # an unknown name is refused before data and model are loaded
    if epochs is not None:
        settings |= dict(zip(("epochs_dense", "epochs_compress", "epochs_finetune"), epochs, strict=True))
    settings["n_steps"] = settings.pop("steps")
    options = replace(FitOptions(seed=seed), **{name: value for name, value in settings.items() if value is not None})
    with (
        together() as replicas,
        _told_how_to_go_on(speaks=replicas.is_first),
        station(speaks=replicas.is_first) as (progress, say),
    ):
        profile = load_profile(target)
        with seeded(seed):  # of a factory that draws its weights, too
            module, sample = Given(name=model, weights=weights).module()
        samples = replicas.in_turn(lambda: load_data(data, batch_size=batch_size, folder=data_dir, n_steps=options.n_steps))
        more: dict[str, Any] = {
            "out": out, "bits": bits, "method": method,
            "lava_samples": lava_samples, "progress": progress, "say": say, "command": _typed(),
            "resume": resume, "checkpoint_every_s": checkpoint_every,
        }  # fmt: skip
        if cores is not None and len(cores) > 1:
            return _deliver_all(compress_to(module, sample, profile, samples, options, cores=cores, **more), as_json,
                                speaks=replicas.is_first)  # fmt: skip
        deployment = run(module, sample, profile, samples, options, cores=cores[0] if cores else None, **more)
    return _deliver(deployment, as_json, speaks=replicas.is_first)


@click.command()
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


@click.command()
@click.option("--out", type=Path, default=Path("neurodeploy-demo"), show_default=True, metavar="DIR", help="Folder to write to.")
@SEED
@click.option("--target", default="loihi2", show_default=True, metavar="CHIP", help="A chip profile.")
@click.option("--cores", type=int, default=1, show_default=True, metavar="N", help="Cores that the network may use.")
@JSON
@QUIET
def demo(out: Path, seed: int, target: str, cores: int, as_json: bool) -> int:
    """The whole way on embedded data: train, compress, quantise, place, emulate, and run in Lava."""
    from neurodeploy.cli.demo import run_demo

    with station() as (progress, say):
        deployment = run_demo(load_profile(target), out=out, cores=cores, seed=seed, progress=progress, say=say, command=_typed())
    return _deliver(deployment, as_json)


@contextmanager
def _told_how_to_go_on(*, speaks: bool) -> Iterator[None]:
    """With which command to go on, if somebody breaks this one off."""
    try:
        yield
    except KeyboardInterrupt:
        typed = _typed()
        if speaks:
            click.echo(f"To go on: {typed}{'' if '--resume' in typed.split() else ' --resume'}", err=True)
        raise


def _typed() -> str:
    """The command line that is being run, as a shell would take it again."""
    return shlex.join(["neurodeploy", *(click.get_current_context().find_root().obj or ())])


def _deliver(deployment: Deployment, as_json: bool, *, speaks: bool = True) -> int:
    """The report of a deployment on stdout, and whether it fits as an exit code."""
    if speaks and as_json:
        show_json(deployment.report.to_json())
    elif speaks:
        show(*deployment.report.tables())
    return DONE if deployment.placement.fits else DIFFERS


def _deliver_all(deployments: tuple[Deployment, ...], as_json: bool, *, speaks: bool) -> int:
    """The reports of several sizes on stdout, as JSON, or a row each and where the rest is."""
    from neurodeploy.report.text import size_table

    if speaks and as_json:
        show_json([deployment.report.to_json() for deployment in deployments])
    elif speaks:
        pages = [deployment.report.files["page"] for deployment in deployments]
        show(size_table((d.placement, d.report.accuracy) for d in deployments), f"Reports: {', '.join(pages)}")
    return DONE if all(deployment.placement.fits for deployment in deployments) else DIFFERS


# -------------------- commands.running


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
    from neurodeploy.simulation.records import load_spikes, save_record
    from neurodeploy.targets.simulate import simulate as run

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
    from neurodeploy.targets.simulate import verify as run

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
    from neurodeploy.pipeline.evaluation import evaluate as run
    from neurodeploy.training.data.loading import load_data
    from neurodeploy.training.encoders import levels_of
    from neurodeploy.training.options import FitOptions

    chosen: dict[str, Any] = {"n_steps": steps, "encoder": encoder, "readout": readout}
    options = replace(FitOptions(), **{name: value for name, value in chosen.items() if value is not None})
    given = Given(name=model, weights=weights, dt=dt, discretisation=discretisation)
    with busy("Reading network and data"):
        network = given.integers(target, bits, levels=levels_of(options.encoder))
        samples = load_data(data, batch_size=batch_size, folder=data_dir, n_steps=options.n_steps)
    found = run(network, samples.test, options, device=device, progress=not quiet())
    show_json(asdict(found)) if as_json else show(str(found))
    return DONE
