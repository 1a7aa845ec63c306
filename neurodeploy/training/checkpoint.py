"""Checkpoints of training runs, their run fingerprint, and files of weights.

A checkpoint is one safetensors file: tensors by their path in the state, everything else as JSON in the header. It replaces the
previous one atomically, so there is a valid one to resume from whenever a run is killed. The fingerprint (config, data, model) is
stored with it, to refuse a resume with other settings.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import textwrap
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from neurodeploy.compression.module_weights import is_decay, learn_decays
from neurodeploy.errors import ArgumentTypeError, DataError, NeurodeployError, RequestError, TrainingError, check_arguments
from neurodeploy.ir.arrays import check_archive, memory_shortage
from neurodeploy.ir.files import CHECKPOINTS, REPORT, installed_version, replacing

_MAX_COMPARED_WHOLE = 4
"""Of longer lists, as of the lines of a model, an error names the first element that differs."""
_FILE_FORMAT = "neurodeploy training 7"
_START_OVER = "Start over without resuming, or resume from a copy of the file."


@dataclass(kw_only=True)
class Checkpoint:
    """File of a training run's state, and how often it is written.

    Attributes
    ----------
    path : str or Path
        A safetensors file in an existing folder.
    every_s : float
        Seconds, at least 0, from the end of one write to the next; 0 writes after every step. A killed run loses no more.
    """

    path: str | Path
    every_s: float = 30.0
    # monotonic: setting the machine's clock must not delay a write
    _written: float = field(default_factory=time.monotonic, init=False, repr=False)

    def __post_init__(self) -> None:
        # written so that NaN is refused as well
        if not self.every_s >= 0:
            raise RequestError("every_s", f"is {self.every_s}, not at least 0")

    @property
    def due(self) -> bool:
        """Whether `every_s` has passed since the last write."""
        return time.monotonic() - self._written >= self.every_s

    def write(self, fingerprint: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write the state of a run with its fingerprint (`options.run_fingerprint`)."""
        save_state({"fingerprint": fingerprint, "state": state}, self.path)
        self._written = time.monotonic()

    def read(self, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
        """Read the state of the run with this fingerprint; None where there is no file yet.

        Raises
        ------
        DataError
            No file of a training run.
        TrainingError
            A run with another fingerprint.
        """
        path = Path(self.path)
        if not path.exists():
            return None
        kept = load_state(path)
        with refusing_damage(path):
            state: dict[str, Any] = dict(kept["state"].items())
            kept["fingerprint"].items()
        if mismatch := first_mismatch("", kept["fingerprint"], fingerprint):
            raise TrainingError(
                str(path), f"belongs to a run with {mismatch}",
                remedy="Use the same model, data and options, or start over without resuming.",
            )  # fmt: skip
        return state


def first_mismatch(name: str, kept: Any, current: Any) -> str:
    """Describe the first difference between two fingerprints; empty if they are equal."""
    if isinstance(kept, Mapping) and isinstance(current, Mapping):
        # keys of both: one that was added or removed is a mismatch too
        pairs = [(f"{name} {key}".strip(), kept.get(key), current.get(key)) for key in {**current, **kept}]
    elif isinstance(kept, list) and isinstance(current, list) and len(kept) == len(current) > _MAX_COMPARED_WHOLE:
        pairs = [(name, *pair) for pair in zip(kept, current, strict=True)]
    elif kept == current:
        return ""
    else:
        texts = [" ".join(str(value).split()) for value in (kept, current)]
        was, now = (text if len(text) <= 80 else f"{text[:79]}…" for text in texts)
        return f"{name} {was}, this one has {now}"
    return next((mismatch for pair in pairs if (mismatch := first_mismatch(*pair))), "")


def save_state(state: Mapping[str, Any], path: str | Path) -> None:
    """Write nested mappings, lists and tuples of tensors, arrays, numbers and texts, atomically.

    Raises
    ------
    DataError
        The folder does not exist, or cannot be written to.
    TrainingError
        Something in the state is of another type.
    """
    tensors: dict[str, torch.Tensor] = {}
    header = json.dumps(_to_json(state, "", tensors))
    facts = {"format": _FILE_FORMAT, "program": installed_version() or "", "state": header}
    _write(tensors, Path(path), {**facts, "checksum": _checksum(facts, tensors)})


def _write(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None) -> None:
    try:
        with replacing(path) as scratch:
            save_file(tensors, scratch, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise DataError(str(path), f"cannot be written ({' '.join(str(error).split())[:120]})") from error


@contextmanager
def refusing_damage(path: str | Path) -> Iterator[None]:
    """Turn what a damaged file of a training run makes fail in the block into one DataError."""
    try:
        yield
    # besides those of reading: a changed file whose checksum was made to match
    except (
        NeurodeployError, OSError, SafetensorError, ValueError, ArithmeticError, AttributeError, LookupError, RuntimeError,
        TypeError,
    ) as error:  # fmt: skip
        # a record with a text for a number is of the file, and other errors of ours have a sentence of their own
        if memory_shortage(error) or (isinstance(error, NeurodeployError) and not isinstance(error, ArgumentTypeError)):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".removeprefix("ValueError: ").split())[:120]
        raise DataError(str(path), f"is not of a training run ({reason})", remedy=_START_OVER) from error


def load_state(path: str | Path) -> dict[str, Any]:
    """Read what `save_state` wrote; no code in the file is run.

    Raises
    ------
    DataError
        No such file, or not one of a training run of this version.
    """
    with refusing_damage(path):
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            # a copy: the tensors may map the file, which the next checkpoint replaces
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapping
        if header.get("format") != _FILE_FORMAT:
            # "form": the key in files before format 3
            found = header.get("format") or header.get("form") or "no format"
            raise DataError(str(path), f"is not of a training run ({found}, not {_FILE_FORMAT})", remedy=_START_OVER)
        checksum = header.pop("checksum")
        if _checksum(header, tensors) != checksum:
            raise ValueError("its checksum does not match: it was damaged or changed")
        state = dict(_from_json(json.loads(header["state"]), tensors).items())
    return state


def _checksum(facts: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the texts, and of all tensors with their names, types and shapes."""
    digest = sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _to_json(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Encode a value for JSON; tensors go into `tensors` by their path."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case torch.Tensor():
            # safetensors refuses tensors that share memory or are not contiguous
            tensors[where] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": where}
        case np.ndarray():
            tensors[where] = torch.from_numpy(value.copy())
            return {"array": where}
        case np.generic():
            return value.item()
        case Mapping():
            # pairs, because JSON has texts for keys and an optimizer's state has whole numbers
            return {"mapping": [[key, _to_json(each, f"{where}/{key}", tensors)] for key, each in value.items()]}
        case tuple() | list():
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [_to_json(each, f"{where}/{k}", tensors) for k, each in enumerate(value)]}
    raise TrainingError("checkpoint", f"{where[1:]} is {type(value).__name__}, which cannot be kept")


def _from_json(encoded: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Decode what `_to_json` encoded."""
    if not isinstance(encoded, dict):
        return encoded
    (kind, value), *_ = encoded.items()
    match kind:
        case "tensor":
            return tensors[value]
        case "array":
            return tensors[value].numpy()
        case "mapping":
            return {key: _from_json(each, tensors) for key, each in value}
        case "tuple":
            return tuple(_from_json(each, tensors) for each in value)
        case "list":
            return [_from_json(each, tensors) for each in value]
    raise ValueError(f"unknown kind {kind!r}")


_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", "")
_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Long": torch.int64,
    "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
}  # fmt: skip
_OPCODES = b"".join((
    pickle.PROTO, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1,
    pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.APPEND,
    pickle.APPENDS, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.BINPUT,
    pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET, pickle.GLOBAL, pickle.REDUCE, pickle.BINPERSID,
    pickle.FRAME, pickle.SHORT_BINUNICODE, pickle.MEMOIZE, pickle.STACK_GLOBAL,
))  # fmt: skip
"""Steps of a pickle that ``torch.save`` writes for tensors, containers, numbers and texts; the last four from protocol 4 on."""
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
"""Names under which a training checkpoint has the model's state: Lightning's first."""
_FORM = "neurodeploy"
"""Key in the header of a file of weights."""
_SAVE = "Save the weights alone: torch.save(model.state_dict(), 'weights.pt')."


@check_arguments
def save_weights(model: torch.nn.Module, path: str | Path, *, form: str = "") -> None:
    """Write a model's state as safetensors, atomically.

    Parameters
    ----------
    form : str
        How the weights become integers, for the header of the file (`read_form`).

    Raises
    ------
    DataError
        The folder does not exist, or cannot be written to.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _write(tensors, Path(path), {_FORM: form} if form else None)


def read_form(path: str | Path) -> str:
    """Return what `save_weights` wrote as `form`; empty for other files, which `load_weights` checks."""
    return _header(path).get(_FORM, "") if Path(path).suffix == ".safetensors" else ""


def checksum_of(path: str | Path) -> str:
    """Return the checksum that `save_state` wrote into a checkpoint, which tells it from others; empty for other files."""
    return _header(path).get("checksum", "")


STAGES = dict(zip(("dense", "compressed"), CHECKPOINTS, strict=True))
"""The two stages in which `compress` trains: the checkpoint of each in the output folder."""


def refuse_unfinished(folder: Path, *, resume: bool) -> None:
    """Raise `RequestError` where a folder has checkpoints whose trained network is in no file yet, unless they are resumed."""
    if resume or not any((folder / name).exists() for name in STAGES.values()):
        return
    report = folder / REPORT
    try:
        finished = json.loads(report.read_bytes()).get("checkpoint") if report.is_file() else None
    except (ValueError, AttributeError, RecursionError):  # a report of something else
        finished = None
    if not finished or finished != checksum_of(folder / STAGES["compressed"]):
        raise RequestError(
            str(folder), "holds checkpoints of a run that did not finish",
            remedy="Resume it (--resume, or resume=True), write to another folder, or delete checkpoint-*.safetensors there.",
        )  # fmt: skip


def _header(path: str | Path) -> dict[str, str]:
    """Texts in the header of a safetensors file; none in other files."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


@check_arguments
def load_weights(model: torch.nn.Module, path: str | Path) -> None:
    """Read a model's state, written by `save_weights` or by ``torch.save(model.state_dict(), ...)``, or kept in a checkpoint.

    Prefixes of wrappers (``module.``, ``_orig_mod.``, Lightning's ``model.``) are left out where all weights then have a place.

    The model is changed only if everything in the file fits it. If the file has trained decays, the model's decays are trainable
    from now on, as by `learn_decays`.

    Parameters
    ----------
    path : str or Path
        ``.safetensors``, ``.pt``, ``.pth``, ``.ckpt`` or ``.bin``; no code in the file is run.

    Raises
    ------
    DataError
        No such file, not a file of weights, a missing or unknown key, a tensor of another shape, or NaN.
    """
    path = Path(path)
    state = _read(path)
    has_decays, target = any(is_decay(name) for name in state), model
    if has_decays:
        # on a copy, so that a file that does not fit leaves the model as it was
        learn_decays(target := copy.deepcopy(model))
    wanted = target.state_dict()
    state = _without_prefix(state, list(wanted))
    for name in wanted:
        if name not in state:
            raise DataError(str(path), f"weights {name!r} are missing", remedy=f"The file has {', '.join(state) or 'nothing'}.")
    for name, tensor in state.items():
        if name not in wanted:
            raise DataError(str(path), f"weights {name!r} belong to no module", remedy=f"The model has {', '.join(wanted)}.")
        if not isinstance(tensor, torch.Tensor):
            raise DataError(str(path), f"{name!r} is {type(tensor).__name__}, not a tensor")
        if tensor.dtype not in _STORAGES.values():
            raise DataError(str(path), f"weights {name!r} are numbers of {tensor.dtype}, which are not read")
        found, needed = tuple(tensor.shape), tuple(wanted[name].shape)
        if found != needed:
            raise DataError(str(path), f"weights {name!r} have shape {found}, the model's {needed}")
        if not tensor.isfinite().all():
            raise DataError(str(path), f"weights {name!r} are not finite")
    if has_decays:
        learn_decays(model)
    model.load_state_dict(dict(state))


def _read(path: Path) -> Mapping[str, Any]:
    """Read a state_dict; one that lies beside others in a training checkpoint is taken out of it."""
    if path.suffix not in (".safetensors", *_TORCH_SUFFIXES):
        raise DataError(
            str(path), f"ends in {path.suffix!r}", remedy="Give .safetensors, .pt or .pth (also .ckpt, .bin, or none)."
        )
    if not path.is_file():
        raise DataError(str(path), "no such file")
    try:
        state: Any = read_torch_file(path) if path.suffix in _TORCH_SUFFIXES else load_file(path)
    # AttributeError: numbers of a kind that this version of torch does not have
    except (OSError, SafetensorError, MemoryError, ValueError, AttributeError) as error:
        reason = textwrap.shorten(str(error), 160, placeholder=" ...")
        raise DataError(str(path), f"is not a file of weights ({reason})", remedy=_SAVE) from error
    for name in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping):
        raise DataError(str(path), f"holds {type(state).__name__}, not a state_dict", remedy=_SAVE)
    return {str(name): value for name, value in state.items()}


MAX_INSTRUCTION_BYTES = 8 << 20
"""Most instructions of a file of ``torch.save``: those of a tensor take about 100."""


def read_torch_file(path: Path) -> Any:
    """Read tensors, containers, numbers and texts from a file of ``torch.save``; other objects are refused, and no code runs.

    Not by ``torch.load(weights_only=True)``: before torch 2.6 it runs code of some files (CVE-2025-32434), before 2.10 it
    corrupts memory on others (CVE-2026-24747), and Lava holds torch at 2.3.

    Raises
    ------
    ValueError
        Another format, other objects, or tensors that reach beyond their storage.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not in the format that torch.save has had since torch 1.6")
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path)
            (root,) = (name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("data.pkl"))
            if f"{root}constants.pkl" in archive.namelist():
                raise ValueError("it is a scripted module")
            if f"{root}byteorder" in archive.namelist() and _unpacked(archive, f"{root}byteorder") != b"little":
                raise ValueError("its numbers have their most significant byte first")
            # each byte can make an object of 64; torch.save does not pack them
            if archive.getinfo(f"{root}data.pkl").file_size > min(MAX_INSTRUCTION_BYTES, path.stat().st_size):
                raise ValueError("its instructions are larger than any state dictionary's")
            return TensorUnpickler(io.BytesIO(_unpacked(archive, f"{root}data.pkl")), archive, root).load()
    except ValueError:
        raise
    except Exception as error:  # an unpickler raises almost anything on damaged bytes
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a member of an archive, and no more of it than it declares, which `ZipFile.read` unpacks first."""
    with archive.open(name) as member:
        return member.read(archive.getinfo(name).file_size)


class TensorUnpickler(pickle._Unpickler):  # in Python: the one in C allocates whatever size a damaged byte demands
    """Unpickler of the archives of ``torch.save`` that makes tensors, containers, numbers and texts, and knows no other names."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self.archive, self.root = archive, root
        self.storages: dict[str, torch.Tensor] = {}

    def load_build(self) -> None:
        """Drop the state of an object: that of an OrderedDict is its metadata, and no other object needs one."""
        self.stack.pop()

    def load_setitem(self) -> None:
        """Add a pair to a dictionary."""
        value, key = self.stack.pop(), self.stack.pop()
        # to hash a tuple of tuples, and so on, a million deep, ends the process
        if not isinstance(key, str | int):
            raise ValueError(f"it holds a dictionary with a key of {type(key).__name__}, and only texts and numbers are read")
        self.stack[-1][key] = value

    def load_setitems(self) -> None:
        """Add all pairs since the mark to a dictionary."""
        pairs = self.pop_mark()
        for pair in zip(pairs[::2], pairs[1::2], strict=True):
            self.stack += pair
            self.load_setitem()

    def refuse(self) -> None:
        """Refuse what no file of tensors, containers, numbers and texts needs; some of it allocates any size that it names."""
        raise ValueError("it holds what torch.save does not write for tensors, containers, numbers and texts")

    dispatch: ClassVar[dict[int, Any]] = {
        **dict.fromkeys(pickle._Unpickler.dispatch, refuse), **{op: pickle._Unpickler.dispatch[op] for op in _OPCODES},
        pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems,
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name in the file."""
        known = {
            ("collections", "OrderedDict"): lambda: OrderedDict(),  # without arguments, which could be keys of any kind
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        } | {("torch", f"{kind}Storage"): dtype for kind, dtype in _STORAGES.items()}
        if (module, name) not in known:
            raise ValueError(f"it holds {module}.{name}, and only tensors, containers, numbers and texts are read")
        return known[module, name]

    def persistent_load(self, key: Any) -> torch.Tensor:
        """Return a storage, (n,)."""
        _, dtype, name, _, n = key
        if not isinstance(name, str):
            raise ValueError("a storage has no name")
        if name not in self.storages:
            data = bytearray(_unpacked(self.archive, f"{self.root}data/{name}"))
            self.storages[name] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        if len(self.storages[name]) != n or self.storages[name].dtype != dtype:
            raise ValueError(f"its storage {name} holds {len(self.storages[name])} numbers, not {n}")
        return self.storages[name]

    def tensor(self, storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> torch.Tensor:
        """Return a tensor that lies within its storage."""
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if min((offset, *size, *stride)) < 0 or (0 not in size and last >= len(storage)):
            raise ValueError(f"a tensor {tuple(size)} reaches beyond its storage")
        return storage.as_strided(size, stride, offset)


def _without_prefix(state: Mapping[str, Any], wanted: Sequence[str]) -> Mapping[str, Any]:
    """Return a state under the model's own names, where a wrapper has put one prefix in front of all of them."""
    # torch.compile's is in front of the module that it has compiled
    state = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    if not wanted or wanted[0] in state:
        return state
    prefixes = [name.removesuffix(wanted[0]) for name in state if name.endswith(f".{wanted[0]}")]
    whole = [prefix for prefix in prefixes if all(prefix + name in state for name in wanted)]
    if len(whole) != 1:
        return state
    # what a Lightning module has beside the model, as a metric, is no part of it
    return {name.removeprefix(whole[0]): value for name, value in state.items() if name.startswith(whole[0])}
