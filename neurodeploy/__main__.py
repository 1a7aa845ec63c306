"""Entry point of the command line: run a command, print its error in one line on stderr, return its exit code.

Exit codes: 0 fits, equal or done; 1 does not fit, or differs; 2 bad input; 70 a bug in neurodeploy; 128 and a signal's number
where one ended it: 130 interrupted, 143 terminated, 141 where nobody reads stdout any more.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from neurodeploy.cli import cli
from neurodeploy.cli.console import IS_LAST, print_on_stderr
from neurodeploy.cli.options import DIFFERS, DONE
from neurodeploy.errors import BudgetError, NeurodeployError, PlacementError, quoted, said_by

# 2 as click has it; 70 is EX_SOFTWARE of sysexits.h; shells say 128 and a signal's number
BAD_INPUT, BUG, SIGNALLED = 2, 70, 128
MAX_ERROR = 2000
"""Characters of an error's line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors are printed on stderr in one line.

    Without `arguments` it runs what was typed, as the last thing that the process does.
    """
    received: list[int] = []
    if arguments is None:
        IS_LAST.set(True)
    try:
        typed = list(sys.argv[1:] if arguments is None else arguments)
        # standalone_mode=False: click raises, instead of printing and leaving by itself
        with interrupted_by_signals(received):
            code = cli.main(args=list(typed), prog_name="neurodeploy", standalone_mode=False, obj=typed)
        return code if isinstance(code, int) else DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return BAD_INPUT
    except click.ClickException as error:
        # click's parser does not say of which command an option is
        typed_command = " ".join(["neurodeploy", *(word for word in typed[:1] if word in cli.commands)])
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else typed_command
        said = quoted(" ".join(error.format_message().split()))
        print_on_stderr(f"{command}: {said}{'' if said.endswith(('.', '?')) else '.'} See {command} --help.")
        return BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        print_on_stderr("Interrupted.")
        return SIGNALLED + (received[0] if received else signal.SIGINT)
    except NeurodeployError as error:
        if not error.is_reported_elsewhere:
            print_on_stderr(quoted(f"{type(error).__name__}: {error}", MAX_ERROR))
        # a network that does not fit is an answer, and not bad input
        return DIFFERS if isinstance(error, (BudgetError, PlacementError)) else BAD_INPUT
    except OSError as error:
        print_on_stderr(quoted(f"{error.filename or 'a file'}: {error.strerror or error}."))
        return BAD_INPUT
    except Exception as error:
        from neurodeploy.ir.arrays import memory_shortage  # brings NumPy

        if shortage := memory_shortage(error):
            remedy = "Take fewer steps or samples at once, or a smaller network."
            print_on_stderr(quoted(f"Not enough memory: {shortage}. {remedy}", MAX_ERROR))
            return BAD_INPUT
        if "NEURODEPLOY_TRACEBACK" in os.environ:
            raise
        remedy = "Please report it; NEURODEPLOY_TRACEBACK=1 shows where."
        print_on_stderr(f"A bug in neurodeploy: {quoted(said_by(error), MAX_ERROR)}. {remedy}")
        return BUG
    except (SystemExit, GeneratorExit) as error:  # of the user's code: click and neurodeploy raise none
        print_on_stderr(quoted(f"The model or its data raised {said_by(error)}.", MAX_ERROR))
        return BAD_INPUT


@contextmanager
def interrupted_by_signals(received: list[int]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt as Ctrl-C does while open, so that no half-written file stays; note them in `received`."""

    def interrupt(number: int, _: FrameType | None) -> NoReturn:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        raise KeyboardInterrupt

    # Handlers belong to the main thread. Only rank 0 of torchrun writes files; the others end at once, as torchrun expects it.
    ours = threading.current_thread() is threading.main_thread() and os.environ.get("RANK", "0") == "0"
    numbers = [one for one in (signal.SIGTERM, signal.SIGHUP) if ours and signal.getsignal(one) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def leave(code: int) -> NoReturn:
    """End the process; under torchrun at once, because torch's threads can abort an interpreter that shuts down."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # os._exit flushes nothing
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
