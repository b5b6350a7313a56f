"""Read labelled images, whichever way they are kept."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from sane_engine.checkpoint import Refusal
from sane_engine.images.class_json import find_class_json, read_class_json
from sane_engine.images.idx import find_idx, read_idx_folder
from sane_engine.images.labelled import LabelledImages
from sane_engine.images.npz import read_npz
from sane_engine.images.picture_folder import is_picture_folder, read_picture_folder


def load_images(source: str | os.PathLike[str], *, image_size: int) -> LabelledImages:
    """Read labelled images from a file or a folder.

    Args:
        source: An ``.npz`` file; a folder with IDX files, with JSON files by class, with one ``.npz`` file, or with
            one sub-folder of pictures a class.
        image_size: Side in pixels that pictures, which may differ in size, are resized to. Arrays keep theirs.

    Raises:
        Refusal: There is nothing (``data-not-found``), nothing that is understood (``data-unknown``), or what is
            there is damaged or too large; the codes are those of the readers.
    """
    path = Path(source).expanduser()
    try:
        if not path.exists():
            raise Refusal("data-not-found", f"There is no data at {path.name}.", "Check the path.")
        if path.is_file() and zipfile.is_zipfile(path):
            return read_npz(path)
        if find_idx(path):
            return read_idx_folder(path)
        if path.is_dir():
            if find_class_json(path):
                return read_class_json(path)
            if len(arrays := sorted(path.glob("*.npz"))) == 1:
                return read_npz(arrays[0])
            if is_picture_folder(path):
                return read_picture_folder(path, image_size)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Refusal("unreadable", f"{path.name} cannot be read ({reason}).", "Check its permissions.") from error
    raise Refusal(
        "data-unknown",
        f"{path.name} is no data set that is understood.",
        "Give an .npz file, or a folder with IDX files or with one sub-folder of pictures a class.",
    )
