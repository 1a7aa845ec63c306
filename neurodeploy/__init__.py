"""neurodeploy: from a spiking network in PyTorch to the integers, cores and files of a neuromorphic chip.

The names below are the whole of it; each is loaded, with what it needs, when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurodeploy.balancing import balance
    from neurodeploy.budgets.budget import Budget
    from neurodeploy.budgets.sharing import share_budget
    from neurodeploy.compression import compress
    from neurodeploy.deployment import Deployment, deploy, inspect
    from neurodeploy.descent import compress_to
    from neurodeploy.driving import with_input_population
    from neurodeploy.errors import NeurodeployError
    from neurodeploy.evaluation import Evaluation, evaluate
    from neurodeploy.explorer import explore
    from neurodeploy.frontends.nir import read_nir, write_nir
    from neurodeploy.frontends.norse import extract
    from neurodeploy.hardware import HardwareProfile
    from neurodeploy.network import Network
    from neurodeploy.netx import read_netx, write_netx
    from neurodeploy.placement import Placement
    from neurodeploy.placing import place
    from neurodeploy.profiles import load_profile
    from neurodeploy.quantization import dequantize, quantize
    from neurodeploy.quantized import QuantizedNetwork
    from neurodeploy.records import EpochRecord, SpikeRecord, compare
    from neurodeploy.report import Report, summarize
    from neurodeploy.simulation import simulate
    from neurodeploy.simulation.verify import verify
    from neurodeploy.training import FitOptions, encode, fit, load_data, load_weights, save_weights, simulator_spikes, together
    from neurodeploy.trimming import trim

_HOME = {
    "balancing": ("balance",),
    "budgets.budget": ("Budget",),
    "compression": ("compress",),
    "descent": ("compress_to",),
    "deployment": ("Deployment", "deploy", "inspect"),
    "driving": ("with_input_population",),
    "errors": ("NeurodeployError",),
    "evaluation": ("Evaluation", "evaluate"),
    "explorer": ("explore",),
    "frontends.nir": ("read_nir", "write_nir"),
    "frontends.norse": ("extract",),
    "hardware": ("HardwareProfile",),
    "netx": ("read_netx", "write_netx"),
    "network": ("Network",),
    "quantized": ("QuantizedNetwork",),
    "placement": ("Placement",),
    "placing": ("place",),
    "quantization": ("dequantize", "quantize"),
    "records": ("EpochRecord", "SpikeRecord", "compare"),
    "profiles": ("load_profile",),
    "report": ("Report", "summarize"),
    "budgets.channels": ("narrow_budget",),
    "budgets.sharing": ("share_budget",),
    "simulation": ("simulate",),
    "simulation.verify": ("verify",),
    "trimming": ("trim",),
    "training": ("FitOptions", "encode", "fit", "load_data", "load_weights", "save_weights", "simulator_spikes", "together"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
_ROOMS = ("plot",)
"""What is asked for as ``nd.plot.chip``."""

__all__ = [
    "Budget", "Deployment", "EpochRecord", "Evaluation", "FitOptions", "HardwareProfile", "Network", "NeurodeployError",
    "Placement", "QuantizedNetwork", "Report", "SpikeRecord", "balance", "compare", "compress", "compress_to", "deploy",
    "dequantize", "encode", "evaluate", "explore", "extract", "fit", "inspect", "load_data", "load_profile",
    "load_weights", "narrow_budget", "place", "quantize", "read_netx", "read_nir", "save_weights", "share_budget",
    "simulate", "simulator_spikes", "summarize", "together", "trim", "verify", "with_input_population", "write_netx",
    "write_nir",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"neurodeploy.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'neurodeploy' has no attribute {name!r}")
    value = getattr(import_module(f"neurodeploy.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS]
