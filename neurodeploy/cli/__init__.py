"""What the command line can be asked for: arguments to nouns, one call, an exit code."""

from __future__ import annotations

import click

from neurodeploy.cli.commands import compress, demo, deploy, evaluate, export, inspect, profiles, simulate, verify
from neurodeploy.cli.console import QUIET
from neurodeploy.cli.options import DIFFERS, DONE
from neurodeploy.report.summary import told as told_versions

__all__ = ["DIFFERS", "DONE", "cli"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(told_versions(), message="%(version)s")
@QUIET
def cli() -> None:
    """Get a spiking network onto a neuromorphic chip.

    MODEL is file.py:factory or package.module:factory, a function without arguments that returns a Norse network (or a
    pair of it and a sample input), or a .net or .nir file. DATA is digits, mnist, fashion-mnist, cifar10, n-mnist, dvs-gesture,
    cifar10-dvs, shd, mnist:FILE.npz, or file.py:factory, a function that returns (train, test), each an iterable of
    (input, target) batches.

    Exit codes: 0 fits, equal or done; 1 does not fit, or differs; 2 bad input.
    """


for command in (profiles, inspect, deploy, compress, simulate, verify, evaluate, export, demo):
    cli.add_command(command)
