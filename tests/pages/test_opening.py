"""Uploads are the session's own until they are kept; names never decide what is what, contents do."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save as to_safetensors
from streamlit.testing.v1 import AppTest
from tiny_zoo import network

from pages.components import state
from pages.components.opening import drop_old_uploads
from sane_engine.checkpoint import Refusal

Open = Callable[..., AppTest]


def zoo_zip(*seeds: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for seed in seeds:
            archive.writestr(f"net{seed}.safetensors", bytes(to_safetensors(network(seed))))
    return buffer.getvalue()


def upload(shown: AppTest, content: bytes, name: str = "my_nets.zip") -> str:
    uploader = next(item for item in shown.file_uploader if not item.accept_multiple_files)
    uploader.set_value((name, content, "application/zip")).run()
    assert not shown.exception and not shown.error
    return str(shown.session_state[state.ZOO])


def offered(shown: AppTest) -> list[str]:
    return [str(option) for option in shown.run().selectbox(key=state.ZOO).options]


def metric(shown: AppTest, label: str) -> str:
    return next(str(each.value) for each in shown.metric if each.label == label)


def test_two_sessions_with_one_file_name_see_each_its_own(app: Open) -> None:
    first, second, third = app("zoo"), app("zoo"), app("zoo")
    keys = upload(first, zoo_zip(1, 2)), upload(second, zoo_zip(3, 4, 5))
    assert keys[0] != keys[1]
    assert offered(first) == offered(second) == ["tiny", "my_nets.zip"] and offered(third) == ["tiny"]
    for shown, count in ((first, "2"), (second, "3"), (first, "2")):
        assert metric(shown.run(), "Checkpoints") == count
    # The second keeps its own; now everybody has that one, and the first has both, told apart.
    second.button(key="keep-upload").click().run()
    assert offered(third) == ["tiny", "my_nets.zip"]
    assert [label[:11] for label in offered(first)] == ["tiny", "my_nets.zip", "my_nets.zip"]
    assert len(set(offered(first))) == 3
    assert metric(first, "Checkpoints") == "2"


def test_a_link_finds_an_upload_again_and_only_a_link_does(app: Open) -> None:
    key = upload(app("zoo"), zoo_zip(1, 2))
    reloaded = app("zoo", zoo=key)
    assert reloaded.session_state[state.ZOO] == key and metric(reloaded, "Checkpoints") == "2"
    assert offered(app("zoo")) == ["tiny"]
    assert app("zoo", zoo="opened-0123456789ab").session_state[state.ZOO] == "tiny"


def test_the_same_content_keeps_the_name_each_session_gave_it(app: Open) -> None:
    first, second = app("zoo"), app("zoo")
    content = zoo_zip(1, 2)
    assert upload(first, content, "mine.zip") == upload(second, content, "yours.zip")
    assert offered(first) == ["tiny", "mine.zip"] and offered(second) == ["tiny", "yours.zip"]


def test_an_upload_beyond_the_quota_is_one_line(app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANE_QUOTA_GB", "0.000001")
    shown = app("zoo")
    uploader = next(item for item in shown.file_uploader if not item.accept_multiple_files)
    uploader.set_value(("x.zip", zoo_zip(1, 2, 3), "application/zip")).run()
    assert len(shown.error) == 1 and "SANE" in shown.error[0].value and not shown.exception


def test_uploads_that_nobody_kept_go_after_a_week(app: Open, workspace: Path) -> None:
    shown, other = app("zoo"), app("zoo")
    upload(shown, zoo_zip(1, 2))
    upload(other, zoo_zip(3, 4))
    other.button(key="keep-upload").click().run()
    drop_old_uploads()
    assert len(list((workspace / "uploads").iterdir())) == 2
    for record in (workspace / "opened").iterdir():
        os.utime(record, (1.0, 1.0))
    drop_old_uploads()
    assert len(list((workspace / "uploads").iterdir())) == 1
    assert offered(shown) == ["tiny", "my_nets.zip"]  # the one that was kept


def test_a_zoo_that_cannot_be_read_now_stays_on_the_list_it_was_on(
    app: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise Refusal("unreadable", "It cannot be read now.")

    content = zoo_zip(1, 2)
    first = app("zoo")
    upload(first, content)
    first.button(key="keep-upload").click().run()
    second = app("zoo")
    with monkeypatch.context() as broken:
        broken.setattr("pages.components.sidebar.get_zoo", refuse)
        uploader = next(item for item in second.file_uploader if not item.accept_multiple_files)
        uploader.set_value(("again.zip", content, "application/zip")).run()
    assert offered(first) == ["tiny", "my_nets.zip"]
