"""Commands that run a whole experiment: the demo, on scikit-learn's digits, and sweeps over chips, sizes, seeds and methods."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from neurodeploy import compression
from neurodeploy.cli.console import (
    QUIET,
    WIDE,
    enter_phase,
    print_on_stderr,
    progress_output,
    resume_hint,
    show,
    show_deployments,
    show_json,
    status,
    typed_command,
)
from neurodeploy.cli.options import (
    BATCH_SIZE,
    CHECKPOINT_EVERY,
    CHOSEN_BITS,
    DATA_DIR,
    DATA_NAME,
    DIFFERS,
    DONE,
    ENCODER,
    EPOCHS,
    JSON,
    LEARN_DECAYS,
    OUT,
    OUTPUTS,
    READOUT,
    RESUME,
    SEED,
    STEPS,
    WEIGHTS,
    ModelSpec,
    NirOptions,
    NumberRange,
    OutputPath,
    check_inputs,
    nir_options,
    parse_core_counts,
    parse_targets,
    requested_profile,
)
from neurodeploy.hardware.loading import load_profile

# torch and Norse are imported where they are used: neither `--help` nor an error in an argument need wait for them
if TYPE_CHECKING:
    from norse.torch import SequentialState

    from neurodeploy.hardware.profile import HardwareProfile
    from neurodeploy.pipeline.deploy import Deployment, Say
    from neurodeploy.report.text import FittedTable
    from neurodeploy.training.options import Progress, SweepProgress

HIDDEN = 640
LAVA_SAMPLES = 24


@click.command()
@click.option("--out", type=OutputPath(file_okay=False), default=Path("neurodeploy-demo"), show_default=True, metavar="DIR")
@SEED
@click.option("--target", default="loihi2", show_default=True, metavar="CHIP", help="A chip profile.")
@click.option("--cores", type=int, default=1, show_default=True, metavar="N", help="Cores that the network may use.")
@RESUME
@WIDE
@JSON
@QUIET
def demo(out: Path, seed: int, target: str, cores: int, resume: bool, as_json: bool) -> int:
    """Run every stage on built-in data: train, compress, quantise, place, emulate, and run in Lava."""
    check_inputs([out / name for name in OUTPUTS], target)
    profile, _ = requested_profile(target, cores)
    with resume_hint(enabled=True), progress_output() as (progress, say):
        deployment = run_demo(
            profile, out=out, cores=cores, seed=seed, progress=progress, say=say, command=typed_command(), resume=resume
        )  # fmt: skip
    return DONE if show_deployments([deployment], as_json) else DIFFERS


def digits_model(seed: int = 0) -> SequentialState:
    """A Norse network for 8 x 8 digits: two hidden layers of LIF neurons and a leaky readout, no biases."""
    import torch
    from norse.torch import LICell, LIFCell, LIFParameters, SequentialState
    from norse.torch.functional.leaky_integrator import LIParameters

    # in 1/s; with Norse's step of 1 ms, 0.7 of a current and all of a membrane decays in a step
    fast = {"tau_syn_inv": torch.tensor(700.0), "tau_mem_inv": torch.tensor(1000.0)}
    neurons, readout = LIFParameters(**fast, v_th=torch.tensor(0.3)), LIParameters(**fast)
    # no devices: weights are drawn on the CPU, and forking GPU states would start CUDA
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return SequentialState(
            torch.nn.Linear(64, HIDDEN, bias=False),
            LIFCell(neurons),
            torch.nn.Linear(HIDDEN, HIDDEN, bias=False),
            LIFCell(neurons),
            torch.nn.Linear(HIDDEN, 10, bias=False),
            LICell(readout),
        )


def run_demo(
    profile: HardwareProfile,
    *,
    out: str | Path,
    cores: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
    say: Say | None = None,
    command: str = "",
    resume: bool = False,
) -> Deployment:
    """Train, compress, quantise, place, emulate and run in Lava; arguments and result as in `neurodeploy.compress`."""
    import torch

    from neurodeploy.pipeline.compress import compress
    from neurodeploy.pipeline.deploy import ignore
    from neurodeploy.training.data_loading import load_data
    from neurodeploy.training.options import FitOptions

    # tuned, with the model's time constants, on a fifth of the training data
    options = FitOptions(
        epochs_dense=8, epochs_compress=8, epochs_finetune=4, n_steps=12, learning_rate=3e-3, readout="mean", seed=seed
    )
    data = load_data("digits")
    model = digits_model(seed)
    sample = torch.zeros(1, model[0].in_features)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing from more, and on a busy machine threads wait for each other
    try:
        return compress(
            model, sample, profile, data, options, out=out, cores=cores, lava_samples=LAVA_SAMPLES, progress=progress,
            say=say or ignore, command=command, resume=resume,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)


def parse_numbers(_: click.Context, option: click.Parameter, text: str) -> tuple[float, ...]:
    """Parse ``"0.001,0.003"`` into numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number, nor several separated by commas.", param=option) from None


def parse_methods(_: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    """Parse ``"minimax,minimax-saddle"`` into names of pruning methods, each once."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        compression.check_method(name)
    if not names:
        raise click.BadParameter(f"{text!r} names no method; give {', '.join(compression.METHODS)}.", param=option)
    return names


@click.command("sweep")
@click.argument("model")
@click.option(
    "--targets", required=True, callback=parse_targets, metavar="CHIP,CHIP...",
    help="Chips of `neurodeploy profiles`, or YAML files.",
)  # fmt: skip
@click.option(
    "--cores", callback=parse_core_counts, metavar="N[,N...]",
    help="Core counts; each chip gets those that it has.  [default: all of each chip]",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Number of random seeds, from 0 on."
)
@click.option(
    "--methods", default="minimax", show_default=True, callback=parse_methods, metavar="NAME[,NAME...]",
    help=f"Pruning methods: {', '.join(compression.METHODS)}.",
)  # fmt: skip
@click.option(
    "--rates", default="0.004", show_default=True, callback=parse_numbers, metavar="R[,R...]",
    help="Learning rates of the Adam optimizer.",
)  # fmt: skip
@click.option(
    "--tune", default=0, show_default=True, type=click.IntRange(0), metavar="N",
    help="Learning rates to try on held-out training data, around that of --rates, and then numbers of epochs; at least 5.",
)  # fmt: skip
@DATA_NAME
@DATA_DIR
@OUT
@CHOSEN_BITS
@WEIGHTS
@nir_options
@STEPS
@ENCODER
@READOUT
@EPOCHS
@LEARN_DECAYS
@BATCH_SIZE
@click.option(
    "--lava-samples", type=click.IntRange(0), default=0, show_default=True,
    help="Test samples of each run to run in the vendor's simulator.",
)  # fmt: skip
@click.option("--independent", is_flag=True, help="Start every size from the dense network, not from the next larger size.")
@click.option(
    "--within", type=NumberRange(0), default=1.0, show_default=True, metavar="POINTS",
    help="Points of accuracy that the smallest chip may lose.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Runs at a time.  [default: as processors and memory allow]")
@click.option(
    "--engine", type=click.Choice(["auto", "processes", "ray"]), default="auto", show_default=True,
    help="What starts runs; auto is Ray with --address, else processes of this machine.",
)  # fmt: skip
@click.option("--address", metavar="HOST:PORT", help="A Ray cluster, as `ray start` prints it.")
@click.option("--gpus", type=NumberRange(0), default=0.0, show_default=True, metavar="F", help="GPUs of a run, as 0.5.")
@RESUME
@CHECKPOINT_EVERY
@WIDE
@JSON
@QUIET
def sweep_command(
    model: str, targets: tuple[str, ...], cores: tuple[int, ...] | None, seeds: int, methods: tuple[str, ...],
    rates: tuple[float, ...], tune: int, data: str, data_dir: Path | None, out: Path, bits: int | None, weights: Path | None,
    nir: NirOptions, steps: int, encoder: str, readout: str, epochs: tuple[int, int, int], learn_decays: bool,
    batch_size: int | None, lava_samples: int, independent: bool, within: float, workers: int | None,
    engine: Literal["auto", "processes", "ray"], address: str | None, gpus: float,
    resume: bool, checkpoint_every: float, as_json: bool,
) -> int:  # fmt: skip
    """Compress MODEL for every combination of chips, core counts, methods, learning rates and seeds: a row for each.

    Rows are added to DIR/rows.jsonl as they come. At the end there is a page, DIR/sweep.html, with links to all reports.
    Run the same command with --resume to continue an interrupted sweep, or to add combinations to one: nothing is repeated.

    The exit code is 1 where a run failed; its row has the reason.
    """
    spec = ModelSpec(name=model, weights=weights, nir=nir)
    profiles = [load_profile(target) for target in targets]
    from neurodeploy.pipeline.sweep import sweep
    from neurodeploy.training.data_loading import load_data
    from neurodeploy.training.options import FitOptions

    options = FitOptions(
        epochs_dense=epochs[0], epochs_compress=epochs[1], epochs_finetune=epochs[2], learning_rate=rates[0], n_steps=steps,
        encoder=encoder, readout=readout, learn_decays=learn_decays,
    )  # fmt: skip
    with resume_hint(enabled=True), status("Planning the sweep") as update:

        def progress(now: SweepProgress) -> None:
            enter_phase(str(now)) if update is None else update(str(now))

        rows = sweep(
            spec.trained, profiles, partial(load_data, data, batch_size=batch_size, folder=data_dir, n_steps=steps), options,
            out=out, cores=cores or (), seeds=seeds, methods=methods, rates=rates, bits=bits, lava_samples=lava_samples,
            trials=tune, independent=independent, workers=workers, engine=engine, address=address, gpus=gpus,
            resume=resume, checkpoint_every_s=checkpoint_every,
            say=print_on_stderr, progress=progress, command=typed_command(),
            title=model, within=within,
        )  # fmt: skip
    from neurodeploy.report.front import answer, doubts
    from neurodeploy.report.text import unbroken

    said = answer(rows, within)
    if as_json:
        show_json({"answer": said, "rows": rows})
    else:
        show(said, *(f"Warning: {line}" for line in doubts(rows)), sweep_table(rows), unbroken(f"Page: {out / 'sweep.html'}"))
    return DIFFERS if any(row["state"] == "failed" or row["fits"] is False for row in rows) else DONE


def sweep_table(rows: list[dict[str, Any]]) -> FittedTable:
    """A line for each setting: its runs differ in their seed alone."""
    from neurodeploy.report.front import Setting, is_number, setting_key
    from neurodeploy.report.text import FittedTable

    headings = ("target<", "method<", "rate", "cores asked", "runs", "accuracy", "of dense", "cores used", "what binds<")
    table = FittedTable("Sweep: mean accuracy of the runs, and its standard error", headings, ("method", "rate"))
    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        settings.setdefault(setting_key(row), []).append(row)

    def share(runs: list[dict[str, Any]], key: str) -> str:
        measured = tuple(row for row in runs if is_number(row[key]))
        return Setting(rows=measured, x_key="cores", y_key=key).share if measured else ""

    for (target, method, rate, cores), runs in settings.items():
        done = [row for row in runs if row["state"] == "done"]
        binds = dict.fromkeys(row["binds"] or "" if row["state"] == "done" else f"failed: {row['reason']}" for row in runs)
        table.add(
            target, method, f"{rate:g}", f"{cores:,}", f"{len(done)} of {len(runs)}", share(done, "accuracy"),
            share(done, "accuracy_dense"), ", ".join(dict.fromkeys(f"{row['cores_used']:,}" for row in done)),
            "; ".join(filter(None, binds)),
        )  # fmt: skip
    return table
