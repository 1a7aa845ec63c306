"""Whatever is random while a model learns: torch's draws, NumPy's and Python's own.

Processes that train one model together, under torchrun: who does which part of a batch, and what they tell each other.

Each holds the whole model, draws the same batches, and learns from its share of every one; gradients are summed, so all take the
same step, that of one process with the whole batch, to the rounding of sums. What is decided (which synapses survive, and in
which form) is decided by the first and told to the others: a choice is a matter of more or less, and would fall out otherwise on
a machine that rounds otherwise.

In which order a run goes through its batches, and where it goes on in an epoch that was broken off.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeVar, cast
from zlib import crc32

import numpy as np
import torch
import torch.distributed as dist

from neurodeploy.errors import DataError, NeurodeployError, TrainingError
from neurodeploy.training.forward import Data

# -------------------- training.randomness


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All of it begins with `seed` while this lasts; the caller's own draws go on afterwards as if nothing had been."""
    before = random_state()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # what a user's data may draw from is the old generator
    random.seed(seed)
    try:
        yield
    finally:
        set_random_state(before)


def random_state() -> dict[str, Any]:
    """Where the draws stand, of every device that is this process's."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002  # as above
    version, numbers, normal = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device) for device in _devices()],
        "numpy": (str(name), np.asarray(keys, dtype=np.int64), position, has_gauss, gauss),
        "python": (version, np.asarray(numbers, dtype=np.int64), normal),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Draws go on from where `random_state` found them."""
    torch.set_rng_state(state["torch"])
    for device, drawn in zip(_devices(), state["cuda"], strict=False):
        torch.cuda.set_rng_state(drawn, device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.astype(np.uint32), *rest))  # noqa: NPY002  # as above
    version, numbers, normal = state["python"]
    random.setstate((version, tuple(numbers.tolist()), normal))


def _devices() -> Sequence[int]:
    """All GPUs; of replicas, which have one each, the current one alone."""
    if not torch.cuda.is_available():
        return []
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    return [torch.cuda.current_device()] if shared else range(torch.cuda.device_count())


# -------------------- training.replicas

T = TypeVar("T")

_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process in its environment."""
_PATIENCE = timedelta(days=1)
"""How long others wait for the first, which may have Lava run for hours; that one is gone they notice at once."""


def _read_only(entries: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(entries)


copyreg.pickle(MappingProxyType, lambda proxy: (_read_only, (dict(proxy),)))  # what nouns hold, and replicas tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """The processes, as one of them sees them.

    Attributes
    ----------
    number : int
        Which one this is, from 0.
    n : int
        How many there are.
    alone : bool
        Whether there is nobody to talk to: this process was not started by torchrun.
    """

    number: int = 0
    n: int = 1
    alone: bool = True

    @property
    def is_first(self) -> bool:
        """Whether this is the one that decides, writes files and speaks."""
        return self.number == 0

    def share(self, n_samples: int) -> slice:
        """Which samples of a batch are this one's; none, where there are fewer than replicas."""
        return slice(self.number * n_samples // self.n, (self.number + 1) * n_samples // self.n)

    def own_draws(self, where: str) -> AbstractContextManager[None]:
        """While it is open, draws are this one's own: its samples are other samples. Those of all go on afterwards, in step."""
        return nullcontext() if self.alone else seeded(crc32(f"{where}, replica {self.number} of {self.n}".encode()))

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter], share: float, *numbers: float) -> list[float]:
        """Sum gradients over all, each times its `share` of the batch, in place; and numbers, as they are, which are returned."""
        if self.alone:
            return list(numbers)
        with _talking():
            told = torch.tensor([*numbers, *(float(one.grad is not None) for one in parameters)], dtype=torch.float64)
            _sum(told)
            sums = told.tolist()
            learnt = [one for one, has in zip(parameters, sums[len(numbers) :], strict=True) if has]
            if learnt:
                parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in learnt]
                together = torch.cat([part.reshape(-1) for part in parts]).mul_(share)
                _sum(together)
                for one, part in zip(learnt, torch.split(together, [one.numel() for one in learnt]), strict=True):
                    one.grad = part.view_as(one).to(one.dtype)
        return sums[: len(numbers)]

    def take_first(self, model: torch.nn.Module) -> None:
        """Give all the weights and buffers of the first."""
        with _talking(), torch.no_grad():
            for tensor in [] if self.alone else model.state_dict().values():
                told = tensor.contiguous().reshape(-1).view(torch.uint8)  # gloo does not know every type
                _tell(told)
                tensor.copy_(told.view(tensor.dtype).view_as(tensor))

    def of_first(self, make: Callable[[], T]) -> T:
        """What the first makes, for all; its error is everybody's. All draw on as it does."""
        if self.alone:
            return make()
        told = b""
        if self.is_first:
            try:
                told = pickle.dumps((_on_cpu(make()), None, random_state()))
            except NeurodeployError as error:
                told = pickle.dumps((None, error, None))
        with _talking():
            _tell(size := torch.tensor([len(told)]))
            heard = torch.frombuffer(bytearray(told or int(size)), dtype=torch.uint8)
            _tell(heard)
        made, wrong, drawn = pickle.loads(heard.numpy().tobytes())  # noqa: S301  # from a process of the same program
        if wrong is not None:
            wrong.is_reported_elsewhere = not self.is_first
            raise wrong
        set_random_state(drawn)
        return cast("T", made)

    def in_turn(self, make: Callable[[], T]) -> T:
        """What each makes, the first of every machine before its others, which then find what it fetched."""
        leads = self.alone or int(os.environ.get("LOCAL_RANK", "0")) == 0
        made = [make()] if leads else []
        self.wait()
        return made[0] if leads else make()

    def wait(self) -> None:
        """Until all are here."""
        with _talking():
            if not self.alone:
                _sum(torch.zeros(1))


@contextmanager
def together() -> Iterator[Replicas]:
    """The processes that torchrun started, connected while this is open; a process that it did not start is alone.

    They talk by gloo between CPUs and by nccl between GPUs, where each takes its own (``LOCAL_RANK``) as the current one. `fit`
    and `compress` open it themselves; a program that trains more than once, or makes its model on its GPU, opens it around all.

    Raises
    ------
    TrainingError
        They have parted already: where they met is gone; or one of the others is.
    """
    if not dist.is_available() or not (dist.is_initialized() or all(name in os.environ for name in _TOLD)):
        yield Replicas()
        return
    if dist.is_initialized():  # by whoever opened this outside
        yield Replicas(number=dist.get_rank(), n=dist.get_world_size(), alone=False)
        return
    if _PARTED:
        raise TrainingError("replicas", "have parted", remedy="Open `with neurodeploy.together():` once, around all of it.")
    on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    with _talking():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=_PATIENCE)
    try:
        replicas = Replicas(number=dist.get_rank(), n=dist.get_world_size(), alone=False)
        yield replicas
        replicas.wait()  # who leaves first would take the connection from under the others
    finally:
        dist.destroy_process_group()
        _HELD.clear()
        _PARTED.append(True)


_PARTED: list[bool] = []
_HELD: deque[torch.Tensor] = deque(maxlen=8)
"""What was said last. A thread of gloo's lets go of a tensor some time after it was sent; if nobody else holds it, it waits for
Python's lock to free it, and whoever takes the group down, under that lock, waits for that thread: for ever."""


def _sum(tensor: torch.Tensor) -> None:
    _HELD.append(tensor)
    dist.all_reduce(tensor)


def _tell(tensor: torch.Tensor) -> None:
    """All take what the first has."""
    _HELD.append(tensor)
    dist.broadcast(tensor, src=0)


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo, of nccl, of the store where they meet
        reason = " ".join(str(error).split())[:160]
        raise TrainingError("replicas", f"lost each other ({reason})", remedy="See what the others had to say.") from error


def _on_cpu(value: Any) -> Any:
    """Mappings and lists of tensors where every machine can read them; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_on_cpu(each) for each in value)
    return value


# -------------------- training.order


class Order:
    """The batches of one epoch after the other; with a method ``shuffled(generator)``, data come in an order that a seed decides.

    Attributes
    ----------
    n_batches : int
        Of an epoch.

    Raises
    ------
    DataError
        No data, or data that can be read only once.
    """

    def __init__(self, data: Data, seed: int) -> None:
        self.data, self.n_batches = data, _n_batches(data)
        self._generator = torch.Generator().manual_seed(seed)
        self._begun: Mapping[str, Any] = {}
        self._kept: Mapping[str, Any] | None = None

    def epoch(self, done: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of an epoch, after the first `done`: one that was broken off is drawn again, and its first part left."""
        kept, self._kept = self._kept, None
        if kept is not None:
            set_random_state(kept["begun"]["random"])
            self._generator.set_state(kept["begun"]["order"])
        self._begun = {"random": random_state(), "order": self._generator.get_state()}
        shuffled = getattr(self.data, "shuffled", None)
        batches = iter(self.data if shuffled is None else shuffled(self._generator))
        if kept is not None:
            sum(1 for _ in islice(batches, done))
            set_random_state(kept["random"])
        for batch in batches:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise DataError("data", f"gave {type(batch).__name__}, not a pair (input, target)")
            if len(batch[0]) == 0:
                raise DataError("data", "gave a batch without samples")
            yield batch[0], torch.as_tensor(batch[1])

    def state_dict(self) -> Mapping[str, Any]:
        """Where the draws stood as the epoch began, and where they stand."""
        return {"begun": self._begun, "random": random_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next epoch be the one in which `state_dict` was taken."""
        self._kept = state


def _n_batches(data: Data) -> int:
    try:
        batches = iter(data)
    except TypeError as error:
        raise DataError("data", f"is {type(data).__name__}, not an iterable of (input, target) batches") from error
    if batches is data:
        raise DataError("data", "can be read only once", remedy="Give a list of batches, or a DataLoader.")
    n = len(data) if isinstance(data, Sized) else sum(1 for _ in batches)
    if n == 0:
        raise DataError("data", "holds no batches")
    return n
