"""How chips are read: every bad file gets one clear line; boards extend chips; profiles are found wherever neurodeploy is."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chipfiles import TINY, board, tiny_with

from neurodeploy.__main__ import main
from neurodeploy.errors import ProfileError
from neurodeploy.hardware.loading import MAX_PROFILE_BYTES, load_profile, profile_schema
from neurodeploy.hardware.profile import HardwareProfile

# ---------------------------------------------------------------------------------------------- good files


def test_a_profile_is_loaded_by_path_too(load_chip: Callable[[str], HardwareProfile], tiny: HardwareProfile) -> None:
    mine = load_chip(yaml.safe_dump({**TINY, "name": "mine"}))
    assert mine.name == "mine"
    assert mine["neurons_per_core"].where == "chip.yaml: neurons_per_core"
    assert [limit.value for limit in mine] == [limit.value for limit in tiny]


def test_a_number_may_differ_from_core_to_core(load_chip: Callable[[str], HardwareProfile]) -> None:
    mine = load_chip(tiny_with("neurons_per_core", value=[64, 32, 32, 8]))
    assert mine["neurons_per_core"].value == (64, 32, 32, 8)
    assert [mine.capacity("neurons", core) for core in range(6)] == [64, 32, 32, 8, 64, 32]


def test_energies_meshes_and_encodings_are_read_too(load_chip: Callable[[str], HardwareProfile]) -> None:
    more = {
        "synop_dense_energy": {"value": 23.6, "unit": "pJ", "source": "a paper"},
        "message_in_energy": {"value": 0, "unit": "pJ", "source": "a paper"},
        "tile_mesh": {"value": [2, 2], "unit": "tiles", "source": "a paper"},
        "chip_mesh": {"value": [1, 1, 1], "unit": "chips", "source": "a paper"},
    }
    mine = load_chip(yaml.safe_dump({**TINY, **more}))
    assert {key: mine[key].value for key in more} == {
        "synop_dense_energy": 23.6, "message_in_energy": 0.0, "tile_mesh": (2, 2), "chip_mesh": (1, 1, 1),
    }  # fmt: skip
    assert mine["encodings"].names == ("dense", "sparse", "convolution")


# ---------------------------------------------------------------------------------------------- boards


def test_a_board_is_a_chip_and_a_difference(load_chip: Callable[[str], HardwareProfile], tiny: HardwareProfile) -> None:
    mine = load_chip(board())
    assert (mine.name, mine.cores) == ("board", 8 * tiny.cores)
    assert mine["chips"].where == "chip.yaml: chips"
    assert mine["neurons_per_core"] == tiny["neurons_per_core"]
    assert mine["neurons_per_core"].where == "tiny.yaml: neurons_per_core"


def test_what_is_extended_may_lie_beside_it_and_extend_something_itself(tmp_path: Path) -> None:
    (tmp_path / "rack.yaml").write_text(board(name="rack", extends="shelf", chips={**TINY["chips"], "value": 64}))
    (tmp_path / "shelf.yaml").write_text(board(name="shelf", neurons_per_core={**TINY["neurons_per_core"], "value": 7}))
    rack = load_profile(tmp_path / "rack.yaml")
    assert [rack[key].where.partition(":")[0] for key in ("chips", "neurons_per_core", "weight_bits")] == [
        "rack.yaml", "shelf.yaml", "tiny.yaml",
    ]  # fmt: skip
    assert (rack["chips"].number, rack["neurons_per_core"].number) == (64, 7)


def test_a_file_may_bear_the_name_of_the_chip_that_it_extends(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(board(name="tiny"))
    assert load_profile(tmp_path / "tiny.yaml").cores == 32


def test_an_unknown_chip_cannot_be_extended(load_chip: Callable[[str], Any]) -> None:
    says = r"^chip\.yaml: extends: no profile 'loihi9'\. Put loihi9\.yaml into the same folder, or extend one of dynapcnn, "
    with pytest.raises(ProfileError, match=says):
        load_chip(board(extends="loihi9"))


@pytest.mark.parametrize("name", ["../tiny", "/etc/passwd", "tiny.yaml", "", "a b", "x" * 65, "tiny\n"])
def test_only_plain_names_are_extended(load_chip: Callable[[str], Any], name: str) -> None:
    with pytest.raises(ProfileError, match=r"^chip\.yaml: extends: '.*' is not a plain name\. Give a profile's name, no path"):
        load_chip(board(extends=name))


def test_nothing_extends_itself(load_chip: Callable[[str], Any]) -> None:
    with pytest.raises(ProfileError, match=r"^chip\.yaml: extends: is circular: chip -> chip\.$"):
        load_chip(board(extends="chip"))


def test_a_link_that_leads_to_itself_is_no_chip(tmp_path: Path, load_chip: Callable[[str], Any]) -> None:
    (tmp_path / "round.yaml").symlink_to("round.yaml")
    with pytest.raises(ProfileError, match=r"^chip\.yaml: extends: no profile 'round'\."):
        load_chip(board(extends="round"))


def test_a_circle_is_named(tmp_path: Path) -> None:
    for name, extended in (("a", "b"), ("b", "c"), ("c", "b")):
        (tmp_path / f"{name}.yaml").write_text(board(name=name, extends=extended))
    with pytest.raises(ProfileError, match=r"^c\.yaml: extends: is circular: b -> c -> b \(extended by b\.yaml\)\.$"):
        load_profile(tmp_path / "a.yaml")


def test_a_long_chain_is_refused_where_it_is_too_long(tmp_path: Path) -> None:
    """A chain of 700 ended in a recursion error of YAML, which named a file somewhere in the middle."""
    for n in range(700):
        (tmp_path / f"p{n}.yaml").write_text(f"name: p\ndescription: p\nextends: p{n + 1}\n", "utf-8")
    with pytest.raises(ProfileError, match=r"^p16\.yaml: extends: 17 profiles that extend one another > 16 \(extended by p15"):
        load_profile(tmp_path / "p0.yaml")


def test_the_fault_of_what_is_extended_is_told_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(tiny_with("chips", value=0))
    (tmp_path / "board.yaml").write_text(board(extends="mine"))
    with pytest.raises(ProfileError, match=r"^mine\.yaml: chips: is 0 \(extended by board\.yaml\)\. Give a whole number"):
        load_profile(tmp_path / "board.yaml")


def test_what_is_extended_stands_on_its_own(tmp_path: Path) -> None:
    (tmp_path / "half.yaml").write_text(yaml.safe_dump({"name": "half", "description": "A half."}))
    (tmp_path / "board.yaml").write_text(board(extends="half"))
    with pytest.raises(ProfileError, match=r"^half\.yaml: chips: missing \(extended by board\.yaml\)\. It is chips on the board"):
        load_profile(tmp_path / "board.yaml")


def test_a_list_that_is_inherited_has_to_suit(load_chip: Callable[[str], Any]) -> None:
    says = r"^dynapcnn\.yaml: neurons_per_core: has 9 numbers for 3 cores of a chip \(chip\.yaml: cores_per_chip\)\.$"
    with pytest.raises(ProfileError, match=says):
        load_chip(board(extends="dynapcnn", cores_per_chip={**TINY["cores_per_chip"], "value": 3}))


# ---------------------------------------------------------------------------------------------- bad files


def test_an_unknown_name_says_which_are_known() -> None:
    with pytest.raises(
        ProfileError,
        match=r"^loihi9: no such hardware profile\. Did you mean 'loihi2'\? Give one of dynapcnn, .*, xylo, or a path",
    ):
        load_profile("loihi9")


def test_a_folder_is_no_profile(tmp_path: Path) -> None:
    folder = tmp_path / "folder"  # alone: pytest's own folders may lie beside one of a similar name
    folder.mkdir()
    with pytest.raises(ProfileError, match=rf"^{folder}: is a folder\. Give one of"):
        load_profile(folder)


@pytest.mark.parametrize("name", ["mesh.yaml", "mesh.yml", "boards/mesh", "{folder}/mesh.yaml"])
def test_a_file_that_is_missing_is_no_unknown_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = name.format(folder=tmp_path)
    with pytest.raises(ProfileError, match=rf"^{name}: no such file\. Give one of dynapcnn, .*, or a path to a YAML file\.$"):
        load_profile(name)
    (tmp_path / "mesh2.yaml").touch()
    if "boards" not in name:  # a file of nearly that name in the same folder
        with pytest.raises(ProfileError, match=rf"^{name}: no such file\. Did you mean '.*mesh2\.yaml'\? "):
            load_profile(name)


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
    "duplicate key": (yaml.safe_dump(TINY) + "chips: {value: 2}\n", "is not plain YAML: key 'chips' occurs twice"),
    "duplicate part": ("chips: {value: 1, value: 2}", "is not plain YAML: key 'value' occurs twice"),
    "list as key": ("[1, 2]: 3", "is not plain YAML: .*unhashable key"),
    "impossible date": ("name: 2001-99-99", "is not plain YAML: month must be in"),
    "deep": ("[" * 20_000, "is not plain YAML: maximum recursion depth"),
    "gigantic": ("#" * (MAX_PROFILE_BYTES + 1), r"65,537 bytes in a profile > 65,536\."),
}


@pytest.mark.parametrize(("text", "says"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_is_no_profile_gets_one_line(load_chip: Callable[[str | bytes], Any], text: str | bytes, says: str) -> None:
    with pytest.raises(ProfileError, match=says) as caught:
        load_chip(text)
    assert "chip.yaml" in caught.value.where
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_bomb_of_aliases_is_refused_in_no_time(load_chip: Callable[[str], Any]) -> None:
    lists = ["&a0 [x, x, x, x, x, x, x, x, x]", *(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))]
    with pytest.raises(ProfileError, match=r"is not plain YAML: aliases .* are not allowed"):
        load_chip(f"chips: [{', '.join(lists)}]\n")


def test_a_file_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"^/proc/self/mem: cannot be read: Input/output error\.$"):
        load_profile("/proc/self/mem")


def test_a_file_full_of_keys_is_refused_in_no_time(load_chip: Callable[[str], Any]) -> None:
    with pytest.raises(ProfileError, match="unknown key"):
        load_chip("".join(f"k{n}: 0\n" for n in range(6_000)))


# ---------------------------------------------------------------------------------------------- where profiles are found
# From an installed wheel: test_wheel.py.


def test_profiles_are_found_from_any_folder(tmp_path: Path) -> None:
    """The tests run on a checkout, installed editable: here from a folder that knows nothing of it."""
    program = "from neurodeploy.hardware.loading import load_profile; print(load_profile('loihi2').cores)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "128\n"


def test_profiles_are_found_from_a_bare_checkout(tmp_path: Path) -> None:
    """A checkout that is not installed at all, reached by its path alone."""
    program = textwrap.dedent(f"""
        import sys
        sys.path[:] = [{str(Path(__file__).parent.parent)!r}, *(p for p in sys.path if "editable" not in p)]
        from neurodeploy.hardware.loading import profile_paths
        print(*profile_paths())
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {"loihi1", "loihi2", "tiny"} <= set(done.stdout.split())


def test_the_schema_of_profiles_is_printed_for_editors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == profile_schema()
