"""``sample``: draw new models around chosen ones, score them, write them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sane_engine.checkpoint import Refusal
from sane_engine.cli.console import Console
from sane_engine.cli.embed import DEFAULT_ENCODER, DEFAULT_ZOO
from sane_engine.cli.output import command_line, replaceable


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "sample",
        help="draw new models around chosen ones",
        description="Draw new models around chosen ones, score them beside their controls, and write them.",
    )
    parser.add_argument(
        "zoo", nargs="?", default=DEFAULT_ZOO, metavar="ZOO", help="path or embedded name (default: %(default)s)"
    )
    parser.add_argument(
        "--encoder", default=DEFAULT_ENCODER, metavar="NAME", help="folder or embedded name (default: %(default)s)"
    )
    parser.add_argument(
        "--anchors", default="top 10 %", metavar="QUERY",
        help="which models to draw around: 'top 10 %%', or a condition on the table's columns, such as "
        "'test_accuracy > 0.9 and epoch == 25'; or checkpoint files, separated by commas (default: '%(default)s')",
    )  # fmt: skip
    parser.add_argument("--method", default="kde-token", metavar="NAME", help="how (default: %(default)s)")
    parser.add_argument(
        "--space", default="latents", metavar="NAME", help="where: latents, pca or weights (default: %(default)s)"
    )
    parser.add_argument("--n", type=int, default=10, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of every draw (default: %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a parameter of the method, such as bandwidth=0.2; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--condition", default="auto", metavar="NAME",
        help="what running statistics of batch norm are measured on: auto or images (the zoo's own, without "
        "labels), noise, or none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--target", type=Path, metavar="FILE",
        help="draw networks of another architecture (JSON, as in a specification): deeper, wider, other classes",
    )  # fmt: skip
    parser.add_argument("--new-head", action="store_true", help="with --target: initialise the last layer")
    parser.add_argument("--score", action="store_true", help="score the samples beside their controls")
    parser.add_argument(
        "--fine-tune", metavar="EPOCHS", help="also after these epochs of training, such as 1,2,5; implies --score"
    )
    parser.add_argument(
        "--format",
        default="safetensors",
        metavar="NAME",
        help="of the weights: safetensors or pt (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR|ZIP", help="folder, or .zip file, to write the models to")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Draw, score, write, and say what came out."""
    from sane_engine.sampling.download import MARKER, bundle, write_folder, write_zip
    from sane_engine.sampling.evaluation import evaluate_samples
    from sane_engine.sampling.sampling import draw_samples, prepare
    from sane_engine.sampling.targets import sample_target
    from sane_engine.sampling.task import architecture_of
    from sane_engine.sane import load_encoder
    from sane_engine.zoo import load_zoo

    zipped = arguments.out is not None and arguments.out.suffix.lower() == ".zip"
    if arguments.out is not None and not zipped:
        replaceable(arguments.out, MARKER)
    epochs = _epochs(arguments.fine_tune)
    if not 1 <= arguments.n <= 10_000:
        raise Refusal("bad-number", f"{arguments.n} samples cannot be drawn.", "Ask for 1 to 10,000.")
    encoder = None if arguments.space == "weights" else load_encoder(arguments.encoder)
    zoo = load_zoo(arguments.zoo, progress=console.progress, cancelled=console.cancelled)
    prepared = prepare(
        encoder, zoo, anchors=_anchors(arguments.anchors), method=arguments.method, seed=arguments.seed,
        space=arguments.space, parameters=_parameters(arguments.set), condition=arguments.condition,
        progress=console.progress, cancelled=console.cancelled,
    )  # fmt: skip
    target = _target(arguments)
    if target is None:
        samples = draw_samples(prepared, arguments.n, progress=console.progress, cancelled=console.cancelled)
    else:
        samples = sample_target(
            prepared, target, arguments.n, new_head=arguments.new_head, progress=console.progress,
            cancelled=console.cancelled,
        )  # fmt: skip
    summary: list[dict[Any, Any]] = []
    curves: list[dict[Any, Any]] = []
    if arguments.score or epochs:
        found = evaluate_samples(
            samples, prepared, zoo, encoder=encoder, epochs=epochs, progress=console.progress,
            cancelled=console.cancelled,
        )  # fmt: skip
        samples = found.of_samples(samples)
        summary = found.summary.to_dict(orient="records")
        if epochs:
            keys = ["group", "learning_rate", "epoch"]
            means = found.curves.groupby(keys, sort=False)["accuracy"].agg(["mean", "std"]).reset_index()
            curves = means.to_dict(orient="records")
    report = {
        "command": command_line(arguments),
        **prepared.record,
        "samples": [{"name": each.name, **each.scores} for each in samples],
        "summary": summary,
        "curves": curves,
    }
    if arguments.out is not None:
        own = architecture_of(zoo, prepared.anchors.rows) if prepared.task is None else prepared.task.architecture
        architecture = target or own
        files = bundle(samples, architecture=architecture, format=arguments.format)
        (write_zip if zipped else write_folder)(files, arguments.out)
        report["out"] = arguments.out
    console.emit(report)
    return 0


def _target(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The architecture to draw for, checked, or None for the anchors' own."""
    if arguments.target is None:
        if arguments.new_head:
            raise Refusal("bad-target", "A new head needs a target architecture.", "Give --target FILE.")
        return None
    if arguments.score or arguments.fine_tune:
        raise Refusal(
            "bad-target",
            "Networks of another architecture have no controls to be scored beside.",
            "Leave out --score.",
        )
    from sane_engine.zoo.architecture_families import architecture_from_json

    try:
        content = json.loads(arguments.target.read_text(encoding="utf-8"))
        return architecture_from_json(content.get("architecture", content)).to_json()
    except (AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Refusal(
            "bad-target", f"{arguments.target.name} is no architecture: {reason}", "See assets/specs."
        ) from error


def _epochs(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        epochs = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise Refusal("bad-epochs", f"{text!r} are no epochs.", "Give whole numbers: 1,2,5.") from error
    if not epochs or epochs[0] < 0 or epochs[-1] > 1000:
        raise Refusal("bad-epochs", f"{text!r} are no epochs.", "Give whole numbers from 0 to 1000: 1,2,5.")
    return tuple(sorted({0, *epochs}))


def _parameters(settings: list[str]) -> dict[str, str]:
    parameters = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise Refusal("bad-parameter", f"{setting!r} sets nothing.", "Write NAME=VALUE, such as bandwidth=0.2.")
        parameters[name.strip()] = value.strip()
    return parameters


def _anchors(text: str) -> Any:
    """A query as it is; files, where the text names some, as checkpoints."""
    paths = [Path(part.strip()) for part in text.split(",")]
    try:
        if not all(path.is_file() for path in paths):
            return text
    except OSError:
        # Longer than a file's name can be.
        return text
    from sane_engine.intake import load_checkpoints

    return [checkpoint for path in paths for checkpoint in load_checkpoints(path)]
