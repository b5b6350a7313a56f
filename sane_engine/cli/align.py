"""``align``: bring the hidden units of one network into the order of another's, and walk between the two."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sane_engine.checkpoint import Refusal
from sane_engine.cli.console import Console
from sane_engine.cli.output import command_line

if TYPE_CHECKING:
    from torch import Tensor

    from sane_engine.symmetry import Symmetry
    from sane_engine.zoo import Zoo

POINTS = 25


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "align",
        help="permute one network's hidden units to match another's",
        description=(
            "Weight matching of network A to network B, which stays. The family is recognised from names and "
            "shapes (plain chains, VGGs, ResNets); an unknown one is refused. A computes the same afterwards. With "
            "--zoo, A and B may be models of the zoo, and the zoo knows their symmetry."
        ),
    )
    parser.add_argument("a", metavar="A", help="the network to move: a file, or with --zoo a MODEL or MODEL@EPOCH")
    parser.add_argument("b", metavar="B", help="the network that stays")
    parser.add_argument("--zoo", metavar="ZOO", help="path or embedded name of the zoo that A and B belong to")
    parser.add_argument(
        "--barrier",
        action="store_true",
        help="test accuracy and loss on the straight line from A to B, before and after (needs --zoo)",
    )
    parser.add_argument(
        "--points", type=int, default=POINTS, metavar="N", help="networks on that line (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the aligned A (.safetensors or .pt)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="order of the visits in matching (default: %(default)s)"
    )
    return parser


@dataclass(frozen=True)
class _Network:
    """One of the two: its name, its weights, and its row where it is a model of the zoo."""

    name: str
    tensors: dict[str, Tensor]
    row: int | None = None


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Recognise, align, and say how much it moved."""
    from sane_engine.intake import save_checkpoint
    from sane_engine.symmetry import movement, symmetry_of_tensors, symmetry_of_zoo
    from sane_engine.zoo import load_zoo

    if arguments.barrier and arguments.zoo is None:
        raise Refusal(
            "no-zoo", "--barrier needs images to measure on.", "Name a zoo that knows its own with --zoo."
        )
    if arguments.points < 2:
        raise Refusal("too-few-points", "A line needs at least 2 points.", "Raise --points.")
    zoo = None
    if arguments.zoo is not None:
        zoo = load_zoo(arguments.zoo, progress=console.progress, cancelled=console.cancelled)
    moving, staying = (_network(text, zoo) for text in (arguments.a, arguments.b))
    row = next((network.row for network in (staying, moving) if network.row is not None), None)
    known = zoo is not None and row is not None
    symmetry = symmetry_of_zoo(zoo, row) if known and zoo else symmetry_of_tensors(staying.tensors)
    if symmetry.is_trivial:
        raise Refusal(
            "unknown-family",
            f"{staying.name} is of no family the matcher knows: not aligned.",
            "From Python, find_symmetry(module, example_input) traces any network.",
        )
    moved = movement(moving.tensors, staying.tensors, symmetry, seed=arguments.seed)
    report: dict[str, Any] = {
        "a": moving.name,
        "b": staying.name,
        "permutable_neurons": symmetry.n_neurons,
        "groups": len(symmetry.groups),
        "distance_before": moved.distance_before,
        "distance_after": moved.distance_after,
        "moved": moved.moved,
        "flipped": moved.flipped,
        "by_group": moved.groups.to_dict(orient="records"),
        "seed": arguments.seed,
        "notes": list(symmetry.notes),
        "command": command_line(arguments),
        "out": arguments.out,
    }
    if arguments.barrier and zoo is not None:
        report["barrier"] = _barrier(moving, staying, symmetry, zoo, arguments, console)
    if arguments.out is not None:
        save_checkpoint(moved.aligned, arguments.out)
    console.emit(report)
    return 0


def _network(text: str, zoo: Zoo | None) -> _Network:
    """A model of the zoo, by default at its last epoch, or else a file."""
    from sane_engine.intake import load_checkpoint

    if zoo is not None:
        table = zoo.table
        name, at, epoch = text.rpartition("@")
        if not at or not (table["model"] == name).any():
            name, epoch = text, ""
        rows = table.index[table["model"] == name]
        if epoch:
            rows = rows[table.loc[rows, "epoch"].astype(str) == epoch]
        if len(rows):
            row = int(table.loc[rows, "epoch"].idxmax())
            return _Network(f"{name}@{int(table['epoch'].iloc[row])}", zoo.tensors(row), row)
        if not Path(text).exists():
            raise Refusal(
                "no-such-model", f"The zoo has no model {text!r}, nor is there such a file.", "See its table."
            )
    found = load_checkpoint(text)
    return _Network(found.name, dict(found.tensors))


def _barrier(
    moving: _Network,
    staying: _Network,
    symmetry: Symmetry,
    zoo: Zoo,
    arguments: argparse.Namespace,
    console: Console,
) -> dict[str, Any]:
    from sane_engine.symmetry import barrier
    from sane_engine.zoo.task import activation_of, task_of_zoo

    found = barrier(
        moving.tensors,
        staying.tensors,
        symmetry,
        task_of_zoo(zoo),
        activation=activation_of(zoo, [network.row for network in (moving, staying) if network.row is not None]),
        points=arguments.points,
        seed=arguments.seed,
        progress=console.progress,
        cancelled=console.cancelled,
    )
    return {
        "height_before": found.before.height,
        "height_after": found.after.height,
        "data_set": found.dataset,
        "test_images": found.n_images,
        "line": found.table().to_dict(orient="list"),
    }
