"""``align``: bring the hidden units of one checkpoint into the order of another's."""

from __future__ import annotations

import argparse
from pathlib import Path

from sane_engine.cli.console import Console
from sane_engine.cli.output import command_line


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "align",
        help="permute one checkpoint's hidden units to match another's",
        description=(
            "Weight matching of checkpoint A to checkpoint B, which stays. The family is recognised from names and "
            "shapes (plain chains, VGGs, ResNets); an unknown one is refused. A computes the same afterwards."
        ),
    )
    parser.add_argument("a", metavar="A", help="the checkpoint to move")
    parser.add_argument("b", metavar="B", help="the checkpoint that stays")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the aligned A (.safetensors or .pt)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="order of the visits in matching (default: %(default)s)"
    )
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Recognise, align, and say how much it moved."""
    from sane_engine.checkpoint import Refusal
    from sane_engine.intake import load_checkpoint, save_checkpoint
    from sane_engine.symmetry import align, distance, symmetry_of_tensors

    moving, staying = load_checkpoint(arguments.a), load_checkpoint(arguments.b)
    symmetry = symmetry_of_tensors(staying.tensors)
    if symmetry.is_trivial:
        raise Refusal(
            "unknown-family",
            f"{staying.name} is of no family the matcher knows: not aligned.",
            "From Python, find_symmetry(module, example_input) traces any network.",
        )
    aligned = align(moving.tensors, staying.tensors, symmetry, seed=arguments.seed)
    if arguments.out is not None:
        save_checkpoint(aligned, arguments.out)
    console.emit(
        {
            "a": moving.name,
            "b": staying.name,
            "permutable_neurons": symmetry.n_neurons,
            "groups": len(symmetry.groups),
            "distance_before": distance(moving.tensors, staying.tensors),
            "distance_after": distance(aligned, staying.tensors),
            "seed": arguments.seed,
            "notes": list(symmetry.notes),
            "command": command_line(arguments),
            "out": arguments.out,
        }
    )
    return 0
