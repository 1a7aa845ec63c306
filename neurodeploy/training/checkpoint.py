"""Which run it is: what a checkpoint tells of it, so that another run does not take it up.

How a training run is kept on disk while it lasts, and taken up again.

One safetensors file, its tensors by the names of where they stood, all else as JSON in its header; it takes the place of the one
before it whole, or not at all, so whenever a run is killed there is one to go on from.

Where a model's weights are kept.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from neurodeploy.compression.method import Pruning
from neurodeploy.errors import DataError, RequestError, TrainingError
from neurodeploy.ir.files import replacing
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.training.distributed import Order
from neurodeploy.training.neuron_cells import is_decay, learn_decays
from neurodeploy.training.options import FitOptions

# -------------------- training.about

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def about(
    model: torch.nn.Module, order: Order, options: FitOptions, budget: Budget | None, pruning: Pruning | None
) -> dict[str, Any]:
    """What was given to a run, as a checkpoint holds it.

    Of the model its modules and the shapes of its weights; of data its batches, and, where it tells them, its samples
    (``fingerprint``, as `data.Batches` has); functions by their names.
    """
    return {
        **_setting_text(options),
        "batches": order.n_batches,
        "samples": getattr(order.data, "fingerprint", None),
        "weights": {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
        "model": _described(model).splitlines(),
        "method": None
        if pruning is None
        else {"name": type(pruning).__qualname__, **_setting_text(getattr(pruning, "options", None))},
        "budget": None if budget is None else _shares(budget),
    }


def values(noun: Any) -> dict[str, Any]:
    """The fields of a dataclass, by name."""
    return {one.name: getattr(noun, one.name) for one in fields(noun)}


def _setting_text(noun: Any) -> dict[str, Any]:
    if not is_dataclass(noun):
        return {}
    return {name: value if _is_plain(value) else _described(value) for name, value in values(noun).items()}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _described(value: Any) -> str:
    """A function by its name, anything else as it shows itself, but for where it stands in memory."""
    return str(getattr(value, "__qualname__", None) or _ADDRESS.sub("", repr(value)))


def _shares(budget: Budget) -> dict[str, Any]:
    shares = {
        part.name: [part.core, part.synapse_memory_bits, part.input_axons, [cap.axons for cap in part.sources or ()]]
        for part in budget.slices
    }
    return {"chip": budget.profile.name, "weight_bits": budget.weight_bits, **shares}


# -------------------- training.checkpoints

_SHOWN_WHOLE = 4
"""Of longer lists, as of the lines of a model, an error names the first element that differs."""

_FORM = "neurodeploy training 2"


@dataclass(kw_only=True)
class Checkpoint:
    """Where a run is kept, and how often.

    Attributes
    ----------
    path : str or Path
        Of a safetensors file; its folder has to be there.
    every_s : float
        Seconds, at least 0, between the end of one writing and the next; 0 writes after every step. What is lost when a run
        is killed is never more than that.
    """

    path: str | Path
    every_s: float = 30.0
    _written: float = field(default_factory=time.monotonic, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.every_s >= 0:
            raise RequestError("every_s", f"is {self.every_s}, not at least 0")

    @property
    def due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() - self._written >= self.every_s

    def write(self, about: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Keep the state of a run, and what run it is."""
        save_state({"about": about, "state": state}, self.path)
        self._written = time.monotonic()

    def read(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        """The state that was kept; None where there is none yet.

        Raises
        ------
        DataError
            No file of a training run.
        TrainingError
            Of a run with other settings than `about` tells.
        """
        path = Path(self.path)
        if not path.exists():
            return None
        kept = load_state(path)
        if apart := _apart("", kept["about"], about):
            raise TrainingError(
                str(path), f"is of a run with {apart}",
                remedy="Give the same model, data and options as then, or start anew without resuming.",
            )  # fmt: skip
        state: dict[str, Any] = kept["state"]
        return state


def _apart(name: str, kept: Any, given: Any) -> str:
    """The first thing in which what a checkpoint tells of its run differs from what this one was given; nothing if they agree."""
    if isinstance(kept, Mapping) and isinstance(given, Mapping):
        pairs = [(f"{name} {key}".strip(), kept.get(key), given.get(key)) for key in {**given, **kept}]
    elif isinstance(kept, list) and isinstance(given, list) and len(kept) == len(given) > _SHOWN_WHOLE:
        pairs = [(name, *pair) for pair in zip(kept, given, strict=True)]
    else:
        return "" if kept == given else f"{name} {_short(kept)}, this one has {_short(given)}"
    return next((apart for pair in pairs if (apart := _apart(*pair))), "")


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def save_state(state: Mapping[str, Any], path: str | Path) -> None:
    """Write nested mappings, lists and tuples of tensors, arrays, numbers and texts, whole or not at all.

    Raises
    ------
    DataError
        The folder does not exist, or cannot be written to.
    TrainingError
        Something in the state is of another kind.
    """
    path = Path(path)
    tensors: dict[str, torch.Tensor] = {}
    told = json.dumps(_mismatch(state, "", tensors))
    try:
        with replacing(path) as scratch:
            save_file(tensors, scratch, metadata={"form": _FORM, "state": told})
    except (OSError, SafetensorError) as error:
        raise DataError(str(path), f"cannot be written ({' '.join(str(error).split())[:120]})") from error


def load_state(path: str | Path) -> dict[str, Any]:
    """What `save_state` wrote; no code in the file is run.

    Raises
    ------
    DataError
        No such file, or not one of a training run.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapping
        if header.get("form") != _FORM:
            raise DataError(str(path), f"is not of a training run ({header.get('form') or 'no form'}, not {_FORM})")
        state: dict[str, Any] = _meant(json.loads(header["state"]), tensors)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataError(str(path), f"is not of a training run ({' '.join(str(error).split())[:120]})") from error
    return state


def _mismatch(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    """A value as JSON has it; tensors go into `tensors`, by where they stood."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case torch.Tensor():
            tensors[where] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": where}
        case np.ndarray():
            tensors[where] = torch.from_numpy(value.copy())
            return {"array": where}
        case np.generic():
            return value.item()
        case Mapping():
            return {"mapping": [[key, _mismatch(each, f"{where}/{key}", tensors)] for key, each in value.items()]}
        case tuple() | list():
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [_mismatch(each, f"{where}/{k}", tensors) for k, each in enumerate(value)]}
    raise TrainingError("checkpoint", f"{where[1:]} is {type(value).__name__}, which cannot be kept")


def _meant(told: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What `_mismatch` was given."""
    if not isinstance(told, dict):
        return told
    (kind, value), *_ = told.items()
    match kind:
        case "tensor":
            return tensors[value]
        case "array":
            return tensors[value].numpy()
        case "mapping":
            return {key: _meant(each, tensors) for key, each in value}
    values = [_meant(each, tensors) for each in value]
    return tuple(values) if kind == "tuple" else values


# -------------------- training.weights

_TORCH_SUFFIXES = (".pt", ".pth")


def save_weights(model: torch.nn.Module, path: str | Path) -> None:
    """Write a model's state as safetensors, whole or not at all.

    Raises
    ------
    DataError
        The folder does not exist, or cannot be written to.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        with replacing(path) as scratch:
            save_file(tensors, scratch)
    except (OSError, SafetensorError) as error:
        raise DataError(str(path), f"cannot be written ({' '.join(str(error).split())[:120]})") from error


def load_weights(model: torch.nn.Module, path: str | Path) -> None:
    """Read a model's state, written by `save_weights` or by ``torch.save(model.state_dict(), ...)``.

    The model is changed only if everything in the file fits it. Where decays learnt with the weights, the model's learn from now
    on, as `learn_decays` has it.

    Parameters
    ----------
    path : str or Path
        ``.safetensors``, ``.pt`` or ``.pth``; no code in the file is run.

    Raises
    ------
    DataError
        No such file, not a file of weights, a key missing or too many, a tensor of another shape, or NaN.
    """
    path = Path(path)
    state = _read(path)
    learnt = any(is_decay(name) for name in state)
    wanted = _with_decays(model) if learnt else model.state_dict()
    for name in wanted:
        if name not in state:
            raise DataError(str(path), f"weights {name!r} are missing", remedy=f"The file has {', '.join(state) or 'nothing'}.")
    for name, tensor in state.items():
        if name not in wanted:
            raise DataError(str(path), f"weights {name!r} belong to no module", remedy=f"The model has {', '.join(wanted)}.")
        if not isinstance(tensor, torch.Tensor):
            raise DataError(str(path), f"{name!r} is {type(tensor).__name__}, not a tensor")
        found, needed = tuple(tensor.shape), tuple(wanted[name].shape)
        if found != needed:
            raise DataError(str(path), f"weights {name!r} have shape {found}, the model's {needed}")
        if not tensor.isfinite().all():
            raise DataError(str(path), f"weights {name!r} are not finite")
    if learnt:
        learn_decays(model)
    model.load_state_dict(dict(state))


def _with_decays(model: torch.nn.Module) -> dict[str, Any]:
    """The state that the model would have if its decays learnt."""
    model = copy.deepcopy(model)
    learn_decays(model)
    return model.state_dict()


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix not in (".safetensors", *_TORCH_SUFFIXES):
        raise DataError(str(path), f"ends in {path.suffix!r}", remedy="Give .safetensors, .pt or .pth.")
    if not path.is_file():
        raise DataError(str(path), "no such file")
    try:
        in_torch = path.suffix in _TORCH_SUFFIXES
        state = torch.load(path, map_location="cpu", weights_only=True) if in_torch else load_file(path)
    except Exception as error:  # garbage makes an unpickler raise whatever it stumbles over
        raise DataError(str(path), f"is not a file of weights ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(state, Mapping):
        raise DataError(str(path), f"holds {type(state).__name__}, not a state_dict", remedy="Save model.state_dict().")
    return state
