"""IDX files, plain or gzipped: the format of MNIST, Fashion-MNIST, KMNIST and EMNIST.

A folder holds pairs such as ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, ``t10k-…`` for the test
part. A file is two zero bytes, a type code, the number of dimensions, their sizes (big-endian), then the values.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.images.labelled import LabelledImages, check_size, checked
from sane_engine.images.limits import MAX_DEPTH

_UBYTE = 8
_NAME = re.compile(r"(?:^|[-_.])(train|t10k|test)[-_.](images|labels)(?=[-_.]|$)", re.IGNORECASE)
_GZIP_MAGIC = b"\x1f\x8b"


def find_idx(path: Path) -> dict[tuple[str, str], Path]:
    """The IDX files of a data set by part (``train``, ``test``) and kind (``images``, ``labels``).

    They lie in the folder, or together in one below it; one of the files stands for all beside it.
    """
    if path.is_file():
        return _in_folder(path.parent) if _NAME.search(path.name) else {}
    for depth in range(MAX_DEPTH + 1):
        for folder in sorted(path.glob("/".join(["*"] * depth))) if depth else [path]:
            if found := _in_folder(folder) if folder.is_dir() else {}:
                return found
    return {}


def _in_folder(folder: Path) -> dict[tuple[str, str], Path]:
    """Empty unless both files for training are there."""
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(folder.iterdir()):
        match = _NAME.search(file.name)
        if match and file.is_file():
            part = "train" if match[1].lower() == "train" else "test"
            # Plain files sort before their gzipped copies and win.
            found.setdefault((part, match[2].lower()), file)
    return found if {("train", "images"), ("train", "labels")} <= set(found) else {}


def read_idx_folder(path: Path) -> LabelledImages:
    """Read a data set of IDX files.

    Raises:
        Refusal: A file is missing, damaged or of another type.
    """
    found = find_idx(path)
    if not found:
        raise Refusal(
            "idx-missing",
            f"{path.name} has no pair of IDX files for training.",
            "It needs files such as train-images-idx3-ubyte and train-labels-idx1-ubyte.",
        )
    train = _part(found[("train", "images")], found[("train", "labels")])
    if ("test", "images") not in found or ("test", "labels") not in found:
        return LabelledImages(*train)
    test = _part(found[("test", "images")], found[("test", "labels")])
    return LabelledImages(*train, *test)


def _part(images_file: Path, labels_file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = read_idx(images_file), read_idx(labels_file).astype(np.int64)
    if labels.ndim != 1:
        raise Refusal("idx-shape", f"{labels_file.name} is not a list of labels.", "Check which file is which.")
    images = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1) if images.ndim == 4 else images
    checked(images, labels, images_file.name)
    return np.ascontiguousarray(images), labels


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of one IDX file of unsigned bytes.

    Raises:
        Refusal: It is no such file (``idx-magic``), shorter or longer than it says (``idx-length``), or too large.
    """
    with _opened(path) as stream:
        head = stream.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] != _UBYTE or not 1 <= head[3] <= 4:
            raise Refusal(
                "idx-magic",
                f"{path.name} is not an IDX file of unsigned bytes.",
                "Take the files as they were published, unpacked or as .gz.",
            )
        sizes = stream.read(4 * head[3])
        if len(sizes) < 4 * head[3]:
            raise Refusal("idx-length", f"{path.name} ends within its header.", "Copy it again.")
        shape = tuple(int(n) for n in np.frombuffer(sizes, dtype=">u4"))
        check_size(shape, path.name)
        count = int(np.prod(shape, dtype=np.int64))
        content = stream.read(count)
        if len(content) < count or stream.read(1):
            more = "shorter" if len(content) < count else "longer"
            raise Refusal("idx-length", f"{path.name} is {more} than its header says.", "Copy it again.")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as plain:
        packed = plain.read(2) == _GZIP_MAGIC
        plain.seek(0)
        try:
            if packed:
                # Unpacked as it is read, so never more than the header says.
                with gzip.GzipFile(fileobj=plain) as unpacked:
                    yield cast("BinaryIO", unpacked)
            else:
                yield plain
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise Refusal("idx-length", f"{path.name} is a damaged gzip file.", "Copy it again.") from error
