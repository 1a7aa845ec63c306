"""Targets: the integer arithmetic of a chip, its files, its emulator and its vendor's simulator behind one protocol.

A hardware profile names its target. A profile without one is for counting only: networks are counted and placed for it, but
neither written nor emulated. `register` adds a target; CONTRIBUTING.md lists what it has to offer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import ProfileError, QuantizeError, RequestError, unsupported_kind
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.ir.network import Network, reset_of
from neurodeploy.ir.quantized import (
    COUNTING_ONLY,
    DEFAULT_TARGET,
    GRADED_BITS,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSigmaDelta,
    QuantizedSubtractiveLIF,
)

if TYPE_CHECKING:
    from neurodeploy.simulation.records import Recorded, SpikeRecord

COUNTER: ContextVar[Callable[[int, int], None] | None] = ContextVar("COUNTER", default=None)
"""Called with the steps done and their total, every quarter of a second, while a vendor's simulator runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registers:
    """Widths of a chip's registers in bits, the sign included where there is one.

    Attributes
    ----------
    weight_bits : tuple of int
        Widths that weights can be rounded to, ascending.
    weight_exponent : int
        Weights, thresholds and biases enter current and membrane shifted left by so many bits.
    current_bits, membrane_bits : int
        Signed state of a neuron.
    threshold_bits, decay_bits : int
        Unsigned.
    bias_min, bias_max : int
        Range of a bias before the shift.
    source : str
        The document or code that states the widths.
    has_shift_decays : bool
        A decay's register is a shift; else a share, in parts of ``2**decay_bits``.
    """

    weight_bits: tuple[int, ...]
    weight_exponent: int
    current_bits: int
    membrane_bits: int
    threshold_bits: int
    decay_bits: int
    bias_min: int
    bias_max: int
    source: str
    has_shift_decays: bool = False

    @property
    def threshold_max(self) -> int:
        return (1 << self.threshold_bits) - 1


class Arithmetic(Protocol):
    """Integer arithmetic of a chip: all that rounding a network needs.

    Attributes
    ----------
    name : str
        Stored in `QuantizedNetwork.target`.
    registers : Registers
    resets : tuple of str
        What a neuron's membrane can do after a spike: ``"to zero"``, ``"by subtraction"``.
    """

    @property
    def name(self) -> str: ...
    @property
    def registers(self) -> Registers: ...
    @property
    def resets(self) -> tuple[str, ...]: ...

    def decay_registers(self, share: Floats) -> Integers:
        """Registers for the share of a state that a step forgets, 0..1."""

    def decay_shares(self, registers: Integers) -> Floats:
        """Share of a state that a step forgets with these registers: the inverse of `decay_registers`."""

    def current_gain(self, du: Integers) -> Floats:
        """Share of a spike's weight that reaches the membrane within the step; weights are divided by it."""

    def adapted(self, network: Network) -> Network:
        """Return the network in floats with what the target has in place of what it can only come near to.

        Decays, where they are coarse, and most spikes of a step; raise `NeurodeployError` for what it has nothing near to.
        """

    def finished(self, network: QuantizedNetwork, largest: Mapping[str, float]) -> QuantizedNetwork:
        """Return a rounded network in the units in which the chip runs it best.

        Parameters
        ----------
        largest : mapping of layer to float
            Size that states of a layer may reach, in the units of its weights, where that is known.
        """

    def weight_step(self, *, is_mixed: bool) -> int:
        """Distance between two integer weights of a connection, with weights of both signs or of one."""

    def most_steps(self, bits: int, *, is_mixed: bool) -> int:
        """Steps from 0 to the largest weight of `bits` bits."""

    def as_run(self, weight: Integers) -> Integers:
        """Weights that the chip runs where a layer with one dense connection stores these; nearly always the same."""

    def round_state(self, values: Floats) -> Integers:
        """Integers for thresholds and biases in weight units."""

    def check(self, network: QuantizedNetwork) -> None:
        """Raise `NeurodeployError` for numbers that the registers cannot hold; it names layer, value, limit and source."""


class Target(Arithmetic, Protocol):
    """A chip family that networks are written for and run on.

    Attributes
    ----------
    suffix : str
        Ending of its network files, e.g. ``".net"``.
    simulators : tuple of str
        Names of the vendor's simulators and boards that `run_simulator` takes, the one to verify against first; may be empty.
    other_forms : mapping of str to callable
        Text of a network for other tools, by the ending of its file without the dot: `deploy` writes it beside the network file.
    """

    @property
    def suffix(self) -> str: ...
    @property
    def simulators(self) -> tuple[str, ...]: ...
    @property
    def other_forms(self) -> Mapping[str, Callable[[QuantizedNetwork], str]]: ...

    def check_chip(self, network: QuantizedNetwork, profile: HardwareProfile) -> None:
        """Raise `NeurodeployError` for what a profile's chip cannot hold, beside its registers and the resources of its cores."""

    def check_file(self, network: QuantizedNetwork) -> None:
        """Raise `NeurodeployError` where `write` would refuse the network; it names the layer."""

    def write(self, network: QuantizedNetwork, path: Path) -> Path:
        """Write a network file, completely or not at all."""

    def read(self, path: Path) -> QuantizedNetwork:
        """Read a network file; an equal network to the one that was written."""

    def emulate(
        self, network: QuantizedNetwork, spikes: NDArray[Any], *, record: Recorded = "output", raw: bool = False, **options: Any
    ) -> SpikeRecord:
        """Run each sample (batch, \\*input_shape, n_steps) from rest in the chip's integers.

        With `raw`, `spikes` are numbers for the network's input population. `options` are those of `neurodeploy.simulate`
        (`reset_interval`, `reset_offset`, `on_overflow`, `device`, `threads`) that differ from their defaults; a target refuses
        those that it does not have.
        """

    def simulator_missing(self, simulator: str) -> str:
        """Reason that a simulator of the vendor cannot run here, in one line; empty where it can."""

    def run_simulator(
        self, network: QuantizedNetwork, spikes: NDArray[Any], *, simulator: str, record: Recorded = "output", raw: bool = False,
        **options: Any,
    ) -> SpikeRecord:  # fmt: skip
        """Run each sample in the vendor's simulator; `options` are `time_limit_s`, `reset_interval` and `reset_offset`."""


_TARGETS: dict[str, Target | Callable[[], Target]] = {
    "loihi": lambda: cast("Target", import_module("neurodeploy.targets.loihi.target").LOIHI),
    "xylo": lambda: cast("Target", import_module("neurodeploy.targets.xylo").XYLO_TARGET),
}
"""Targets by name; one that comes with neurodeploy is imported when it is first asked for."""


def register(target: Target) -> None:
    """Add a target, so that profiles can name it and files with its suffix can be read."""
    _TARGETS[target.name] = target


def target_names() -> tuple[str, ...]:
    """Names of all targets."""
    return tuple(_TARGETS)


def target_named(name: str) -> Target:
    """Return a target by its name.

    Raises
    ------
    RequestError
        There is none of this name.
    """
    if name not in _TARGETS:
        known = ", ".join(_TARGETS)
        if name == COUNTING_ONLY:
            raise RequestError(
                "network", "is rounded for a profile that names no target: it is for counting only",
                remedy=f"Quantise it for a profile with one of the targets {known}.",
            )  # fmt: skip
        raise RequestError("target", f"no target is called {name!r}", remedy=f"Known targets are {known}.")
    if callable(target := _TARGETS[name]):
        target = _TARGETS[name] = target()
    return target


def target_of(profile: HardwareProfile) -> Target | None:
    """Return the target that a profile names; None for a profile that is for counting only.

    Raises
    ------
    ProfileError
        It names one that does not exist.
    """
    if profile.target is None:
        return None
    if profile.target not in _TARGETS:
        raise ProfileError(
            f"{profile.name}.yaml: target", f"no target is called {profile.target!r}",
            remedy=f"Known targets are {', '.join(_TARGETS)}; leave the key out of a profile that is for counting only.",
        )  # fmt: skip
    return target_named(profile.target)


def target_of_file(path: Path) -> Target | None:
    """Return the target whose network files end as this path does; None if no target's do."""
    return next((target for target in map(target_named, _TARGETS) if target.suffix == path.suffix), None)


def arithmetic_of(profile: HardwareProfile) -> Arithmetic:
    """Return the arithmetic that networks for a profile are rounded to: its target's, or `CountingArithmetic`."""
    return target_of(profile) or CountingArithmetic()


def arithmetic_named(name: str = DEFAULT_TARGET) -> Arithmetic:
    """Return the arithmetic of a `QuantizedNetwork.target`."""
    return CountingArithmetic() if name == COUNTING_ONLY else target_named(name)


def default_weight_bits(profile: HardwareProfile, bits: int | None = None) -> int:
    """Return `bits`, or for None the widest weight that a chip has and its arithmetic rounds to; else the widest that it has."""
    if bits is not None:
        return bits
    stated, possible = profile["weight_bits"].choices, arithmetic_of(profile).registers.weight_bits
    return max((width for width in stated if width in possible), default=max(stated))


def weight_widths(profile: HardwareProfile) -> tuple[int, ...]:
    """Return the widths, ascending, that a chip has and that its arithmetic rounds to.

    Raises
    ------
    QuantizeError
        There are none.
    """
    stated, possible = profile["weight_bits"], arithmetic_of(profile).registers.weight_bits
    both = tuple(width for width in stated.choices if width in possible)
    if not both:
        raise QuantizeError(
            "weights", f"of {', '.join(map(str, stated.choices))} bits are not supported: networks cannot be rounded to them",
            source=stated.where,
            remedy=f"Widths of {possible[0]} to {possible[-1]} bits are.",
        )  # fmt: skip
    return both


def requested_weight_bits(profile: HardwareProfile, bits: int | None) -> int:
    """Return the width that a user asked for, or by default `default_weight_bits`.

    Raises
    ------
    QuantizeError
        The chip does not have it, or networks cannot be rounded to it.
    """
    if bits is not None:
        check_weight_bits(profile, bits, "bits")
    return default_weight_bits(profile, bits)


def check_weight_bits(profile: HardwareProfile, bits: int, where: str) -> None:
    """Raise `QuantizeError`, at `where`, for a width that a chip does not have, or to which networks cannot be rounded."""
    if bits not in (widths := weight_widths(profile)):
        raise QuantizeError(
            where, f"weights of {bits} bits do not exist on {profile.name}", source=profile["weight_bits"].where,
            remedy=f"Choose from {', '.join(map(str, widths))}.",
        )  # fmt: skip


def check_profile(network: QuantizedNetwork, profile: HardwareProfile) -> None:
    """Refuse a network in integers that a profile's chip cannot hold.

    A profile may state narrower registers than its target has: `state_bits`, `threshold_bits` and `decay_bits` then hold too.

    Raises
    ------
    QuantizeError
        The network is in the integers of another target, or a number does not fit a register of the profile.
    """
    target = target_of(profile)
    if target is None:
        return
    if network.target != target.name:
        raise QuantizeError(
            "network", f"holds integers of target {network.target!r}, and {profile.name} runs those of {target.name!r}",
            source=f"{profile.name}.yaml: target", remedy="Start from the network in floats.",
        )  # fmt: skip
    registers = target.registers
    for layer in network:
        neuron, where = layer.neuron, f"layer {layer.name!r}"
        match neuron:
            case QuantizedLIF() | QuantizedSubtractiveLIF():
                threshold = int(neuron.vth.max())
            case QuantizedLI():
                threshold = 0
            case QuantizedSigmaDelta():
                check_graded(where, profile)
                continue  # its sums have 32 bits, and neither decays nor these registers
            case _:
                raise unsupported_kind(neuron)
        if "decay_bits" in profile and (missing := registers.decay_bits - profile["decay_bits"].number) > 0:
            # fewer bits of a share keep the upper ones: what is left are multiples of 2**missing
            part, most = 1 << missing, (1 << profile["decay_bits"].number) - 1
            for kind, decay in (("current", neuron.du), ("membrane", neuron.dv)):
                other = decay > most if registers.has_shift_decays else decay % part != 0
                if other.any():
                    not_one = f"is above {most}" if registers.has_shift_decays else f"is no multiple of {part}"
                    raise QuantizeError(
                        where, f"its {kind} decay {int(decay[other].flat[0])} {not_one}",
                        source=profile["decay_bits"].where, remedy="Change the time constant.",
                    )  # fmt: skip
        bias = int(np.abs(layer.bias).max(initial=0))
        shift = registers.weight_exponent
        for what, value, key in (
            ("threshold", threshold, "threshold_bits"),
            ("threshold in the state", threshold << shift, "state_bits"),
            ("bias in the state", bias << shift, "state_bits"),
        ):
            if key not in profile:
                continue
            most = (1 << profile[key].number - (key == "state_bits")) - 1  # a state is signed
            if value > most:
                raise QuantizeError(
                    where, what, need=value, limit=most, source=profile[key].where,
                    remedy="Lower its thresholds and biases, or its weights.",
                )  # fmt: skip
    target.check_chip(network, profile)


def check_graded(where: str, profile: HardwareProfile) -> None:
    """Raise `QuantizeError` where a profile's spikes cannot carry the numbers of sigma-delta neurons."""
    if "payload_bits" not in profile:
        raise QuantizeError(
            where, f"sends graded spikes, and spikes of {profile.name} carry no numbers (no payload_bits)",
            remedy="Choose a chip with graded spikes, as loihi2.",
        )  # fmt: skip
    if profile["payload_bits"].number < GRADED_BITS:
        raise QuantizeError(
            where, "bits of a graded spike", need=GRADED_BITS, limit=profile["payload_bits"].number,
            source=profile["payload_bits"].where, remedy="Choose a chip with wider ones.",
        )  # fmt: skip


def check_resets(network: Network, arithmetic: Arithmetic) -> None:
    """Refuse neurons that reset as a target's do not; the error names the largest such layer and the targets that take it.

    Raises
    ------
    QuantizeError
    """
    # the largest first, which is a layer of the model's, and not the one neuron that brings biases
    for layer in sorted(network, key=lambda one: -one.n_neurons):
        reset = reset_of(layer.neuron)
        if reset and reset not in arithmetic.resets:
            able = " or ".join(name for name in target_names() if reset in target_named(name).resets)
            raise QuantizeError(
                f"layer {layer.name!r}", f"resets {reset}, and neurons of target {arithmetic.name!r} {arithmetic.resets[0]}",
                source=arithmetic.registers.source,
                remedy=f"{f'Choose a chip of target {able}, or reset' if able else 'Reset'} {arithmetic.resets[0]} in the model, "
                "and train it so.",
            )  # fmt: skip


class CountingArithmetic:
    """Integers for a chip that no target runs: weights at the profile's widths, all else as fine as floats.

    They serve for counting and placing. Weights are rounded symmetrically about zero. Thresholds and biases that are not zero
    stay so, because a bias of zero would not be counted.
    """

    name = COUNTING_ONLY
    # Wider than any chip's, and still exact: weights in int16, thresholds and biases in doubles, states in int64.
    registers = Registers(
        weight_bits=tuple(range(1, 16)), weight_exponent=0, current_bits=62, membrane_bits=62, threshold_bits=52, decay_bits=30,
        bias_min=-(1 << 52), bias_max=1 << 52, source="no target",
    )  # fmt: skip
    resets = ("to zero", "by subtraction")

    def decay_registers(self, share: Floats) -> Integers:
        return np.asarray(np.rint(np.asarray(share) * (1 << self.registers.decay_bits)), dtype=np.int64)

    def decay_shares(self, registers: Integers) -> Floats:
        return np.asarray(registers / (1 << self.registers.decay_bits))

    def current_gain(self, du: Integers) -> Floats:
        return np.ones(du.shape)

    def adapted(self, network: Network) -> Network:
        return network

    def finished(self, network: QuantizedNetwork, largest: Mapping[str, float]) -> QuantizedNetwork:
        del largest
        return network

    def weight_step(self, *, is_mixed: bool) -> int:
        del is_mixed
        return 1

    def most_steps(self, bits: int, *, is_mixed: bool) -> int:
        # One bit for both signs leaves none for the magnitude: at least -1, 0 and 1.
        return max(1, (1 << (bits - is_mixed)) - 1)

    def as_run(self, weight: Integers) -> Integers:
        return weight

    def round_state(self, values: Floats) -> Integers:
        # Away from zero, so that no threshold or bias vanishes.
        return np.asarray(np.sign(values) * np.ceil(np.abs(values)), dtype=np.int64)

    def check(self, network: QuantizedNetwork) -> None:
        del network  # nothing binds
