"""Every reason not to load a file: a code, one short line, and what to do.

The texts never hold a path, and what they quote from a file is cut and made printable first.
"""

from __future__ import annotations

from sane_engine.checkpoint import Refusal

RE_EXPORT = "Save it again with torch.save(model.state_dict(), …) or as safetensors."
DOWNLOAD_AGAIN = "Download or copy it again and compare the sizes."
SUPPORTED = "Use .safetensors, a torch file with a state dict, .npz, .onnx, or a zip of these."


def printable(text: str, length: int = 80) -> str:
    """``text`` from a file, safe to show in one line: control characters replaced, cut to ``length``."""
    clean = "".join(c if c.isprintable() else "�" for c in text[: length + 1])
    return clean if len(clean) <= length else clean[: length - 1] + "…"


def size(n_bytes: int) -> str:
    """A number of bytes for people: ``"3.2 MB"``."""
    amount = float(n_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def missing() -> Refusal:
    """There is no such file."""
    return Refusal("missing", "There is no file or folder at this place.", "Check the spelling of the path.")


def unreadable() -> Refusal:
    """The operating system does not give the bytes."""
    return Refusal("unreadable", "The file cannot be read.", "Check its permissions.")


def outside() -> Refusal:
    """A path that leads out of the folder a server offers."""
    return Refusal(
        "outside-root",
        "This place is outside of the folder that may be opened here.",
        "Move it there, or have SANE_OPEN_ROOT set to a folder above both.",
    )


def empty() -> Refusal:
    """Zero bytes."""
    return Refusal("empty", "The file is empty (0 bytes).", DOWNLOAD_AGAIN)


def truncated(detail: str = "") -> Refusal:
    """The file ends before its content does."""
    return Refusal("truncated", f"The file is cut off{f': {detail}' if detail else ''}.", DOWNLOAD_AGAIN)


def damaged(detail: str) -> Refusal:
    """The file contradicts itself."""
    return Refusal("damaged", f"The file is damaged: {detail}.", DOWNLOAD_AGAIN)


def lfs_pointer() -> Refusal:
    """The small text file that git keeps in place of a large one."""
    return Refusal("lfs-pointer", "This is a Git LFS pointer, not the file itself.", "Run git lfs pull first.")


def html_page() -> Refusal:
    """A web page saved under a checkpoint's name."""
    return Refusal(
        "html-page",
        "This is a web page, not a checkpoint.",
        "Download the file itself, not the page about it.",
    )


def text_file() -> Refusal:
    """Plain text."""
    return Refusal("text", "This is a text file, not a checkpoint.", SUPPORTED)


def encrypted() -> Refusal:
    """A zip that asks for a password."""
    return Refusal("encrypted", "The archive is protected by a password.", "Unpack it and use the files inside.")


def pickled_code(what: str) -> Refusal:
    """A pickle that names something other than tensors and plain containers."""
    return Refusal(
        "pickled-code", f"Loading this file would run code ({printable(what)}); it was not run.", RE_EXPORT
    )


def torchscript() -> Refusal:
    """A program, not a state dict."""
    return Refusal(
        "torchscript",
        "This is a TorchScript program, not a state dict.",
        "Where you trust it, open it in torch and save its state_dict().",
    )


def exported_program() -> Refusal:
    """The archive that torch.export writes."""
    return Refusal("torch-export", "This is an exported torch program, not a state dict.", RE_EXPORT)


def optimizer_only() -> Refusal:
    """The other half of a checkpoint."""
    return Refusal(
        "optimizer-only",
        "The file holds an optimizer's state and no model weights.",
        "Open the model's own file.",
    )


def no_tensors(what: str) -> Refusal:
    """Readable, but nothing in it is a tensor."""
    return Refusal("no-tensors", f"The file holds no weights, only {what}.", RE_EXPORT)


def nothing_readable(name: str, reason: str, count: int) -> Refusal:
    """There are arrays, and each of them is of a kind that is not read."""
    others = f" and {count - 1} more" if count > 1 else ""
    return Refusal(
        "no-tensors",
        f"None of its tensors can be read: {printable(name, 40)} ({printable(reason, 60)}){others}.",
        "Save the weights as float32, float16 or bfloat16.",
    )


def no_checkpoints(what: str) -> Refusal:
    """An archive without a single checkpoint."""
    return Refusal("no-checkpoints", f"The archive holds no checkpoint ({what}).", SUPPORTED)


def empty_archive() -> Refusal:
    """A zip without entries."""
    return Refusal("empty-archive", "The zip archive is empty.", SUPPORTED)


def nested_archive(depth: int) -> Refusal:
    """Archives in archives, deeper than is followed."""
    return Refusal(
        "nested-archive", f"Archives lie in archives, more than {depth} deep.", "Unpack the inner ones first."
    )


def quantised() -> Refusal:
    """All weights are stored as integers with a scale."""
    return Refusal(
        "quantised",
        "The weights are quantised, and only the network's own code can turn them back.",
        "Open the model before quantisation, or save its tensors after .dequantize().",
    )


def external_data(name: str) -> Refusal:
    """An ONNX file keeps its weights in another file, which is not here."""
    return Refusal(
        "external-data",
        f"The weights lie in another file that is not here ({printable(name, 40)}).",
        "Open the .onnx file from the folder that has both.",
    )


def several(count: int) -> Refusal:
    """One checkpoint was asked for, and there are more."""
    return Refusal(
        "several-checkpoints", f"The archive holds {count} checkpoints, one was expected.", "Open it as a zoo."
    )


def folder() -> Refusal:
    """A folder that is not one sharded checkpoint."""
    return Refusal("folder", "This is a folder without a safetensors index.", "Choose a file, or open it as a zoo.")


def missing_shard(name: str) -> Refusal:
    """An index names a file that is not there."""
    return Refusal(
        "missing-shard",
        f"The index names a shard that is not here ({printable(name)}).",
        "Put the index and all shards in one folder, or in one zip.",
    )


def too_large(what: str) -> Refusal:
    """A ceiling of :class:`~sane_engine.intake.limits.Limits` was passed."""
    return Refusal("too-large", f"The file is beyond the limits for one checkpoint: {what}.", "Split or shrink it.")


def took_too_long(seconds: float) -> Refusal:
    """The child was stopped by the clock."""
    return Refusal("took-too-long", f"Reading was stopped after {seconds:.3g} s.", "Try again, or shrink the file.")


def reader_died() -> Refusal:
    """The child ended without an answer: out of memory, or a defect that the file found."""
    return Refusal("reader-died", "The file could not be read within its limits.", RE_EXPORT)


def unsupported(what: str, hint: str = SUPPORTED) -> Refusal:
    """A known format that is not read; ``what`` is its plural, with a capital."""
    return Refusal("unsupported", f"{what} cannot be read here.", hint)


def unknown() -> Refusal:
    """Nothing that is recognised."""
    return Refusal("not-a-checkpoint", "This is not a checkpoint format that is known here.", SUPPORTED)
