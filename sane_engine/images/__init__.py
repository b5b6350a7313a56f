"""Labelled images that people have: IDX files, ``.npz`` arrays, folders of pictures, JSON arrays by class.

Importing this package loads neither numpy nor Pillow; every public name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sane_engine.exports import lazily

if TYPE_CHECKING:
    from sane_engine.images.labelled import LabelledImages as LabelledImages
    from sane_engine.images.loading import load_images as load_images

_HOME = {"LabelledImages": "labelled", "load_images": "loading"}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
