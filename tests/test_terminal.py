"""How the command line speaks: on a terminal, in a pipe, to those who want no colour, and to those who want to hear nothing."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest
from pages import two_layers

from neurodeploy.__main__ import main
from neurodeploy.cli.console import PHASES, PhaseLines, status
from neurodeploy.report.summary import VERSIONED, versions
from neurodeploy.targets.loihi.netx_io import write_netx


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "model.net"
    write_netx(two_layers(), path)
    return path


def on_a_terminal(*arguments: str, module: str = "neurodeploy", **environment: str) -> str:
    """What a person sees of a module, or of a script, escape codes and all."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    told = {**clean, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    command = [sys.executable, *(["-m", module] if module else []), *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=told) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                some = os.read(ours, 4096)
            except OSError:  # Linux says so when the other end has gone
                break
            if not some:
                break
            seen += some
        process.wait(timeout=60)
    os.close(ours)
    return seen.decode()


def test_verdicts_are_coloured_on_a_terminal_unless_asked_not_to_be(net: Path) -> None:
    asked = ("inspect", str(net), "--target", "tiny", "--cores", "1")
    assert "\x1b[1;31mdoes not fit\x1b[0m" in on_a_terminal(*asked)
    plain = on_a_terminal(*asked, NO_COLOR="1")
    assert "does not fit" in plain
    assert "\x1b[1;31m" not in plain


def test_compare_shows_each_verdict_as_soon_as_it_is_known(net: Path) -> None:
    seen = on_a_terminal("compare", str(net), "--targets", "tiny,loihi2", COLUMNS="200")
    first, second = "tiny: fits; 2 of 4 cores; no limit; fullest: ", "loihi2: fits; 1 of 128 cores; no limit; fullest: "
    assert seen.index(first) < seen.index("Placing on loihi2 (2 of 2)") < seen.index(second) < seen.index("what binds")
    assert first not in on_a_terminal("compare", str(net), "--targets", "tiny,loihi2", "--quiet")


def test_a_run_in_lava_is_counted_on_a_terminal(tmp_path: Path) -> None:
    """By bars as by a line that says what is done; Lava is stood in for by a function that counts."""
    script = tmp_path / "counted.py"
    script.write_text(
        "import click, time\n"
        "from neurodeploy.cli.console import progress_output, status\n"
        "from neurodeploy.targets import COUNTER\n"
        "with click.Context(click.Command('x')):\n"
        "    with progress_output():\n"
        "        COUNTER.get()(1200, 9000)\n"
        "    with status('Running'):\n"
        "        COUNTER.get()(3000, 9000); time.sleep(0.5)\n"
        "assert COUNTER.get() is None\n"
    )
    seen = on_a_terminal(str(script), module="")
    assert "Lava: 1,200 of 9,000 steps" in seen
    assert "Running: 3,000 of 9,000 steps" in seen
    assert "Traceback" not in seen


def test_what_has_no_counter_has_a_clock_on_a_terminal_with_bars_and_without(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import click, time\n"
        "from neurodeploy.cli.console import progress_output, status\n"
        "with click.Context(click.Command('x')):\n"
        "    with progress_output():\n"
        "        time.sleep(1.3)\n"
        "    print('between', flush=True)\n"
        "    with status('Placing'):\n"
        "        time.sleep(1.3)\n"
    )
    bars, alone = on_a_terminal(str(script), module="").split("between")
    assert "0:00:01" in bars
    assert re.search(r"Placing.*0:00:01", alone)


def test_a_pipe_gets_plain_text(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(net), "--target", "tiny"])
    assert "\x1b" not in capsys.readouterr().out


class Ticks:
    """A clock for `PhaseLines`, which waits for what the test does next: its time passes when the test says so."""

    def __init__(self, lines: PhaseLines) -> None:
        self.begun, self.passed = threading.Semaphore(0), threading.Semaphore(0)
        self.is_over = False
        lines._is_done = self  # type: ignore[assignment]

    def wait(self, timeout_s: float) -> bool:
        assert timeout_s == 2.0
        self.begun.release()
        return not self.passed.acquire(timeout=60) or self.is_over

    def set(self) -> None:
        self.is_over = True
        self.passed.release()

    def pass_one(self) -> None:
        """Let one interval pass, and wait until the line is printed and the next begins."""
        assert self.begun.acquire(timeout=60)
        self.passed.release()
        assert self.begun.acquire(timeout=60)
        self.begun.release()


def test_a_pipe_is_told_of_slow_phases_alone_and_of_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PhaseLines()
    ticks = Ticks(lines)
    with click.Context(click.Command("x")), lines:
        token = PHASES.set(lines)
        for chip, intervals in (("loihi1", 2), ("xylo", 0), ("loihi2", 3)):
            with status(f"Placing on {chip}"):
                for _ in range(intervals):
                    ticks.pass_one()
        with status("Drawing"):
            pass
        ticks.pass_one()
        PHASES.reset(token)
    assert capsys.readouterr().err == "Placing on loihi1 ...\nPlacing on loihi2 ...\n"


@pytest.mark.parametrize("where", ["before", "behind"])
def test_quiet_leaves_stdout_and_nothing_else(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str) -> None:
    arguments = ["deploy", str(net), "--target", "tiny", "--out", str(tmp_path / "made"), "--json"]
    assert main(["--quiet", *arguments] if where == "before" else [*arguments, "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert json.loads(said.out)["fits"]["after"] is True


def test_news_are_told_unless_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "from spiking import build, few\ndef model(): return build(12, 6, 3)\ndef data(): return few(), few()\n"
    )
    monkeypatch.chdir(tmp_path)
    epochs = ["--epochs", "1", "1", "0", "--steps", "3", "--lava-samples", "0"]
    asked = ["compress", "mine.py:model", "--target", "tiny", "--data", "mine.py:data", "--out", "made", *epochs]
    assert main(asked) == 0
    assert "Compressed into the budget" in capsys.readouterr().err
    assert main(["-q", *asked]) == 0
    assert capsys.readouterr().err == ""


def test_tables_follow_the_width_that_is_told_unless_all_is_asked_for(
    net: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["inspect", str(net), "--target", "tiny"]
    monkeypatch.setenv("COLUMNS", "70")
    assert main(asked) == 0
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 70
    assert "Left out in 70 columns: " in narrow
    assert main([*asked, "--wide"]) == 0
    wide = capsys.readouterr().out
    assert "Left out" not in wide
    assert "tiny.yaml: synapse_memory_bits_per_core" in wide


def test_the_page_quotes_what_was_typed(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    assert main(["deploy", str(net), "--target", "tiny", "--out", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"neurodeploy deploy {net} --target tiny --out &#39;{out}&#39;" in page


def test_version_tells_what_numbers_depend_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    for name in VERSIONED:
        assert (f"{name} {versions()[name]}" in said) == (versions()[name] is not None)
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in said


def test_completion_is_offered_for_bash() -> None:
    environment = {**os.environ, "_NEURODEPLOY_COMPLETE": "bash_source"}
    done = subprocess.run([sys.executable, "-m", "neurodeploy"], env=environment, capture_output=True, text=True, timeout=60)
    assert "_neurodeploy_completion" in done.stdout
