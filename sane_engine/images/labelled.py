"""What every reader of images returns, and what is checked of it whatever it was read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.images.limits import MAX_CLASSES, MAX_PIXEL_BYTES


@dataclass(frozen=True)
class LabelledImages:
    """Images with one class each, in a training part and, where the source has one, a test part.

    Attributes:
        pixels: Uint8 ``[n, c, h, w]``, 1 or 3 channels.
        labels: Int64 ``[n]``, classes from 0.
        test_pixels: As ``pixels``; ``None`` where the source does not say which images are for testing.
        test_labels: As ``labels``.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test_pixels: NDArray[np.uint8] | None = None
    test_labels: NDArray[np.int64] | None = None


def check_size(shape: tuple[int, ...], name: str) -> None:
    """Refuse an array of pixels that would fill the memory, before it is read.

    Raises:
        Refusal: It is too large (``images-too-large``).
    """
    # In Python's whole numbers: a product of hostile 32-bit sizes overflows in numpy's, also beside a length of 0.
    size = 1
    for length in shape:
        size *= max(1, int(length))
    if size > MAX_PIXEL_BYTES:
        raise Refusal(
            "images-too-large",
            f"The images of {name} take {size / 2**30:.1f} GiB; at most {MAX_PIXEL_BYTES / 2**30:.0f} are read.",
            "Use fewer or smaller images.",
        )


def checked(images: NDArray[np.uint8], labels: NDArray[np.int64], name: str) -> None:
    """Refuse images and labels that do not belong together.

    Raises:
        Refusal: There is nothing (``images-empty``), the counts differ (``images-count``), or a label is no class
            (``images-labels``).
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise Refusal(
            "images-empty" if 0 in images.shape else "images-shape",
            f"{name} has images of shape {list(images.shape)}, not any number of grey or RGB images.",
            "Images are [n, height, width], [n, height, width, channels] or [n, channels, height, width].",
        )
    if len(images) != len(labels):
        raise Refusal(
            "images-count",
            f"{name} has {len(images):,} images but {len(labels):,} labels.",
            "Both must be of the same data set, in the same order.",
        )
    if labels.min() < 0 or labels.max() >= MAX_CLASSES:
        raise Refusal(
            "images-labels",
            f"The labels of {name} go from {labels.min()} to {labels.max()}.",
            f"Labels are whole numbers from 0 to {MAX_CLASSES - 1}.",
        )
