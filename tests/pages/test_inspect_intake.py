"""What comes to the page Inspect, and that nothing is left out in silence."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as to_safetensors
from streamlit.testing.v1 import AppTest
from test_pages import assert_healthy, drop, good_file, texts
from test_symmetry_section import quick as quick
from tiny_zoo import MODELS, network

from sane_engine.checkpoint import Refusal
from sane_engine.intake import load_checkpoint

Open = Callable[..., AppTest]
pytestmark = pytest.mark.usefixtures("quick")


def zip_of(n: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for seed in range(n):
            archive.writestr(f"net{seed:02d}.safetensors", bytes(to_safetensors(network(seed))))
    return buffer.getvalue()


def metrics(app: AppTest) -> dict[str, tuple[str, str]]:
    return {metric.label: (metric.value, metric.delta) for metric in app.metric}


def test_a_zip_of_many_says_how_many_of_them_are_taken(app: Open) -> None:
    shown = drop(app("inspect"), ("nets.zip", zip_of(14)))
    assert_healthy(shown)
    assert "12 of 14 checkpoints in nets.zip taken; open the file as a zoo" in texts(shown)


def test_the_same_file_under_another_name_is_said(app: Open) -> None:
    shown = drop(app("inspect"), ("first.pt", good_file()), ("copy of *it*.pt", good_file()))
    assert_healthy(shown)
    assert "copy of *it*.pt is the same file as first.pt." in texts(shown)
    assert len(shown.session_state["files"]) == 1
    assert "same file" not in texts(drop(app("inspect"), ("first.pt", good_file()), ("first.pt", good_file())))


def test_the_oldest_file_that_makes_room_is_named(app: Open) -> None:
    shown = drop(app("inspect"), *((f"net{seed}.st", good_file(seed)) for seed in range(13)))
    assert_healthy(shown)
    assert "Taken off the page to make room: net0.st" in texts(shown)
    assert [file.name for file in shown.session_state["files"].values()] == [
        f"net{seed}.st" for seed in range(1, 13)
    ]


def test_the_uploader_is_empty_again_and_the_list_takes_files_away(app: Open) -> None:
    shown = drop(app("inspect"), ("good.safetensors", good_file()), ("bad.pt", b"nothing of the kind"))
    assert_healthy(shown)
    uploader = next(item for item in shown.file_uploader if item.accept_multiple_files)
    assert not uploader.value
    assert len(shown.error) == 1
    for button in [b for b in shown.button if str(b.key).startswith("remove-")]:
        shown.button(key=button.key).click()
    shown.run()
    assert_healthy(shown)
    assert not shown.error and not shown.session_state["files"]
    assert "Nothing to inspect yet" in texts(shown) and "gone after a reload" in texts(shown)
    # What was taken away can be dropped again.
    assert "good.safetensors" in texts(drop(shown, ("good.safetensors", good_file())))


def test_running_statistics_are_no_parameters(app: Open) -> None:
    tensors = {
        "conv.weight": torch.randn(8, 3, 3, 3),
        "bn.weight": torch.ones(8),
        "bn.bias": torch.zeros(8),
        "bn.running_mean": torch.zeros(8),
        "bn.running_var": torch.ones(8),
        "bn.num_batches_tracked": torch.tensor(5),
    }
    content = bytes(to_safetensors(tensors))
    checkpoint = load_checkpoint(content)
    assert (checkpoint.n_parameters, checkpoint.n_buffers) == (8 * 27 + 16, 16)
    shown = drop(app("inspect"), ("bn.safetensors", content))
    assert metrics(shown)["Parameters"] == ("232", "+ 16 buffers")


def test_a_model_of_the_zoo_is_not_its_own_neighbour(app: Open) -> None:
    shown = app("inspect", zoo="tiny", model="11")
    assert_healthy(shown)
    nearest = next(frame.value for frame in shown.dataframe if "distance (sd)" in frame.value.columns)
    assert len(nearest) == 5 and "net_03*bold*" not in set(nearest["model"])
    assert (nearest["distance (sd)"] > 0).all()
    assert "its own epochs do not count" in texts(shown)
    assert MODELS > 5


def test_a_file_on_this_machine_is_read_where_it_lies(
    app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANE_OPEN_ROOT", str(tmp_path))
    path = tmp_path / "mine.safetensors"
    path.write_bytes(good_file())
    shown = app("inspect")
    shown.text_input(key="file-location").set_value(str(path)).run()
    assert_healthy(shown)
    assert not shown.error
    assert "mine.safetensors" in texts(shown) and shown.text_input(key="file-location").value == ""
    assert path.read_bytes() == good_file()
    # A file that has changed is another file.
    path.write_bytes(good_file(9))
    os.utime(path, (1, 1))
    shown.text_input(key="file-location").set_value("mine.safetensors").run()
    assert len(shown.session_state["files"]) == 2


@pytest.mark.parametrize("place", ["/etc/passwd", "../../etc/passwd", "link", "nowhere.pt", "~/\0"])
def test_a_path_that_leads_away_is_one_line(
    app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("SANE_OPEN_ROOT", str(tmp_path))
    (tmp_path / "link").symlink_to("/etc/passwd")
    shown = app("inspect")
    shown.text_input(key="file-location").set_value(place).run()
    assert_healthy(shown)
    assert len(shown.error) == 1
    assert isinstance(shown.session_state["file-refusal"], Refusal)
    shown.text_input(key="file-location").set_value("").run()
    assert not shown.error


def test_a_folder_is_refused_in_one_line(app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANE_OPEN_ROOT", str(tmp_path))
    (tmp_path / "folder").mkdir()
    shown = app("inspect")
    shown.text_input(key="file-location").set_value("folder").run()
    assert_healthy(shown)
    assert len(shown.error) == 1
