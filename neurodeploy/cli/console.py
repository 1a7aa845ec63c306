"""Console output: results alone on stdout, everything else on stderr; plain text in a pipe, colours on a terminal."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from neurodeploy.errors import BudgetError, PlacementError

# rich is imported where something is printed: neither help texts nor errors need it
if TYPE_CHECKING:
    from rich.console import RenderableType

    from neurodeploy.pipeline.deploy import Deployment
    from neurodeploy.report.summary import TargetResult
    from neurodeploy.training.options import Progress, Step

_META = "neurodeploy."


def _set_flag(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:  # a context's meta is shared with its subcommands: --quiet may come before or after
        context.meta[f"{_META}{parameter.name}"] = True


QUIET = click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_set_flag, help="Print no progress.")
WIDE = click.option(
    "--wide",
    is_flag=True,
    expose_value=False,
    callback=_set_flag,
    help="Print all columns and rows, however wide the terminal is.",
)


def is_quiet() -> bool:
    """Whether the running command has ``--quiet``."""
    return bool(click.get_current_context().meta.get(f"{_META}quiet"))


def is_wide() -> bool:
    """Whether the running command has ``--wide``."""
    return bool(click.get_current_context().meta.get(f"{_META}wide"))


RESULTS: ContextVar[TextIO | None] = ContextVar("RESULTS", default=None)
"""Where the running command prints its results; stdout outside of one."""
IS_LAST: ContextVar[bool] = ContextVar("IS_LAST", default=False)
"""Whether the process ends with the command: what a model prints after it, in threads and at exit, is no result either."""


class PhaseLines:
    """Lines on stderr that say what a command does, for pipes and logs: none in its first seconds, then each phase at most once.

    Parameters
    ----------
    interval_s : float
        Time before the first line, and between two.

    Attributes
    ----------
    phase : str
        What is being done; "" is not printed.
    """

    def __init__(self, interval_s: float = 2.0) -> None:
        self.phase = "Importing libraries"
        self.interval_s = interval_s
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._print, daemon=True)

    def __enter__(self) -> PhaseLines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()

    def _print(self) -> None:
        printed = ""
        while not self._is_done.wait(self.interval_s):
            if (phase := self.phase) and phase != printed:
                printed = phase
                print_on_stderr(f"{phase} ...")


PHASES: ContextVar[PhaseLines | None] = ContextVar("PHASES", default=None)
"""Lines of the running command; None on a terminal, with ``--quiet``, and where it is called from Python."""


def answering(callback: Callable[..., int]) -> Callable[..., int]:
    """Wrap what a command does: results alone are on stdout, also where a network does not fit and JSON was asked for.

    What a model, data or a library prints goes to stderr, with ``--quiet`` nowhere. Warnings and log records below errors go
    nowhere, unless Python was asked for warnings (``PYTHONWARNINGS``); of the Pythons that it starts, too.
    """

    def answer(*arguments: Any, **options: Any) -> int:
        with ExitStack() as stack:
            silent = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8")) if is_quiet() else None
            if (sys.stdout, sys.stderr) == (sys.__stdout__, sys.__stderr__) and sys.stdout and sys.stderr:
                # the process's own: their descriptors too, for what C code and child processes print
                if silent:
                    stack.enter_context(redirected(sys.stderr, silent))
                results = stack.enter_context(redirected(sys.stdout, sys.stderr, for_good=IS_LAST.get()))
            else:
                results = sys.stdout
                stack.enter_context(redirect_stderr(silent or sys.stderr))
                stack.enter_context(redirect_stdout(sys.stderr))
            # of torch's processes the first one alone
            is_ours = sys.stderr is not None and sys.stderr is sys.__stderr__ and os.environ.get("RANK", "0") == "0"
            if is_ours and not silent and not sys.stderr.isatty():
                stack.callback(PHASES.reset, PHASES.set(stack.enter_context(PhaseLines())))
            stack.callback(RESULTS.reset, RESULTS.set(results))
            if not sys.warnoptions:
                stack.callback(setattr, warnings, "showwarning", warnings.showwarning)
                stack.callback(logging.disable, logging.root.manager.disable)
                warnings.showwarning = lambda *_, **__: None
                # for processes that this one starts: workers of a sweep import the same libraries, on Ray too
                if "PYTHONWARNINGS" not in os.environ:
                    os.environ["PYTHONWARNINGS"] = "ignore"
                    stack.callback(os.environ.pop, "PYTHONWARNINGS", None)
                logging.disable(logging.WARNING)
            try:
                return callback(*arguments, **options)
            except (BudgetError, PlacementError) as error:
                if error.is_reported_elsewhere:
                    raise
                if options.get("as_json"):
                    # no placement could be counted, and with it no more of a report
                    none = False if "connectivity" in options else {"before": False, "after": False}  # of inspect, of the others
                    show_json(error.verdict or {"fits": none, "infeasible": str(error)})
                else:
                    show(f"{options.get('target') or 'The chip'}: does not fit.")  # the reason follows on stderr
                raise

    @wraps(callback)
    def run(*arguments: Any, **options: Any) -> int:
        try:
            return answer(*arguments, **options)
        except BrokenPipeError:  # `neurodeploy profiles | head -1`: what was read was enough; click would end with 1
            return 128 + signal.SIGPIPE
        except EOFError as error:  # of a file that is cut short; click would call it an interrupt
            raise RuntimeError(f"EOFError: {error}") from error

    return run


@contextmanager
def redirected(stream: TextIO, to: TextIO, *, for_good: bool = False) -> Iterator[TextIO]:
    """Let the descriptor of a stream lead where another's does while open; yield a stream that leads where it did before.

    With `for_good` it still does so afterwards, until the process ends.
    """
    stream.flush()
    kept = os.dup(stream.fileno())
    buffering = 1 if stream.isatty() else -1
    # escaped: names of files that are no text in this encoding
    before = os.fdopen(os.dup(kept), "w", buffering=buffering, encoding=stream.encoding, errors="backslashreplace")
    os.dup2(to.fileno(), stream.fileno())
    try:
        yield before
        before.flush()  # an error, such as that of a full disk, is one of the command
    finally:
        with suppress(ValueError):  # the user's code closed it
            stream.flush()
        if not for_good:
            os.dup2(kept, stream.fileno())
        os.close(kept)
        with suppress(OSError):
            before.close()


@contextmanager
def progress_output(*, enabled: bool = True) -> Iterator[tuple[Progress, Callable[[str], None]]]:
    """Progress bars, and a function that prints a message above them, both on stderr; in a pipe a line an epoch for bars.

    Parameters
    ----------
    enabled : bool
        Print at all; under torchrun only rank 0 does.
    """
    from rich.console import Console

    from neurodeploy.training.options import ProgressBars

    console = Console(stderr=True, quiet=is_quiet() or not enabled)

    def say(line: str) -> None:
        # what follows is another phase, which says itself what it is
        enter_phase("")
        with forgiving_stderr():
            console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def progress(step: Step) -> None:
        enter_phase(f"Training, {step.phase}: epoch {step.epoch + 1:,} of {step.epochs:,}")
        bars(step)

    enter_phase("Reading the model and the data")
    with ProgressBars(console) as bars, counting(bars.count):
        yield progress, say


@contextmanager
def forgiving_stderr() -> Iterator[None]:
    """Print on stderr in the block; if it takes nothing, as a log on a full disk, the run goes on and its exit code stays."""
    try:
        yield
    except OSError as error:
        with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())  # what is still buffered would fail again at the end
        if isinstance(error, BrokenPipeError):  # nobody reads it
            raise


def print_on_stderr(line: str) -> None:
    """Print a line on stderr, if that is possible."""
    with suppress(BrokenPipeError, ValueError), forgiving_stderr():  # ValueError: the user's code closed it
        click.echo(line, err=True)


def show_now(result: TargetResult) -> None:
    """Print a chip's verdict in one line on a terminal's stderr, before the others are known; nowhere with ``--quiet``."""
    if sys.stderr is None or not sys.stderr.isatty() or is_quiet():
        return
    name, _, cores, binds, *_, accuracy, _ = result.cells()
    facts = (cores and f"{cores} cores", binds, accuracy and f"accuracy {accuracy}")
    print_on_stderr("; ".join(filter(None, (f"{name}: {'fits' if result.fits else 'does not fit'}", *facts))))


def enter_phase(what: str) -> None:
    """Have the running command's `PhaseLines`, if there are any, say that something else is done."""
    if (lines := PHASES.get()) is not None:
        lines.phase = what


@contextmanager
def status(what: str) -> Iterator[Callable[[str], None] | None]:
    """Show on a terminal's stderr what is being done and for how long, until it is done, and in Lava how far it is.

    In a pipe it is one line, after two seconds. Yield a function that shows something else; None where nothing is shown.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal or is_quiet():
        enter_phase(what)
        yield None
        enter_phase("")
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=None)
        with counting(lambda done, total: shown.update(task, description=f"{what}: {done:,} of {total:,} steps")):
            yield lambda now: shown.update(task, description=now)


@contextmanager
def counting(count: Callable[[int, int], None]) -> Iterator[None]:
    """Call a function with the steps done and their total while Lava runs."""
    from neurodeploy.targets import COUNTER

    before = COUNTER.set(count)
    try:
        yield
    finally:
        COUNTER.reset(before)


def show(*parts: RenderableType) -> None:
    """Print parts of a report on stdout: on a terminal in its width, verdicts coloured unless ``NO_COLOR``; plain in a pipe."""
    from rich.console import Console
    from rich.text import Text

    from neurodeploy.report.text import WIDEST, WIDTH, as_text

    # no markup: names of layers may have brackets, as in fc1[0:64]
    console = Console(highlight=False, markup=False, emoji=False, file=RESULTS.get(), width=WIDEST if is_wide() else None)
    if not console.is_terminal:
        asked = os.environ.get("COLUMNS", "")
        width = WIDEST if is_wide() else int(asked) if asked.isdecimal() and int(asked) else WIDTH
        click.echo(as_text(*parts, width=width), file=RESULTS.get())
        return
    coloured: list[RenderableType] = []
    for part in parts:
        if isinstance(part, str):
            text = Text(part)
            text.highlight_regex(r"\b[Dd]oes not fit\b|\bfits, but cannot be deployed\b", "bold red")
            text.highlight_regex(r"(?m)^(Now|Before): fits\b(?!, but)", "bold green")
            coloured.append(text)
        else:
            coloured.append(part)
    console.print(*coloured, sep="\n", crop=False)


def show_json(data: Any) -> None:
    """Print JSON on stdout."""
    click.echo(json.dumps(data, indent=2), file=RESULTS.get())


@contextmanager
def resume_hint(*, enabled: bool) -> Iterator[None]:
    """On an interrupt, print the command that resumes this run."""
    try:
        yield
    except KeyboardInterrupt:
        typed = typed_command()
        if enabled:
            print_on_stderr(f"To resume: {typed}{'' if '--resume' in typed.split() else ' --resume'}")
        raise


def typed_command() -> str:
    """Return the running command line as a shell would take it again."""
    # `main` keeps the arguments in the context's obj: sys.argv is not theirs when it is called from Python
    return shlex.join(["neurodeploy", *(click.get_current_context().find_root().obj or ())])


def show_deployments(deployments: Sequence[Deployment], as_json: bool, *, enabled: bool = True) -> bool:
    """Print the report of one deployment, or a table of several; return whether all fit."""
    from neurodeploy.report.text import size_table, unbroken

    several = len(deployments) > 1
    if enabled and as_json:
        reports = [deployment.report.to_json() for deployment in deployments]
        show_json(reports if several else reports[0])
    elif enabled and several:
        # several reports would not fit a terminal: their pages are named
        pages = [deployment.report.files["page"] for deployment in deployments]
        notes = (f"Note: {note}" for note in dict.fromkeys(note for d in deployments for note in d.report.warnings))
        named = unbroken(f"Reports: {', '.join(pages)}")
        show(size_table((d.placement, d.report.accuracy) for d in deployments), *notes, named)
    elif enabled:
        show(*deployments[0].report.tables(wide=is_wide()))
    return all(deployment.placement.fits for deployment in deployments)
