"""``embed``: the embeddings of a zoo, and with ``--project`` all that the app shows without computing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sane_engine.cli.console import Console
from sane_engine.cli.output import command_line, replaceable
from sane_engine.revision import commit

if TYPE_CHECKING:
    from sane_engine.sane import Sane
    from sane_engine.zoo import Zoo

DEFAULT_ZOO = "digits"
DEFAULT_ENCODER = "digits-sane"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "embed",
        help="embed a zoo with a SANE encoder",
        description="Embed every checkpoint of a zoo: writes embeddings.safetensors and embeddings.json.",
    )
    parser.add_argument(
        "zoo", nargs="?", default=DEFAULT_ZOO, metavar="ZOO", help="path or embedded name (default: %(default)s)"
    )
    parser.add_argument(
        "--encoder", default=DEFAULT_ENCODER, metavar="NAME", help="folder or embedded name (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--project", action="store_true", help="also write the maps and the WeightWatcher table")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the projection (default: %(default)s)"
    )
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Embed, save, and say what came out."""
    from sane_engine.sane import embed, load_encoder
    from sane_engine.zoo import load_zoo

    if arguments.project:
        replaceable(arguments.out, "embeddings.json")
    encoder = load_encoder(arguments.encoder)
    zoo = load_zoo(arguments.zoo, progress=console.progress, cancelled=console.cancelled)
    if arguments.project:
        return _precompute(arguments, zoo, encoder, console)
    embeddings = embed(encoder, zoo, keep_tokens=False, progress=console.progress, cancelled=console.cancelled)
    arguments.out.mkdir(parents=True, exist_ok=True)
    embeddings.save(arguments.out / "embeddings.safetensors")
    report = {
        "zoo": zoo.name,
        "zoo_digest": zoo.digest,
        "encoder": str(arguments.encoder),
        "encoder_digest": encoder.digest,
        "aligned": bool(encoder.aligner.alignments),
        "command": command_line(arguments),
        "commit": commit(),
        "checkpoints": len(zoo),
        "foreign": int(embeddings.foreign.sum()),
        "models": list(embeddings.models.shape),
        "layers": list(embeddings.layers.shape),
        "notes": list(embeddings.notes),
    }
    console.emit(report, arguments.out / "embeddings.json")
    console.emit({"out": str(arguments.out), **report})
    return 0


def _precompute(arguments: argparse.Namespace, zoo: Zoo, encoder: Sane, console: Console) -> int:
    from sane_engine.demo import precompute

    kept = precompute(
        zoo,
        encoder,
        arguments.out,
        seed=arguments.seed,
        provenance={"command": command_line(arguments), "commit": commit()},
        progress=console.progress,
        cancelled=console.cancelled,
    )
    console.emit({"out": str(arguments.out), **kept.record})
    return 0
