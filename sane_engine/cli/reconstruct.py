"""``reconstruct``: how much of a zoo's models survives the way through an encoder's latents."""

from __future__ import annotations

import argparse
from pathlib import Path

from sane_engine.cli.console import Console
from sane_engine.cli.embed import DEFAULT_ENCODER, DEFAULT_ZOO
from sane_engine.cli.output import command_line


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "reconstruct",
        help="score an encoder's reconstruction of a zoo",
        description=(
            "R² of the reconstructed weights by split, beside per-token PCA with as many components, and the "
            "accuracy of the decoded models."
        ),
    )
    parser.add_argument(
        "zoo", nargs="?", default=DEFAULT_ZOO, metavar="ZOO", help="path or embedded name (default: %(default)s)"
    )
    parser.add_argument(
        "--encoder", default=DEFAULT_ENCODER, metavar="NAME", help="folder or embedded name (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the JSON to FILE instead of standard output"
    )
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Score and say."""
    from sane_engine.sane import load_encoder
    from sane_engine.sane.scorecard import scorecard
    from sane_engine.zoo import load_zoo

    encoder = load_encoder(arguments.encoder)
    zoo = load_zoo(arguments.zoo, progress=console.progress, cancelled=console.cancelled)
    card = scorecard(encoder, zoo, progress=console.progress, cancelled=console.cancelled)
    console.emit(
        {
            "zoo": zoo.name,
            "zoo_digest": zoo.digest,
            "encoder_digest": encoder.digest,
            "aligned": bool(encoder.aligner.alignments),
            "latent": encoder.config.latent,
            "token_size": encoder.config.token_size,
            "command": command_line(arguments),
            "splits": card,
        },
        arguments.out,
    )
    return 0
