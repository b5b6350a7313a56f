"""Images and labels as arrays in an ``.npz`` file.

Names that are understood, whatever their case: ``x_train``, ``y_train``, ``x_test``, ``y_test`` (as Keras has
them); ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` (as MedMNIST has them); ``images`` and
``labels`` or ``x`` and ``y`` where there is no test part.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.images.labelled import LabelledImages, check_size, checked

_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images", "labels", "test_images", "test_labels"),
    ("x", "y", "x_test", "y_test"),
)


def read_npz(path: Path) -> LabelledImages:
    """Read a data set from an ``.npz`` file; nothing in it is unpickled.

    Raises:
        Refusal: It is no such file or damaged (``npz-damaged``), lacks the arrays (``npz-names``), or they are not
            8-bit images with whole labels (``npz-type``, ``images-shape``).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy").lower(): name for name in archive.namelist()}
            for train, labels, test, test_labels in _NAMES:
                if train in members and labels in members:
                    part = _part(archive, members[train], members[labels])
                    if test not in members or test_labels not in members:
                        return LabelledImages(*part)
                    return LabelledImages(*part, *_part(archive, members[test], members[test_labels]))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, Refusal):
            raise
        raise Refusal(
            "npz-damaged", f"{path.name} is not an .npz file that can be read.", "Save it again."
        ) from error
    raise Refusal(
        "npz-names",
        f"{path.name} has no arrays under names that are understood.",
        "Call them x_train, y_train, x_test and y_test, or images and labels.",
    )


def _part(
    archive: zipfile.ZipFile, images_name: str, labels_name: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = _array(archive, images_name), _array(archive, labels_name)
    if labels.dtype.kind not in "iu" or (labels.ndim != 1 and labels.shape[1:] != (1,)):
        raise Refusal("npz-type", f"{labels_name} is not a list of whole numbers.", "One class number an image.")
    pixels, classes = _channels_first(_eight_bit(images, images_name)), labels.reshape(-1).astype(np.int64)
    checked(pixels, classes, images_name)
    return np.ascontiguousarray(pixels), classes


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """One array, once its header says that it is plain numbers, not too large, and as long as its member."""
    with archive.open(name) as stream:
        shape, fortran, dtype = _header(stream, name)
        if dtype.kind not in "uif" or dtype.hasobject:
            raise Refusal("npz-type", f"{name} is not an array of numbers.", "Objects and text are not read.")
        check_size((*shape, dtype.itemsize), name)
        expected = math.prod(shape) * dtype.itemsize
        content = stream.read(expected + 1)
    if len(content) != expected:
        raise Refusal("npz-damaged", f"{name} is not as long as its header says.", "Save the file again.")
    flat = np.frombuffer(content, dtype=dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type of an array; numpy reads them as a Python literal, and takes negative lengths."""
    version = npy_format.read_magic(stream)
    read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    try:
        shape, fortran, dtype = read_header(stream)
    # What Python's parser says of a literal that is cut short or nested without end.
    except (tokenize.TokenError, SyntaxError, TypeError, MemoryError) as error:
        raise Refusal("npz-damaged", f"The header of {name} cannot be read.", "Save the file again.") from error
    if min(shape, default=0) < 0:
        raise Refusal("npz-damaged", f"{name} says that it has negative lengths.", "Save the file again.")
    return shape, fortran, dtype


def _eight_bit(images: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Grey or colour levels 0 to 255; numbers from 0 to 1 are rounded to them."""
    if images.dtype == np.uint8 or not images.size:
        return images.astype(np.uint8)
    low, high = float(images.min()), float(images.max())
    if images.dtype.kind == "f" and 0 <= low <= high <= 1:
        images = images * 255
    elif not (0 <= low <= high <= 255):
        raise Refusal(
            "npz-type",
            f"The values of {name} go from {low:g} to {high:g}.",
            "Pixels are levels from 0 to 255, or numbers from 0 to 1; undo any normalisation.",
        )
    levels: NDArray[np.uint8] = np.rint(images).astype(np.uint8)
    return levels


def _channels_first(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        return np.moveaxis(images, 3, 1)
    return images
