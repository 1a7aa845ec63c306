"""Hardware profiles: the limits of a chip or board, each with its unit and source.

`KEYS` lists every number that a profile may state. A number is a `Limit`: it always carries its unit and either the source that
states it or the assumption made in place of one. `neurodeploy.hardware.loading` reads profiles from YAML files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from neurodeploy.errors import ProfileError, RequestError, check_arguments

UNLIMITED = 1 << 62
"""Capacity of a resource that the chip does not limit; it fits into a 64-bit integer."""

MAX_CHIPS, MAX_CORES_PER_CHIP, MAX_CORES = 1 << 14, 1 << 16, 1 << 20
"""Most chips of a board, cores of a chip, and cores or tiles of all chips: an arrangement looks at every one of them.

Of the shipped profiles, the largest board has 1,152 chips and 140,544 cores, and the largest chip 4,096 cores.
"""

Kind = Literal["whole", "per core", "choices", "steps", "sides", "figure", "factors", "encodings", "routings"]
"""Types of values; see `Key`."""

Encoding = Literal["dense", "sparse", "convolution", "crossbar", "dynapcnn"]
"""Names of the formulas for synapse memory, which `neurodeploy.resources.usage` describes."""

ROUTINGS: Mapping[str, str] = MappingProxyType({
    "unicast": "this chip sends a copy to each core",
    "chip_broadcast": "and one for all cores of another chip",
    "multicast": "this chip's routers copy where routes part",
})  # fmt: skip
"""How a spike reaches several cores, as a clause for reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Description of one key of a profile.

    Attributes
    ----------
    unit : str
        Unit that an entry under the key must have, e.g. ``"bits"``.
    kind : str
        ``"whole"``: a whole number above zero; ``"per core"``: that, or a list with one for each core of a chip;
        ``"choices"``: allowed widths in bits, ascending; ``"steps"``: a row of a table, ascending; ``"sides"``: sides of a
        mesh, columns first; ``"figure"``: an energy or a time, at least zero; ``"factors"``: a least and a greatest factor
        around 1; ``"encodings"``: names of encodings; ``"routings"``: names in `ROUTINGS`.
    meaning : str
        Noun phrase, for error texts and the schema.
    required : bool
        Whether every profile must state it.
    """

    unit: str
    kind: Kind
    meaning: str
    required: bool = False


# The events that SANA-FE's model of Loihi prices (its loihi.yaml), and a hop between chips. Each has an energy and a time.
_EVENT_MEANINGS = {
    "synop_dense": "one synaptic operation of a dense list",
    "synop_sparse": "one synaptic operation of a sparse list",
    "synop_convolution": "one synaptic operation of a shared convolution list",
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
    "chip_mesh": Key(unit="chips", kind="sides", meaning="arrangement of the chips: columns, rows, layers"),
    "cores_per_chip": Key(unit="cores", kind="whole", meaning="neurocores of a chip", required=True),
    "cores_per_tile": Key(unit="cores", kind="whole", meaning="cores that share a router; default 1"),
    "tile_mesh": Key(unit="tiles", kind="sides", meaning="arrangement of a chip's tiles: columns, rows; default all a hop apart"),
    "routings": Key(unit="methods", kind="routings", meaning="how a spike reaches several cores"),
    "external_inputs": Key(unit="axons", kind="whole", meaning="channels by which spikes enter the board: inputs of a network"),
    "neurons_per_core": Key(unit="neurons", kind="per core", meaning="neurons of a core", required=True),
    "slices_per_core": Key(unit="slices", kind="whole", meaning="slices of layers on one core"),
    "cores_per_layer": Key(unit="cores", kind="whole", meaning="cores that one layer may use"),
    "targets_per_layer": Key(unit="layers", kind="whole", meaning="layers that one layer may send its spikes to"),
    "input_axons_per_core": Key(unit="axons", kind="per core", meaning="sources whose spikes a core receives"),
    "output_axons_per_core": Key(unit="axons", kind="per core", meaning="(neuron, target slice) pairs of a core"),
    "fan_in_per_neuron": Key(unit="synapses", kind="whole", meaning="synapses onto one neuron"),
    "fan_out_per_neuron": Key(unit="synapses", kind="whole", meaning="synapses from one neuron"),
    "synapse_formats_per_core": Key(unit="formats", kind="whole", meaning="kinds of list on a core: width, encoding, sign"),
    "neuron_profiles_per_core": Key(unit="profiles", kind="whole", meaning="different pairs of decays on a core"),
    "threshold_profiles_per_core": Key(unit="profiles", kind="whole", meaning="different thresholds on a core"),
    "biases_per_core": Key(unit="neurons", kind="per core", meaning="biases that a core stores, one a channel or neuron"),
    "memory_bits_per_core": Key(unit="bits", kind="per core", meaning="one memory for synapses, neuron state and axons together"),
    "synapse_memory_bits_per_core": Key(unit="bits", kind="per core", meaning="memory for synapses alone"),
    "neuron_memory_bits_per_core": Key(unit="bits", kind="per core", meaning="memory for neuron state alone"),
    "neuron_state_bits": Key(unit="bits", kind="whole", meaning="memory that a neuron's state takes"),
    "input_axon_bits": Key(unit="bits", kind="whole", meaning="what an input axon takes of the shared memory"),
    "output_axon_bits": Key(unit="bits", kind="whole", meaning="what an output axon takes of the shared memory"),
    "encodings": Key(unit="formulas", kind="encodings", meaning="names of the encodings of synapses", required=True),
    "memory_unit_bits": Key(unit="bits", kind="whole", meaning="unit in which synapse memory is allocated; default 1"),
    "synapses_per_block": Key(unit="synapses", kind="whole", meaning="synapses in one block of a list; default all"),
    "block_header_bits": Key(unit="bits", kind="whole", meaning="overhead of a block; default 0"),
    "axon_base_neurons": Key(unit="neurons", kind="whole", meaning="largest offset by which a shared list is moved"),
    "weight_bits": Key(unit="bits", kind="choices", meaning="allowed widths of a weight, sign included", required=True),
    "index_bits": Key(unit="bits", kind="choices", meaning="allowed widths of a target index in a sparse list"),
    "max_delay_steps": Key(unit="steps", kind="whole", meaning="longest synaptic delay"),
    "state_bits": Key(unit="bits", kind="whole", meaning="width of a neuron's current and membrane, sign included"),
    "decay_bits": Key(unit="bits", kind="whole", meaning="width of a decay"),
    "threshold_bits": Key(unit="bits", kind="whole", meaning="width of a threshold"),
    "payload_bits": Key(unit="bits", kind="whole", meaning="widest payload of a graded spike"),
    **{f"{event}_energy": Key(unit="pJ", kind="figure", meaning=f"energy of {what}") for event, what in _EVENT_MEANINGS.items()},
    **{f"{event}_time": Key(unit="ns", kind="figure", meaning=f"time of {what}") for event, what in _EVENT_MEANINGS.items()},
    # The two columns of one table: times by number of tiles.
    "sync_tiles": Key(unit="tiles", kind="steps", meaning="numbers of used tiles from which synchronising a step takes ..."),
    "sync_time": Key(unit="ns", kind="steps", meaning="... these times, one for each number of `sync_tiles`"),
    "energy_range": Key(unit="factors", kind="factors", meaning="least and greatest energy of a step, in parts of its estimate"),
    "time_range": Key(unit="factors", kind="factors", meaning="least and greatest time of a step, in parts of its estimate"),
})  # fmt: skip
"""Every key of a profile, in the order in which profiles are shown."""

NO_LIMITS: Mapping[str, str] = MappingProxyType({
    **dict.fromkeys(("chip_mesh", "cores_per_tile", "tile_mesh", "routings"), "where chips and cores are; no limit of a network"),
    **dict.fromkeys(
        ("neuron_state_bits", "input_axon_bits", "output_axon_bits", "encodings", "memory_unit_bits", "synapses_per_block",
         "block_header_bits", "axon_base_neurons"), "part of what is counted; no limit of its own",
    ),
    **{key: "for estimates of a step; no limit" for key in KEYS if key.endswith(("_energy", "_time", "_range", "_tiles"))},
})  # fmt: skip
"""Keys that no network can break, and what they are for. A network that breaks another one is refused."""

REGISTER_KEYS = ("state_bits", "decay_bits", "threshold_bits")
"""Keys of registers: what they cannot hold is refused where the profile names a target; without one they are for the reader."""

Value = int | float | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One number of a chip or board, or a list of them, with its unit and source.

    Attributes
    ----------
    key : str
        One of `KEYS`, e.g. ``"neurons_per_core"``.
    value : int, float or tuple
        In `unit`; its type follows from the key's `Key.kind`.
    unit : str
        E.g. ``"bits"``.
    source : str
        The document or code that states the number, or the assumption made in place of one.
    assumed : bool
        Whether `source` is an assumption.
    profile : str
        Name of the profile file that states the number; with `extends`, not always the profile's own.
    """

    key: str
    value: Value
    unit: str
    source: str
    assumed: bool
    profile: str
    _choices: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        # kept: counting asks for them many thousand times
        object.__setattr__(self, "_choices", tuple(value for value in values if isinstance(value, int)))

    @property
    def number(self) -> int:
        """The value as one whole number; the largest where it differs from core to core."""
        if KEYS[self.key].kind in ("whole", "per core"):
            return max(self.choices)
        raise ProfileError(self.where, "is not one whole number")

    @property
    def choices(self) -> tuple[int, ...]:
        """The values as whole numbers; one for a limit that is not a list."""
        return self._choices

    @property
    def names(self) -> tuple[str, ...]:
        """The values of a list of names; empty for numbers."""
        values = self.value if isinstance(self.value, tuple) else ()
        return tuple(value for value in values if isinstance(value, str))

    @property
    def figure(self) -> float:
        """The value of an energy (pJ) or a time (ns)."""
        if isinstance(self.value, tuple):
            raise ProfileError(self.where, "is a list, not one figure")
        return float(self.value)

    @property
    def factors(self) -> tuple[float, float]:
        """The least and the greatest factor of a range."""
        least, greatest = self.value if isinstance(self.value, tuple) else (self.value, self.value)
        return float(least), float(greatest)

    @property
    def text(self) -> str:
        """The value as text, without its unit; the smallest and the largest where it differs from core to core."""
        if not isinstance(self.value, tuple):
            return f"{self.value:,}"
        if KEYS[self.key].kind == "per core":
            return f"{min(self.choices):,} to {max(self.choices):,}"
        if KEYS[self.key].kind == "factors":
            return f"{self.factors[0]:g} to {self.factors[1]:g}"
        return ", ".join(map(str, self.value))

    def on(self, core: int) -> int:
        """The value on a core, numbered from 0 through all chips."""
        # A list describes one chip, and all chips are equal; one number holds for every core.
        return self.choices[core % len(self.choices)]

    @property
    def where(self) -> str:
        """File and key, for error texts, e.g. ``loihi1.yaml: neurons_per_core``."""
        return f"{self.profile}.yaml: {self.key}"


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareProfile:
    """The limits of a chip, or of a board of chips.

    ``profile["neurons_per_core"]`` is a `Limit`, ``"max_delay_steps" in profile`` asks whether the profile states one, and
    iterating gives all of them.

    Attributes
    ----------
    name : str
        As in ``--target``, e.g. ``"loihi2"``.
    description : str
        One sentence.
    limits : mapping of key to Limit
        Every number that the profile states, in the order of `KEYS`.
    target : str or None
        Name of the target (`neurodeploy.targets`) with the chip's arithmetic and file format; None for a profile that is for
        counting only.

    Raises
    ------
    ProfileError
        A required key is missing; a list has not one number for each core of a chip; a mesh is too small.
    """

    name: str
    description: str
    limits: Mapping[str, Limit]
    target: str | None = None
    # Derived from `limits`, so it takes no part in comparing profiles.
    _capacities: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key, what in KEYS.items():
            if what.required and key not in self.limits:
                raise ProfileError(f"{self.name}.yaml: {key}", "missing", remedy=f"It is {what.meaning}, in {what.unit}.")
        # In the order of KEYS, so that reports do not depend on the order in a file.
        ordered = {key: self.limits[key] for key in KEYS if key in self.limits}
        object.__setattr__(self, "limits", MappingProxyType(ordered))
        # Made once: the mapping asks for capacities again and again.
        of_cores = {key.removesuffix("_per_core"): limit.number for key, limit in ordered.items() if key.endswith("_per_core")}
        object.__setattr__(self, "_capacities", MappingProxyType(of_cores))
        self._check_counts()
        self._check_sizes()

    def _check_counts(self) -> None:
        """Refuse lists that have not one number for each core of a chip, and meshes too small for their chips or tiles."""
        chips, cores = self["chips"], self["cores_per_chip"]
        for limit in self:
            if KEYS[limit.key].kind == "per core" and len(limit.choices) not in (1, cores.number):
                raise ProfileError(
                    limit.where, f"has {len(limit.choices)} numbers for {cores.number} cores of a chip", source=cores.where
                )
        # A mesh may have more sites than chips or tiles; without one, every part is taken to have a place.
        for mesh, parts, parts_per_site in (("chip_mesh", chips, 1), ("tile_mesh", cores, self.number("cores_per_tile", 1))):
            capacity = math.prod(self.limits[mesh].choices) * parts_per_site if mesh in self else parts.number
            if capacity < parts.number:
                raise ProfileError(
                    self[mesh].where, f"has places for {capacity} of {parts.number} {parts.unit}", source=parts.where
                )

    def _check_sizes(self) -> None:
        """Refuse boards of more chips, cores or tiles than are arranged."""
        chip_mesh, tile_mesh = (self.limits[mesh] if mesh in self else None for mesh in ("chip_mesh", "tile_mesh"))
        chips, cores = self["chips"], self["cores_per_chip"]
        places = math.prod(chip_mesh.choices) if chip_mesh else chips.number
        tiles = math.prod(tile_mesh.choices) if tile_mesh else 1
        for limit, what, need, most in (
            (chips, "chips", chips.number, MAX_CHIPS),
            (chip_mesh or chips, "places for chips", places, MAX_CHIPS),
            (cores, "cores of a chip", cores.number, MAX_CORES_PER_CHIP),
            (tile_mesh or cores, "tiles of a chip", tiles, MAX_CORES_PER_CHIP),
            (cores, "cores of all chips", self.cores, MAX_CORES),
            (tile_mesh or cores, "tiles of all chips", places * tiles, MAX_CORES),
        ):
            if need > most:
                raise ProfileError(
                    limit.where, what, need=need, limit=most, source="the most that is arranged",
                    remedy="Describe a part of the board, with fewer chips, or with fewer cores and tiles on each.",
                )  # fmt: skip

    def __contains__(self, key: str) -> bool:
        return key in self.limits

    def __getitem__(self, key: str) -> Limit:
        """The limit under a key.

        Raises
        ------
        ProfileError
            The profile does not state it.
        """
        if key not in self.limits:
            what = KEYS[key]
            raise ProfileError(f"{self.name}.yaml: {key}", "is missing", remedy=f"Add {what.meaning}, in {what.unit}.")
        return self.limits[key]

    def __iter__(self) -> Iterator[Limit]:
        return iter(self.limits.values())

    def _repr_html_(self) -> str:
        """An HTML table for notebooks, one row a number with its source."""
        rows = ((limit.key, limit.text, limit.unit, "assumed" if limit.assumed else "", limit.source) for limit in self)
        # imported here: it brings NumPy, which reading a profile does not need
        from neurodeploy.ir.arrays import html_table

        return html_table(f"{self.name}: {self.description}", ["number", "value", "unit", "", "source"], rows)

    def number(self, key: str, default: int) -> int:
        """The whole number under a key, or `default` where the profile does not state one."""
        return self.limits[key].number if key in self.limits else default

    @property
    def synapse_memory_key(self) -> str:
        """Key of the memory of a core that synapses are in: one of their own, or one that they share with neurons and axons."""
        own = "synapse_memory_bits_per_core"
        return own if own in self else "memory_bits_per_core"

    def capacity(self, resource: str, core: int | None = None) -> int:
        """Amount of a resource, e.g. ``"neurons"``, on one core; on the largest core for None; `UNLIMITED` without a limit."""
        if core is None or resource not in self._capacities:
            return self._capacities.get(resource, UNLIMITED)
        return self[f"{resource}_per_core"].on(core)

    @property
    def cores(self) -> int:
        """Number of cores of all chips together."""
        return self["chips"].number * self["cores_per_chip"].number

    @property
    def cores_differ(self) -> bool:
        """Whether the cores of a chip differ in a capacity."""
        return any(len(limit.choices) > 1 for limit in self if KEYS[limit.key].kind == "per core")

    def core_count(self, cores: int | None = None, chips: int | None = None) -> int:
        """Number of cores that a request for `cores`, for all cores of `chips`, or for both at most, may use; None asks for all.

        Raises
        ------
        RequestError
            One of them is outside 1..the number that the profile has.
        """
        per_chip = self["cores_per_chip"]
        asked = (("chips", chips, self["chips"].number, self["chips"].where), ("cores", cores, self.cores, per_chip.where))
        for what, number, most, where in asked:
            if number is not None and (not isinstance(number, int) or not 1 <= number <= most):
                remedy = f"Give 1 to {most} {what}, or a profile with more."
                raise RequestError(what, f"{number} is outside 1..{most}", source=where, remedy=remedy)
        # Both may be asked for at once; then the smaller number counts.
        return min(self.cores if cores is None else cores, self.cores if chips is None else chips * per_chip.number)
