"""The commands and their flags, and what an exit status means."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sane_engine.checkpoint import Refusal
from sane_engine.cli import align, embed, inspect, jobs, pretrain, probe, reconstruct, sample, train_zoo, workspace
from sane_engine.cli.console import Console
from sane_engine.progress import Cancelled
from sane_engine.zoo.workers import WorkerFailed

REFUSED, STOPPED = 2, 130

_EPILOG = f"""\
JSON goes to standard output, progress to standard error. ZOO is the path of a zoo (native folder, modelzoos folder,
folder or zip of checkpoints) or the name of an embedded one.
Exit status: 0 done, {REFUSED} something given was refused (one line says what), {STOPPED} stopped with Ctrl-C.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m sane_engine``, every command and flag described."""
    parser = argparse.ArgumentParser(
        prog="python -m sane_engine",
        description="Look inside populations of neural networks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (inspect, embed, train_zoo, pretrain, reconstruct, probe, sample, align, jobs, workspace):
        command = module.add(commands)
        command.add_argument("--json", action="store_true", help="JSON on one line instead of indented")
        command.add_argument("--quiet", action="store_true", help="no progress on standard error")
        command.add_argument(
            "--progress", type=Path, metavar="FILE", help="append progress to a file, a JSON object a line"
        )
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit status. Wrong usage leaves through ``SystemExit(2)``, as argparse does.
    """
    arguments = build_parser().parse_args(argv)
    console = Console(compact=arguments.json, quiet=arguments.quiet, log=arguments.progress)
    try:
        with console.interruptible():
            status: int = arguments.run(arguments, console)
            return status
    except Refusal as refusal:
        console.error(refusal.line())
    except BrokenPipeError:
        # Whoever read our output (head, less) has left; nothing more can be said there, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, WorkerFailed) as error:
        console.error(str(error))
    except (Cancelled, KeyboardInterrupt):
        console.error("stopped")
        return STOPPED
    return REFUSED
