"""What a file is, by its first bytes. The name it was given plays no part."""

from __future__ import annotations

import pickletools
import re
import zipfile

from sane_engine.checkpoint import Refusal
from sane_engine.intake import refusals
from sane_engine.intake.sources import Source

HEAD_BYTES = 4096
TORCH_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""The first pickle of a torch file before 1.6: the number 0x1950a86a20f9469cfc6c, written as LONG1."""

_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_OTHERS = {
    b"\x89HDF\r\n\x1a\n": "HDF5 and Keras",
    b"GGUF": "GGUF",
    b"\x93NUMPY": "Single .npy",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x89PNG": "Image",
    b"\xff\xd8\xff": "Image",
    b"GIF8": "Image",
    b"%PDF": "PDF",
    b"\x7fELF": "Program",
    b"MZ": "Program",
}


def sniff(source: Source) -> str:
    """One of ``safetensors``, ``index`` (of shards), ``torch-legacy``, ``pickle``, ``onnx`` or ``zip``.

    Raises:
        Refusal: The file is none of these, and this says what it is.
    """
    if source.size == 0:
        raise refusals.empty()
    head = source.read(0, min(HEAD_BYTES, source.size))
    # Before all else: a header of 128 or 19,280 bytes makes its length look like a pickle's or a zip's first bytes.
    header = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and header < 2**40:
        if 8 + header > source.size:
            raise refusals.truncated("the safetensors header is not complete")
        return "safetensors"
    if head.startswith(b"PK"):
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
            return "zip"
        raise refusals.damaged("it starts like a zip archive and goes on otherwise")
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return "torch-legacy" if TORCH_MAGIC in head[2:32] else "pickle"
    if _is_onnx(head):
        return "onnx"
    known = _known_other(head)
    if known is not None:
        raise known
    return _text_or_unknown(head, source)


def _known_other(head: bytes) -> Refusal | None:
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            return refusals.unsupported(f"{name.capitalize()} archives", "Unpack it, or pack it as zip.")
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            return refusals.unsupported(f"{name} files")
    if head[257:262] == b"ustar":
        return refusals.unsupported("Tar archives", "Unpack it, or pack it as zip.")
    if head[4:8] == b"TFL3":
        return refusals.unsupported("TensorFlow Lite files")
    return None


def _is_onnx(head: bytes) -> bool:
    # A protobuf whose first field is a small number (ir_version) and whose next is a known field of ModelProto.
    known = {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72}
    return len(head) > 3 and head[0] == 0x08 and head[1] < 0x20 and head[2] in known


def _text_or_unknown(head: bytes, source: Source) -> str:
    if head.startswith(b"version https://git-lfs"):
        raise refusals.lfs_pointer()
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if re.match(rb"<(!doctype|html|head|\?xml|!--)", start[:16].lower()):
        raise refusals.html_page()
    if start.startswith(b"{") and b'"weight_map"' in source.read(0, min(source.size, 2**20)):
        return "index"
    if _is_old_pickle(source.read(0, min(source.size, 2**20))):
        return "pickle"
    if _is_text(head):
        raise refusals.text_file()
    if not head.strip(b"\0"):
        raise refusals.damaged("it begins with nothing but zeros")
    if zipfile.is_zipfile(source.stream):
        raise refusals.damaged("there is something before the zip archive")
    raise refusals.unknown()


def _is_old_pickle(data: bytes) -> bool:
    """Whether these are the printable opcodes of protocol 0, from the first byte to a STOP."""
    names: list[str] = []
    try:
        for opcode, _, _ in pickletools.genops(data):
            names.append(opcode.name)
    except ValueError:
        return False
    return len(names) > 2


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return head.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character may be cut at the end of what was read.
        return error.start > len(head) - 4 and len(head) == HEAD_BYTES
    return True
