"""Profiles: every bad file gets one clear line; every number names its source; found wherever neurodeploy is installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import yaml

from neurodeploy.errors import ProfileError
from neurodeploy.hardware import HardwareProfile
from neurodeploy.profiles import MAX_PROFILE_BYTES, load_profile, profile_paths

TINY = yaml.safe_load(profile_paths()["tiny"].read_text(encoding="utf-8"))


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str | bytes], HardwareProfile]:
    """Write a text to ``chip.yaml`` and load that."""

    def write_and_load(text: str | bytes) -> HardwareProfile:
        path = tmp_path / "chip.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_profile(path)

    return write_and_load


def tiny_with(key: str, **parts: Any) -> str:
    """The tiny profile as YAML text, with parts of one number replaced, or dropped where they are None."""
    entry = {**TINY[key], **parts}
    return yaml.safe_dump({**TINY, key: {part: value for part, value in entry.items() if value is not None}})


# ---------------------------------------------------------------------------------------------- good profiles


@pytest.mark.parametrize("name", ["loihi1", "loihi2", "tiny"])
def test_every_number_that_comes_with_neurodeploy_says_where_it_is_from(name: str) -> None:
    profile = load_profile(name)
    limits = list(profile.limits.values())
    assert profile.name == name
    assert len(limits) == 12
    assert all(limit.source and limit.profile == name for limit in limits)
    assert [limit.key for limit in limits] == [key for key in TINY if key not in ("name", "description")]


def test_no_number_of_loihi1_is_assumed_but_some_of_loihi2_are(loihi1: HardwareProfile) -> None:
    assert not any(limit.assumed for limit in loihi1.limits.values())
    assert {limit.key for limit in load_profile("loihi2").limits.values() if limit.assumed} >= {
        "input_axons_per_core",
        "output_axons_per_core",
    }


def test_loihi1_has_the_numbers_of_its_sources(loihi1: HardwareProfile) -> None:
    numbers = {limit.key: limit.value for limit in loihi1.limits.values()}
    assert numbers == {
        "chips": 1, "cores_per_chip": 128, "neurons_per_core": 1024,
        "input_axons_per_core": 4096, "output_axons_per_core": 4096,
        "synapse_memory_bits_per_core": 16384 * 64, "memory_unit_bits": 64, "synapses_per_block": 64, "block_header_bits": 4 + 6,
        "weight_bits": (1, 2, 3, 4, 5, 6, 8), "index_bits": (6, 7, 8, 9, 10, 11, 12), "max_delay_steps": 62,
    }  # fmt: skip


def test_a_board_has_the_cores_of_all_its_chips(make_chip: Callable[..., HardwareProfile]) -> None:
    assert make_chip(chips=8, cores_per_chip=120).cores == 960


def test_a_limit_knows_its_place_and_what_it_is(tiny: HardwareProfile) -> None:
    assert tiny["neurons_per_core"].where == "tiny.yaml: neurons_per_core"
    assert tiny["neurons_per_core"].number == 64
    assert tiny["neurons_per_core"].choices == (64,)
    assert tiny["index_bits"].choices == (6, 7, 8)


def test_a_list_of_choices_is_not_one_number(tiny: HardwareProfile) -> None:
    with pytest.raises(ProfileError, match=r"^tiny\.yaml: index_bits: is a list of choices, not one number\.$"):
        _ = tiny["index_bits"].number


def test_a_profile_cannot_be_changed(tiny: HardwareProfile) -> None:
    with pytest.raises(FrozenInstanceError):
        tiny.name = "other"  # type: ignore[misc]


def test_a_profile_is_loaded_by_path_too(load: Callable[[str], HardwareProfile], tiny: HardwareProfile) -> None:
    mine = load(yaml.safe_dump({**TINY, "name": "mine"}))
    assert mine.name == "mine"
    assert mine["neurons_per_core"].where == "chip.yaml: neurons_per_core"
    assert [limit.value for limit in mine.limits.values()] == [limit.value for limit in tiny.limits.values()]


def test_the_chip_that_contributing_shows_is_one(load: Callable[[str], HardwareProfile]) -> None:
    guide = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert load(guide.partition("```yaml\n")[2].partition("```")[0]).cores == 16


# ---------------------------------------------------------------------------------------------- bad files


def test_an_unknown_name_says_which_are_known() -> None:
    with pytest.raises(ProfileError, match=r"^loihi9: no such hardware profile\. Give one of loihi1, loihi2, tiny, or a path"):
        load_profile("loihi9")


def test_a_folder_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no such hardware profile"):
        load_profile(tmp_path)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000], ids=["empty", "null byte", "endless"])
def test_a_name_that_no_file_can_have_is_unknown(name: str) -> None:
    with pytest.raises(ProfileError, match="no such hardware profile"):
        load_profile(name)


BAD_FILES = {
    "empty": ("", r"is empty \(None\), not a mapping"),
    "list": ("- 1\n- 2\n", r"is a list \(\[1, 2\]\), not a mapping"),
    "number": ("7", r"is int \(7\), not a mapping"),
    "text": ("just words", r"is text \(just words\), not a mapping"),
    "not UTF-8": (b"name: \xff\xfe", r"is not UTF-8 text \(invalid start byte at byte 6\)"),
    "binary": (b"\x00\x01\x02", "is not plain YAML: unacceptable character"),
    "unclosed": ("name: [1, 2", "is not plain YAML: while parsing a flow sequence"),
    "tab": ("name:\n\tx: 1", "is not plain YAML: while scanning"),
    "python object": ("!!python/object/apply:os.system ['true']", "is not plain YAML: could not determine a constructor"),
    "python name": ("name: !!python/name:os.system", "is not plain YAML: could not determine a constructor"),
    "two documents": ("a: 1\n---\nb: 2\n", "is not plain YAML: expected a single document"),
    "duplicate key": (yaml.safe_dump(TINY) + "chips: {value: 2}\n", "is not plain YAML: key 'chips' stands twice"),
    "duplicate part": ("chips: {value: 1, value: 2}", "is not plain YAML: key 'value' stands twice"),
    "list as key": ("[1, 2]: 3", "is not plain YAML: .*unhashable key"),
    "impossible date": ("name: 2001-99-99", "is not plain YAML: month must be in"),
    "deep": ("[" * 20_000, "is not plain YAML: maximum recursion depth"),
    "gigantic": ("#" * (MAX_PROFILE_BYTES + 1), r"65,537 bytes in a profile > 65,536\."),
}


@pytest.mark.parametrize(("text", "says"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_is_no_profile_gets_one_clear_line(load: Callable[[str | bytes], Any], text: str | bytes, says: str) -> None:
    with pytest.raises(ProfileError, match=says) as caught:
        load(text)
    assert "chip.yaml" in caught.value.where
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_bomb_of_aliases_is_refused_in_no_time(load: Callable[[str], Any]) -> None:
    lists = ["&a0 [x, x, x, x, x, x, x, x, x]", *(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))]
    with pytest.raises(ProfileError, match=r"is not plain YAML: aliases .* have no place here"):
        load(f"chips: [{', '.join(lists)}]\n")


def test_a_file_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"^/proc/self/mem: cannot be read: Input/output error\.$"):
        load_profile("/proc/self/mem")


def test_a_file_full_of_keys_is_refused_in_no_time(load: Callable[[str], Any]) -> None:
    with pytest.raises(ProfileError, match="unknown key"):
        load("".join(f"k{n}: 0\n" for n in range(6_000)))


# ---------------------------------------------------------------------------------------------- bad numbers


def test_an_unknown_key_says_which_are_known(load: Callable[[str], Any]) -> None:
    with pytest.raises(ProfileError, match=r"^chip\.yaml: neurons: unknown key\. Known are block_header_bits, chips, "):
        load(yaml.safe_dump({**TINY, "neurons": {"value": 1}}))


@pytest.mark.parametrize("key", sorted(TINY))
def test_every_key_is_needed(load: Callable[[str], Any], key: str) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: {key}: missing\.$"):
        load(yaml.safe_dump({other: value for other, value in TINY.items() if other != key}))


@pytest.mark.parametrize(("key", "value"), [("name", 3), ("description", None), ("name", ["a"])])
def test_name_and_description_are_text(load: Callable[[str], Any], key: str, value: Any) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: {key}: is .*, not text\.$"):
        load(yaml.safe_dump({**TINY, key: value}))


@pytest.mark.parametrize(
    ("entry", "says"), [(64, r"is int \(64\)"), ([64], r"is a list \(\[64\]\)"), ("64", "is text"), (None, "is empty")]
)
def test_a_bare_number_is_not_enough(load: Callable[[str], Any], entry: Any, says: str) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: chips: {says}.*, not {{value, unit, source}}\.$"):
        load(yaml.safe_dump({**TINY, "chips": entry}))


BAD_NUMBERS = {
    "zero": ("0", "is 0"),
    "negative": ("-1", "is -1"),
    "NaN": (".nan", r"is not a number \(NaN\)"),
    "infinite": (".inf", r"is a fraction \(inf\)"),
    "fraction": ("64.0", r"is a fraction \(64\.0\)"),
    "bool": ("true", r"is true or false \(True\)"),
    "text": ("many", r"is text \(many\)"),
    "empty": ("", r"is empty \(None\)"),
    "list": ("[64]", r"is a list \(\[64\]\)"),
    "mapping": ("{a: 1}", r"is a mapping \({'a': 1}\)"),
    "date": ("2001-01-01", "is date"),
}


@pytest.mark.parametrize(("value", "says"), BAD_NUMBERS.values(), ids=BAD_NUMBERS.keys())
def test_a_limit_is_a_whole_number_above_zero(load: Callable[[str], Any], value: str, says: str) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: neurons_per_core: {says}.* Give a whole number above zero\.$"):
        load(tiny_with("neurons_per_core", value="HERE").replace("HERE", value))


def test_a_limit_is_no_number_that_overflows_what_is_calculated_from_it(load: Callable[[str], Any]) -> None:
    with pytest.raises(ProfileError, match=r"^chip\.yaml: chips: is above 1,099,511,627,776, more than any chip has\.$"):
        load(tiny_with("chips", value=10**30))


BAD_WIDTHS = {
    "one number": (8, r"is int \(8\), not a list of widths"),
    "none": ([], r"is a list \(\[\]\), not a list of widths"),
    "unsorted": ([8, 1], r"widths \[8, 1\] are not ascending and distinct"),
    "twice": ([1, 1, 8], r"widths \[1, 1, 8\] are not ascending and distinct"),
    "zero": ([0, 8], "is 0"),
    "fraction": ([1, 2.5], r"is a fraction \(2\.5\)"),
    "too wide": ([8, 33], "33 bits in a width > 32"),
}


@pytest.mark.parametrize(("value", "says"), BAD_WIDTHS.values(), ids=BAD_WIDTHS.keys())
def test_widths_are_an_ascending_list(load: Callable[[str], Any], value: Any, says: str) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: weight_bits: {says}"):
        load(tiny_with("weight_bits", value=value))


BAD_PARTS = {
    "no value": ({"value": None}, "has no value"),
    "no unit": ({"unit": None}, "its unit is None, not 'chips'"),
    "wrong unit": ({"unit": "cores"}, "its unit is 'cores', not 'chips'"),
    "no source": ({"assumption": None}, "needs either a source or an assumption, as text"),
    "blank source": ({"assumption": "  "}, "needs either a source or an assumption, as text"),
    "number as source": ({"assumption": 2018}, "needs either a source or an assumption, as text"),
    "source and assumption": ({"source": "a paper"}, "needs either a source or an assumption, as text"),
    "unknown part": ({"note": "hello"}, "unknown part 'note'. Parts are value, unit, source, assumption."),
}


@pytest.mark.parametrize(("parts", "says"), BAD_PARTS.values(), ids=BAD_PARTS.keys())
def test_a_number_has_value_unit_and_one_origin(load: Callable[[str], Any], parts: dict[str, Any], says: str) -> None:
    with pytest.raises(ProfileError, match=rf"^chip\.yaml: chips: {says}"):
        load(tiny_with("chips", **parts))


# ---------------------------------------------------------------------------------------------- where profiles are found
# From an installed wheel: test_wheel.py.


def test_profiles_are_found_from_any_folder(tmp_path: Path) -> None:
    """The tests run on a checkout, installed editable: here from a folder that knows nothing of it."""
    program = "from neurodeploy.profiles import load_profile; print(load_profile('loihi2').cores)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "128\n"


def test_profiles_are_found_from_a_bare_checkout(tmp_path: Path) -> None:
    """A checkout that is not installed at all, reached by its path alone."""
    program = textwrap.dedent(f"""
        import sys
        sys.path[:] = [{str(Path(__file__).parent.parent)!r}, *(p for p in sys.path if "editable" not in p)]
        from neurodeploy.profiles import profile_paths
        print(*profile_paths())
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-3:] == ["loihi1", "loihi2", "tiny"]
