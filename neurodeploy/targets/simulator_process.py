"""Vendors' simulators in processes of their own: which Python has one, how to install one, how to run its worker.

Lava and xylosim install on Python 3.10 only, and Lava holds PyTorch below 2.4. So a worker may run in another Python than this
one. A worker is one file that imports nothing of neurodeploy: it gets its jobs from a folder, and leaves its results there.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError, SimulationError
from neurodeploy.ir.arrays import load_numpy
from neurodeploy.targets import COUNTER


@dataclass(frozen=True)
class Simulator:
    """A vendor's simulator: its name, its modules, and the packages that bring them.

    Attributes
    ----------
    packages, without_dependencies : tuple of str
        Requirements; those of the second are installed alone. lava-dl asks for PyTorch, which reading its files does not use.
    """

    name: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """Name of the environment variable that names a Python which has it."""
        return f"NEURODEPLOY_{self.name.upper()}_PYTHON"

    @property
    def folder(self) -> Path:
        """Folder of the environment that `install` makes, below the user's cache folder."""
        cache_folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache_folder) / "neurodeploy" / "simulators" / self.name

    @property
    def python(self) -> Path:
        """The Python of that environment."""
        return self.folder / "bin" / "python"


PYTHON = "3.10"
"""The only Python that the packages below exist for."""

LAVA = Simulator(
    "lava", ("lava.magma", "lava.lib.dl.netx"), ("lava-nc==0.10.0", "numpy==1.26.4", "h5py>=3.10,<4", "setuptools<81"),
    without_dependencies=("lava-dl==0.6.0",),
)  # fmt: skip
XYLO = Simulator("xylo", ("xylosim",), ("xylosim==0.1.3", "numpy==1.26.4"))
SIMULATORS = {simulator.name: simulator for simulator in (LAVA, XYLO)}


# ---------------------------------------------------------------------------------------------- which Python


def is_importable(module: str) -> bool:
    """Whether this Python finds a module; its parents are imported, itself not."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # find_spec imports the packages above, and one of them is missing
        return False


@cache
def _not_found_by(python: str, modules: tuple[str, ...]) -> str:
    """Reason that another Python does not have some modules, in one line; empty where it has."""
    tests = "; ".join(f"f({module!r}) or sys.exit({module!r} + ' cannot be imported')" for module in modules)
    try:
        done = subprocess.run(  # noqa: S603  (the user's own choice of interpreter)
            [python, "-c", f"import sys; from importlib.util import find_spec as f; {tests}"], env=_environment(python),
            capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    except subprocess.TimeoutExpired:
        return "does not answer"
    lines = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else (lines or [f"exit status {done.returncode}"])[-1]


def python_of(simulator: Simulator) -> str:
    """Return the Python that runs a simulator: named by its environment variable, this one, or the one that `install` made.

    Raises
    ------
    SimulationError
        None of them has it; it says how to install it.
    """
    if named := os.environ.get(simulator.variable):
        if reason := _not_found_by(named, simulator.modules):
            raise SimulationError(
                simulator.name, f"cannot run in {named}: {reason}", source=simulator.variable,
                remedy=f"Unset {simulator.variable} and run: neurodeploy simulators install {simulator.name}. "
                f"Or name a Python {PYTHON} that has {' and '.join(simulator.modules)}.",
            )  # fmt: skip
        return named
    missing = [module for module in simulator.modules if not is_importable(module)]
    if not missing:
        return sys.executable
    if simulator.python.exists() and not _not_found_by(str(simulator.python), simulator.modules):
        return str(simulator.python)
    raise SimulationError(
        simulator.name,
        f"{' and '.join(missing)} cannot be imported by Python {sys.version_info.major}.{sys.version_info.minor}",
        remedy=f"Install it for Python {PYTHON}, for which alone it exists, by: neurodeploy simulators install {simulator.name}. "
        "The emulator gives the same spikes.",
    )  # fmt: skip


def _environment(python: str) -> dict[str, str]:
    """Environment of a worker: this Python finds what this process finds, another one only its own packages."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path) if python == sys.executable else ""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
    return kept | ({"PYTHONPATH": path} if path else {}) | {"OMP_NUM_THREADS": "1"}


# ---------------------------------------------------------------------------------------------- installing one


def install(simulator: Simulator, *, python: str | None = None) -> Path:
    """Install a simulator in an environment of its own, in the user's cache folder; return its Python.

    One that is there already is made anew. It takes the place of the old one as the last step.

    Parameters
    ----------
    python : str or None
        Interpreter to make it from; by default a Python 3.10 of this machine, or one that uv downloads.

    Raises
    ------
    SimulationError
        uv, or pip where there is no uv, failed: its last line is in the text.
    RequestError
        There is neither uv nor a Python 3.10.
    """
    folder = simulator.folder
    new = folder.with_name(f"{simulator.name}.unfinished")
    shutil.rmtree(new, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = new / "bin" / "python"
    chosen = python or local_python()
    if uv := uv_command():
        # relocatable: it is renamed when it is complete
        begin = [*uv, "venv", "--relocatable", "--python", chosen or PYTHON, str(new)]
        add = [*uv, "pip", "install", "--python", str(made)]
    elif chosen:
        begin, add = [chosen, "-m", "venv", str(new)], [str(made), "-m", "pip", "install", "--disable-pip-version-check"]
    else:
        raise RequestError("uv", f"is not installed, and would get Python {PYTHON}", remedy="Install it by: pip install uv")
    _run(simulator, begin)
    _run(simulator, [*add, *simulator.packages])
    if simulator.without_dependencies:
        _run(simulator, [*add, "--no-deps", *simulator.without_dependencies])
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    _not_found_by.cache_clear()
    if reason := _not_found_by(str(simulator.python), simulator.modules):
        raise SimulationError(simulator.name, f"was installed in {folder}, and does not run: {reason}")
    return simulator.python


def _run(simulator: Simulator, command: list[str]) -> None:
    done = subprocess.run(  # noqa: S603  (uv or pip, and requirements from above)
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        packages = " ".join((*simulator.packages, *simulator.without_dependencies))
        raise SimulationError(
            simulator.name, f"could not be installed: {Path(command[0]).name} {' '.join(command[1:3])}: {lines[-1].rstrip('.')}",
            remedy=f"Make an environment of Python {PYTHON} with {packages} yourself; name its Python in {simulator.variable}.",
        )  # fmt: skip


def uv_command() -> list[str]:
    """The first uv that runs: a shim of pyenv may find nothing behind it; empty where there is none."""
    # uv run sets UV
    for command in ([sys.executable, "-m", "uv"], [os.environ.get("UV", "")], [shutil.which("uv") or ""]):
        if command[0] and (len(command) == 1 or is_importable("uv")) and _runs([*command, "--version"]):
            return command
    return []


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0  # noqa: S603  (as above)
    except OSError:
        return False


def local_python() -> str | None:
    """A Python 3.10 of this machine: on the path, or of pyenv, whose shim runs only in some folders."""
    version_folders = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [sys.executable, shutil.which(f"python{PYTHON}"), *map(str, version_folders.glob(f"{PYTHON}.*/bin/python"))]
    version = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '{PYTHON}')"
    for candidate in filter(None, candidates):
        if _runs([candidate, "-c", version]):
            return candidate
    return None


# ---------------------------------------------------------------------------------------------- running a worker

GRACE_S = 3.0
"""Time between asking the processes of a run to end and killing them, in which they release shared memory."""
COUNT_EVERY_S = 0.25
"""Time between two calls of `neurodeploy.targets.COUNTER`."""
MAX_ERROR = 2000
"""Bytes that are read of what a worker printed, from the end."""


def run_worker(simulator: Simulator, script: Path, folder: Path, total_steps: int, time_limit_s: float) -> None:
    """Run a worker on a folder of jobs, until it is done.

    It is called with the folder, writes the steps done to the file `steps`, and ends when its stdin breaks. It runs from a copy,
    so that the modules beside it are not found in place of a simulator's own.

    Raises
    ------
    SimulationError
        The simulator is not installed, the worker died, or it took longer than the limit. None of its processes is left.
    """
    python, copy = python_of(simulator), folder / "worker" / script.name
    copy.parent.mkdir()
    shutil.copyfile(script, copy)
    with (folder / "stderr").open("wb") as errors:
        # stderr goes to a file, since a pipe would stay open as long as any process of the simulator's. stdin breaks when this
        # process ends. A session of its own can be ended as a whole.
        worker = subprocess.Popen(  # noqa: S603  (our own script, in the Python that the user chose)
            [python, str(copy), str(folder)], cwd=folder, env=_environment(python),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
        )  # fmt: skip
    deadline, status, count = time.monotonic() + time_limit_s, None, COUNTER.get()
    try:
        while status is None:
            try:
                status = worker.wait(timeout=max(min(COUNT_EVERY_S, deadline - time.monotonic()), 0))
            except subprocess.TimeoutExpired:
                done = _steps_done(folder)
                if time.monotonic() >= deadline:
                    raise SimulationError(
                        simulator.name, f"was not done after {time_limit_s:g} s: {done:,} of {total_steps:,} steps",
                        remedy="Raise the time limit, run fewer samples or steps, or take the emulator, which gives the same "
                        "spikes.",
                    ) from None  # fmt: skip
                if count is not None:
                    count(done, total_steps)
    finally:
        _end_session(worker)
    if status != 0:
        raise SimulationError(
            simulator.name, f"died: {_error_line(folder, status)}", remedy="The emulator gives the same spikes."
        )


def _end_session(worker: subprocess.Popen[bytes]) -> None:
    """End all processes of the worker's session: ask first, so that they release shared memory, then kill."""
    assert worker.stdin is not None
    worker.stdin.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_S
        try:
            os.killpg(worker.pid, number)
            while time.monotonic() < deadline:
                worker.poll()  # a zombie would keep the process group in being
                os.killpg(worker.pid, 0)
                time.sleep(0.02)
        except ProcessLookupError:  # no process is left
            return


def read_results(simulator: Simulator, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of whole numbers that a worker left, by name.

    Raises
    ------
    SimulationError
        It left none, or not those of these shapes.
    """
    try:
        found = load_numpy(path)
        arrays = {name: found[name] for name in shapes} if isinstance(found, dict) else {}
    except (DataError, KeyError):
        arrays = {}
    if any(
        name not in arrays or arrays[name].shape != shape or arrays[name].dtype.kind not in "iu" for name, shape in shapes.items()
    ):
        raise SimulationError(
            simulator.name, "ended without the results that it was asked for", remedy="The emulator gives the same spikes."
        )
    return arrays


def _steps_done(folder: Path) -> int:
    """Number in the file `steps`; 0 where there is none."""
    path = folder / "steps"
    text = tail_of(path, 20).strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else 0


def _error_line(folder: Path, status: int) -> str:
    if status < 0:
        names = {number.value: number.name for number in signal.Signals}
        return names.get(-status, f"signal {-status}")
    errors = folder / "stderr"
    lines = [line for line in tail_of(errors, MAX_ERROR).splitlines() if line.strip()] if errors.is_file() else []
    return lines[-1].strip() if lines else f"exit status {status}"


def tail_of(path: Path, n_bytes: int) -> str:
    """Last bytes of a file that may be of any size, as text."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - n_bytes))
        return file.read(n_bytes).decode(errors="replace")
