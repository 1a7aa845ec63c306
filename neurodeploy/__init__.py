"""neurodeploy: from a spiking network in PyTorch to the integers, cores and files of a neuromorphic chip.

The public names are listed in `__all__`; each is imported when it is first used, so that `import neurodeploy` stays light.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurodeploy.compression.minimax import MinimaxOptions
    from neurodeploy.compression.minimax_saddle import MinimaxSaddleOptions
    from neurodeploy.compression.module_weights import trainable, write_back
    from neurodeploy.compression.pruning_method import Pruning
    from neurodeploy.compression.trainable_network import TrainableNetwork
    from neurodeploy.errors import (
        BudgetError,
        DataError,
        ExtractError,
        NetworkError,
        NetxError,
        NeurodeployError,
        PlacementError,
        ProfileError,
        QuantizeError,
        RequestError,
        SimulationError,
        TrainingError,
    )
    from neurodeploy.frontends.nir.reading import read_nir
    from neurodeploy.frontends.nir.writing import write_nir, write_nir_data
    from neurodeploy.frontends.torch.extract import extract
    from neurodeploy.hardware.loading import load_profile, profile_paths
    from neurodeploy.hardware.profile import HardwareProfile
    from neurodeploy.ir.graph import INPUT, Connection
    from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network, Sparse, SubtractiveLIF
    from neurodeploy.ir.quantized import QuantizedNetwork
    from neurodeploy.mapping.allocation import share_budget
    from neurodeploy.mapping.budget import Budget
    from neurodeploy.mapping.channel_counts import narrow_budget
    from neurodeploy.mapping.delay_balancing import balance
    from neurodeploy.mapping.place import place
    from neurodeploy.mapping.placement import Placement
    from neurodeploy.passes.dead_neurons import trim
    from neurodeploy.passes.quantize import dequantize, quantization_errors, quantize
    from neurodeploy.pipeline.compress import compress, compress_to
    from neurodeploy.pipeline.deploy import Deployment, deploy
    from neurodeploy.pipeline.evaluation import Evaluation, evaluate
    from neurodeploy.pipeline.inspection import Inspection, ModelSummary, explore, inspect, summary
    from neurodeploy.pipeline.sweep import sweep
    from neurodeploy.report import plots as plot
    from neurodeploy.report.summary import Report, summarize
    from neurodeploy.simulation.records import EpochRecord, SpikeRecord, compare
    from neurodeploy.targets.loihi.netx_io import read_netx, write_netx
    from neurodeploy.targets.simulate import simulate, verify, with_input_population
    from neurodeploy.training.checkpoint import load_weights, save_weights
    from neurodeploy.training.data_loading import load_data
    from neurodeploy.training.distributed import together
    from neurodeploy.training.encoders import Direct, encode, in_levels, simulator_spikes
    from neurodeploy.training.fit import fit
    from neurodeploy.training.options import FitOptions

_MODULES = {
    "compression.pruning_method": ("Pruning",),
    "compression.minimax": ("MinimaxOptions",),
    "compression.minimax_saddle": ("MinimaxSaddleOptions",),
    "compression.module_weights": ("trainable", "write_back"),
    "compression.trainable_network": ("TrainableNetwork",),
    "errors": (
        "BudgetError",
        "DataError",
        "ExtractError",
        "NetworkError",
        "NetxError",
        "NeurodeployError",
        "PlacementError",
        "ProfileError",
        "QuantizeError",
        "RequestError",
        "SimulationError",
        "TrainingError",
    ),
    "frontends.nir.reading": ("read_nir",),
    "frontends.nir.writing": ("write_nir", "write_nir_data"),
    "frontends.torch.extract": ("extract",),
    "hardware.loading": ("load_profile", "profile_paths"),
    "hardware.profile": ("HardwareProfile",),
    "ir.graph": ("INPUT", "Connection"),
    "ir.network": ("LI", "LIF", "Conv", "Dense", "Layer", "Network", "Sparse", "SubtractiveLIF"),
    "ir.quantized": ("QuantizedNetwork",),
    "mapping.allocation": ("share_budget",),
    "mapping.budget": ("Budget",),
    "mapping.channel_counts": ("narrow_budget",),
    "mapping.delay_balancing": ("balance",),
    "mapping.place": ("place",),
    "mapping.placement": ("Placement",),
    "passes.dead_neurons": ("trim",),
    "passes.quantize": ("dequantize", "quantization_errors", "quantize"),
    "pipeline.compress": ("compress", "compress_to"),
    "pipeline.deploy": ("Deployment", "deploy"),
    "pipeline.inspection": ("Inspection", "ModelSummary", "explore", "inspect", "summary"),
    "pipeline.evaluation": ("Evaluation", "evaluate"),
    "pipeline.sweep": ("sweep",),
    "report.summary": ("Report", "summarize"),
    "simulation.records": ("EpochRecord", "SpikeRecord", "compare"),
    "targets.loihi.netx_io": ("read_netx", "write_netx"),
    "targets.simulate": ("simulate", "verify", "with_input_population"),
    "training.checkpoint": ("load_weights", "save_weights"),
    "training.data_loading": ("load_data",),
    "training.distributed": ("together",),
    "training.encoders": ("Direct", "encode", "in_levels", "simulator_spikes"),
    "training.fit": ("fit",),
    "training.options": ("FitOptions",),
}
"""Module: its public names, as the imports above declare them to type checkers (a test compares the two)."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "INPUT",
    "LI",
    "LIF",
    "Budget",
    "BudgetError",
    "Connection",
    "Conv",
    "DataError",
    "Dense",
    "Deployment",
    "Direct",
    "EpochRecord",
    "Evaluation",
    "ExtractError",
    "FitOptions",
    "HardwareProfile",
    "Inspection",
    "Layer",
    "MinimaxOptions",
    "MinimaxSaddleOptions",
    "ModelSummary",
    "Network",
    "NetworkError",
    "NetxError",
    "NeurodeployError",
    "Placement",
    "PlacementError",
    "ProfileError",
    "Pruning",
    "QuantizeError",
    "QuantizedNetwork",
    "Report",
    "RequestError",
    "SimulationError",
    "Sparse",
    "SpikeRecord",
    "SubtractiveLIF",
    "TrainableNetwork",
    "TrainingError",
    "balance",
    "compare",
    "compress",
    "compress_to",
    "deploy",
    "dequantize",
    "encode",
    "evaluate",
    "explore",
    "extract",
    "fit",
    "in_levels",
    "inspect",
    "load_data",
    "load_profile",
    "load_weights",
    "narrow_budget",
    "place",
    "plot",
    "profile_paths",
    "quantization_errors",
    "quantize",
    "read_netx",
    "read_nir",
    "save_weights",
    "share_budget",
    "simulate",
    "simulator_spikes",
    "summarize",
    "summary",
    "sweep",
    "together",
    "trainable",
    "trim",
    "verify",
    "with_input_population",
    "write_back",
    "write_netx",
    "write_nir",
    "write_nir_data",
]

_OLD_MODULES = {
    "balancing": ("mapping.delay_balancing",),
    "board": (),
    "board.energy": ("mapping.energy",),
    "board.mesh": ("mapping.traffic",),
    "board.traffic": ("mapping.traffic",),
    "budgets": (),
    "budgets.budget": ("mapping.budget",),
    "budgets.channels": ("mapping.channel_counts",),
    "budgets.gains": ("mapping.allocation",),
    "budgets.sharing": ("mapping.allocation",),
    "commands": ("cli", "cli.commands", "cli.options"),
    "compression": ("pipeline.compress",),
    "demo": ("cli.experiments",),
    "deployment": ("pipeline.deploy", "pipeline.inspection"),
    "descent": ("pipeline.compress",),
    "driving": ("targets.simulate",),
    "evaluation": ("pipeline.evaluation",),
    "explorer": ("pipeline.inspection",),
    "factories": ("frontends",),
    "fixedpoint": ("targets.loihi.target",),
    "frontends.norse": ("frontends.torch.extract",),
    "graph": ("ir.graph",),
    "hardware": ("hardware.profile", "hardware.loading"),
    "layout": (),
    "layout.laying": ("mapping.place",),
    "network": ("ir.network", "ir.graph"),
    "netx": ("targets.loihi.netx_io", "targets.loihi.netx_format"),
    "page": ("report.html",),
    "placement": ("mapping.placement",),
    "placing": ("mapping.place",),
    "plot": ("report.plots",),
    "profile_schema": ("hardware.loading",),
    "profiles": ("hardware.loading",),
    "quantization": ("passes.quantize",),
    "quantized": ("ir.quantized",),
    "records": ("simulation.records",),
    "report": ("report.summary", "report.summary"),
    "rounding": ("passes.quantize",),
    "simulation": ("targets.simulate", "targets.loihi.emulator", "simulation.layer_schedule"),
    "simulation.emulator": ("targets.loihi.emulator",),
    "simulation.verify": ("targets.simulate",),
    "training": (
        "training.options",
        "training.encoders",
        "training.checkpoint",
        "training.data_loading",
        "training.batches",
        "training.distributed",
        "training.forward",
        "training.neurons",
        "compression.minimax",
        "compression.pruning_method",
        "compression.synapse_selection",
    ),
    "training.checkpoints": ("training.checkpoint",),
    "training.data": ("training.batches", "training.data_loading"),
    "training.decays": ("training.neurons",),
    "training.direct": ("training.encoders",),
    "training.inference": ("training.forward",),
    "training.minimax": ("compression.minimax",),
    "training.pruning": ("compression.pruning_method",),
    "training.readouts": ("training.encoders",),
    "training.weights": ("training.checkpoint",),
    "trimming": ("passes.dead_neurons",),
    "wiring": ("ir.connectivity",),
}
"""Module path before 0.1.0: the modules that hold its names now. Delete this table and `_OldModule` after 0.1.0."""
_OLD_NAMES = {"Compression": "MinimaxPruning", "Choice": "SynapseSelection"}
"""Names before 0.1.0 whose thing has another name now."""
_OLD_AND_NEW = ("compression", "hardware", "report", "simulation", "training")
"""Folders that are still there: they keep their modules, and answer for the names that left them."""


class _OldModule(ModuleType):
    """A module that moved: each name is looked up where it is now, with a DeprecationWarning that says where."""

    def __getattr__(self, name: str) -> object:
        old = self.__name__.removeprefix("neurodeploy.")
        if f"{old}.{name}" in _OLD_MODULES:
            return import_module(f"{self.__name__}.{name}")
        # The import system and many tools ask every module for dunder names: that must neither import nor warn. It also asks
        # a folder for a module of it before it imports that.
        if name.startswith("__") or (old in _OLD_AND_NEW and find_spec(f"{self.__name__}.{name}")):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        new = _OLD_NAMES.get(name, name)
        for module in _OLD_MODULES[old]:
            if hasattr(found := import_module(f"neurodeploy.{module}"), new):
                place = "neurodeploy" if new in __all__ else f"neurodeploy.{module}"
                warnings.warn(f"{self.__name__}.{name} moved: import {new} from {place}.", DeprecationWarning, stacklevel=2)
                return getattr(found, new)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


if not TYPE_CHECKING:  # type checkers know the names above, and report any other

    def __getattr__(name: str) -> object:
        if name == "plot":
            return import_module("neurodeploy.report.plots")
        if name in _OLD_MODULES:
            return import_module(f"neurodeploy.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'neurodeploy' has no attribute {name!r}")
        value = getattr(import_module(f"neurodeploy.{_MODULE_OF[name]}"), name)
        # kept, so that Python does not ask this function for it again
        globals()[name] = value
        return value

    for _old in _OLD_MODULES:
        _name = f"neurodeploy.{_old}"
        if _old in _OLD_AND_NEW:
            # a module may change its class; __getattr__ is asked only for names that it lacks
            import_module(_name).__class__ = _OldModule
        else:
            # in sys.modules, so that ``import neurodeploy.network`` finds it without a file
            sys.modules[_name] = _OldModule(_name)


def __dir__() -> list[str]:
    return __all__
