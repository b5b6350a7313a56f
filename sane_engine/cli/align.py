"""``align``: bring the hidden units of one network into the order of another's, and walk between the two."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sane_engine.checkpoint import Refusal
from sane_engine.cli.console import Console
from sane_engine.cli.output import command_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sane_engine.symmetry import Permutations, Symmetry
    from sane_engine.zoo import Zoo

POINTS = 25
_IMAGES = 512  # of the zoo's training images: enough to tell some hundred units apart


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "align",
        help="permute one network's hidden units to match another's",
        description=(
            "Match the units of network A to those of network B, which stays. The family is recognised from names "
            "and shapes (plain chains, VGGs, ResNets); an unknown one is refused. A computes the same. With "
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
    parser.add_argument(
        "--method",
        choices=["weights", "activations"],
        default="weights",
        help="what is compared: weights, or what the units do on images (needs --zoo; default: %(default)s)",
    )
    parser.add_argument(
        "--inputs",
        metavar="FILE",
        help="images for --method activations, one tensor [n, channels, height, width] (default: the zoo's own)",
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
    symmetry = symmetry_of_tensors(staying.tensors) if zoo is None else symmetry_of_zoo(zoo, row)
    if symmetry.is_trivial:
        raise Refusal(
            "unknown-family",
            f"{staying.name} is of no family the matcher knows: not aligned.",
            "From Python, find_symmetry(module, example_input) traces any network.",
        )
    permutations, notes = None, symmetry.notes
    if arguments.method == "activations":
        permutations, more = _by_activations(moving, staying, symmetry, zoo, arguments, console)
        notes += more
    moved = movement(moving.tensors, staying.tensors, symmetry, seed=arguments.seed, permutations=permutations)
    report: dict[str, Any] = {
        "a": moving.name,
        "b": staying.name,
        "method": arguments.method,
        "permutable_neurons": symmetry.n_neurons,
        "groups": len(symmetry.groups),
        "distance_before": moved.distance_before,
        "distance_after": moved.distance_after,
        "moved": moved.moved,
        "flipped": moved.flipped,
        "by_group": moved.groups.to_dict(orient="records"),
        "seed": arguments.seed,
        "notes": list(notes),
        "command": command_line(arguments),
        "out": arguments.out,
    }
    if arguments.barrier and zoo is not None:
        report["barrier"] = _barrier(moving, staying, symmetry, zoo, moved.permutations, arguments, console)
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
    permutations: Permutations,
    arguments: argparse.Namespace,
    console: Console,
) -> dict[str, Any]:
    from sane_engine.sampling.batch_norm import conditioning
    from sane_engine.symmetry import barrier
    from sane_engine.zoo.task import activation_of, task_of_zoo

    activation = activation_of(zoo, _rows(moving, staying))
    found = barrier(
        moving.tensors,
        staying.tensors,
        symmetry,
        task_of_zoo(zoo),
        activation=activation,
        points=arguments.points,
        permutations=permutations,
        condition=conditioning(zoo, activation=activation, cancelled=console.cancelled),
        progress=console.progress,
        cancelled=console.cancelled,
    )
    return {
        "height_before": found.before.height,
        "height_after": found.after.height,
        "data_set": found.dataset,
        "test_images": found.n_images,
        "running_statistics": "measured again at every point" if found.conditioned else "none",
        "line": found.table().to_dict(orient="list"),
    }


def _rows(*networks: _Network) -> list[int]:
    return [network.row for network in networks if network.row is not None]


def _by_activations(
    moving: _Network,
    staying: _Network,
    symmetry: Symmetry,
    zoo: Zoo | None,
    arguments: argparse.Namespace,
    console: Console,
) -> tuple[Permutations, tuple[str, ...]]:
    """Match what the units do on images: those of a file, or the first that the zoo was trained on."""
    from sane_engine.symmetry import match_activations
    from sane_engine.zoo.architectures import as_architecture, build
    from sane_engine.zoo.datasets import load_dataset
    from sane_engine.zoo.task import activation_of, task_of_zoo

    if zoo is None or zoo.architecture is None:
        raise Refusal(
            "no-architecture",
            "Activations need the network itself, and tensors alone do not tell it.",
            "Name a zoo of the same architecture with --zoo, or leave out --method activations.",
        )
    architecture = as_architecture(zoo.architecture)
    if arguments.inputs is None:
        images = load_dataset(task_of_zoo(zoo).dataset, image_size=architecture.input_shape[1]).train_images
    else:
        images = _images(arguments.inputs, architecture.input_shape)
    module: nn.Module = build(replace(architecture, activation=activation_of(zoo, _rows(moving, staying))))
    found = match_activations(
        module,
        moving.tensors,
        staying.tensors,
        symmetry,
        images[:_IMAGES] if arguments.inputs is None else images,
        seed=arguments.seed,
        cancelled=console.cancelled,
    )
    return found.permutations, found.notes


def _images(file: str, shape: tuple[int, int, int]) -> Tensor:
    from sane_engine.intake import load_checkpoint

    tensors = list(load_checkpoint(file).tensors.values())
    if len(tensors) != 1 or tuple(tensors[0].shape[1:]) != shape or len(tensors[0]) < 2:
        raise Refusal(
            "wrong-inputs",
            f"{Path(file).name} is not one tensor of two or more images of {' × '.join(map(str, shape))}.",
            "Save one tensor [n, channels, height, width].",
        )
    return tensors[0].float()
