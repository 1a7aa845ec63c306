"""What the chip offers.

A profile is a set of numbers, each with its unit and either the source that states it or the assumption that stands in
for one. A number never travels without where it came from: it is a `Limit`. Profiles are read from YAML files
by `neurodeploy.hardware.loading`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from neurodeploy.errors import ProfileError, RequestError
from neurodeploy.ir.arrays import html_table

UNLIMITED = 1 << 62
"""The capacity for what a chip sets no limit to."""

Kind = Literal["whole", "per core", "choices", "steps", "sides", "figure", "formulas"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a profile may say under a key.

    Attributes
    ----------
    unit : str
    kind : str
        ``"whole"``: a whole number above zero; ``"per core"``: that, or one for each core of a chip; ``"choices"``:
        allowed widths, ascending; ``"steps"``: a row of a table, ascending; ``"sides"``: sides of a mesh, columns first;
        ``"figure"``: an energy or a time, at least zero; ``"formulas"``: names of encodings.
    meaning : str
    required : bool
    """

    unit: str
    kind: Kind
    meaning: str
    required: bool = False


_EVENTS = {
    "synop_dense": "one synaptic operation of a dense list",
    "synop_sparse": "one synaptic operation of a sparse list",
    "synop_convolution": "one synaptic operation of a shared convolution list",
    "synop_crossbar": "one synaptic operation of a crossbar",
    "neuron_access": "reading a neuron's state in a step",
    "neuron_update": "updating a neuron that received input",
    "neuron_spike": "a neuron's spike",
    "message_in": "a spike message received by a core",
    "message_out": "a spike message sent by a core",
    "hop_east_west": "a message's hop to the next tile, east or west",
    "hop_north_south": "a message's hop to the next tile, north or south",
    "hop_between_chips": "a message's hop to the next chip",
}

KEYS: Mapping[str, Key] = MappingProxyType({
    "chips": Key(unit="chips", kind="whole", meaning="chips on the board", required=True),
    "chip_mesh": Key(unit="chips", kind="sides", meaning="how the chips stand: columns, rows, layers"),
    "cores_per_chip": Key(unit="cores", kind="whole", meaning="neurocores of a chip", required=True),
    "cores_per_tile": Key(unit="cores", kind="whole", meaning="cores that share a router; 1 if not given"),
    "tile_mesh": Key(unit="tiles", kind="sides", meaning="how a chip's tiles stand: columns, rows; all a hop apart if not given"),
    "external_inputs": Key(unit="axons", kind="whole", meaning="channels by which spikes enter the board"),
    "neurons_per_core": Key(unit="neurons", kind="per core", meaning="neurons of a core", required=True),
    "slices_per_core": Key(unit="slices", kind="whole", meaning="slices of layers that may share a core"),
    "cores_per_layer": Key(unit="cores", kind="whole", meaning="cores that a layer may be spread over"),
    "targets_per_layer": Key(unit="layers", kind="whole", meaning="layers that a layer may send its spikes to"),
    "input_axons_per_core": Key(unit="axons", kind="per core", meaning="sources whose spikes a core receives"),
    "output_axons_per_core": Key(unit="axons", kind="per core", meaning="(neuron, target slice) pairs of a core"),
    "fan_in_per_neuron": Key(unit="synapses", kind="whole", meaning="synapses onto one neuron"),
    "fan_out_per_neuron": Key(unit="synapses", kind="whole", meaning="synapses from one neuron"),
    "synapse_formats_per_core": Key(unit="formats", kind="whole", meaning="kinds of list on a core: width, encoding, sign"),
    "neuron_profiles_per_core": Key(unit="profiles", kind="whole", meaning="different pairs of decays on a core"),
    "threshold_profiles_per_core": Key(unit="profiles", kind="whole", meaning="different thresholds on a core"),
    "biases_per_core": Key(unit="neurons", kind="per core", meaning="biases that a core stores, one a channel or neuron"),
    "memory_bits_per_core": Key(unit="bits", kind="per core", meaning="one memory that synapses, neuron state and axons share"),
    "synapse_memory_bits_per_core": Key(unit="bits", kind="per core", meaning="memory for synapses alone"),
    "neuron_memory_bits_per_core": Key(unit="bits", kind="per core", meaning="memory for neuron state alone"),
    "neuron_state_bits": Key(unit="bits", kind="whole", meaning="memory that a neuron's state takes"),
    "input_axon_bits": Key(unit="bits", kind="whole", meaning="what an input axon takes of the shared memory"),
    "output_axon_bits": Key(unit="bits", kind="whole", meaning="what an output axon takes of the shared memory"),
    "encodings": Key(unit="formulas", kind="formulas", meaning="how synapses may be stored, by name", required=True),
    "memory_unit_bits": Key(unit="bits", kind="whole", meaning="what synapse memory is given out in; 1 if not given"),
    "synapses_per_block": Key(unit="synapses", kind="whole", meaning="a list is stored in blocks of at most so many"),
    "block_header_bits": Key(unit="bits", kind="whole", meaning="overhead of a block; 0 if not given"),
    "axon_base_neurons": Key(unit="neurons", kind="whole", meaning="reach of the offset that a shared list is moved by"),
    "weight_bits": Key(unit="bits", kind="choices", meaning="allowed widths of a weight, sign included", required=True),
    "index_bits": Key(unit="bits", kind="choices", meaning="allowed widths of a target index in a sparse list"),
    "max_delay_steps": Key(unit="steps", kind="whole", meaning="longest synaptic delay"),
    "state_bits": Key(unit="bits", kind="whole", meaning="width of a neuron's current and membrane"),
    "decay_bits": Key(unit="bits", kind="whole", meaning="width of a decay"),
    "threshold_bits": Key(unit="bits", kind="whole", meaning="width of a threshold"),
    "payload_bits": Key(unit="bits", kind="whole", meaning="widest payload of a graded spike"),
    **{f"{event}_energy": Key(unit="pJ", kind="figure", meaning=f"energy of {what}") for event, what in _EVENTS.items()},
    **{f"{event}_time": Key(unit="ns", kind="figure", meaning=f"time of {what}") for event, what in _EVENTS.items()},
    "sync_tiles": Key(unit="tiles", kind="steps", meaning="from so many used tiles on, synchronising a step takes ..."),
    "sync_time": Key(unit="ns", kind="steps", meaning="... so long: one time for each number of `sync_tiles`"),
})  # fmt: skip
"""All that a profile may say, in the order in which it is shown."""

Value = int | float | tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One number of a chip, or a list of them.

    Attributes
    ----------
    key : str
        One of `KEYS`, e.g. ``"neurons_per_core"``.
    value : int, float or tuple
        In `unit`; what it may be is in `KEYS`.
    unit : str
        E.g. ``"bits"``.
    source : str
        The document or code that states the number, or the assumption made in place of one.
    assumed : bool
        Whether `source` is an assumption.
    profile : str
        Name of the profile that the number stands in.
    """

    key: str
    value: Value
    unit: str
    source: str
    assumed: bool
    profile: str

    @property
    def number(self) -> int:
        """The value of a limit that is a single whole number; the largest where it differs from core to core."""
        if KEYS[self.key].kind in ("whole", "per core"):
            return max(self.choices)
        raise ProfileError(self.where, "is not one whole number")

    @property
    def choices(self) -> tuple[int, ...]:
        """The values of a limit that is a list of whole numbers, or the one that there is."""
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        return tuple(value for value in values if isinstance(value, int))

    @property
    def names(self) -> tuple[str, ...]:
        """The values of a list of names."""
        values = self.value if isinstance(self.value, tuple) else ()
        return tuple(value for value in values if isinstance(value, str))

    @property
    def figure(self) -> float:
        """The value of an energy or a time, in its unit."""
        if isinstance(self.value, tuple):
            raise ProfileError(self.where, "is a list, not one figure")
        return float(self.value)

    def on(self, core: int) -> int:
        """The value on a core of a chip, counted through all chips."""
        return self.choices[core % len(self.choices)]

    @property
    def where(self) -> str:
        """Where to look the number up, e.g. ``loihi1.yaml: neurons_per_core``."""
        return f"{self.profile}.yaml: {self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareProfile:
    """What a chip, or a board of chips, offers to a network.

    Attributes
    ----------
    name, description : str
        What it is called, and one sentence about it.
    limits : mapping of key to Limit
        Every number, by its key in `KEYS`, in that order.
    target : str or None
        Name of the target (`neurodeploy.targets`) whose arithmetic and files the chip takes; None for a profile that is for
        counting only.
    """

    name: str
    description: str
    limits: Mapping[str, Limit]
    target: str | None = None
    _capacities: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key, what in KEYS.items():
            if what.required and key not in self.limits:
                raise ProfileError(f"{self.name}.yaml: {key}", "missing", remedy=f"It is {what.meaning}, in {what.unit}.")
        ordered = {key: self.limits[key] for key in KEYS if key in self.limits}
        object.__setattr__(self, "limits", MappingProxyType(ordered))
        of_cores = {key.removesuffix("_per_core"): limit.number for key, limit in ordered.items() if key.endswith("_per_core")}
        object.__setattr__(self, "_capacities", MappingProxyType(of_cores))
        self._check_counts()

    def _check_counts(self) -> None:
        """Lists have a number for each core of a chip; meshes have room for what they hold."""
        chips, cores = self["chips"], self["cores_per_chip"]
        for limit in self:
            if KEYS[limit.key].kind == "per core" and len(limit.choices) not in (1, cores.number):
                raise ProfileError(
                    limit.where, f"has {len(limit.choices)} numbers for {cores.number} cores of a chip", source=cores.where
                )
        for mesh, held, a_place in (("chip_mesh", chips, 1), ("tile_mesh", cores, self.number("cores_per_tile", 1))):
            room = math.prod(self.limits[mesh].choices) * a_place if mesh in self else held.number
            if room < held.number:
                raise ProfileError(self[mesh].where, f"has room for {room} of {held.number} {held.unit}", source=held.where)

    def __contains__(self, key: str) -> bool:
        return key in self.limits

    def __getitem__(self, key: str) -> Limit:
        """The limit under a key that the chip must have for what is asked.

        Raises
        ------
        ProfileError
            The profile does not say.
        """
        if key not in self.limits:
            what = KEYS[key]
            raise ProfileError(f"{self.name}.yaml: {key}", "is not given", remedy=f"Add {what.meaning}, in {what.unit}.")
        return self.limits[key]

    def __iter__(self) -> Iterator[Limit]:
        return iter(self.limits.values())

    def _repr_html_(self) -> str:
        """A row a number with its source, for a notebook."""
        rows = ((limit.key, _shown(limit), limit.unit, "assumed" if limit.assumed else "", limit.source) for limit in self)
        return html_table(f"{self.name}: {self.description}", ["number", "value", "unit", "", "source"], rows)

    def number(self, key: str, otherwise: int) -> int:
        """A whole number, or what holds where the profile does not say."""
        return self.limits[key].number if key in self.limits else otherwise

    def capacity(self, resource: str, core: int | None = None) -> int:
        """What a core has of a resource: the core named, or the largest; `UNLIMITED` where nothing limits it."""
        if core is None or resource not in self._capacities:
            return self._capacities.get(resource, UNLIMITED)
        return self[f"{resource}_per_core"].on(core)

    @property
    def cores(self) -> int:
        """Cores of all chips together."""
        return self["chips"].number * self["cores_per_chip"].number

    @property
    def cores_differ(self) -> bool:
        """Whether some cores of a chip have more of something than others."""
        return any(len(limit.choices) > 1 for limit in self if KEYS[limit.key].kind == "per core")

    def core_count(self, cores: int | None = None, chips: int | None = None) -> int:
        """How many cores a network gets that asked for `cores`, or for all those of `chips`; all there are for None.

        Raises
        ------
        RequestError
            Either is not within 1..what the profile has.
        """
        per_chip = self["cores_per_chip"]
        asked = (("chips", chips, self["chips"].number, self["chips"].where), ("cores", cores, self.cores, per_chip.where))
        for what, given, most, where in asked:
            if given is not None and not 1 <= given <= most:
                raise RequestError(
                    what, f"{given} is outside 1..{most}", source=where, remedy=f"Give fewer {what}, or a profile with more."
                )
        return min(self.cores if cores is None else cores, self.cores if chips is None else chips * per_chip.number)


def _shown(limit: Limit) -> str:
    """A value as text; where each core has its own, the smallest and the largest."""
    if not isinstance(limit.value, tuple):
        return f"{limit.value:,}"
    if KEYS[limit.key].kind == "per core":
        return f"{min(limit.choices):,} to {max(limit.choices):,}"
    return ", ".join(map(str, limit.value))
