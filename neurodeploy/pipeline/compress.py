"""The whole way from a model to its chip: trained, pressed into its cores while it learns, and deployed.

One run, several sizes: a model pressed into fewer and fewer cores, at each of which it is deployed whole.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurodeploy.compression.bit_width import shared_thresholds
from neurodeploy.compression.method import METHODS, Pruning, PruningMethod, PruningSetup, pruning_method
from neurodeploy.compression.minimax import MinimaxOptions, make_minimax
from neurodeploy.compression.weight_matrices import module_scales
from neurodeploy.errors import RequestError, SimulationError
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import INPUT, bias_layers
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.mapping.budget.channels import narrow_budget
from neurodeploy.mapping.layout import arranged, lay_out, linked
from neurodeploy.mapping.placement import Placement
from neurodeploy.mapping.traffic import measured_rates
from neurodeploy.passes.dead_neurons import live_neurons, without_neurons
from neurodeploy.passes.quantize import quantization_errors, quantize
from neurodeploy.pipeline.deploy import Deployment, Say, files_of, folder_of, keep_quiet, warnings_from, written
from neurodeploy.report.html import Evidence
from neurodeploy.report.stages import Accuracy, LavaCheck, Stretch, check_in_lava, measure, stretch_of
from neurodeploy.report.summary import summarize
from neurodeploy.resources.usage import DEFAULT_WEIGHT_BITS
from neurodeploy.simulation.records import EpochRecord, SpikeRecord, Worth, save_record
from neurodeploy.targets.loihi.lava import is_installed
from neurodeploy.targets.loihi.netx_files import write_netx
from neurodeploy.targets.simulate import DEFAULT_TIME_LIMIT_S, simulate
from neurodeploy.training.checkpoint import Checkpoint, save_weights
from neurodeploy.training.data.batches import DataSplit
from neurodeploy.training.distributed import Replicas, seeded, together
from neurodeploy.training.encoders import check_payload, in_levels, levels_of, read_out
from neurodeploy.training.fit import fit
from neurodeploy.training.forward import Data, evaluate, in_mode, run_model, spikes_of
from neurodeploy.training.options import FitOptions
from neurodeploy.training.progress import Progress

# ---------------------------------------------------------------------------------------------- value of memory

_LESS = 0.05
"""Share of what a core's synapses take that is taken away."""
_BATCHES = 16
_MOST_CORES = 8
"""Of more cores those are measured that come first."""


def memory_values(model: torch.nn.Module, pruning: Pruning, data: Data, options: FitOptions) -> tuple[Worth, ...]:
    """Measure the loss that less memory costs on each core where memory binds, up to eight of them.

    Parameters
    ----------
    model : torch.nn.Module
        Trained under `pruning`, which is closed.
    data : iterable of (input, target)
        Its first 16 batches are used.
    """
    found, before = [], None
    for trial in islice(pruning.memory_trials(_LESS), _MOST_CORES):
        before = _loss(model, pruning, data, options) if before is None else before
        with trial.apply() as bits_less:
            if bits_less > 0:
                after, _ = _loss(model, pruning, data, options)
                found.append(Worth(
                    core=trial.core, layers=trial.layers, bits_less=bits_less, loss=before[0], loss_with_less=after,
                    samples=before[1],
                ))  # fmt: skip
    return tuple(found)


@torch.no_grad()
def _loss(model: torch.nn.Module, pruning: Pruning, data: Data, options: FitOptions) -> tuple[float, int]:
    """The mean loss, with the weights in force, and of how many samples."""
    total, samples = 0.0, 0
    with seeded(options.seed), pruning.in_force(), in_mode(model, training=False):
        for inputs, target in islice(data, _BATCHES):
            output = read_out(run_model(model, spikes_of(inputs, model, options)), options.readout)
            labels = torch.as_tensor(target).to(output.device)
            total += float(options.loss(output, labels if labels.is_floating_point() else labels.long())) * len(inputs)
            samples += len(inputs)
    return total / max(samples, 1), samples


# -------------------- compression

STAGES = ("dense", "compressed")
"""What is trained, one after the other, each with a checkpoint of its own."""


def compress(
    model: torch.nn.Module, sample: torch.Tensor, profile: HardwareProfile, data: DataSplit, options: FitOptions,
    *, out: str | Path, cores: int | None = None, bits: int | None = None,
    method: str | PruningMethod = "minimax", minimax: MinimaxOptions | None = None,
    lava_samples: int = 8, time_limit_s: float = DEFAULT_TIME_LIMIT_S, progress: Progress | None = None, say: Say = keep_quiet,
    command: str = "", resume: bool = False, checkpoint_every_s: float = 30.0, dense: float | None = None,
) -> Deployment:  # fmt: skip
    """Train a model, press it into the cores while it learns, and deploy it: the whole way, each rung of it measured.

    In processes that torchrun started all of them train, as `fit` says; the first writes, speaks, measures and deploys, and all
    return what it returns.

    Parameters
    ----------
    sample : tensor (batch, \\*input_shape)
        The input of one step.
    data : DataSplit
        Trained on `train`; every accuracy is of `test`, by which nothing is chosen.
    out : path
        Folder for ``model.net``, ``weights.safetensors``, ``record.npz``, ``report.html``, ``report.json`` and ``report.txt``;
        and, from early on, for what to resume from: ``checkpoint-dense.safetensors`` and ``checkpoint-compressed.safetensors``.
    bits : int, optional
        Width of all weights; by default each layer's is chosen while it is compressed.
    method : str or callable
        Pruning method: a name from `neurodeploy.compression.method.METHODS`, or a function of a budget, the model and a
        `PruningSetup` that returns a `Pruning`.
    minimax : MinimaxOptions, optional
        Options of the method ``"minimax"``; others take none here.
    lava_samples : int
        How many test samples are recorded, and run in Lava too; 0, or no Lava here, leaves its rung out.
    progress : callable, optional
        Called after every training step.
    say : callable, optional
        Called with a line of text at each station.
    command : str
        What was typed, for the page to quote.
    resume : bool
        Go on from the checkpoints in `out`, or start where there are none yet; what comes out is, bit for bit, what would have
        come out of a run that was never broken off. What has been trained is not trained again. Without it, checkpoints of an
        earlier run are taken away.
    checkpoint_every_s : float
        Seconds between two checkpoints, at least 0; no more than that is lost when a run is broken off.
    dense : float, optional
        Accuracy of the model before anything was taken from it, where that has been measured.

    Raises
    ------
    TrainingError
        A checkpoint of another run: of other options, another model or other data.
    BudgetError
        No compression can make the network fit.
    RequestError
        An encoder whose numbers the chip's spikes cannot carry.
    NetworkError
        It is more than a chain of convolutions, dense layers and recurrent cells, which is all that training under a budget
        knows yet.
    """
    factory = pruning_method(method)
    if minimax is not None:
        if factory is not METHODS["minimax"]:
            raise RequestError(
                "minimax", "are options of the method 'minimax' only", remedy="Set the method's own options in `method`."
            )
        factory = partial(make_minimax, options=minimax)
    with together() as replicas:
        say = say if replicas.is_first else keep_quiet
        folder = replicas.of_first(lambda: folder_of(out))
        replicas.take_first(model)
        network, levels = _trainable(model, sample, profile, options)
        asked_bits, bits = bits, DEFAULT_WEIGHT_BITS if bits is None else bits
        say(_verdict(before := lay_out(network, profile, cores=cores, bits=bits)))
        budget = narrow_budget(network, profile, cores=cores, bits=bits)
        if narrowed := _narrowed(network, budget):
            say(narrowed)
        setup = PruningSetup(thresholds=thresholds_of(network, model, levels), weight_bits=asked_bits)
        pruning = factory(budget, model, setup)
        keep = {name: Checkpoint(path=folder / f"checkpoint-{name}.safetensors", every_s=checkpoint_every_s) for name in STAGES}
        replicas.of_first(lambda: _begin(keep, say, resume=resume))
        history, accuracy = _train(
            model, budget, pruning, data, options, progress if replicas.is_first else None, say, keep, replicas
        )  # fmt: skip
        accuracy = accuracy if dense is None else replace(accuracy, dense=dense)
        return replicas.of_first(lambda: _deploy(
            model, sample, data, options, budget, pruning, _Trained(before=before, history=history, accuracy=accuracy),
            folder=folder, cores=cores, lava_samples=lava_samples, time_limit_s=time_limit_s, say=say, command=command,
        ))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """What training has to tell: how the network would have been laid out, its history, the accuracy of each stage."""

    before: Placement
    history: tuple[EpochRecord, ...]
    accuracy: Accuracy


def _deploy(
    model: torch.nn.Module, sample: torch.Tensor, data: DataSplit, options: FitOptions, budget: Budget, pruning: Pruning,
    trained: _Trained, *, folder: Path, cores: int | None, lava_samples: int, time_limit_s: float, say: Say, command: str,
) -> Deployment:  # fmt: skip
    """A compressed model onto its chip, and what is measured there into the folder."""
    profile, levels = budget.profile, levels_of(options.encoder)
    network, quantized, plan = in_integers(in_levels(extract(model, sample), levels), budget, pruning.widths)
    placement = lay_out(quantized, profile, cores=cores, plan=plan.cuts)
    write_netx(quantized, folder / "model.net")
    save_weights(model, folder / "weights.safetensors")
    errors = quantization_errors(network, quantized)
    measured = measure(model, network, quantized, data.test, options)
    accuracy = replace(measured.accuracy, dense=trained.accuracy.dense, compressed=trained.accuracy.compressed)
    say(f"In the chip's integers: {accuracy.emulated:.2%}. {_verdict(placement)}")
    stretch = stretch_of(model, data.test, options, max(lava_samples, 1))
    record, rates = simulate(quantized, stretch.spikes, record="all", graded=levels > 1), {INPUT: np.asarray(stretch.rate)}
    placement = arranged(linked(placement, quantized, {**measured_rates(record), **rates}), seed=options.seed)
    in_lava, lava, notes = None, None, [f"Input comes as whole numbers 0..{levels}."] if levels > 1 else []
    if lava_samples and is_installed():
        say(f"Running {len(stretch.labels)} test samples in Lava's simulator.")
        accuracy, lava, in_lava, trouble = _in_lava(stretch, record, network, quantized, options, accuracy, time_limit_s)
        notes += trouble
    save_record(in_lava or record, folder / "record.npz", network="model.net")
    report = summarize(
        profile, budget, placement, history=trained.history, before=trained.before, seed=options.seed, accuracy=accuracy,
        lava=lava, rates=measured.rates, rounding=errors, warnings=(*warnings_from(errors, measured), *notes),
        worth=memory_values(model, pruning, data.train, options),
        files=files_of(folder, "network", "weights", "record"),
    )  # fmt: skip
    shown = Evidence(quantized=quantized, budget=budget, emulated=record, lava=in_lava, command=command)
    return Deployment(quantized=quantized, placement=placement, report=written(report, folder, shown))


def _trainable(
    model: torch.nn.Module, sample: torch.Tensor, profile: HardwareProfile, options: FitOptions
) -> tuple[Network, int]:
    """The network that training will make, and its input's levels; refused where what comes after training could not begin."""
    levels = levels_of(options.encoder)
    check_payload(profile, levels)
    network = extract(_as_if_trained(model), sample)
    network.require_chain("training under a budget", side_layers=bias_layers(network), loops=True)
    return network, levels


def _as_if_trained(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose biases are there and whose normalisations shift, as they will: a bias that begins at zero is read as none."""
    model = copy.deepcopy(model)
    for module in model.modules():
        bias = getattr(module, "bias", None) if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)) else None
        if bias is not None and bias.requires_grad and not bias.any():
            torch.nn.init.constant_(bias, 0.1)
        if isinstance(module, torch.nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            module.running_mean.copy_(torch.linspace(0.1, 0.2, module.num_features))
    return model


def thresholds_of(network: Network, model: torch.nn.Module, levels: int = 1) -> dict[str, float]:
    """The threshold of each layer that has one, in the units of the model's weights; where these are the layer's, scaled."""
    units = module_scales(network, model)
    return {name: value * units[name] for name, value in shared_thresholds(network, levels).items() if name in units}


def _in_lava(
    stretch: Stretch, record: SpikeRecord, network: Network, quantized: QuantizedNetwork, options: FitOptions,
    accuracy: Accuracy, time_limit_s: float,
) -> tuple[Accuracy, LavaCheck | None, SpikeRecord | None, list[str]]:  # fmt: skip
    """What Lava makes of a stretch: its rung, how it compares with the emulator, its record; or why there is none."""
    try:
        right, comparison, in_lava = check_in_lava(stretch, record, network, quantized, options, time_limit_s)
    except SimulationError as error:  # hours of training are not lost to it
        return accuracy, None, None, [str(error)]
    check = LavaCheck(steps=comparison.n_steps * record.n_samples, mismatches=comparison.mismatches)
    return replace(accuracy, lava=right, lava_samples=len(stretch.labels)), check, in_lava, []


def in_integers(network: Network, budget: Budget, widths: Mapping[str, int]) -> tuple[Network, QuantizedNetwork, Budget]:
    """A compressed network as the chip gets it.

    Parameters
    ----------
    network : Network
        Compressed under the budget.
    widths : mapping of layer to int
        Bits of each layer's weights.

    Returns
    -------
    network : Network
        Without the neurons that change nothing.
    quantized : QuantizedNetwork
    budget : Budget
        Of the neurons that are left.

    Raises
    ------
    BudgetError
        It does not keep to the budget.
    """
    kept = live_neurons(network)
    network, plan = without_neurons(network, kept), budget.of_neurons(kept)
    quantized = quantize(network, budget.profile, bits=widths)
    plan.check(quantized)
    return network, quantized, plan


def _begin(keep: Mapping[str, Checkpoint], say: Say, *, resume: bool) -> None:
    """Say from where training goes on; without `resume`, take away what is left of an earlier run."""
    found = [Path(one.path) for one in keep.values() if Path(one.path).exists()]
    folder, often = Path(keep[STAGES[0]].path).parent, f"{keep[STAGES[0]].every_s:g} s"
    if resume:
        say(f"Resuming from {found[-1]}." if found else f"Nothing to resume from in {folder}: starting from the beginning.")
    elif found:
        say(f"Starting from the beginning, not resuming: the checkpoints of an earlier run in {folder} are taken away.")
        for path in found:
            path.unlink()
    say(f"Checkpoints go to {folder} every {often}: if this is broken off, resume goes on from there.")


def _train(
    model: torch.nn.Module, budget: Budget, pruning: Pruning, data: DataSplit, options: FitOptions, progress: Progress | None,
    say: Say, keep: Mapping[str, Checkpoint], replicas: Replicas,
) -> tuple[tuple[EpochRecord, ...], Accuracy]:  # fmt: skip
    """Train densely, then into the budget, each from its checkpoint where there is one; the accuracy after each."""
    _, first = fit(model, None, data.train, options, progress=progress, checkpoint=keep["dense"], resume=True)
    dense, n_test = replicas.of_first(lambda: evaluate(model, data.test, options))
    say(f"Dense: {dense:.2%} of {n_test:,} test samples.")
    options = replace(options, epochs_dense=0)
    _, second = fit(
        model, budget, data.train, options, progress=progress, method=lambda *_: pruning, checkpoint=keep["compressed"],
        resume=True,
    )  # fmt: skip
    compressed, _ = replicas.of_first(lambda: evaluate(model, data.test, options))
    say(f"Compressed into the budget: {compressed:.2%}.")
    return (*first, *second), Accuracy(dense=dense, compressed=compressed, test_samples=n_test)


def _narrowed(network: Network, budget: Budget) -> str:
    """How many channels there is room for; nothing where that is all of them."""
    fewer = [(layer.name, budget.grid(layer.name)[0], layer.shape[0]) for layer in network if len(layer.shape) == 3]
    told = [f"{name} {left} of {all_}" for name, left, all_ in fewer if left < all_]
    return f"Neurons and axons leave room for fewer channels: {', '.join(told)}." if told else ""


def _verdict(placement: Placement) -> str:
    broken = next(placement.overruns(), None)
    fits = f"Fits: {placement.cores_used} of {placement.cores_available} cores."
    return fits if broken is None else f"Does not fit: {broken}"


# -------------------- descent


def compress_to(
    model: torch.nn.Module, sample: torch.Tensor, profile: HardwareProfile, data: DataSplit, options: FitOptions,
    *, cores: Sequence[int], out: str | Path, bits: int | None = None, say: Say = keep_quiet, **more: Any,
) -> tuple[Deployment, ...]:  # fmt: skip
    """Train a model once, and press it into each number of cores, from the most to the fewest, each from the one before.

    Each size has phases of its own, `epochs_compress` and `epochs_finetune`, and begins with the weights of the one before: what
    that pruned begins at zero, and may come back.

    Parameters
    ----------
    cores : sequence of int
        The sizes, in any order.
    out : path
        A folder for each is made in it, ``4-cores`` and so on, with what `neurodeploy.compress` writes.
    **more
        What else `neurodeploy.compress` takes.

    Returns
    -------
    tuple of Deployment
        The largest first.

    Raises
    ------
    RequestError
        No sizes, or one that the chip does not have.
    BudgetError
        No compression can make the network fit one of them; it is found before anything is trained.
    """
    sizes = sorted(set(cores), reverse=True)
    if not sizes:
        raise RequestError("cores", "are none", remedy="Give the numbers of cores to press the model into.")
    with together():
        network = extract(model, sample)
        for size in sizes:
            narrow_budget(network, profile, cores=size, bits=bits or DEFAULT_WEIGHT_BITS)
        made: list[Deployment] = []
        for size in sizes:
            say(f"To {size} core{'s' if size > 1 else ''}:")
            made.append(compress(
                model, sample, profile, data, options if not made else replace(options, epochs_dense=0), cores=size, bits=bits,
                out=Path(out) / f"{size}-cores", dense=made[0].report.accuracy.dense if made else None, say=say, **more,
            ))  # fmt: skip
    return tuple(made)
