"""How networks come to the page Inspect: dropped files, a path on this machine, a model of the zoo."""

from __future__ import annotations

import streamlit as st

from pages.components import state
from pages.components.current import Current
from pages.components.errors import show_failure, show_refusal
from pages.components.inspection import Inspected, drop, files, read, take, take_path, taken_off
from pages.components.library import digest_of
from pages.components.show import inert, one_line, show_caption
from pages.components.sidebar import UPLOAD_LIMIT_MB
from pages.components.uploads import release
from pages.components.working import working
from sane_engine.checkpoint import Refusal
from sane_engine.workspace import open_root

_PATH = "file-location"


def intake(now: Current | None) -> list[Inspected]:
    """Draw the drop area, the files with their errors, and the menu of the zoo; returns the networks to look at."""
    left, right = st.columns([2, 1], gap="medium", vertical_alignment="top")
    with left:
        _drop_area()
    models: list[Inspected] = []
    with right:
        models += _model_of_the_zoo(now)
        _path_field()
    _read_all()
    shown = st.container(horizontal=True, gap="medium")
    for digest, file in list(files().items()):
        if file.refusal is None:
            models += file.models
            with shown:
                _remove_button(digest, inert(file.name))
        else:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                show_refusal(file.refusal, file.name)
                _remove_button(digest, "Remove")
    for file in files().values():
        for note in file.notes:
            show_caption(note)
    if taken_off():
        _say_what_went()
    return models


def _drop_area() -> None:
    # A new key a batch: the uploader is empty again, and the list below is the only one to take files away from.
    batch = st.session_state.setdefault("upload-batch", 0)
    uploads = st.file_uploader(
        "Drop one or several checkpoints",
        accept_multiple_files=True,
        key=f"checkpoints-{batch}",
        max_upload_size=UPLOAD_LIMIT_MB,
        help="safetensors, PyTorch files, .npz, ONNX, or a zip of these. Nothing in them is executed.",
    )
    if not uploads:
        return
    taken_off().clear()
    try:
        for upload in uploads:
            take(upload.name, upload)
            release(upload.file_id)
    finally:
        st.session_state["upload-batch"] = batch + 1
    st.rerun()


def _path_field() -> None:
    st.text_input(
        "or a file on this machine",
        key=_PATH,
        placeholder="path, then Enter",
        on_change=_take_path,
        help=f"Below {inert(open_root())}. For files too large to upload: read where they lie, tensor by tensor.",
    )
    refusal = st.session_state.get("file-refusal")
    if isinstance(refusal, Refusal):
        show_refusal(refusal)


def _take_path() -> None:
    text = str(st.session_state.get(_PATH) or "")
    st.session_state["file-refusal"] = None
    if not text.strip():
        return
    taken_off().clear()
    try:
        take_path(text)
    except Refusal as refusal:
        st.session_state["file-refusal"] = refusal
    except OSError:
        st.session_state["file-refusal"] = Refusal("missing", "There is nothing at that path.", "Check the path.")
    else:
        st.session_state[_PATH] = ""


def _say_what_went() -> None:
    names = ", ".join(one_line(name) for name in taken_off())
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        show_caption(f"Taken off the page to make room: {names}. Drop it again, or open many files as a zoo.")


def _remove_button(digest: str, label: str) -> None:
    """These stay until the user takes them away, also after a change of page."""
    st.button(
        label,
        key=f"remove-{digest}",
        on_click=drop,
        args=(digest,),
        icon=":material/close:",
        help="Take this file off the page",
        type="tertiary",
    )


def _read_all() -> None:
    waiting = [(digest, file) for digest, file in files().items() if file.waiting is not None]
    if not waiting:
        return
    with working("Reading the files") as progress:
        for i, (digest, file) in enumerate(waiting):
            progress(i, len(waiting), file.name)
            try:
                read(digest, file)
            except (OSError, ValueError, RuntimeError, MemoryError) as error:
                drop(digest)
                show_failure(error, f"reading {file.name}")


def _model_of_the_zoo(now: Current | None) -> list[Inspected]:
    if now is None:
        return []
    rows = range(len(now.zoo.table))
    remembered = st.session_state.get(state.OPENED_MODEL)
    names = [None, *rows]
    if isinstance(remembered, str):
        st.session_state[state.OPENED_MODEL] = int(remembered) if remembered.isdecimal() else None
    state.keep_valid(state.OPENED_MODEL, names)
    row = st.selectbox(
        "or open a model of the zoo",
        names,
        key=state.OPENED_MODEL,
        persist_state="session",
        placeholder="none",
        format_func=lambda row: "none" if row is None else one_line(now.name_of(row)),
    )
    if row is None:
        return []
    cache: dict[str, Inspected] = st.session_state.setdefault("zoo-models", {})
    key = f"{digest_of(now.zoo)[:16]}-{row}"
    if key not in cache:
        cache.clear()
        cache[key] = Inspected(key, now.name_of(row), now.zoo.tensors(row), zoo_row=row)
    return [cache[key]]
