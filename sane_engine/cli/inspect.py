"""``inspect``: what is in a checkpoint file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sane_engine.checkpoint import Refusal
from sane_engine.cli.console import Console, printable
from sane_engine.progress import stop_if
from sane_engine.sane.encoder_file import UNIVERSAL

if TYPE_CHECKING:
    from sane_engine.checkpoint import Checkpoint
    from sane_engine.intake import Limits
    from sane_engine.sane import Sane

LAYER_KINDS = ("weightwatcher", "statistics", "sane")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "inspect",
        help="say what is in checkpoint files",
        description="Say what is in checkpoint files: a JSON list with one object a checkpoint. Files are "
        "untrusted: they are read in a child process and nothing in them is run.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="checkpoint, or a zip of several")
    parser.add_argument(
        "--layers",
        action="append",
        choices=LAYER_KINDS,
        default=[],
        help="add a table with one row a layer; may be given several times",
    )
    parser.add_argument(
        "--encoder",
        default=UNIVERSAL,
        metavar="NAME",
        help="encoder for --layers sane: a folder or the name of an embedded one (default: %(default)s)",
    )
    parser.add_argument(
        "--header",
        action="store_true",
        help="only names, types and shapes: instant for any size, but no sha256 and nothing checked",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a ceiling of the reader, as in file_bytes=64GiB; may be given several times",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the JSON to FILE instead of standard output"
    )
    return parser


def describe(checkpoint: Checkpoint, file: str) -> dict[str, Any]:
    """What the intake found, as plain values."""
    found = checkpoint.provenance
    return {
        "name": checkpoint.name,
        "file": file,
        "container": found.container,
        "size_bytes": found.size_bytes,
        "sha256": found.sha256 or None,
        "key_path": list(found.key_path),
        "prefixes_stripped": list(found.prefixes_stripped),
        "n_tensors": len(checkpoint.entries),
        "parameters": checkpoint.n_parameters,
        "buffers": checkpoint.n_buffers,
        "dtypes": dict(found.dtypes),
        "tensors": [
            {"name": entry.name, "shape": list(entry.shape), "dtype": entry.dtype} for entry in checkpoint.entries
        ],
        "properties": dict(checkpoint.properties),
        "ignored": [{"name": name, "reason": reason} for name, reason in found.ignored],
    }


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Inspect every file; one that is refused does not keep the others from being reported.

    Returns:
        0, or 2 if a file was refused.
    """
    from sane_engine.intake import configured_limits, with_settings

    if arguments.header and arguments.layers:
        raise ValueError("--header reads no weights, so there are no --layers")
    limits = with_settings(configured_limits(), arguments.limit)
    encoder: Sane | None = None
    if "sane" in arguments.layers:
        from sane_engine.sane import load_encoder

        encoder = load_encoder(arguments.encoder)
    reports: list[dict[str, Any]] = []
    refused = 0
    for number, file in enumerate(arguments.files):
        stop_if(console.cancelled)
        console.progress(number, len(arguments.files), f"reading {Path(file).name}")
        try:
            checkpoints = _open(Path(file), limits, console, header=arguments.header)
            found = [_report(checkpoint, file, arguments.layers, encoder, console) for checkpoint in checkpoints]
        except (ValueError, OSError) as error:
            reason = error.line() if isinstance(error, Refusal) else str(error)
            console.error(f"{printable(file)}: {reason}")
            refused += 1
            continue
        reports += found
    if reports or not refused:
        console.emit(reports, arguments.out)
    return 2 if refused else 0


def _open(file: Path, limits: Limits, console: Console, *, header: bool) -> list[Checkpoint]:
    """The checkpoints of a file; of a large one, tensors stay in the file until they are asked for."""
    from sane_engine.intake import is_large, list_checkpoints, load_checkpoints

    if header:
        return list_checkpoints(file, limits=limits, cancelled=console.cancelled)
    lazy = is_large(file)
    found = load_checkpoints(file, limits=limits, lazy=lazy, progress=console.progress, cancelled=console.cancelled)
    return [_looked_at(checkpoint, console) for checkpoint in found] if lazy else found


def _looked_at(checkpoint: Checkpoint, console: Console) -> Checkpoint:
    from sane_engine.intake.lazy import LazyTensors

    assert isinstance(checkpoint.tensors, LazyTensors)
    bad = checkpoint.tensors.non_finite(progress=console.progress, cancelled=console.cancelled)
    return replace(checkpoint, properties={**checkpoint.properties, "non_finite": bad}) if bad else checkpoint


def _report(
    checkpoint: Checkpoint, file: str, kinds: list[str], encoder: Sane | None, console: Console
) -> dict[str, Any]:
    report = describe(checkpoint, file)
    if kinds:
        report["layers"] = {kind: _layers(checkpoint, kind, encoder, console) for kind in dict.fromkeys(kinds)}
    return report


def _layers(checkpoint: Checkpoint, kind: Any, encoder: Sane | None, console: Console) -> list[dict[str, Any]]:
    from sane_engine.baselines import layer_features

    table = layer_features(
        checkpoint.tensors,
        kind,
        encoder=encoder if kind == "sane" else None,
        progress=console.progress,
        cancelled=console.cancelled,
    )
    return [{str(k): v for k, v in row.items()} for row in table.to_dict(orient="records")]
