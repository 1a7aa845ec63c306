"""Entry point of the command line: run a command, print its error in one line on stderr, return its exit code.

Exit codes: 0 fits, equal or done; 1 does not fit, or differs; 2 bad input; 70 a bug in neurodeploy; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from neurodeploy.cli import cli
from neurodeploy.cli.options import DIFFERS, DONE
from neurodeploy.errors import BudgetError, NeurodeployError, PlacementError, quoted

# 2 as click has it; 70 is EX_SOFTWARE of sysexits.h; 130 is 128 + SIGINT
BAD_INPUT, BUG, INTERRUPTED = 2, 70, 130
MAX_ERROR = 2000
"""Characters of an error's line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors are printed on stderr in one line."""
    try:
        typed = list(sys.argv[1:] if arguments is None else arguments)
        # standalone_mode=False: click raises, instead of printing and leaving by itself
        code = cli.main(args=list(typed), prog_name="neurodeploy", standalone_mode=False, obj=typed)
        return code if isinstance(code, int) else DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return BAD_INPUT
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "neurodeploy"
        click.echo(f"{command}: {quoted(' '.join(error.format_message().split()))} See {command} --help.", err=True)
        return BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except NeurodeployError as error:
        if not error.is_reported_elsewhere:
            click.echo(quoted(f"{type(error).__name__}: {error}", MAX_ERROR), err=True)
        # a network that does not fit is an answer, and not bad input
        return DIFFERS if isinstance(error, (BudgetError, PlacementError)) else BAD_INPUT
    except OSError as error:
        click.echo(quoted(f"{error.filename or 'a file'}: {error.strerror or error}."), err=True)
        return BAD_INPUT
    except Exception as error:
        if (
            isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)
        ):  # torch's are RuntimeErrors
            click.echo("Not enough memory. Take fewer steps or samples at once, or a smaller network.", err=True)
            return BAD_INPUT
        if "NEURODEPLOY_TRACEBACK" in os.environ:
            raise
        remedy = "Please report it; NEURODEPLOY_TRACEBACK=1 shows where."
        click.echo(f"A bug in neurodeploy: {type(error).__name__}: {error}. {remedy}", err=True)
        return BUG


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
