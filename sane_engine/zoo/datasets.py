"""Images that zoos are trained on: split once, standardised, ready for a network."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sane_engine.images.labelled import LabelledImages
from sane_engine.images.loading import load_images
from sane_engine.workspace import workspace_root
from sane_engine.zoo.hyperparameters import derived_seed
from sane_engine.zoo.spec_fields import SpecError

DATASETS = ("digits",)
TEST_FRACTION = 0.2
# One split for every zoo on these images, whatever the zoo's own seed: accuracies of two zoos can be compared.
SPLIT_SEED = 0
# Images resized at once, so that large sets are never twice in memory as floating-point numbers.
_RESIZED_AT_ONCE = 4096


@dataclass(frozen=True)
class Dataset:
    """Labelled images in two parts that share no image.

    Attributes:
        name: The name :func:`load_dataset` knows it by.
        train_images: Float32 ``[n, c, h, w]``, each channel standardised with the training images' statistics.
        train_labels: Int64 ``[n]``, classes from 0.
        test_images: As ``train_images``.
        test_labels: As ``train_labels``.
        digest: Sha256 of the source pixels, their labels, the split and the size: the same on every machine.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    digest: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(max(self.train_labels.max(), self.test_labels.max())) + 1

    def capped(self, train_images: int | None, seed: int) -> Dataset:
        """With at most this many training images, the same ones for every model of a zoo."""
        rows = _drawn(len(self.train_labels), train_images, derived_seed(seed, "train_images"))
        if rows is None:
            return self
        return replace(self, train_images=self.train_images[rows], train_labels=self.train_labels[rows])

    def scored(self, images: int | None, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Images and labels of the training part, then of the test part, at most ``images`` of each."""
        parts = []
        for name, pixels, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            rows = _drawn(len(labels), images, derived_seed(seed, "scored_images", name))
            parts.append((pixels, labels) if rows is None else (pixels[rows], labels[rows]))
        return parts[0], parts[1]


def _drawn(n: int, most: int | None, seed: int) -> Tensor | None:
    """Rows ``[most]``, sorted; ``None`` for all."""
    if most is None or most >= n:
        return None
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def data_root() -> Path:
    """Where a user's data sets lie: one folder, or ``.npz`` file, a name."""
    return workspace_root() / "data"


def load_dataset(name: str, *, source: str | os.PathLike[str] | None = None, image_size: int = 14) -> Dataset:
    """Load a data set by name, or from files.

    Args:
        name: ``"digits"`` (scikit-learn's 1,797 hand-written digits, 8×8 pixels with 17 grey levels), the name of a
            data set in the workspace's folder ``data``, or what to call the one at ``source``.
        source: A file or folder that :func:`sane_engine.images.load_images` reads.
        image_size: Side in pixels that images are resized to (bilinear, averaging where they become smaller).

    Raises:
        SpecError: There is no data set of this name, or the size is not positive.
        Refusal: The files cannot be read, or are not labelled images.
    """
    if image_size < 1:
        raise SpecError(f"image_size must be positive, not {image_size}.")
    if source is None and name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels, labels = digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64)
        return prepare(name, LabelledImages(pixels, labels), image_size)
    return prepare(name, load_images(source or _in_workspace(name), image_size=image_size), image_size)


def _in_workspace(name: str) -> Path:
    # A name from a specification is a name: it never leads out of the folder.
    if name != ".." and name and Path(name).name == name:
        for path in (data_root() / name, data_root() / f"{name}.npz"):
            if path.exists():
                return path
    raise SpecError(
        f"There is no data set {name!r}; choose from {', '.join(DATASETS)}, or say where its files lie"
        " (--data PATH)."
    )


def prepare(name: str, source: LabelledImages, image_size: int) -> Dataset:
    """Split, resize and standardise raw images.

    A split that the source has is kept; otherwise every class gives a fifth of its images to the test part.

    Args:
        name: What to call the data set.
        source: Grey or colour levels and classes.
        image_size: Side in pixels after resizing.
    """
    if source.test_pixels is None or source.test_labels is None:
        pixels, labels = source.pixels, source.labels
        train, test = stratified_split(labels)
        if not len(test):
            raise SpecError(f"{name} has one image a class, so none can be held out. Add images.")
    else:
        if source.test_pixels.shape[1:] != source.pixels.shape[1:]:
            raise SpecError(f"The training and test images of {name} differ in shape.")
        pixels = np.concatenate([source.pixels, source.test_pixels])
        labels = np.concatenate([source.labels, source.test_labels])
        train, test = np.split(np.arange(len(labels)), [len(source.labels)])
    content = hashlib.sha256()
    for part in (pixels, labels, train, test):
        content.update(np.ascontiguousarray(part).tobytes())
    content.update(f"{pixels.shape} {image_size}".encode())
    images = _resized(pixels, image_size)
    of_train = images[torch.from_numpy(train)]
    mean = of_train.mean(dim=(0, 2, 3), keepdim=True)
    # A channel without any variation stays at zero instead of becoming NaN.
    std = of_train.std(dim=(0, 2, 3), keepdim=True, correction=0)
    images = (images - mean) / torch.where(std > 0, std, torch.ones_like(std))
    classes = torch.from_numpy(labels)
    return Dataset(
        name=name,
        train_images=images[torch.from_numpy(train)].contiguous(),
        train_labels=classes[torch.from_numpy(train)],
        test_images=images[torch.from_numpy(test)].contiguous(),
        test_labels=classes[torch.from_numpy(test)],
        digest=content.hexdigest(),
    )


def _resized(pixels: NDArray[np.uint8], image_size: int) -> Tensor:
    smaller = max(pixels.shape[2:]) > image_size
    parts = [
        F.interpolate(part.float(), size=(image_size, image_size), mode="bilinear", antialias=smaller)
        for part in torch.split(torch.from_numpy(pixels), _RESIZED_AT_ONCE)
    ]
    return torch.cat(parts)


def stratified_split(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and test images, sorted; every class keeps its share in both, if it has two images."""
    generator = np.random.default_rng(SPLIT_SEED)
    test: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held_out = round(TEST_FRACTION * len(members)) or min(1, len(members) - 1)
        test.append(generator.permutation(members)[:held_out])
    tested = np.sort(np.concatenate(test)).astype(np.int64)
    rest = np.setdiff1d(np.arange(len(labels)), tested).astype(np.int64)
    return rest, tested
