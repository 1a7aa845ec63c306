"""neurodeploy: from a spiking network in PyTorch to the integers, cores and files of a neuromorphic chip.

The public names are listed below; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurodeploy.errors import NeurodeployError
    from neurodeploy.frontends.nir.reading import read_nir
    from neurodeploy.frontends.nir.writing import write_nir
    from neurodeploy.frontends.torch.extract import extract
    from neurodeploy.hardware.loading import load_profile
    from neurodeploy.hardware.profile import HardwareProfile
    from neurodeploy.ir.network import Network
    from neurodeploy.ir.quantized import QuantizedNetwork
    from neurodeploy.mapping.budget.allocation import share_budget
    from neurodeploy.mapping.budget.budget import Budget
    from neurodeploy.mapping.budget.channels import narrow_budget
    from neurodeploy.mapping.delay_balancing import balance
    from neurodeploy.mapping.layout import place
    from neurodeploy.mapping.placement import Placement
    from neurodeploy.passes.dead_neurons import trim
    from neurodeploy.passes.input_population import with_input_population
    from neurodeploy.passes.quantize import dequantize, quantize
    from neurodeploy.pipeline.compress import compress, compress_to
    from neurodeploy.pipeline.deploy import Deployment, deploy, explore, inspect
    from neurodeploy.pipeline.evaluation import Evaluation, evaluate
    from neurodeploy.report import plots as plot
    from neurodeploy.report.summary import Report, summarize
    from neurodeploy.simulation.records import EpochRecord, SpikeRecord, compare
    from neurodeploy.targets.loihi.netx_files import read_netx, write_netx
    from neurodeploy.targets.simulate import simulate, verify
    from neurodeploy.training.checkpoint import load_weights, save_weights
    from neurodeploy.training.data.loading import load_data
    from neurodeploy.training.distributed import together
    from neurodeploy.training.encoders import encode, simulator_spikes
    from neurodeploy.training.fit import fit
    from neurodeploy.training.options import FitOptions

_MODULES = {
    "errors": ("NeurodeployError",),
    "frontends.nir.reading": ("read_nir",),
    "frontends.nir.writing": ("write_nir",),
    "frontends.torch.extract": ("extract",),
    "hardware.loading": ("load_profile",),
    "hardware.profile": ("HardwareProfile",),
    "ir.network": ("Network",),
    "ir.quantized": ("QuantizedNetwork",),
    "mapping.budget.allocation": ("share_budget",),
    "mapping.budget.budget": ("Budget",),
    "mapping.budget.channels": ("narrow_budget",),
    "mapping.delay_balancing": ("balance",),
    "mapping.layout": ("place",),
    "mapping.placement": ("Placement",),
    "passes.dead_neurons": ("trim",),
    "passes.input_population": ("with_input_population",),
    "passes.quantize": (
        "dequantize",
        "quantize",
    ),
    "pipeline.compress": (
        "compress",
        "compress_to",
    ),
    "pipeline.deploy": (
        "Deployment",
        "deploy",
        "explore",
        "inspect",
    ),
    "pipeline.evaluation": ("Evaluation", "evaluate"),
    "targets.simulate": ("simulate", "verify"),
    "report.summary": (
        "Report",
        "summarize",
    ),
    "simulation.records": (
        "EpochRecord",
        "SpikeRecord",
        "compare",
    ),
    "targets.loihi.netx_files": (
        "read_netx",
        "write_netx",
    ),
    "training.checkpoint": (
        "load_weights",
        "save_weights",
    ),
    "training.data.loading": ("load_data",),
    "training.distributed": ("together",),
    "training.encoders": (
        "encode",
        "simulator_spikes",
    ),
    "training.fit": ("fit",),
    "training.options": ("FitOptions",),
}
"""The public names of each module, as the imports above have them for type checkers."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Budget",
    "Deployment",
    "EpochRecord",
    "Evaluation",
    "FitOptions",
    "HardwareProfile",
    "Network",
    "NeurodeployError",
    "Placement",
    "QuantizedNetwork",
    "Report",
    "SpikeRecord",
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
    "inspect",
    "load_data",
    "load_profile",
    "load_weights",
    "narrow_budget",
    "place",
    "plot",
    "quantize",
    "read_netx",
    "read_nir",
    "save_weights",
    "share_budget",
    "simulate",
    "simulator_spikes",
    "summarize",
    "together",
    "trim",
    "verify",
    "with_input_population",
    "write_netx",
    "write_nir",
]

if not TYPE_CHECKING:  # a type checker knows the names above, and reports any other

    def __getattr__(name: str) -> object:
        if name == "plot":
            return import_module("neurodeploy.report.plots")
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'neurodeploy' has no attribute {name!r}")
        value = getattr(import_module(f"neurodeploy.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
