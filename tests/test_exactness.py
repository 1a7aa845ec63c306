"""Drawn networks of every kind fire, and fire in Lava as in the emulator; what Lava would read otherwise is refused before."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
import pytest

from benchmarks import exactness
from benchmarks.exactness import KINDS, Found, beyond, compared, job_of, refusal, refused
from neurodeploy.__main__ import main
from neurodeploy.errors import NeurodeployError
from neurodeploy.simulation.records import SpikeRecord
from neurodeploy.targets.loihi import lava_client
from neurodeploy.targets.loihi.emulator import run_emulator
from neurodeploy.targets.loihi.lava_client import Job
from neurodeploy.targets.loihi.netx_io import write_netx
from neurodeploy.targets.simulate import simulate


def check(found: dict[str, Found], seed: int) -> None:
    assert found
    for kind, of_kind in found.items():
        assert not of_kind.differing, f"seed {seed}, {kind}: {of_kind.differing[0]}"
        assert of_kind.refused == 0, f"seed {seed}, {kind}"
        assert of_kind.fired >= 0.9 * of_kind.networks, f"seed {seed}, {kind}: {of_kind.fired} of {of_kind.networks} fire"


@pytest.mark.lava
def test_a_network_of_each_kind_fires_in_lava_as_in_the_emulator() -> None:
    found = compared([(kind, job_of(kind, 1, seed=1)) for kind in KINDS])
    assert {kind: of_kind.networks for kind, of_kind in found.items()} == dict.fromkeys(KINDS, 1)
    assert found["long runs"].steps == 500
    check(found, seed=1)


@pytest.mark.parametrize("changed", ["spikes", "v"])
def test_a_single_number_that_differs_is_counted_and_named(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def almost_lava(jobs: list[Job], **_: object) -> list[SpikeRecord]:
        records = [run_emulator(*job, record="all") for job in jobs]
        number = getattr(records[1], changed)["layer2"].copy()
        number[0, 1, 5] ^= 1
        object.__setattr__(records[1], changed, {**getattr(records[1], changed), "layer2": number})
        return records

    monkeypatch.setattr(exactness, "run_lava_jobs", almost_lava)
    jobs = [("dense", job_of("dense", number, seed=1)) for number in range(3)]
    found = compared(jobs)["dense"]
    assert (found.networks, len(found.differing)) == (3, 1)
    assert "layer2" in found.differing[0][0]
    assert found.differing[0][1] == jobs[1][1]


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_networks_fire_in_lava_as_in_the_emulator(kind: str) -> None:
    """125 of each kind."""
    seed = secrets.randbits(32)
    found = compared([(kind, job_of(kind, number, seed)) for number in range(125)])
    print(f"{kind}, seed {seed}: {found[kind].row()}")
    assert found[kind].networks == 125
    check(found, seed)


def test_what_lava_would_read_otherwise_is_refused() -> None:
    assert refused(70, seed=0).row() == {
        "networks": 70, "plain_netx": 0, "steps": 0, "spikes": 0, "fired": 0, "differ": 0, "refused": 70,
    }  # fmt: skip


SAID = {
    "a delay": r"^layer 'layer\d': \d+ steps for which spikes from '\w+' wait in a synapse.* > 63 \(lava-nc .*Shorten the delay",
    "no synapse": "^layer 'layer\\d': has no synapse left.*Prune less",
    "an odd weight": "^layer 'layer\\d': .*odd numbers among weights of both signs",
    "a wide weight": "^layer 'layer\\d': .*300 is outside -256..254",
    "a misread weight": r"^layer 'layer\d': would run in Lava with -?\d+ for its weight\[.*netx/utils.py.*Change a weight",
    "a bias": r"^layer 'layer\d': .*bias.* is outside -4096\.\.4095",
    "a register": r"^layer 'layer\d': .*(131072 is outside 0\.\.131071|4097 is outside 0\.\.4096)",
}


@pytest.fixture
def no_lava(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a process is started."""

    def start(*_: object, **__: object) -> None:
        raise AssertionError("Lava was started")

    monkeypatch.setattr(lava_client, "run_worker", start)


@pytest.mark.lava
@pytest.mark.usefixtures("no_lava")
@pytest.mark.parametrize("number", range(len(SAID)))
def test_it_is_refused_before_lava_is_started(number: int) -> None:
    what, network = beyond(number, seed=3)
    with pytest.raises(NeurodeployError, match=SAID[what]) as error:
        simulate(network, np.ones((1, *network.input_shape, 4), dtype=np.uint8), end="lava")
    assert str(error.value) == refusal(network)


@pytest.mark.lava
def test_a_delay_beyond_the_chips_ends_every_command_that_would_run_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """62 steps are the chips' limit, which inspect and deploy keep; Lava's synapses hold 63."""
    _, network = beyond(0, seed=3)
    file, out = str(write_netx(network, tmp_path / "late.net")), str(tmp_path / "out")
    for arguments in (["inspect", file], ["deploy", file, "--out", out]):
        assert main([*arguments, "--target", "loihi2"]) == 1
        assert "steps of synaptic delay > 62 (loihi2.yaml: max_delay_steps)" in capsys.readouterr().out
    (tmp_path / "worker.py").write_text("raise SystemExit('Lava was started')")
    monkeypatch.setattr(lava_client, "WORKER", tmp_path / "worker.py")
    assert main(["verify", file, "--steps", "5"]) == 2
    assert "wait in a synapse, 0 of them for longer paths > 63 (lava-nc 0.10" in capsys.readouterr().err
