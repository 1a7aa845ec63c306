"""Requests that no pruning makes possible: what their error says would help does help, and fewer cores do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import examples, with_values
from hypothesis import event, example, given
from hypothesis import strategies as st

from neurodeploy.__main__ import main
from neurodeploy.errors import BudgetError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.mapping.allocation import share_budget
from neurodeploy.mapping.budget import Budget

Plan = Callable[..., Budget]
MakeNetwork, MakeChip = Callable[..., Network], Callable[..., HardwareProfile]
CHIPS = st.fixed_dictionaries({
    "neurons_per_core": st.integers(4, 32), "input_axons_per_core": st.integers(1, 40),
    "output_axons_per_core": st.integers(1, 40),
    "synapse_memory_bits_per_core": st.sampled_from([16, 30, 70, 130, 400, 2000]), "memory_unit_bits": st.sampled_from([1, 64]),
})  # fmt: skip
NARROW = {
    "neurons_per_core": 4, "input_axons_per_core": 3, "output_axons_per_core": 1, "synapse_memory_bits_per_core": 70,
    "memory_unit_bits": 1,
}  # fmt: skip
POOLS = st.fixed_dictionaries({
    "neurons_per_core": st.integers(4, 32), "memory_bits_per_core": st.sampled_from([100, 200, 400, 800, 2000]),
})  # fmt: skip


def refusal(network: Network, chip: HardwareProfile, cores: int, plan: Plan) -> BudgetError | None:
    """Why there is no budget; None if there is one."""
    try:
        plan(network, chip, cores=cores)
    except BudgetError as error:
        return error
    return None


def check(network: Network, chip: HardwareProfile, cores: int, plan: Plan = share_budget) -> None:
    error = refusal(network, chip, cores, plan)
    if error is None:
        event("a budget")
        return
    asks = re.search(r"(?:Allow|at least) (\d[\d,]*) cores?", error.remedy)
    if asks:
        event("so many cores")
        enough = int(asks[1].replace(",", ""))
        assert enough > cores
        assert ("Use a chip with at least" in error.remedy) is (enough > chip.cores)
        larger = with_values(chip, cores_per_chip=max(enough, chip.cores))
        assert refusal(network, larger, enough, plan) is None
        assert refusal(network, larger, enough - 1, plan) is not None
        return
    event("another limit")
    assert error.remedy.startswith("Neither more cores nor pruning helps")
    assert error.need is not None
    assert error.limit is not None
    assert refusal(network, chip, chip.cores, plan) is not None
    key = error.source.split(": ")[1]
    assert chip[key].number == error.limit < error.need
    after = refusal(network, with_values(chip, **{key: int(error.need)}), chip.cores, plan)
    assert after is None or not after.remedy.startswith("Neither more cores") or after.source != error.source


@examples(60)
@example(sizes=[1, 2, 1, 2], values=NARROW, cores=1)  # fewer cores do than a synapse for each slice takes by itself
@example(sizes=[1, 1, 1, 5], values=NARROW, cores=1)
@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=4), values=CHIPS, cores=st.integers(1, 6))
def test_what_an_error_names_helps(
    make_network: MakeNetwork, make_chip: MakeChip, sizes: list[int], values: dict[str, int], cores: int
) -> None:
    check(make_network(sizes), make_chip(cores_per_chip=30, tile_mesh=None, **values), cores)


@examples(40)
@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=4), values=POOLS, cores=st.integers(1, 6))
def test_where_cores_share_one_memory_too(
    make_network: MakeNetwork, sizes: list[int], values: dict[str, int], cores: int
) -> None:
    check(make_network(sizes), with_values(load_profile("loihi2"), **values), cores)


def test_a_core_with_room_for_one_synapse_cannot_take_two_layers(make_network: MakeNetwork, make_chip: MakeChip) -> None:
    """A list of one synapse takes 64 bits, and each of two layers wants one: 128 > 100, so it takes two cores."""
    network, chip = make_network([4, 20, 20]), make_chip(cores_per_chip=2, synapse_memory_bits_per_core=100)
    with pytest.raises(BudgetError, match=r"^layer 'layer1': 2 cores for .* > 1 \(tiny.yaml: .*\)\. Allow 2 cores") as caught:
        share_budget(network, chip, cores=1)
    assert caught.value.source.endswith("synapse_memory_bits_per_core")
    assert share_budget(network, chip, cores=2)
    with pytest.raises(BudgetError, match=r"Use a chip with at least 2 cores \(tiny has 1\) or remove neurons\.$"):
        share_budget(network, make_chip(cores_per_chip=1, synapse_memory_bits_per_core=100))


def test_a_core_without_room_for_a_synapse_says_how_much_that_takes(make_network: MakeNetwork, make_chip: MakeChip) -> None:
    """Of one neuron a synapse is 8 + 10 = 18 bits dense."""
    network = make_network([1, 2])
    with pytest.raises(BudgetError, match=r"Neither more cores nor pruning helps") as caught:
        share_budget(network, make_chip(memory_unit_bits=1, synapse_memory_bits_per_core=17))
    error = caught.value
    assert (error.where, error.need, error.limit) == ("layer 'layer1'", 18, 17)
    assert share_budget(network, make_chip(memory_unit_bits=1, synapse_memory_bits_per_core=18))


def test_as_many_output_axons_as_slices_that_hear_a_neuron(make_network: MakeNetwork, make_chip: MakeChip) -> None:
    """Forty neurons are five slices of eight, and all five hear each neuron of the first layer."""
    network = make_network([4, 3, 40])
    with pytest.raises(BudgetError, match=r"output axons .* Neither more cores nor pruning helps") as caught:
        share_budget(network, make_chip(cores_per_chip=16, tile_mesh=None, neurons_per_core=8, output_axons_per_core=4))
    error = caught.value
    assert (error.where, error.need, error.limit) == ("layer 'layer2'", 5, 4)
    assert share_budget(network, make_chip(cores_per_chip=16, tile_mesh=None, neurons_per_core=8, output_axons_per_core=5))


WIDE = """import torch
from norse.torch import LICell, LIFCell, SequentialState

def wide():
    layers = torch.nn.Linear(64, 10, bias=False), LIFCell(), torch.nn.Linear(10, 100, bias=False), LICell()
    return SequentialState(*layers), torch.zeros(1, 64)
"""


@pytest.mark.parametrize("command", ["inspect", "deploy", "compress"])
def test_what_no_compression_can_do_is_not_advised(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(WIDE)
    out = ["--out", str(tmp_path / "out")]
    more = {"inspect": [], "deploy": out, "compress": [*out, "--data", "digits"]}
    asked = [command, f"{tmp_path / 'mine.py'}:wide", "--target", "tiny", "--cores", "1", *more[command]]
    for form in ([], ["--json"]):
        assert main([*asked, *form]) == 1
        said = "".join(capsys.readouterr())
        assert "ompress it" not in said
        assert "ompress the network" not in said
        assert "llow 2" in said
