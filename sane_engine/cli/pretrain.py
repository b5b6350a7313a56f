"""``pretrain``: train a SANE autoencoder on a zoo."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from sane_engine.cli.console import Console
from sane_engine.cli.embed import DEFAULT_ZOO
from sane_engine.cli.output import command_line, replaceable
from sane_engine.revision import commit
from sane_engine.workspace import plain_name, workspace_root


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "pretrain",
        help="train a SANE autoencoder on a zoo",
        description="Train a SANE autoencoder on the training split of a zoo, or of several together, and save it "
        "as a folder.",
    )
    parser.add_argument("zoo", nargs="*", metavar="ZOO", help=f"paths or embedded names (default: {DEFAULT_ZOO})")
    parser.add_argument(
        "--checkpoints", type=int, metavar="N", help="of each zoo, take at most this many, drawn by the seed"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="JSON with fields of SaneConfig; others keep defaults"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the encoder (default: ZOO-sane in the workspace, where the app finds it)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="STATE",
        help="keep the state here; the same command goes on where it stopped",
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda … (default: cuda where there is one)")
    parser.add_argument("--seed", type=int, metavar="N", help="use this seed instead of the config's")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Train, save, and say what came out."""
    from sane_engine.sane import SaneConfig, pretrain
    from sane_engine.sane.scorecard import scorecard
    from sane_engine.zoo import combine_zoos, load_zoo

    if arguments.out is not None:
        replaceable(arguments.out, "encoder.json")
    config = SaneConfig() if arguments.config is None else SaneConfig.from_file(arguments.config)
    if arguments.seed is not None:
        config = dataclasses.replace(config, seed=arguments.seed)
    if arguments.checkpoints is not None and arguments.checkpoints < 1:
        raise ValueError(f"--checkpoints is {arguments.checkpoints}; take at least 1")
    zoos = [
        load_zoo(name, progress=console.progress, cancelled=console.cancelled)
        for name in arguments.zoo or [DEFAULT_ZOO]
    ]
    zoo = combine_zoos(zoos, most=arguments.checkpoints, seed=config.seed)
    # What a zoo is called is up to whoever made it; it must not say where things are written.
    name = f"{plain_name(zoo.name, 'zoo') if len(zoos) == 1 else 'combined'}-sane"
    out = arguments.out or replaceable(workspace_root() / "encoders" / name, "encoder.json")
    encoder = pretrain(
        zoo,
        config,
        folder=arguments.folder,
        device=arguments.device,
        progress=console.progress,
        cancelled=console.cancelled,
    )
    metrics = scorecard(encoder, zoo, progress=console.progress, cancelled=console.cancelled)
    encoder.provenance.update(command=command_line(arguments), commit=commit(), metrics=metrics)
    if len(zoos) > 1:
        encoder.provenance.update(zoos=zoo.provenance["combined"])
    encoder.save(out)
    console.emit(
        {
            "encoder": str(out),
            "digest": encoder.digest,
            "zoo": zoo.name,
            "zoo_digest": zoo.digest,
            "config": config.to_json(),
            "provenance": encoder.provenance,
        }
    )
    return 0
