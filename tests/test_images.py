"""Data sets in files: what was written comes back exactly, and what is broken is refused by name."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from PIL import Image

from sane_engine.checkpoint import Refusal
from sane_engine.images import LabelledImages, load_images
from sane_engine.images import labelled as labelled_module
from sane_engine.zoo.datasets import load_dataset, prepare
from sane_engine.zoo.spec import SpecError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 6, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3


def idx_bytes(array: NDArray[Any]) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, suffix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write: Callable[[bytes], bytes] = gzip.compress if suffix == ".gz" else bytes
    for part, rows in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(write(idx_bytes(GREY[rows])))
        (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(write(idx_bytes(LABELS[rows])))


def assert_is(images: LabelledImages, pixels: NDArray[Any]) -> None:
    """Twenty for training and ten for testing, as they were made."""
    assert images.test_pixels is not None
    assert images.test_labels is not None
    assert images.pixels.dtype == np.uint8
    assert images.labels.dtype == np.int64
    np.testing.assert_array_equal(np.concatenate([images.pixels, images.test_pixels]), pixels)
    np.testing.assert_array_equal(np.concatenate([images.labels, images.test_labels]), LABELS)
    assert len(images.labels) == 20


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("below", [".", "data", "MNIST/raw"])
def test_idx_files_come_back_from_the_folder_or_one_below_it(tmp_path: Path, suffix: str, below: str) -> None:
    write_idx(tmp_path / below, suffix)
    assert_is(load_images(tmp_path, image_size=14), GREY[:, None])
    file = tmp_path / below / f"train-images-idx3-ubyte{suffix}"
    assert_is(load_images(file, image_size=14), GREY[:, None])


def test_a_path_with_a_typing_error_or_of_another_file_is_no_data_set_beside_it(tmp_path: Path) -> None:
    write_idx(tmp_path / "digits" / "raw")
    write_idx(tmp_path)
    (tmp_path / "notes.txt").write_text("train")
    for name, code in (("digist", "data-not-found"), ("notes.txt", "data-unknown")):
        with pytest.raises(Refusal) as refusal:
            load_images(tmp_path / name, image_size=14)
        assert refusal.value.code == code
    (tmp_path / "alone").mkdir()
    lone = tmp_path / "alone" / "train-images-idx3-ubyte"
    lone.write_bytes(idx_bytes(GREY))
    write_idx(tmp_path / "alone" / "below")
    with pytest.raises(Refusal) as refusal:
        load_images(lone, image_size=14)
    assert refusal.value.code == "data-unknown"


def test_idx_names_with_dots_and_a_missing_test_part_are_fine(tmp_path: Path) -> None:
    (tmp_path / "emnist-letters-train-images.idx3-ubyte").write_bytes(idx_bytes(GREY))
    (tmp_path / "emnist-letters-train-labels.idx1-ubyte").write_bytes(idx_bytes(LABELS))
    images = load_images(tmp_path, image_size=14)
    assert images.test_pixels is None
    np.testing.assert_array_equal(images.pixels[:, 0], GREY)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"<html>not found</html>", "idx-magic"),
        (b"\0\0\x0d\x03" + bytes(200), "idx-magic"),
        (b"\0\0\x08\x03\0\0", "idx-length"),
        (idx_bytes(GREY)[:-1], "idx-length"),
        (idx_bytes(GREY) + b"x", "idx-length"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "images-too-large"),
        (b"\0\0\x08\x03" + bytes(4) + b"\xff" * 8, "images-too-large"),
        (gzip.compress(idx_bytes(GREY))[:-30], "idx-length"),
        (gzip.compress(b"\0\0\x08\x03" + b"\0\0\0\x01" * 3 + bytes(10_000_000)), "idx-length"),
        (idx_bytes(GREY[:19]), "images-count"),
        (idx_bytes(GREY[:0]), "images-empty"),
        (idx_bytes(GREY[0]), "images-shape"),
    ],
)
def test_broken_idx_files_are_refused(tmp_path: Path, content: bytes, code: str) -> None:
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(Refusal) as refusal:
        load_images(tmp_path, image_size=14)
    assert refusal.value.code == code
    assert str(tmp_path) not in refusal.value.line()


@pytest.mark.parametrize(
    "names", ["x_train y_train x_test y_test", "train_images train_labels test_images test_labels"]
)
@pytest.mark.parametrize("kind", ["grey", "colour last", "colour first", "fractions", "labels in a column"])
def test_npz_arrays_come_back_under_both_names(tmp_path: Path, names: str, kind: str) -> None:
    stored: NDArray[Any] = {"colour last": COLOUR, "colour first": np.moveaxis(COLOUR, 3, 1)}.get(kind, GREY)
    labels = LABELS[:, None].astype(np.uint8) if kind == "labels in a column" else LABELS
    if kind == "fractions":
        stored = (stored / 255).astype(np.float32)
    parts = (stored[:20], labels[:20], stored[20:], labels[20:])
    np.savez(tmp_path / "a.npz", **dict(zip(names.split(), parts, strict=True)))  # type: ignore[arg-type] # arrays only
    expected = np.moveaxis(COLOUR, 3, 1) if kind.startswith("colour") else GREY[:, None]
    for source in (tmp_path / "a.npz", tmp_path):
        assert_is(load_images(source, image_size=14), expected)


def test_npz_without_a_test_part(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", Images=np.asfortranarray(GREY), labels=LABELS)
    images = load_images(tmp_path / "a.npz", image_size=14)
    np.testing.assert_array_equal(images.pixels[:, 0], GREY)
    assert images.test_pixels is None


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("it was unpickled",))


def npz(path: Path, images: bytes | NDArray[Any], labels: NDArray[Any] = LABELS) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (("images", images), ("labels", labels)):
            if not isinstance(content, bytes):
                stream = io.BytesIO()
                np.save(stream, content)
                content = stream.getvalue()
            archive.writestr(f"{name}.npy", content)


def header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    stream = io.BytesIO()
    npy_format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def literal(text: str) -> bytes:
    """A header of any text."""
    return npy_format.magic(1, 0) + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("images", "labels", "code"),
    [
        (np.array([Bomb()], dtype=object), LABELS, "npz-type"),
        (GREY, np.array([str(n) for n in LABELS]), "npz-type"),
        (GREY, LABELS.astype(float), "npz-type"),
        (GREY, LABELS - 1, "images-labels"),
        (GREY, LABELS[:-1], "images-count"),
        (GREY.astype(np.float32) - 100, LABELS, "npz-type"),
        (np.full((30, 4, 4), np.nan), LABELS, "npz-type"),
        (GREY.astype(np.int32) * 2, LABELS, "npz-type"),
        (COLOUR[:, None], LABELS, "images-shape"),
        (header((2**40, 2**40)), LABELS, "images-too-large"),
        (header((30, 100, 100)) + bytes(100), LABELS, "npz-damaged"),
        (header((30, 2, 2)) + bytes(10_000_000), LABELS, "npz-damaged"),
        (b"nothing", LABELS, "npz-damaged"),
        (header((0, 2**70)), LABELS, "images-too-large"),
        (literal("(" * 5000 + "\n"), LABELS, "npz-damaged"),
        (literal("{[]: 1}"), LABELS, "npz-damaged"),
    ],
)
def test_broken_npz_files_are_refused(
    tmp_path: Path, images: bytes | NDArray[Any], labels: NDArray[Any], code: str
) -> None:
    npz(tmp_path / "a.npz", images, labels)
    with pytest.raises(Refusal) as refusal:
        load_images(tmp_path / "a.npz", image_size=14)
    assert refusal.value.code == code


@pytest.mark.parametrize("shape", [(-2,), (-2, -3)])
def test_negative_lengths_are_refused_before_anything_is_unpacked(tmp_path: Path, shape: tuple[int, ...]) -> None:
    npz(tmp_path / "a.npz", header(shape) + bytes(6))
    with pytest.raises(Refusal, match="negative lengths"):
        load_images(tmp_path / "a.npz", image_size=14)


def test_other_names_in_an_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weights=GREY)
    with pytest.raises(Refusal, match="names that are understood"):
        load_images(tmp_path / "a.npz", image_size=14)


def write_class_json(folder: Path, nested: bool, spoil: Any = None) -> NDArray[np.uint8]:
    folder.mkdir(parents=True)
    images = RNG.integers(0, 256, (12, 784), dtype=np.uint8)
    for label in range(3):
        part = images[4 * label : 4 * label + 4]
        data: Any = [*part.tolist(), []] if nested else part.flatten().tolist()
        if label == 2 and spoil is not None:
            data = spoil
        (folder / f"{label}.json").write_text(json.dumps({"data": data}), encoding="utf-8")
    return images.reshape(12, 1, 28, 28)


@pytest.mark.parametrize("nested", [True, False])
def test_json_by_class_comes_back(tmp_path: Path, nested: bool) -> None:
    expected = write_class_json(tmp_path / "src" / "clothes", nested)
    images = load_images(tmp_path, image_size=14)
    np.testing.assert_array_equal(images.pixels, expected)
    assert images.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("spoil", [[], [1] * 783, [[1] * 784, [1] * 3], [300] * 784, ["a"] * 784, "text", 3])
def test_broken_json_by_class_is_refused(tmp_path: Path, spoil: Any) -> None:
    write_class_json(tmp_path / "a", True, spoil)
    with pytest.raises(Refusal) as refusal:
        load_images(tmp_path, image_size=14)
    assert refusal.value.code == "json-images"


def write_pictures(folder: Path, suffix: str = ".png", mode: str = "RGB") -> None:
    for label, level in (("ant", 40), ("bee", 200)):
        (folder / label).mkdir(parents=True)
        for number in range(3):
            colour: Any = (level, 255 - level, number) if mode == "RGB" else level + number
            Image.new(mode, (9 + number, 7), colour).save(folder / label / f"{number}{suffix}")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pictures_by_class_are_resized_to_one_size(tmp_path: Path, mode: str) -> None:
    write_pictures(tmp_path / "a", mode=mode)
    images = load_images(tmp_path / "a", image_size=8)
    assert images.pixels.shape == (6, 3 if mode == "RGB" else 1, 8, 8)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    if mode == "RGB":
        assert images.pixels[4, :, 3, 3].tolist() == [200, 55, 1]
    else:
        assert images.pixels[4, 0, 3, 3] == 201


def test_pictures_keep_their_split_and_links_lead_nowhere(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a" / "train", ".jpg")
    write_pictures(tmp_path / "a" / "val", ".bmp")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (5, 5)).save(secret)
    (tmp_path / "a" / "train" / "ant" / "link.png").symlink_to(secret)
    write_pictures(tmp_path / "elsewhere")
    for part in ("train", "val"):
        (tmp_path / "a" / part / "cat").symlink_to(tmp_path / "elsewhere" / "ant")
        (tmp_path / "a" / part / "bee" / "more").symlink_to(tmp_path / "elsewhere" / "bee")
    images = load_images(tmp_path / "a", image_size=8)
    assert images.test_labels is not None
    assert len(images.labels) == len(images.test_labels) == 6


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_pictures_of_sixteen_bits_keep_their_grey(tmp_path: Path, suffix: str) -> None:
    for label, level in (("dark", 20_000), ("light", 50_000)):
        (tmp_path / label).mkdir()
        Image.fromarray(np.full((6, 6), level, dtype=np.uint16)).save(tmp_path / label / f"a{suffix}")
    images = load_images(tmp_path, image_size=4)
    assert images.pixels.shape == (2, 1, 4, 4)
    assert images.pixels[:, 0, 1, 1].tolist() == [20_000 >> 8, 50_000 >> 8]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pictures_whose_range_is_not_known_are_refused(tmp_path: Path, kind: type) -> None:
    write_pictures(tmp_path)
    Image.fromarray(np.full((6, 6), 100, dtype=kind)).save(tmp_path / "ant" / "0.tif")
    with pytest.raises(Refusal) as refusal:
        load_images(tmp_path, image_size=4)
    assert refusal.value.code == "picture-depth"


def test_broken_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "a")
    victim = tmp_path / "a" / "ant" / "1.png"
    whole = victim.read_bytes()

    def code() -> str:
        with pytest.raises(Refusal) as refusal:
            load_images(tmp_path / "a", image_size=8)
        return refusal.value.code

    for content in (b"", b"GIF89a", whole[: len(whole) // 2], b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        victim.write_bytes(content)
        assert code() == "picture-damaged"
    victim.write_bytes(whole)
    # A few bytes that say they are 20,000 × 20,000 pixels.
    wide = Image.new("1", (20_000, 20_000))
    wide.save(victim)
    assert code() in ("picture-damaged", "picture-too-large")
    victim.write_bytes(whole)
    for file in (tmp_path / "a" / "bee").iterdir():
        file.unlink()
    assert code() == "pictures-classes"
    write_pictures(tmp_path / "b")
    monkeypatch.setattr(labelled_module, "MAX_PIXEL_BYTES", 1000)
    with pytest.raises(Refusal, match="at most"):
        load_images(tmp_path / "b", image_size=8)


def test_what_is_no_data_set_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refusal:
        load_images(tmp_path / "nothing", image_size=8)
    assert refusal.value.code == "data-not-found"
    with pytest.raises(Refusal) as refusal:
        load_images(tmp_path, image_size=8)
    assert refusal.value.code == "data-unknown"


def test_a_given_split_is_kept_and_a_missing_one_drawn_by_class(tmp_path: Path) -> None:
    write_idx(tmp_path)
    data = load_dataset("mnist", source=tmp_path, image_size=4)
    assert data.train_images.shape == (20, 1, 4, 4)
    assert data.test_labels.tolist() == LABELS[20:].tolist()
    assert data.train_images.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.digest != load_dataset("mnist", source=tmp_path, image_size=5).digest
    drawn = prepare("a", LabelledImages(GREY[:, None], LABELS), 4)
    assert torch.bincount(drawn.test_labels).tolist() == [2, 2, 2]
    assert drawn.digest != data.digest


def test_a_data_set_is_found_in_the_workspace_by_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANE_WORKSPACE", str(tmp_path))
    write_idx(tmp_path / "data" / "mine")
    np.savez(tmp_path / "data" / "other.npz", images=GREY, labels=LABELS)
    write_idx(tmp_path / "outside")
    assert len(load_dataset("mine", image_size=4).train_labels) == 20
    assert len(load_dataset("other", image_size=4).train_labels) == 24
    for name in ("../outside", "unknown", ".", "..", ""):
        with pytest.raises(SpecError, match="no data set"):
            load_dataset(name)


def test_fewer_images_are_drawn_by_the_seed_and_the_rest_is_untouched(tmp_path: Path) -> None:
    data = prepare("a", LabelledImages(GREY[:, None], LABELS), 4)
    few = data.capped(10, seed=1)
    assert few.train_images.shape == (10, 1, 4, 4)
    assert torch.equal(few.test_images, data.test_images)
    assert torch.equal(few.train_images, data.capped(10, seed=1).train_images)
    assert not torch.equal(few.train_images, data.capped(10, seed=2).train_images)
    pairs = {
        (image.numpy().tobytes(), int(label))
        for image, label in zip(few.train_images, few.train_labels, strict=True)
    }
    assert len(pairs) == 10
    assert pairs <= {
        (image.numpy().tobytes(), int(label))
        for image, label in zip(data.train_images, data.train_labels, strict=True)
    }
    assert data.capped(None, seed=1) is data.capped(1000, seed=1) is data
    (train, _), (test, labels) = data.scored(3, seed=1)
    assert len(train) == len(test) == len(labels) == 3
    assert len(data.scored(None, seed=1)[0][0]) == 24


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((10, 1, 16, 16), dtype=np.uint8)
    stripes[::2, :, :, ::2] = 240
    stripes[1::2, :, :, 1::2] = 240
    labels = np.repeat([0, 1], 5).astype(np.int64)
    shrunk = prepare("a", LabelledImages(stripes, labels, stripes[:2], labels[:2]), 4)
    # Both patterns are the same even grey, up to the border; skipping would make one of them black.
    assert shrunk.train_images[:, :, 1:-1, 1:-1].std().item() < 0.5 * shrunk.train_images.std().item() + 1e-6
