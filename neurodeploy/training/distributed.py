"""Training in several processes (torchrun): random states, the order of batches, and the step that the processes share.

Every process holds the whole model, draws the same batches and computes the gradients of its share of each; gradients are summed,
so all take the step that one process with the whole batch would take, to the rounding of sums. Rank 0 makes all decisions (which
synapses are kept, in which format) and sends them to the others: a decision between near-equal scores would differ on a machine
that rounds differently.
"""

from __future__ import annotations

import copy
import copyreg
import io
import math
import os
import pickle
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, TypeVar, cast
from zlib import crc32

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.functional import kl_div, log_softmax

from neurodeploy.compression.pruning_method import ActiveNeurons, Phase, Pruning
from neurodeploy.errors import DataError, NeurodeployError, TrainingError
from neurodeploy.training.encoders import check_labels, read_out, spikes_of
from neurodeploy.training.forward import Data, batches_of, in_mode, run_model
from neurodeploy.training.options import FitOptions


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, NumPy and `random` while open; the states before come back afterwards."""
    before = random_state()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # what a user's data may draw from is the old generator
    random.seed(seed)
    try:
        yield
    finally:
        set_random_state(before)


def random_state() -> dict[str, Any]:
    """Return the states of all random generators, of every device that this process uses."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002  # as above
    version, numbers, normal = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device) for device in _devices()],
        "numpy": (str(name), np.asarray(keys, dtype=np.int64), position, has_gauss, gauss),
        "python": (version, np.asarray(numbers, dtype=np.int64), normal),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    for device, drawn in zip(_devices(), state["cuda"], strict=False):
        torch.cuda.set_rng_state(drawn, device)
    name, keys, *rest = state["numpy"]
    # int64 in the checkpoint, since torch has few operations on uint32; NumPy wants uint32 back
    np.random.set_state((name, keys.astype(np.uint32), *rest))  # noqa: NPY002  # as above
    version, numbers, normal = state["python"]
    random.setstate((version, tuple(numbers.tolist()), normal))


def _devices() -> Sequence[int]:
    """All GPUs; in a process group, where each process has one, the current one alone."""
    if not torch.cuda.is_available():
        return []
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    return [torch.cuda.current_device()] if shared else range(torch.cuda.device_count())


T = TypeVar("T")

TORCHRUN_ENV = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets in the environment of each process."""
TIMEOUT = timedelta(days=1)
"""Longest wait for rank 0, which may run Lava for hours; a process that died is noticed at once."""


class _Collectives:
    """Collective operations on the default process group of torch, and the buffers that have to outlive them.

    Attributes
    ----------
    is_closed : bool
        The group was left: the address where its processes met is gone, so it cannot be opened again.
    """

    def __init__(self) -> None:
        self.is_closed = False
        # Keep references to recent buffers: gloo frees them from its own thread, which needs the GIL, and
        # destroy_process_group holds the GIL while it joins that thread: without these references that is a deadlock.
        self._buffers: deque[torch.Tensor] = deque(maxlen=8)

    def sum(self, tensor: torch.Tensor) -> None:
        """Sum over all processes, in place."""
        self._buffers.append(tensor)
        dist.all_reduce(tensor)

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Give all processes the tensor of rank 0, in place."""
        self._buffers.append(tensor)
        dist.broadcast(tensor, src=0)

    def close(self) -> None:
        dist.destroy_process_group()
        self._buffers.clear()
        self.is_closed = True

    @staticmethod
    @contextmanager
    def errors() -> Iterator[None]:
        """Raise `TrainingError` for what gloo, nccl or their store report."""
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise TrainingError(
                "replicas", f"the processes lost their connection ({reason})", remedy="See the errors of the others."
            ) from error


_collectives = _Collectives()
"""One per process, as torch's default process group is."""


class _Pickler(pickle.Pickler):
    """A pickler that takes the read-only mappings of frozen dataclasses; the process-wide `copyreg` table stays as it is."""

    dispatch_table = copyreg.dispatch_table.copy()
    dispatch_table[MappingProxyType] = lambda proxy: (_Pickler.read_only, (dict(proxy),))

    @staticmethod
    def read_only(entries: dict[Any, Any]) -> MappingProxyType[Any, Any]:
        return MappingProxyType(entries)

    @staticmethod
    def dumps(value: Any) -> bytes:
        buffer = io.BytesIO()
        _Pickler(buffer).dump(value)
        return buffer.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """Group of processes that train one model, with the rank of this one.

    Attributes
    ----------
    number : int
        Rank of this process, from 0.
    n : int
        Number of processes.
    alone : bool
        Whether this process was not started by torchrun.
    """

    number: int = 0
    n: int = 1
    alone: bool = True

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which decides, writes files and prints."""
        return self.number == 0

    def share(self, n_samples: int) -> slice:
        """Samples of a batch that this process computes; none where there are fewer samples than processes."""
        return slice(self.number * n_samples // self.n, (self.number + 1) * n_samples // self.n)

    def own_draws(self, where: str) -> AbstractContextManager[None]:
        """While open, random draws differ between processes, as their samples do; the common state comes back afterwards."""
        # crc32 and not hash(), which differs from process to process
        return nullcontext() if self.alone else seeded(crc32(f"{where}, replica {self.number} of {self.n}".encode()))

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter], share: float, *numbers: float) -> list[float]:
        """Sum gradients, each times its `share` of the batch, over all processes in place; return the sums of `numbers`."""
        if self.alone:
            return list(numbers)
        with _collectives.errors():
            # a process without samples has no gradients: all agree first on the parameters that have one anywhere
            # the numbers and the flags in one message; float64 keeps the counts of large batches exact
            counts = torch.tensor([*numbers, *(float(one.grad is not None) for one in parameters)], dtype=torch.float64)
            _collectives.sum(counts)
            sums = counts.tolist()
            learnt = [one for one, has in zip(parameters, sums[len(numbers) :], strict=True) if has]
            if learnt:
                parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in learnt]
                # one message for all gradients: its latency is paid once
                together = torch.cat([part.reshape(-1) for part in parts]).mul_(share)
                _collectives.sum(together)
                for one, part in zip(learnt, torch.split(together, [one.numel() for one in learnt]), strict=True):
                    one.grad = part.view_as(one).to(one.dtype)
        return sums[: len(numbers)]

    def take_first(self, model: torch.nn.Module) -> None:
        """Copy the weights and buffers of rank 0 to all processes."""
        with _collectives.errors(), torch.no_grad():
            for tensor in [] if self.alone else model.state_dict().values():
                sent = tensor.contiguous().reshape(-1).view(torch.uint8)  # gloo does not know every type
                _collectives.broadcast(sent)
                tensor.copy_(sent.view(tensor.dtype).view_as(tensor))

    def of_first(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0 and return its result on all processes; they raise its error, and take on its random state."""
        if self.alone:
            return make()
        sent = b""
        if self.is_first:
            try:
                sent = _Pickler.dumps((_on_cpu(make()), None, random_state()))
            except NeurodeployError as error:
                sent = _Pickler.dumps((None, error, None))
        with _collectives.errors():
            # the length first: the others have to make room for the message
            _collectives.broadcast(size := torch.tensor([len(sent)]))
            # on rank 0 the message itself, elsewhere as many zero bytes
            received = torch.frombuffer(bytearray(sent or int(size)), dtype=torch.uint8)
            _collectives.broadcast(received)
        made, wrong, drawn = pickle.loads(received.numpy().tobytes())  # noqa: S301  # from a process of the same program
        if wrong is not None:
            wrong.is_reported_elsewhere = not self.is_first
            raise wrong
        # `make` may have drawn random numbers, on rank 0 alone
        set_random_state(drawn)
        return cast("T", made)

    def in_turn(self, make: Callable[[], T]) -> T:
        """Call `make` on every process, first on one of each machine: the others then find the files that it downloaded."""
        leads = self.alone or int(os.environ.get("LOCAL_RANK", "0")) == 0
        # LOCAL_RANK counts the processes of one machine
        made = [make()] if leads else []
        self.wait()
        return made[0] if leads else make()

    def wait(self) -> None:
        """Wait until all processes are here."""
        with _collectives.errors():
            if not self.alone:
                _collectives.sum(torch.zeros(1))


@contextmanager
def together() -> Iterator[Replicas]:
    """Connect the processes that torchrun started while open; a process that it did not start is alone.

    They communicate by gloo between CPUs and by nccl between GPUs; each takes its own GPU (``LOCAL_RANK``) as the current one.
    `fit` and `compress` open this themselves; a program that trains more than once, or makes its model on its GPU, opens it
    around all of that.

    Raises
    ------
    TrainingError
        The processes were connected before, and the connection cannot be opened again; or one of them died.
    """
    if not dist.is_available() or not (dist.is_initialized() or all(name in os.environ for name in TORCHRUN_ENV)):
        yield Replicas()
        return
    if dist.is_initialized():  # by a caller that opened this already
        yield Replicas(number=dist.get_rank(), n=dist.get_world_size(), alone=False)
        return
    if _collectives.is_closed:
        raise TrainingError(
            "replicas", "were disconnected after an earlier run",
            remedy="Wrap all runs in one `with neurodeploy.together():`.",
        )  # fmt: skip
    on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    with _collectives.errors():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=TIMEOUT)
    try:
        replicas = Replicas(number=dist.get_rank(), n=dist.get_world_size(), alone=False)
        yield replicas
        replicas.wait()  # whoever leaves first closes the connection of the others
    finally:
        _collectives.close()


def _on_cpu(value: Any) -> Any:
    """Move the tensors in nested mappings and lists to the CPU; anything else stays as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_on_cpu(each) for each in value)
    return value


def data_fingerprint(data: Any) -> str | None:
    """Hash that differs between data sets: of `Batches`, lists of batches and data loaders; None of what only iterates.

    Of a loader, the first and the last sample of its data set: shuffled, it has another first batch each time.
    """
    if known := getattr(data, "fingerprint", None):
        return str(known)
    samples: Any = getattr(data, "dataset", data)
    if not (hasattr(samples, "__getitem__") and hasattr(samples, "__len__") and len(samples)):
        return None
    digest = sha256(repr((len(samples), getattr(data, "batch_size", None))).encode())
    with seeded(0):  # a transform may draw
        ends = samples[0], samples[len(samples) - 1]
        for value in chain.from_iterable(one if isinstance(one, (tuple, list)) else (one,) for one in ends):
            with suppress(TypeError, ValueError, RuntimeError):  # a picture, say, which is collated
                tensor = torch.as_tensor(value).detach().cpu().contiguous()
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


class Order:
    """Batches of one epoch after the other; data with a method ``shuffled(generator)`` come in an order that a seed decides.

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
        try:
            batches = iter(data)
        except TypeError as error:
            raise DataError("data", f"is {type(data).__name__}, not an iterable of (input, target) batches") from error
        # an iterator returns itself: a second epoch would find it empty
        if batches is data:
            raise DataError("data", "can be read only once", remedy="Give a list of batches, or a DataLoader.")
        self.data, self.n_batches = data, len(data) if isinstance(data, Sized) else sum(1 for _ in batches)
        if self.n_batches == 0:
            raise DataError("data", "holds no batches")
        self._generator = torch.Generator().manual_seed(seed)
        self._at_start: Mapping[str, Any] = {}
        self._resumed: Mapping[str, Any] | None = None

    @property
    def fingerprint(self) -> str | None:
        """That of the data."""
        return data_fingerprint(self.data)

    def epoch(self, done: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of an epoch after the first `done`: an interrupted epoch is drawn again, and its first part skipped."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            set_random_state(resumed["begun"]["random"])
            self._generator.set_state(resumed["begun"]["order"])
        self._at_start = {"random": random_state(), "order": self._generator.get_state()}
        shuffled = getattr(self.data, "shuffled", None)
        batches = iter(self.data if shuffled is None else shuffled(self._generator))
        if resumed is not None:
            # run through, not skipped: making batches may draw random numbers
            sum(1 for _ in islice(batches, done))
            set_random_state(resumed["random"])
        for inputs, targets in batches_of(batches):
            if len(inputs) == 0:
                raise DataError("data", "gave a batch without samples")
            yield inputs, targets

    def state_dict(self) -> Mapping[str, Any]:
        """Random states at the start of the epoch, and now."""
        return {"begun": self._at_start, "random": random_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next epoch be the one in which `state_dict` was taken."""
        # as `epoch` will: a state that cannot be restored fails here
        for random_states in (state["random"], state["begun"]["random"]):
            set_random_state(random_states)
        self._generator.set_state(state["begun"]["order"])
        self._resumed = state


# ---------------------------------------------------------------------------------------------- a step that they share


class Teacher:
    """Frozen copy of a model, towards whose outputs a compressed one is trained (Hinton et al., arXiv 1503.02531)."""

    def __init__(self, model: torch.nn.Module, options: FitOptions) -> None:
        self.model, self.options = copy.deepcopy(model), options

    def distilled(self, loss: torch.Tensor, output: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        """Return (1 - distill) * loss + distill * T^2 * KL(teacher || output), both softened by the temperature T.

        The loss () is that of the labels, `output` (batch, n_classes), `spikes` (batch, n_steps, \\*shape) the model's input.
        """
        temperature, share = self.options.temperature, self.options.distill
        with in_mode(self.model, training=False):
            target = log_softmax(read_out(run_model(self.model, spikes), self.options.readout) / temperature, dim=1)
        distance = kl_div(log_softmax(output / temperature, dim=1), target, reduction="batchmean", log_target=True)
        # T^2: soft targets scale gradients by 1 / T^2 (Hinton et al., section 2)
        return (1 - share) * loss + share * temperature**2 * distance


_FINAL_RATE = 0.05
"""Share of the learning rate that a half cosine ends on."""
_WARM_UP_STEPS = 10
"""Steps in which the rate rises where a phase starts from trained weights. Adam's first step moves every weight by the whole
rate, in the direction of one batch's gradient: that takes a deep network with folded normalisations to chance (ResNet-19)."""


@dataclass(kw_only=True)
class Learner:
    """One training step of a model: spikes, loss in the weights that the method puts in force, gradients, optimizer."""

    model: torch.nn.Module
    options: FitOptions
    pruning: Pruning | None
    replicas: Replicas = field(default_factory=Replicas)
    teacher: Teacher | None = None

    def learn(
        self, inputs: torch.Tensor, target: torch.Tensor, optimizer: torch.optim.Optimizer, where: str
    ) -> tuple[float, float]:
        """Take one optimizer step; return the loss and the number of correct samples (NaN where targets are not classes).

        Each process computes its share of the batch; the step and the returned numbers are those of the whole batch.
        """
        optimizer.zero_grad()
        own = self.replicas.share(len(inputs))
        part = (own.stop - own.start) / len(inputs)
        spikes = self._spikes(inputs, own)
        loss, hits = self._gradients(spikes, target[own], where) if part else (0.0, 0.0)
        trainable = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        loss, hits = self.replicas.sum_gradients(trainable, part, loss * part, hits)
        # Before the optimizer's step, so that NaN never reaches the weights.
        if not math.isfinite(loss):
            raise TrainingError(
                where, f"the loss is {loss}",
                remedy=f"Lower learning_rate (now {self.options.learning_rate:g}), or look for NaN in the model's weights.",
            )  # fmt: skip
        if self.pruning is not None:
            # after the sum over processes: the method sees the gradients of the whole batch
            self.pruning.before_step()
        optimizer.step()
        return loss, hits

    def _gradients(self, spikes: torch.Tensor, target: torch.Tensor, where: str) -> tuple[float, float]:
        """Run the backward pass on some samples; return their loss and the number of correct ones."""
        with self.in_force() as active, self.replicas.own_draws(f"{self.options.seed}, {where}"):
            with torch.autocast(spikes.device.type, torch.bfloat16, enabled=self.options.amp is not None):
                output = read_out(run_model(self.model, spikes, active or {}), self.options.readout)
                if self.options.loss is torch.nn.functional.cross_entropy:
                    check_labels(target, len(output), output.shape[1])
                    # cross_entropy takes int64 classes only; data sets also have bytes
                    target = target.long()
                target = target.to(output.device)
                loss = self._loss(output, target, spikes)
            # Inside `in_force`: gradients are taken at the substituted weights. Outside autocast, as torch wants it.
            loss.backward()  # type: ignore[no-untyped-call]  # some versions of torch have no type for it
        if target.is_floating_point() or target.shape != output.shape[:1]:
            return loss.item(), math.nan
        hits = (output.argmax(dim=1) == target).sum()
        value, correct = torch.stack([loss.detach().double(), hits.double()]).tolist()  # one transfer from a GPU for both
        return value, correct

    def _spikes(self, inputs: torch.Tensor, own: slice) -> torch.Tensor:
        """Encode some samples. A user's encoder gets the whole batch: its draws do not depend on the number of processes."""
        if callable(self.options.encoder):
            return spikes_of(inputs, self.model, self.options)[own]
        return spikes_of(inputs[own], self.model, self.options)

    def _loss(self, output: torch.Tensor, target: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        loss = self.options.loss(output, target)
        if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.requires_grad:
            raise TrainingError("loss", "returned no scalar tensor that depends on the model")
        return loss if self.teacher is None else self.teacher.distilled(loss, output, spikes)

    def in_force(self) -> AbstractContextManager[ActiveNeurons | None]:
        """Put the weights that the loss sees into the model while open; yields the neurons to calculate."""
        return nullcontext() if self.pruning is None else self.pruning.in_force()


def learning_rate(phase: Phase, step: int, steps: int, options: FitOptions) -> float:
    """Learning rate of a step, 0..steps-1: constant while compressing, else a half cosine; behind a warm-up unless dense."""
    rate = options.learning_rate * (1.0 if phase == "dense" else min(1.0, (step + 1) / _WARM_UP_STEPS))
    if phase == "compress":
        return rate
    return rate * (_FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * step / steps)) / 2)
