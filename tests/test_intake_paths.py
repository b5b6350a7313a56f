"""Paths of a server's users: below the root or not at all, whatever links and races do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from attacks import torch_bytes
from safetensors.torch import save_file

from sane_engine.checkpoint import Refusal
from sane_engine.intake import (
    list_tensors,
    load_checkpoint,
    load_each,
    open_below,
    paths,
    refuse_links_outside,
    resolve_below,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file and links inside, and a secret outside."""
    root = tmp_path / "root"
    (root / "runs" / "a").mkdir(parents=True)
    (root / "runs" / "a" / "m.pt").write_bytes(torch_bytes({"w": torch.ones(2)}))
    (root / "inside").symlink_to(root / "runs" / "a")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "m.pt").write_bytes(torch_bytes({"w": torch.zeros(2)}))
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "runs" / "out.pt").symlink_to(tmp_path / "secret" / "m.pt")
    (root / "runs" / "up").symlink_to("../../secret")
    (root / "circle").symlink_to(root / "circle")
    (tmp_path / "root-beside").mkdir()
    (tmp_path / "root-beside" / "m.pt").write_bytes(b"x")
    return root


@pytest.mark.parametrize(
    "path", ["runs/a/m.pt", "inside/m.pt", "runs/../runs/a/m.pt", "./runs//a/m.pt", "{}/runs/a/m.pt"]
)
def test_what_lies_below_is_found(root: Path, path: str) -> None:
    real = (root / "runs" / "a" / "m.pt").resolve()
    assert resolve_below(root, path.format(root)) == real
    descriptor = open_below(root, path.format(root))
    try:
        assert os.path.sameopenfile(descriptor, os.open(real, os.O_RDONLY))
    finally:
        os.close(descriptor)
    assert resolve_below(root, "") == root.resolve()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../secret/m.pt", "outside-root"),
        ("runs/../../secret/m.pt", "outside-root"),
        ("/etc/hostname", "outside-root"),
        ("{}/../secret/m.pt", "outside-root"),
        ("{}-beside/m.pt", "outside-root"),
        ("out/m.pt", "outside-root"),
        ("out/absent.pt", "outside-root"),
        ("runs/out.pt", "outside-root"),
        ("runs/up/m.pt", "outside-root"),
        ("circle", "missing"),
        ("circle/m.pt", "missing"),
        ("runs/absent.pt", "missing"),
        ("runs/a/m.pt\0.safetensors", "missing"),
        ("runs/a/m.pt/below", "missing"),
        ("x" * 5000, "missing"),
    ],
)
def test_what_does_not_is_refused(root: Path, path: str, code: str) -> None:
    for function in (open_below, resolve_below, lambda r, p: load_checkpoint(p, below=r)):
        with pytest.raises(Refusal) as caught:
            function(root, path.format(root))
        assert caught.value.code in {code, "unreadable"} if code == "missing" else caught.value.code == code
        assert str(root) not in caught.value.line()


def test_a_link_put_in_after_the_check_is_not_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The race: between the look by name and the opening, a folder on the way becomes a link out of the root."""
    checked = paths._below

    def and_then_swapped(*arguments: object) -> tuple[Path, Path]:
        result = checked(*arguments)  # type: ignore[arg-type]
        (root / "runs" / "a").rename(root / "runs" / "b")
        (root / "runs" / "a").symlink_to(root.parent / "secret")
        return result

    monkeypatch.setattr(paths, "_below", and_then_swapped)
    with pytest.raises(Refusal) as caught:
        open_below(root, "runs/a/m.pt")
    assert caught.value.code == "unreadable"


def test_loading_below_a_root(root: Path) -> None:
    assert load_checkpoint("runs/a/m.pt", below=root).tensors["w"].tolist() == [1.0, 1.0]
    assert list_tensors(root / "inside" / "m.pt", below=root)[0].shape == (2,)
    outcomes = list(load_each([root / "inside" / "m.pt", root / "runs" / "out.pt"], below=root))
    assert not isinstance(outcomes[0], Refusal)
    assert isinstance(outcomes[1], Refusal)
    assert outcomes[1].code == "outside-root"


def test_shards_are_held_to_the_root_as_well(root: Path) -> None:
    folder = root / "sharded"
    folder.mkdir()
    save_file({"w": torch.ones(2)}, root.parent / "secret" / "1.safetensors")
    (folder / "1.safetensors").symlink_to(root.parent / "secret" / "1.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "1.safetensors"}}')
    assert list(load_checkpoint(folder).tensors) == ["w"]
    with pytest.raises(Refusal) as caught:
        load_checkpoint(folder, below=root)
    assert caught.value.code == "outside-root"


def test_folders_with_links_out_of_the_root(root: Path) -> None:
    refuse_links_outside(root, root / "runs" / "a")
    for folder in (root, root / "runs"):
        with pytest.raises(Refusal) as caught:
            refuse_links_outside(root, folder)
        assert caught.value.code == "outside-root"
