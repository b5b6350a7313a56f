"""Folders of pictures, one sub-folder a class; optionally below ``train`` and ``test``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.images.labelled import LabelledImages, check_size, checked
from sane_engine.images.limits import MAX_IMAGE_FILES, MAX_PICTURE_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# The decoders that are asked; Pillow knows others, some of which start programs of their own.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")


def _subfolders(path: Path) -> dict[str, Path]:
    # Links are left out: they lead out of the folder that was named.
    return {
        entry.name: entry
        for entry in sorted(path.iterdir())
        if entry.is_dir() and not entry.is_symlink() and entry.name[0] != "."
    }


def _pictures(folder: Path) -> list[Path]:
    # Without links here too; rglob itself goes into no folder that is one.
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES and file.is_file() and not file.is_symlink()
    ]


def is_picture_folder(path: Path) -> bool:
    """Whether any class folder below ``path`` has a picture."""
    return path.is_dir() and any(_pictures(folder) for folder in _subfolders(path).values())


def read_picture_folder(path: Path, size: int) -> LabelledImages:
    """Read pictures, each resized to ``size`` × ``size`` pixels; classes are sub-folders in alphabetical order.

    Pictures become RGB where any of them has colour. The first of several frames is taken.

    Raises:
        Refusal: There are fewer than two classes (``pictures-classes``), the test part has others than the training
            part, a picture cannot be read (``picture-damaged``), the range of its values is not known
            (``picture-depth``), or there are too many.
    """
    folders = {name.lower(): folder for name, folder in _subfolders(path).items()}
    train = next((folders[name] for name in _TRAIN if name in folders), None)
    if train is None:
        names, files, labels = _listing(path)
        pixels = _decode(files, size, path)
        checked(pixels, labels, path.name)
        return LabelledImages(pixels, labels)
    names, files, labels = _listing(train)
    test = next((folders[name] for name in _TEST if name in folders), None)
    if test is None:
        pixels = _decode(files, size, path)
        checked(pixels, labels, path.name)
        return LabelledImages(pixels, labels)
    test_names, test_files, test_labels = _listing(test)
    if test_names != names:
        raise Refusal("pictures-classes", "The test folder has other classes than the training folder.", "")
    pixels = _decode([*files, *test_files], size, path)
    n = len(files)
    checked(pixels[:n], labels, train.name)
    checked(pixels[n:], test_labels, test.name)
    return LabelledImages(pixels[:n], labels, pixels[n:], test_labels)


def _listing(path: Path) -> tuple[list[str], list[Path], NDArray[np.int64]]:
    """Class names, files, and the class of each file."""
    by_class = {name: files for name, folder in _subfolders(path).items() if (files := _pictures(folder))}
    if len(by_class) < 2:
        raise Refusal(
            "pictures-classes",
            f"{path.name} has pictures of {len(by_class)} classes.",
            "Make one sub-folder a class, at least two.",
        )
    files = [file for members in by_class.values() for file in members]
    if len(files) > MAX_IMAGE_FILES:
        raise Refusal("images-too-large", f"{path.name} has {len(files):,} pictures.", "Use at most a million.")
    counts = [len(members) for members in by_class.values()]
    return list(by_class), files, np.repeat(np.arange(len(counts)), counts).astype(np.int64)


def _decode(files: list[Path], size: int, path: Path) -> NDArray[np.uint8]:
    check_size((len(files), 3, size, size), path.name)
    pictures = np.empty((len(files), 3, size, size), dtype=np.uint8)
    colour = False
    for number, file in enumerate(files):
        picture, has_colour = _picture(file, size)
        pictures[number] = picture
        colour = colour or has_colour
    return pictures if colour else np.ascontiguousarray(pictures[:, :1])


def _picture(file: Path, size: int) -> tuple[NDArray[np.uint8], bool]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as opened:
                if opened.width * opened.height > MAX_PICTURE_PIXELS:
                    raise Refusal(
                        "picture-too-large",
                        f"{file.name} has {opened.width} × {opened.height} pixels.",
                        "Make it smaller or leave it out.",
                    )
                has_colour = opened.mode not in ("1", "L", "LA") and opened.mode[0] not in "IF"
                levels = _eight_bit(opened, file.name)
                resized = levels.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (
        OSError,
        SyntaxError,
        ValueError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        if isinstance(error, Refusal):
            raise
        raise Refusal(
            "picture-damaged", f"{file.name} is not a picture that can be read.", "Repair it or leave it out."
        ) from error
    return np.moveaxis(np.asarray(resized, dtype=np.uint8), 2, 0), has_colour


def _eight_bit(picture: Picture, name: str) -> Picture:
    """Sixteen-bit grey as 8-bit grey; Pillow's own conversion makes all but the darkest levels white."""
    from PIL import Image

    # Pillow decodes the sixteen bits of a PGM into 32-bit integers; elsewhere these have no range that is known.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode[0] in "IF":
        raise Refusal(
            "picture-depth",
            f"{name} holds numbers of which it is not known which are black and white.",
            "Save it with 8 or 16 bits a channel.",
        )
    return picture
