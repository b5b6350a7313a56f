"""An encoder on disk: weights and statistics in safetensors, everything else in JSON. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sane_engine.checkpoint import Refusal
from sane_engine.workspace import assets_root, atomic_folder, visible, workspace_root

if TYPE_CHECKING:
    from sane_engine.sane.model import Sane

ENCODER_JSON = "encoder.json"
ENCODER_WEIGHTS = "encoder.safetensors"
FORMAT = "sane-explorer/encoder/1"
UNIVERSAL = "universal"
"""Name of the embedded encoder that takes networks of any architecture."""


def save_encoder(encoder: Sane, folder: str | Path) -> None:
    """Write an encoder into a folder, replacing it whole or not at all."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    record = {
        "format": FORMAT,
        "digest": encoder.digest,
        "config": encoder.config.to_json(),
        "position_range": list(encoder.position_range),
        "symmetries": encoder.aligner.symmetries(),
        "architectures": encoder.summariser.architectures,
        "reactions": None if encoder.reactions is None else encoder.reactions.record(),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "provenance": encoder.provenance,
    }
    with atomic_folder(folder) as temporary:
        beside = encoder.fitted_state()
        save_file({**tensors, **beside}, temporary / ENCODER_WEIGHTS)
        (temporary / ENCODER_JSON).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def encoder_record(path_or_name: str | Path) -> dict[str, Any]:
    """What ``encoder.json`` says, without loading torch or the weights.

    Raises:
        Refusal: There is no encoder (``no-encoder``), or its JSON cannot be read (``broken-encoder``).
    """
    path = _folder(path_or_name) / ENCODER_JSON
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path, "its JSON cannot be read") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise _broken(path, f"it is not of the format {FORMAT}")
    return record


def load_encoder(path_or_name: str | Path) -> Sane:
    """Load an encoder, ready to embed.

    Args:
        path_or_name: The folder that :meth:`Sane.save` wrote, or the name of an embedded encoder.

    Raises:
        Refusal: There is no encoder (``no-encoder``), or its files do not fit together (``broken-encoder``).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from sane_engine.sane.alignment import Aligner
    from sane_engine.sane.config import SaneConfig
    from sane_engine.sane.layer_cloud import LayerCloud
    from sane_engine.sane.model import Sane
    from sane_engine.sane.normalisation import Normalizer
    from sane_engine.sane.reactions import Reactions
    from sane_engine.sane.readout import Readout
    from sane_engine.sane.summariser import Summariser

    folder = _folder(path_or_name)
    record = encoder_record(path_or_name)
    try:
        tensors = load_file(folder / ENCODER_WEIGHTS)
        first, second, third = (float(limit) for limit in record["position_range"])
        # Encoders of earlier versions do not say, and were not aligned.
        config = SaneConfig.from_json({"align": False, **record["config"]})
        encoder = Sane(
            config,
            normalizer=Normalizer.from_state(tensors),
            summariser=Summariser.from_state(tensors, record.get("architectures"), universal=config.universal),
            reactions=Reactions.from_state(tensors, record.get("reactions")),
            readout=Readout.from_state(tensors),
            cloud=LayerCloud.from_state(tensors),
            aligner=Aligner.from_state(tensors, record.get("symmetries", {})),
            position_range=(first, second, third),
            provenance=record["provenance"],
        )
        beside = ("normalizer.", "reference.", "summary.", "reactions.", "readout.", "cloud.")
        encoder.load_state_dict({n: t for n, t in tensors.items() if not n.startswith(beside)})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _broken(folder, reason) from error
    if encoder.digest != record["digest"]:
        raise _broken(folder, "its weights are not those that were saved")
    return encoder.eval()


def encoder_folders() -> dict[str, Path]:
    """Encoders that have a name: those that ship with the code, and those trained into the workspace."""
    roots = (workspace_root() / "encoders", assets_root() / "encoders")
    return {record.parent.name: record.parent for root in roots for record in visible(root, f"*/{ENCODER_JSON}")}


def _folder(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if (path / ENCODER_JSON).exists():
        return path
    # A bare name is that of a known encoder, unless a folder of that name lies here.
    known = encoder_folders()
    if str(path_or_name) in known:
        return known[str(path_or_name)]
    raise Refusal(
        "no-encoder",
        f"There is no encoder at {path.name}.",
        f"Known by name are {', '.join(sorted(known))}." if known else "Make one with `pretrain`.",
    )


def _broken(path: Path, reason: str) -> Refusal:
    return Refusal("broken-encoder", f"The encoder {path.name} cannot be loaded: {reason}.", "Make it again.")
