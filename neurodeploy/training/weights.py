"""Where a model's weights are kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from neurodeploy.errors import DataError
from neurodeploy.files import replacing
from neurodeploy.training.decays import is_decay, learn_decays

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
