"""``probe``: every representation against every property of a zoo."""

from __future__ import annotations

import argparse
from pathlib import Path

from sane_engine.cli.console import Console
from sane_engine.cli.embed import DEFAULT_ZOO
from sane_engine.cli.output import command_line
from sane_engine.revision import commit


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "probe",
        help="predict properties of held-out models from every representation",
        description="Predict properties of held-out models from every representation, on the same splits.",
    )
    parser.add_argument(
        "zoo", nargs="?", default=DEFAULT_ZOO, metavar="ZOO", help="path or embedded name (default: %(default)s)"
    )
    parser.add_argument(
        "--representation", action="append", metavar="NAME", help="only this one; may be given several times"
    )
    parser.add_argument(
        "--target", action="append", metavar="COLUMN", help="only this property; may be given several times"
    )
    parser.add_argument(
        "--splits", type=int, default=5, metavar="N", help="outer splits, grouped by model (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="seeds of what is trained (default: %(default)s)"
    )
    parser.add_argument("--crossed", action="store_true", help="every seed on every split, not in turns")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the splits (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to a file")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Probe and print the whole table."""
    from sane_engine.probing import probe_table
    from sane_engine.zoo import load_zoo

    zoo = load_zoo(arguments.zoo, progress=console.progress, cancelled=console.cancelled)
    table = probe_table(
        zoo,
        arguments.representation,
        arguments.target,
        encoder_seeds=arguments.seeds,
        outer_splits=arguments.splits,
        crossed=arguments.crossed,
        seed=arguments.seed,
        progress=console.progress,
        cancelled=console.cancelled,
    )
    if arguments.out is None:
        console.emit(table.to_json(command=command_line(arguments), commit=commit()))
    else:
        table.save(arguments.out, command=command_line(arguments), commit=commit())
        console.emit({"out": str(arguments.out), "split_hash": table.record["split_hash"]})
    return 0
