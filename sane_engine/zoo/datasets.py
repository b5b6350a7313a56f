"""Images that zoos are trained on: split once, standardised, ready for a network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sane_engine.zoo.spec import SpecError

DATASETS = ("digits",)
TEST_FRACTION = 0.2
# One split for every zoo on these images, whatever the zoo's own seed: accuracies of two zoos can be compared.
SPLIT_SEED = 0


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


def load_dataset(name: str, *, image_size: int = 14) -> Dataset:
    """Load a data set by name.

    Args:
        name: ``"digits"``: scikit-learn's 1,797 hand-written digits, 8×8 pixels with 17 grey levels.
        image_size: Side in pixels that images are resized to (bilinear).

    Raises:
        SpecError: There is no data set of this name, or the size is not positive.
    """
    if name not in DATASETS:
        raise SpecError(f"There is no data set {name!r}; choose from {', '.join(DATASETS)}.")
    if image_size < 1:
        raise SpecError(f"image_size must be positive, not {image_size}.")
    from sklearn.datasets import load_digits

    source = load_digits()
    return prepare(name, source.images.astype(np.uint8)[:, None], source.target.astype(np.int64), image_size)


def prepare(name: str, pixels: NDArray[np.uint8], labels: NDArray[np.int64], image_size: int) -> Dataset:
    """Split, resize and standardise raw images.

    Args:
        name: What to call the data set.
        pixels: ``[n, c, h, w]`` grey or colour levels.
        labels: ``[n]`` classes from 0.
        image_size: Side in pixels after resizing.
    """
    train, test = stratified_split(labels)
    content = hashlib.sha256()
    for part in (pixels, labels, train, test):
        content.update(np.ascontiguousarray(part).tobytes())
    content.update(f"{pixels.shape} {image_size}".encode())
    images = F.interpolate(torch.from_numpy(pixels).float(), size=(image_size, image_size), mode="bilinear")
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


def stratified_split(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and test images, sorted; every class keeps its share in both."""
    generator = np.random.default_rng(SPLIT_SEED)
    test: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        test.append(generator.permutation(members)[: round(TEST_FRACTION * len(members))])
    held_out = np.sort(np.concatenate(test)).astype(np.int64)
    rest = np.setdiff1d(np.arange(len(labels)), held_out).astype(np.int64)
    return rest, held_out
