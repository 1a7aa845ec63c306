"""The commands: show chips; inspect, deploy, compress and export a model; simulate, verify and evaluate a network."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import click

from neurodeploy import compression
from neurodeploy.cli.console import (
    QUIET,
    RESULTS,
    WIDE,
    is_quiet,
    is_wide,
    progress_output,
    resume_hint,
    show,
    show_deployments,
    show_json,
    show_now,
    status,
    typed_command,
)
from neurodeploy.cli.options import (
    BATCH_SIZE,
    BITS,
    CHECKPOINT_EVERY,
    CHIP,
    CHIPS,
    CHOSEN_BITS,
    CORE_COUNTS,
    DATA,
    DATA_DIR,
    DATA_NAME,
    DEVICE,
    DIFFERS,
    DONE,
    ENCODER,
    ENDS,
    EPOCHS,
    JSON,
    LEARN_DECAYS,
    OUT,
    OUTPUTS,
    READOUT,
    RESUME,
    SEED,
    STEPS,
    TARGET,
    TIME_LIMIT,
    WEIGHTS,
    ModelSpec,
    NirOptions,
    NumberRange,
    OutputPath,
    check_data,
    check_inputs,
    check_output,
    cores_options,
    export,
    load_test_data,
    nir_options,
    parse_targets,
    requested_profile,
    write_record,
)
from neurodeploy.errors import RequestError, counted
from neurodeploy.hardware.loading import load_profile, profile_paths
from neurodeploy.ir.files import absence, output_folder

MAX_LAID_OUT_CORES, MAX_LAID_OUT_NEURONS = 20_000, 10_000_000
"""`inspect` lays out networks of up to so many cores; the number is asked of all with a terminal, or with more neurons."""

# The functions of the pipeline are imported where they are called, after the arguments have been checked: they bring SciPy and
# torch, which neither `--help` nor an error in an argument need wait for.


@click.command()
@click.argument("name", required=False)
@WIDE
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


@click.command("inspect")
@click.argument("model")
@TARGET
@cores_options
@BITS
@click.option(
    "--connectivity", type=NumberRange(0, 1), metavar="P", help="Count as if each weight were kept with this probability."
)
@click.option("--fast", is_flag=True, help="Estimate the cores alone, in large networks: mostly within 5 %, 21 % at worst seen.")
@WEIGHTS
@nir_options
@WIDE
@JSON
@QUIET
def inspect_command(
    model: str, target: str, cores: int | None, chips: int | None, bits: int | None, connectivity: float | None,
    fast: bool, weights: Path | None, nir: NirOptions, as_json: bool,
) -> int:  # fmt: skip
    """Show what each layer of MODEL needs and may use, whether it fits, and if not, which limit binds and what would help.

    The exit code is 1 where it does not fit, or where `deploy` refuses its numbers.
    """
    spec = ModelSpec(name=model, weights=weights, nir=nir)
    profile, cores = requested_profile(target, cores, chips)
    from neurodeploy.mapping.core_estimate import CoreEstimate
    from neurodeploy.pipeline.inspection import inspect
    from neurodeploy.report.text import balance_lines, core_table, gain_table, layer_notes, layer_table, traffic_lines

    network, form = spec.to_place(profile, bits)
    with status("Placing the network") as say:

        def is_enough(estimate: CoreEstimate) -> bool:
            if say is not None:
                say(f"About {counted(estimate.cores, 'core')}; laying out exactly")
            return estimate.cores > MAX_LAID_OUT_CORES

        seen = inspect(
            network, profile, cores=cores, bits=bits, connectivity=connectivity, form=form, fast=fast,
            on_estimate=is_enough if say is not None or network.n_neurons > MAX_LAID_OUT_NEURONS else None,
        )  # fmt: skip
    if isinstance(seen, CoreEstimate):
        left_out = [] if fast else [f"More than {MAX_LAID_OUT_CORES:,} cores are not laid out here: it takes long."]
        show_json(seen.to_json()) if as_json else show(*seen.sentences, *left_out)
    elif as_json:
        show_json(seen.to_json())
    else:
        show(
            *seen.sentences, layer_table(seen.layers, wide=is_wide()), *layer_notes(seen.layers),
            core_table(seen.placement), *([gain_table(seen.gains)] if seen.gains else []), *traffic_lines(seen.placement),
            *balance_lines(seen.balances),
        )  # fmt: skip
    return DONE if seen.fits else DIFFERS


@click.command("check")
@click.argument("model", metavar="MODEL|FILE")
@TARGET
@cores_options
@BITS
@WEIGHTS
@nir_options
@WIDE
@JSON
@QUIET
def check_command(
    model: str, target: str, cores: int | None, chips: int | None, bits: int | None, weights: Path | None, nir: NirOptions,
    as_json: bool,
) -> int:  # fmt: skip
    """List every node of MODEL: exact, rewritten (as what), or not supported (why, and the way round); say whether it fits.

    The exit code is 1 where a node is not supported, or the network does not fit or cannot be deployed.
    """
    spec = ModelSpec(name=model, weights=weights, nir=nir)
    profile, cores = requested_profile(target, cores, chips)
    from neurodeploy.pipeline.inspection import check_network
    from neurodeploy.report.text import node_table

    with status("Reading the model"):
        check = check_network(*spec.checked(), profile, cores=cores, bits=bits)
    show_json(check.to_json()) if as_json else show(node_table(check.nodes, wide=is_wide()), *check.sentences)
    return DONE if check.fits else DIFFERS


@click.command("compare")
@click.argument("model")
@click.option(
    "--targets", required=True, callback=parse_targets, metavar="CHIP,CHIP...",
    help="Chips of `neurodeploy profiles`, or YAML files.",
)  # fmt: skip
@click.option("--data", callback=check_data, metavar="DATA", help=f"Measure accuracy on its test data: {DATA}.")
@click.option("--out", type=OutputPath(file_okay=False), metavar="DIR", help="Folder for compare.html; created if missing.")
@BITS
@WEIGHTS
@nir_options
@DATA_DIR
@STEPS
@ENCODER
@READOUT
@BATCH_SIZE
@WIDE
@JSON
@QUIET
def compare_command(
    model: str, targets: tuple[str, ...], data: str | None, out: Path | None, bits: int | None, weights: Path | None,
    nir: NirOptions, data_dir: Path | None, steps: int, encoder: str, readout: str,
    batch_size: int | None, as_json: bool,
) -> int:  # fmt: skip
    """Show on which of several chips MODEL fits: cores, what binds, energy, time, accuracy with DATA.

    The exit code is 1 where it fits none of them.
    """
    spec = ModelSpec(name=model, weights=weights, nir=nir)
    profiles = [load_profile(target) for target in targets]
    if out is not None:
        check_output(out / "compare.html", model, weights, *targets)
    from neurodeploy.pipeline.inspection import target_result
    from neurodeploy.report.summary import comparison_table
    from neurodeploy.report.text import unbroken

    with status("Reading the model"):
        network = spec.network()
    samples = None if data is None else load_test_data(data, data_dir, batch_size, steps)
    results, options = [], {"n_steps": steps, "encoder": encoder, "readout": readout}
    for number, (target, profile) in enumerate(zip(targets, profiles, strict=True), 1):
        with status(f"Placing on {target} ({number} of {len(targets)})"):
            placed, form = spec.to_place(profile, bits, network)
            result = target_result(placed, profile, form=form, bits=bits)
        if samples is not None and profile.target is not None and not result.why_not:
            measured = spec.evaluated(target, samples, bits, options, network=network, progress=not is_quiet())
            result = replace(result, accuracy=measured.classification_accuracy, test_samples=measured.n_samples)
        results.append(result)
        show_now(result)
    if out is not None:
        from neurodeploy.report.html import write_comparison

        with output_folder(out) as folder:
            write_comparison(results, folder.staging / "compare.html", model=model, command=typed_command())
    if as_json:
        show_json({"model": model, "targets": [result.to_json() for result in results]})
    else:
        show(comparison_table(results), *([] if out is None else [unbroken(f"Page: {out / 'compare.html'}")]))
    return DONE if any(result.fits for result in results) else DIFFERS


@click.command("deploy")
@click.argument("model")
@TARGET
@OUT
@cores_options
@BITS
@WEIGHTS
@nir_options
@WIDE
@JSON
@QUIET
def deploy_command(
    model: str, target: str, out: Path, cores: int | None, chips: int | None, bits: int | None, weights: Path | None,
    nir: NirOptions, as_json: bool,
) -> int:  # fmt: skip
    """Quantise MODEL, place it, and write model.net and a report into DIR.

    A network that does not fit is written too, for the simulators; the exit code is then 1.
    """
    spec = ModelSpec(name=model, weights=weights, nir=nir)
    profile, cores = requested_profile(target, cores, chips)
    check_inputs([out / name for name in OUTPUTS], model, weights, target)
    from neurodeploy.pipeline.deploy import deploy

    network, form = spec.to_place(profile, bits)
    with status("Quantising and placing"):
        deployment = deploy(network, profile, out=out, cores=cores, bits=bits, command=typed_command(), form=form)
    return DONE if show_deployments([deployment], as_json) else DIFFERS


def refuse_unknown_method(_: click.Context, __: click.Parameter, text: str) -> str:
    """Refuse an unknown pruning method before anything slow is imported."""
    compression.check_method(text)
    return text


@click.command("compress")
@click.argument("model")
@TARGET
@CORE_COUNTS
@CHIPS
@DATA_NAME
@DATA_DIR
@OUT
@CHOSEN_BITS
@click.option(
    "--method", default="minimax", show_default=True, callback=refuse_unknown_method, metavar="NAME",
    help=f"Pruning method: {' or '.join(compression.METHODS)}.",
)  # fmt: skip
@WEIGHTS
@nir_options
@STEPS
@ENCODER
@READOUT
@EPOCHS
@click.option("--learning-rate", type=float, default=0.004, show_default=True, help="Learning rate of the Adam optimizer.")
@LEARN_DECAYS
@BATCH_SIZE
@click.option(
    "--lava-samples", type=click.IntRange(0), default=8, show_default=True, help="Test samples to run in the vendor's simulator."
)
@SEED
@RESUME
@CHECKPOINT_EVERY
@WIDE
@JSON
@QUIET
def compress_command(
    model: str, target: str, cores: tuple[int, ...] | None, chips: int | None, data: str, data_dir: Path | None, out: Path,
    bits: int | None, method: str, weights: Path | None, nir: NirOptions, steps: int, encoder: str, readout: str,
    epochs: tuple[int, int, int], learning_rate: float, learn_decays: bool, batch_size: int | None, lava_samples: int,
    seed: int, resume: bool, checkpoint_every: float, as_json: bool,
) -> int:  # fmt: skip
    """Train MODEL on DATA under the budget of N cores, then deploy it into DIR.

    Several core counts, such as 4,2,1, are compressed in one run: each starts from the one before and is deployed into a
    folder of its own in DIR.

    Checkpoints are written into DIR. Run the same command with --resume to continue an interrupted run; the result is the same.

    Under torchrun, `torchrun --nproc-per-node N -m neurodeploy compress ...`, N processes train together, on one GPU each.
    """
    check_inputs([out / name for name in OUTPUTS], model, weights, target, data.partition(":")[2])
    spec = ModelSpec(name=model, weights=weights, nir=nir)
    profile, most = requested_profile(target, max(cores) if cores else None, chips)
    if chips is not None and most is not None:
        cores = tuple(dict.fromkeys(min(n, most) for n in cores or (most,)))
    from neurodeploy.pipeline.compress import compress, compress_to
    from neurodeploy.training.data_loading import load_data
    from neurodeploy.training.distributed import seeded, together
    from neurodeploy.training.options import FitOptions

    options = FitOptions(
        epochs_dense=epochs[0], epochs_compress=epochs[1], epochs_finetune=epochs[2], learning_rate=learning_rate, n_steps=steps,
        encoder=encoder, readout=readout, learn_decays=learn_decays, seed=seed,
    )  # fmt: skip
    with (
        together() as replicas,
        resume_hint(enabled=replicas.is_first),
        progress_output(enabled=replicas.is_first) as (progress, say),
    ):
        with seeded(seed):  # a factory may draw its weights
            module, sample = spec.trained()
        # in turn: one process of a machine downloads, the others read its files
        samples = replicas.in_turn(lambda: load_data(data, batch_size=batch_size, folder=data_dir, n_steps=steps))
        asked: dict[str, Any] = {
            "out": out, "bits": bits, "method": method, "lava_samples": lava_samples, "progress": progress, "say": say,
            "command": typed_command(), "resume": resume, "checkpoint_every_s": checkpoint_every,
        }  # fmt: skip
        if cores is not None and len(cores) > 1:
            deployments = compress_to(module, sample, profile, samples, options, cores=cores, **asked)
        else:
            one = cores[0] if cores else None
            deployments = (compress(module, sample, profile, samples, options, cores=one, **asked),)
    return DONE if show_deployments(deployments, as_json, enabled=replicas.is_first) else DIFFERS


@click.command("export")
@click.argument("model")
@click.option("--to", required=True, type=OutputPath(dir_okay=False), metavar="FILE", help="File to write, .net or .nir.")
@click.option(
    "--target", metavar="CHIP",
    help="The chip whose integers are written.  [default: loihi2 for a .net file, floats for a .nir file]",
)  # fmt: skip
@BITS
@WEIGHTS
@nir_options
def export_command(model: str, to: Path, target: str | None, bits: int | None, weights: Path | None, nir: NirOptions) -> int:
    """Write MODEL as a .net file, for Lava, or as a .nir file, for other libraries."""
    check_output(to, model, weights, target)
    with status("Reading and writing the network"):
        network = export(ModelSpec(name=model, weights=weights, nir=nir), to, target, bits)
    sizes = {"layer": len(network.layers), "neuron": network.n_neurons, "synapse": network.n_synapses}
    counts = ", ".join(counted(n, noun) for noun, n in sizes.items())
    notes = [*getattr(network, "notes", ())]
    if to.suffix == ".nir" and any(hasattr(layer.neuron, "max_spikes") for layer in network):
        notes.append(
            "Neurons subtract their threshold, which NIR does not state: other libraries reset them as they do by default."
        )
    click.echo("\n".join([f"{counts}: {to}", *(f"Note: {note}" for note in notes)]), file=RESULTS.get())
    return DONE


@click.command("simulate")
@click.argument("network", metavar="FILE")
@click.option(
    "--input", "source", required=True, type=Path, metavar="SPIKES.NPY",
    help="Input spikes, 0 or 1, of shape ([batch,] n_inputs..., n_steps): steps last.",
)  # fmt: skip
@click.option("--graded", is_flag=True, help="Input is whole numbers, for a network trained with `--encoder direct`.")
@click.option("--raw", is_flag=True, help="Input is numbers that set the biases of the file's input population.")
@click.option("--end", type=click.Choice(ENDS), default="emulator", show_default=True, help="Simulator to run it in.")
@click.option(
    "--out", type=OutputPath(dir_okay=False), required=True, metavar="RECORD.NPZ",
    help="File to write: spikes and v of the last layer, and meta; RECORD.NIR: spikes and v as NIRData.",
)  # fmt: skip
@DEVICE
@CHIP
@BITS
@nir_options
@TIME_LIMIT
@QUIET
def simulate_command(
    network: str, source: Path, end: Literal["emulator", "lava", "loihi2"], out: Path, target: str, bits: int | None,
    time_limit: float, device: str | None, graded: bool, raw: bool, nir: NirOptions,
) -> int:  # fmt: skip
    """Run FILE, a .net or .nir, on input spikes and record the last layer."""
    spec = ModelSpec(name=network, nir=nir)
    if absence(source):
        raise RequestError(str(source), "no such file")
    check_output(out, network, source, target)
    from neurodeploy.simulation.records import load_spikes
    from neurodeploy.targets.simulate import simulate

    with status(f"Simulating: {end}"):
        quantized = spec.quantized_network(target, bits)
        record = simulate(quantized, load_spikes(source), end=end, time_limit_s=time_limit, device=device, graded=graded, raw=raw)
    click.echo(write_record(record, out, network=network, input=str(source)), file=RESULTS.get())
    return DONE


@click.command("verify")
@click.argument("network", metavar="FILE")
@click.option(
    "--steps", "n_steps", type=click.IntRange(1), default=32, show_default=True, help="Steps of random input for each sample."
)
@SEED
@DEVICE
@CHIP
@BITS
@nir_options
@TIME_LIMIT
@JSON
@QUIET
def verify_command(
    network: str, n_steps: int, seed: int, target: str, bits: int | None, time_limit: float, device: str | None, as_json: bool,
    nir: NirOptions,
) -> int:  # fmt: skip
    """Run FILE in the emulator and in the vendor's simulator on random input; report the first mismatch."""
    spec = ModelSpec(name=network, nir=nir)
    from neurodeploy.targets.simulate import verify

    with status("Running the emulator and the vendor's simulator"):
        quantized = spec.quantized_network(target, bits)
        result = verify(quantized, n_steps=n_steps, seed=seed, time_limit_s=time_limit, device=device)
    show_json(result.to_json()) if as_json else click.echo(result.sentence, file=RESULTS.get())
    return DONE if result.equal else DIFFERS


@click.command("evaluate")
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
@nir_options
@JSON
@QUIET
def evaluate_command(
    model: str, data: str, data_dir: Path | None, steps: int, encoder: str, readout: str, batch_size: int | None,
    device: str | None, weights: Path | None, target: str, bits: int | None, nir: NirOptions,
    as_json: bool,
) -> int:  # fmt: skip
    """Run MODEL in the chip's integers on the test data of DATA; show accuracy, sparsity and synaptic operations."""
    spec = ModelSpec(name=model, weights=weights, nir=nir)
    options = {"n_steps": steps, "encoder": encoder, "readout": readout}
    samples = load_test_data(data, data_dir, batch_size, steps)
    evaluation = spec.evaluated(target, samples, bits, options, device=device, progress=not is_quiet())
    show_json(asdict(evaluation)) if as_json else show(str(evaluation))
    return DONE
