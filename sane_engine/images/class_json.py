"""Grey images as JSON, one file a class: ``0.json``, ``1.json`` and so on.

Each is ``{"data": […]}``: a list of images of 28×28 levels, or all levels in one list. Some packages hold
Fashion-MNIST and MNIST this way. There is no training part and no test part.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.images.labelled import LabelledImages, checked
from sane_engine.images.limits import MAX_DEPTH, MAX_JSON_BYTES

SIDE = 28
_NAME = re.compile(r"(\d{1,4})\.json")


def find_class_json(path: Path) -> dict[int, Path]:
    """The JSON files by class; empty unless the folder, or one below it, has classes 0, 1 and so on."""
    if not path.is_dir():
        return {}
    for depth in range(MAX_DEPTH + 1):
        for folder in sorted(path.glob("/".join(["*"] * depth))) if depth else [path]:
            files = sorted(folder.iterdir()) if folder.is_dir() else []
            found = {int(match[1]): file for file in files if (match := _NAME.fullmatch(file.name))}
            if len(found) > 1 and set(found) == set(range(len(found))):
                return found
    return {}


def read_class_json(path: Path) -> LabelledImages:
    """Read all classes.

    Raises:
        Refusal: A file is too large, not such JSON (``json-images``), or not whole images.
    """
    found = find_class_json(path)
    parts = [_read(found[label]) for label in sorted(found)]
    if not parts:
        raise Refusal(
            "json-images", f"{path.name} has no JSON files by class.", "They are 0.json, 1.json and so on."
        )
    labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts]).astype(np.int64)
    pixels = np.concatenate(parts)
    checked(pixels, labels, path.name)
    return LabelledImages(pixels, labels)


def _read(file: Path) -> NDArray[np.uint8]:
    if file.stat().st_size > MAX_JSON_BYTES:
        raise Refusal("images-too-large", f"{file.name} is larger than 512 MB.", "Use another format.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))["data"]
        # One published file has empty lists among its images.
        data = [image for image in data if image != []]
        levels = np.asarray(data).reshape(-1)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refusal(
            "json-images", f"{file.name} has no list of images under 'data'.", "Copy it again."
        ) from error
    whole = levels.size and levels.size % SIDE**2 == 0
    if not whole or levels.dtype.kind not in "iu" or levels.min() < 0 or levels.max() > 255:
        raise Refusal("json-images", f"{file.name} is not whole 28×28 images of levels 0 to 255.", "Copy it again.")
    return levels.astype(np.uint8).reshape(-1, 1, SIDE, SIDE)
