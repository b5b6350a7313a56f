"""``train-zoo``: train a population of small CNNs."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from sane_engine.checkpoint import Refusal
from sane_engine.cli.console import Console
from sane_engine.cli.output import command_line, replaceable


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "train-zoo",
        help="train a population of small CNNs",
        description="Train a population of small CNNs as a JSON specification says, and save it as a native zoo.",
    )
    parser.add_argument(
        "--spec",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON specification: data, architecture, variations",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="the data set's files: an .npz file, or a folder of IDX files or of pictures by class",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the zoo; a zoo there is replaced"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="STATE",
        help="keep the state here; the same command goes on where it stopped",
    )
    parser.add_argument(
        "--collect",
        action="store_true",
        help="train nothing; save the models that are finished in STATE, while others may still be training",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="training processes of one thread each (default: one a core)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="use this seed instead of the specification's")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Train, save, and say what came out."""
    from sane_engine.zoo import ZooSpec, train_zoo

    replaceable(arguments.out, "zoo.json")
    if arguments.collect and arguments.folder is None:
        raise Refusal("no-folder", "--collect needs the state of a run.", "Name it with --folder STATE.")
    spec = ZooSpec.load(arguments.spec)
    if arguments.seed is not None:
        spec = dataclasses.replace(spec, seed=arguments.seed)
    zoo = train_zoo(
        spec,
        data=arguments.data,
        folder=arguments.folder,
        workers=arguments.workers,
        collect=arguments.collect,
        progress=console.progress,
        cancelled=console.cancelled,
    )
    zoo.provenance["command"] = command_line(arguments)
    zoo.save(arguments.out)
    accuracy = zoo.table.get("test_accuracy")
    console.emit(
        {
            "zoo": str(arguments.out),
            "name": zoo.name,
            "digest": zoo.digest,
            "checkpoints": len(zoo),
            "models": int(zoo.table["model"].nunique()),
            "dropped": len(zoo.dropped),
            "test_accuracy": None if accuracy is None else dict(accuracy.describe()[["min", "50%", "max"]]),
            "seed": spec.seed,
        }
    )
    return 0
