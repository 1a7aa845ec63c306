"""How a training run is kept on disk while it lasts, and taken up again.

One safetensors file, its tensors by the names of where they stood, all else as JSON in its header; it takes the place of the one
before it whole, or not at all, so whenever a run is killed there is one to go on from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from neurodeploy.errors import DataError, RequestError, TrainingError
from neurodeploy.files import replacing

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
    told = json.dumps(_told(state, "", tensors))
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


def _told(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
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
            return {"mapping": [[key, _told(each, f"{where}/{key}", tensors)] for key, each in value.items()]}
        case tuple() | list():
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [_told(each, f"{where}/{k}", tensors) for k, each in enumerate(value)]}
    raise TrainingError("checkpoint", f"{where[1:]} is {type(value).__name__}, which cannot be kept")


def _meant(told: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What `_told` was given."""
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
