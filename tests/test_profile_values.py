"""What a profile may say: every bad key, number and origin gets one clear line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from chipfiles import TINY, board, tiny_with

from neurodeploy.errors import ProfileError
from neurodeploy.hardware.profile import KEYS, UNLIMITED, HardwareProfile


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("neurons_per_cor", r"Did you mean 'neurons_per_core'\?$"),
        ("x", "Known keys are name, description, extends, target, chips, "),
    ],
)
def test_an_unknown_key_says_which_are_known(key: str, remedy: str, load_chip: Callable[[str], Any]) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: {key}: unknown key\. {remedy}"):
        load_chip(yaml.safe_dump({**TINY, key: {"value": 1}}))


@pytest.mark.parametrize("entry", ["a\nb", {"value": "a\nb"}, {"unit": "a\nb"}, {"x\ny": 1}, {"x" * 999: 1}, {"unit": "x" * 999}])
@pytest.mark.parametrize("key", ["chips", "no\nkey", "k" * 999])
def test_whatever_stands_there_it_is_told_in_one_short_line(load_chip: Callable[[str], Any], key: str, entry: Any) -> None:
    chip = {**TINY, key: {**TINY["chips"], **entry} if isinstance(entry, dict) else entry}
    with pytest.raises(ProfileError, match=r"^chip\.yaml: [^\n]*$") as caught:
        load_chip(yaml.safe_dump(chip))
    assert len(str(caught.value).partition("Known keys are")[0]) < 200


@pytest.mark.parametrize("key", ["name", "description"])
def test_a_chip_has_a_name_and_a_description(load_chip: Callable[[str], Any], key: str) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: {key}: missing\.$"):
        load_chip(yaml.safe_dump({other: value for other, value in TINY.items() if other != key}))


REQUIRED = ["chips", "cores_per_chip", "neurons_per_core", "encodings", "weight_bits"]


@pytest.mark.parametrize("key", REQUIRED)
def test_some_numbers_every_chip_has(load_chip: Callable[[str], Any], key: str) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: {key}: missing\. It is [a-z, ]+, in [a-z]+\.$"):
        load_chip(yaml.safe_dump({other: value for other, value in TINY.items() if other != key}))


def test_the_others_may_be_left_out(load_chip: Callable[[str], HardwareProfile]) -> None:
    least = load_chip(yaml.safe_dump({key: TINY[key] for key in ("name", "description", *REQUIRED)}))
    assert [limit.key for limit in least] == REQUIRED
    assert least.capacity("input_axons") == UNLIMITED


@pytest.mark.parametrize(("key", "value"), [("name", 3), ("description", None), ("name", ["a"]), ("extends", ["tiny"])])
def test_name_and_description_are_text(load_chip: Callable[[str], Any], key: str, value: Any) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: {key}: is .*, not text\.$"):
        load_chip(yaml.safe_dump({**TINY, key: value}))


@pytest.mark.parametrize(
    ("entry", "says"), [(64, r"is int \(64\)"), ([64], r"is a list \(\[64\]\)"), ("64", "is text"), (None, "is empty")]
)
def test_a_bare_number_is_not_enough(load_chip: Callable[[str], Any], entry: Any, says: str) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: chips: {says}.*, not {{value, unit, source}}\.$"):
        load_chip(yaml.safe_dump({**TINY, "chips": entry}))


BAD_NUMBERS = {
    "zero": ("0", "is 0"),
    "negative": ("-1", "is -1"),
    "NaN": (".nan", r"is not a number \(NaN\)"),
    "infinite": (".inf", r"is a fraction \(inf\)"),
    "fraction": ("64.0", r"is a fraction \(64\.0\)"),
    "bool": ("true", r"is true or false \(True\)"),
    "text": ("many", r"is text \(many\)"),
    "empty": ("", r"is empty \(None\)"),
    "mapping": ("{a: 1}", r"is a mapping \({'a': 1}\)"),
    "date": ("2001-01-01", "is date"),
}


@pytest.mark.parametrize(("value", "says"), BAD_NUMBERS.values(), ids=BAD_NUMBERS.keys())
def test_a_limit_is_a_whole_number_above_zero(load_chip: Callable[[str], Any], value: str, says: str) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: neurons_per_core: {says}.* Give a whole number above zero\.$"):
        load_chip(tiny_with("neurons_per_core", value="HERE").replace("HERE", value))


def test_a_limit_is_no_number_that_overflows_what_is_calculated_from_it(load_chip: Callable[[str], Any]) -> None:
    with pytest.raises(
        ProfileError, match=r"^chip\.yaml: neurons_per_core: is above 1,099,511,627,776, more than any chip has\.$"
    ):
        load_chip(tiny_with("neurons_per_core", value=10**30))
    with pytest.raises(ProfileError, match=r"^chip\.yaml: chips: is above 16,384, more than any board has\.$"):
        load_chip(tiny_with("chips", value=30_000_000))


@pytest.mark.parametrize(
    "tagged", ["!!int ''", "!!int '_'", "!!float ''", "!!float '_'", "!!bool 'x'", "!!timestamp 'x'", "!!timestamp '2020-13-45'"]
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_value_that_its_tag_does_not_fit_is_refused(load_chip: Callable[[str], Any], tagged: str, whole: bool) -> None:
    with pytest.raises(
        ProfileError, match=r"^[^\n]*chip\.yaml: is not plain YAML: (a value does not fit its tag|month must be [^\n]*)\.$"
    ):
        load_chip(tagged if whole else tiny_with("chips", value="HERE").replace("HERE", tagged))


@pytest.mark.parametrize("merged", ["{value: 7}", "[{value: 7}, {unit: cores}]"])
def test_mappings_are_not_merged(load_chip: Callable[[str], Any], merged: str) -> None:
    """The merged keys may repeat others, of which YAML keeps the last."""
    with pytest.raises(ProfileError, match=r"chip\.yaml: is not plain YAML: merged mappings \(<<\) are not allowed"):
        load_chip(tiny_with("chips", value="HERE").replace("value: HERE", f"value: 1\n  <<: {merged}"))


@pytest.mark.parametrize("number", ["9" * 5000, "-0x" + "f" * 5000, "0b" + "1" * 65])
def test_a_number_without_end_is_refused(load_chip: Callable[[str], Any], number: str) -> None:
    with pytest.raises(ProfileError, match=r"chip\.yaml: is not plain YAML: a number of more than 64 digits in "):
        load_chip(tiny_with("chips", value="HERE").replace("HERE", number))


BAD_WIDTHS = {
    "one number": (8, r"is int \(8\), not a list of widths"),
    "none": ([], r"is a list \(\[\]\), not a list of widths"),
    "unsorted": ([8, 1], r"widths \[8, 1\] are not ascending and distinct"),
    "twice": ([1, 1, 8], r"widths \[1, 1, 8\] are not ascending and distinct"),
    "zero": ([0, 8], "is 0"),
    "fraction": ([1, 2.5], r"is a fraction \(2\.5\)"),
    "too wide": ([8, 33], "33 bits in a width > 32"),
}


@pytest.mark.parametrize("key", ["state_bits", "threshold_bits", "decay_bits", "payload_bits"])
def test_registers_are_no_wider_than_integers(load_chip: Callable[[str], Any], key: str) -> None:
    entry = {"unit": "bits", "source": "its maker"}
    load_chip(board(**{key: entry | {"value": 64}}))
    with pytest.raises(ProfileError, match=rf"{key}: is above 64, more than any chip has"):
        load_chip(board(**{key: entry | {"value": 65}}))


@pytest.mark.parametrize(("value", "says"), BAD_WIDTHS.values(), ids=BAD_WIDTHS.keys())
def test_widths_are_an_ascending_list(load_chip: Callable[[str], Any], value: Any, says: str) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: weight_bits: {says}"):
        load_chip(tiny_with("weight_bits", value=value))


@pytest.mark.parametrize("value", [[64, 0, 1, 1], [64, 1.5, 1, 1], [[64]], [None]])
def test_a_list_for_each_core_has_whole_numbers_above_zero(load_chip: Callable[[str], Any], value: Any) -> None:
    with pytest.raises(ProfileError, match=r"^chip\.yaml: neurons_per_core: is .* Give a whole number above zero\.$"):
        load_chip(tiny_with("neurons_per_core", value=value))


def test_an_empty_list_is_none(load_chip: Callable[[str], Any]) -> None:
    says = r"^chip\.yaml: neurons_per_core: is a list \(\[\]\), not a list of numbers, one for each core of a chip\.$"
    with pytest.raises(ProfileError, match=says):
        load_chip(tiny_with("neurons_per_core", value=[]))


BAD_VALUES = {
    "one side": ("tile_mesh", [4], r"has 1 sides\. Give columns and rows"),
    "four sides": ("chip_mesh", [1, 1, 1, 1], r"has 4 sides\. Give columns and rows, and layers"),
    "no sides": ("tile_mesh", 4, r"is int \(4\), not a list of sides"),
    "flat": ("tile_mesh", [4, 0], "is 0"),
    "no room": ("tile_mesh", [3, 1], r"has places for 3 of 4 cores \(chip\.yaml: cores_per_chip\)"),
    "negative energy": ("hop_east_west_energy", -1, r"is int \(-1\)\. Give a number from 0 to"),
    "energy in words": ("hop_east_west_energy", "little", r"is text \(little\)\. Give a number from 0 to"),
    "no energy": ("hop_east_west_energy", True, r"is true or false \(True\)\. Give a number"),
    "NaN": ("hop_east_west_energy", float("nan"), r"is a fraction \(nan\)\. Give a number"),
    "infinite": ("hop_east_west_time", float("inf"), r"is a fraction \(inf\)\. Give a number"),
    "one encoding": ("encodings", "dense", r"is text \(dense\), not a list of names"),
    "no encoding": ("encodings", [], r"is a list \(\[\]\), not a list of names"),
    "numbered encoding": ("encodings", [3], r"int \(3\) is not a name"),
    "odd encoding": ("encodings", ["a/b"], r"text \(a/b\) is not a name"),
    "misspelt encoding": (
        "encodings",
        ["dense", "dens"],
        r"unknown encoding 'dens'.* Known are dense, sparse, convolution, ",
    ),
    "unknown routing": ("routings", ["broadcast"], r"unknown routing 'broadcast'.* Known are unicast, chip_broadcast, multicast"),
    "encoding twice": ("encodings", ["dense", "dense"], "names dense, dense are not distinct"),
}


@pytest.mark.parametrize(("key", "value", "says"), BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_meshes_energies_and_encodings_are_checked(load_chip: Callable[[str], Any], key: str, value: Any, says: str) -> None:
    entry = {"value": value, "unit": KEYS[key].unit, "source": "a paper"}
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: {key}: {says}"):
        load_chip(yaml.safe_dump({**TINY, key: entry}))


BAD_PARTS = {
    "no value": ({"value": None}, "has no value"),
    "no unit": ({"unit": None}, "its unit is 'None', not 'chips'"),
    "wrong unit": ({"unit": "cores"}, "its unit is 'cores', not 'chips'"),
    "no source": ({"assumption": None}, "needs either a source or an assumption, as text"),
    "blank source": ({"assumption": "  "}, "needs either a source or an assumption, as text"),
    "number as source": ({"assumption": 2018}, "needs either a source or an assumption, as text"),
    "nothing as source": ({"source": []}, "needs either a source or an assumption, as text"),
    "source and assumption": ({"source": "a paper"}, "needs either a source or an assumption, as text"),
    "unknown part": ({"note": "hello"}, "unknown part 'note'. Known parts are value, unit, source, assumption."),
}


@pytest.mark.parametrize(("parts", "says"), BAD_PARTS.values(), ids=BAD_PARTS.keys())
def test_a_number_has_value_unit_and_one_origin(load_chip: Callable[[str], Any], parts: dict[str, Any], says: str) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: chips: {says}"):
        load_chip(tiny_with("chips", **parts))
