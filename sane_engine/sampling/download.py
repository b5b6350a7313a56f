"""Samples as files to take home: the same names and the same bytes every time."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sane_engine.checkpoint import Refusal
from sane_engine.intake.save import save_checkpoint
from sane_engine.sampling.model_code import model_code
from sane_engine.workspace import atomic_file, atomic_folder

if TYPE_CHECKING:
    from sane_engine.sampling.sampling import Sample

Format = Literal["safetensors", "pt"]
FORMATS: tuple[Format, ...] = ("safetensors", "pt")

MARKER = "provenance.json"
"""The file that every folder of samples has."""

_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every entry of a zip: the earliest it can hold, and the same each time."""


def bundle(
    samples: Sequence[Sample],
    *,
    architecture: Mapping[str, Any] | None = None,
    format: Format = "safetensors",
    evaluation: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """The files of some samples by name: weights, ``provenance.json``, ``README.md``, and ``model.py`` if possible.

    Args:
        samples: All of one request.
        architecture: What the zoo says of its networks, with the activation; without it there is no ``model.py``.
        format: Of the weights.
        evaluation: What was measured of them together, for the record.

    Raises:
        Refusal: There are no samples (``no-samples``), or the format is unknown (``bad-format``).
    """
    if not samples:
        raise Refusal("no-samples", "There are no samples to write.", "Draw some first.")
    if format not in FORMATS:
        raise Refusal("bad-format", f"Weights cannot be written as {format!r}.", f"Use {' or '.join(FORMATS)}.")
    files = {f"{each.name}.{format}": _weights(each, format) for each in samples}
    code = None if architecture is None else _code(architecture)
    if code is not None:
        files["model.py"] = code.encode()
    common = {key: value for key, value in samples[0].provenance.items() if key != "number"}
    record = {
        "samples": [
            {"file": f"{each.name}.{format}", "number": each.provenance["number"], "scores": dict(each.scores)}
            for each in samples
        ],
        **common,
        "architecture": architecture,
        **({} if evaluation is None else {"evaluation": evaluation}),
    }
    files[MARKER] = (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()
    files["README.md"] = _readme(samples, common, format, code is not None).encode()
    return dict(sorted(files.items()))


def write_folder(files: Mapping[str, bytes], folder: str | os.PathLike[str]) -> Path:
    """Write a bundle into a folder, which is replaced whole or not at all."""
    with atomic_folder(folder) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
    return Path(folder)


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """A bundle as a zip; equal files give equal bytes, whenever and by whomever it is made."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            # Weights hardly compress, and stored bytes do not depend on the version of a compressor.
            entry.compress_type = zipfile.ZIP_STORED
            archive.writestr(entry, content)
    return buffer.getvalue()


def write_zip(files: Mapping[str, bytes], path: str | os.PathLike[str]) -> Path:
    """Write a bundle as a zip, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(zip_bytes(files))
    return Path(path)


def _weights(sample: Sample, format: Format) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        # A fixed name: torch writes the file's name into the archive.
        path = Path(folder) / f"weights.{format}"
        save_checkpoint(sample.tensors, path)
        content = path.read_bytes()
    return _in_order(content) if format == "safetensors" else _without_identity(content)


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its header's entries in a fixed order; the library writes some in a random one."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = dict(sorted(header.pop("__metadata__", {}).items()))
    tensors = dict(sorted(header.items(), key=lambda entry: entry[1]["data_offsets"]))
    text = json.dumps({"__metadata__": metadata, **tensors}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _without_identity(content: bytes) -> bytes:
    """A torch file with the temporary file's name taken out of the paths of its entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            inner = entry.filename.split("/", 1)[1]
            renamed = zipfile.ZipInfo(f"weights/{inner}", _DATE)
            # torch.load maps storages by their offset only when asked to; stored and unaligned is enough for it.
            renamed.compress_type = zipfile.ZIP_STORED
            new.writestr(renamed, old.read(entry))
    return buffer.getvalue()


def _code(architecture: Mapping[str, Any]) -> str | None:
    try:
        return model_code(architecture)
    except ValueError:
        return None


def loading_snippet(name: str, format: Format) -> str:
    """Five lines that load one sample where ``model.py`` is."""
    if format == "safetensors":
        load = ["from safetensors.torch import load_file", f'tensors = load_file("{name}.safetensors")']
    else:
        load = ["import torch", f'tensors = torch.load("{name}.pt", weights_only=True)']
    return "\n".join(["from model import Model", *load, "model = Model().eval()", "model.load_state_dict(tensors)"])


def _readme(samples: Sequence[Sample], record: Mapping[str, Any], format: Format, with_code: bool) -> str:
    anchors = record["anchors"]
    several = f"{len(samples)} networks" if len(samples) > 1 else "A network"
    lines = [
        "# Sampled networks",
        "",
        f"{several} drawn by SANE Explorer with the method `{record['method']}` in the space `{record['space']}`, "
        f"seed {record['seed']}, around {anchors['count']} anchors of the zoo `{record['zoo']['name']}`.",
        "Everything it takes to draw them again, and their scores, is in `provenance.json`.",
        "",
    ]
    if with_code:
        lines += ["```python", loading_snippet(samples[0].name, format), "```", ""]
    else:
        lines += ["The zoo does not say how its networks are built: load the tensors into your own definition.", ""]
    scored = [each for each in samples if "accuracy" in each.scores]
    if scored:
        lines += ["| file | accuracy | novelty (rad) |", "| --- | --- | --- |"]
        lines += [
            f"| `{each.name}.{format}` | {each.scores['accuracy']:.3f} | {each.scores['novelty']:.3f} |"
            for each in scored
        ]
        lines += [
            "",
            "Accuracy is the fraction of the test images that are classified correctly; novelty is the angle to",
        ]
        lines += ["the nearest training model or its decoding.", ""]
    return "\n".join(lines)
