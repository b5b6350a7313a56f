"""The same on every page: which zoo, which encoder, open another, what is selected."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from pages.components import state
from pages.components.errors import show_failure, show_refusal
from pages.components.job_views import sidebar_status
from pages.components.labels import counted
from pages.components.library import default_encoder, encoder_choices, get_zoo, training_of, zoo_choices
from pages.components.opening import follow, forget, keep, open_path, open_upload, opened_zoos
from pages.components.show import inert, one_line
from pages.components.uploads import release
from pages.components.working import working
from sane_engine.checkpoint import Refusal
from sane_engine.sane.encoder_file import UNIVERSAL

UPLOAD_LIMIT_MB = 500


def sidebar() -> None:
    """Draw the sidebar and settle which zoo and encoder are current."""
    if (opened := st.session_state.pop("zoo-next", None)) is not None:
        st.session_state[state.ZOO] = opened
        _other_zoo()
    for key, value in st.session_state.pop("picker-next", {}).items():
        st.session_state[key] = value
        if key == state.ZOO:
            _other_zoo()
    with st.sidebar:
        _zoo_picker()
        _encoder_picker()
        _open_zoo()
        _selection()
        sidebar_status()


def _zoo_picker() -> None:
    follow(str(st.session_state.get(state.ZOO)))
    choices = zoo_choices()
    if not choices:
        st.session_state[state.ZOO] = None
        st.text("No zoo yet: open one below.")
        return
    wanted = st.session_state.get(state.ZOO)
    if wanted is not None and wanted not in choices:
        st.warning(
            inert(f"The link names a zoo that is not open here: {str(wanted)[:60]}."), icon=":material/link_off:"
        )
        state.forget_rows()
    state.keep_valid(state.ZOO, list(choices), "digits")
    st.selectbox(
        "Zoo",
        list(choices),
        format_func=lambda key: one_line(choices.get(key, key)),
        key=state.ZOO,
        persist_state="session",
        on_change=_other_zoo,
        help="A population of trained networks.",
    )
    _keep_upload()


def _keep_upload() -> None:
    """Under the picker: an upload that only this session has can be kept, what is on everybody's list taken off."""
    for zoo in opened_zoos():
        if zoo.key != st.session_state[state.ZOO]:
            continue
        if zoo.kept:
            st.button(
                "Take off this list",
                key="forget-zoo",
                on_click=forget,
                args=(zoo,),
                icon=":material/playlist_remove:",
                type="tertiary",
                help="For everyone on this machine. A folder stays where it is; an upload is gone.",
            )
        else:
            with st.container(horizontal=True, gap="small", vertical_alignment="center"):
                st.caption("Only this session sees this upload.")
                st.button(
                    "Keep",
                    key="keep-upload",
                    on_click=keep,
                    args=(zoo,),
                    icon=":material/bookmark:",
                    type="tertiary",
                    help="Put it on the list of everyone who uses this app on this machine, until it is removed.",
                )


def _other_zoo() -> None:
    """What was chosen for the last zoo does not fit this one."""
    st.session_state[state.ENCODER] = None
    state.forget_rows()
    state.redraw_map()


def _encoder_picker() -> None:
    zoo_key = st.session_state[state.ZOO]
    choices = encoder_choices()
    if not choices:
        st.session_state[state.ENCODER] = None
        st.text("No encoder yet: train one on the page Train.")
        return
    state.keep_valid(state.ENCODER, list(choices), default_encoder(zoo_key))
    st.selectbox(
        "Encoder",
        list(choices),
        format_func=one_line,
        key=state.ENCODER,
        persist_state="session",
        on_change=state.redraw_map,
        help="The SANE autoencoder whose latents are shown.",
    )
    name = st.session_state[state.ENCODER]
    if name == UNIVERSAL and (said := training_of(name)):
        st.caption(inert(f"For networks of any architecture. Trained on {said}."))


def _open_zoo() -> None:
    with st.expander("Open a zoo", icon=":material/folder_open:"):
        uploaded = st.file_uploader(
            "A zip of checkpoints",
            type=None,
            key="zoo-upload",
            max_upload_size=UPLOAD_LIMIT_MB,
            help="One checkpoint a file, or model folders; a CSV inside may hold their properties.",
        )
        if uploaded is not None and st.session_state.get("zoo-upload-seen") != uploaded.file_id:
            st.session_state["zoo-upload-seen"] = uploaded.file_id
            _open(lambda: open_upload(uploaded.name, uploaded).key, uploaded.file_id)
        with st.form("zoo-path", border=False, enter_to_submit=True):
            path = st.text_input("or a folder or zip of yours", placeholder="/data/my-zoo", key="zoo-location")
            submitted = st.form_submit_button(
                "Open", key="open-zoo", icon=":material/folder_open:", width="stretch"
            )
        if submitted:
            _open(lambda: open_path(path).key)


def _open(make: Callable[[], str], file_id: str | None = None) -> None:
    """Open a zoo, look whether it can be read, and only then make it the current one."""
    key = None
    before = {zoo.key for zoo in opened_zoos()}
    try:
        key = make()
        if file_id is not None:
            release(file_id)
        with working("Reading the zoo") as progress:
            get_zoo(key, progress=progress)
    except Refusal as refusal:
        for zoo in opened_zoos():
            if zoo.key == key and key not in before:  # what was there before may be somebody else's
                forget(zoo)
        show_refusal(refusal)
        return
    except (OSError, ValueError) as error:
        show_failure(error, "opening the zoo")
        return
    # The picker above is drawn already; its value may only be changed before the next run draws it.
    st.session_state["zoo-next"] = key
    st.rerun()


def _selection() -> None:
    key = st.session_state[state.ZOO]
    if key is None:
        return
    try:
        zoo = get_zoo(key)
    except Refusal as refusal:
        show_refusal(refusal, key)
        return
    rows = state.selected_rows(key, len(zoo.table))
    pinned = state.pinned_row(key, len(zoo.table))
    with st.container(border=True, gap="small"):
        st.text(f"Selection: {counted(len(rows), 'checkpoint')}")
        if pinned is not None:
            record = zoo.table.iloc[pinned]
            st.text(f"Pinned: {str(record['model'])[:40]} · epoch {record['epoch']}")
        with st.container(horizontal=True, gap="small"):
            st.button(
                "Clear",
                key="clear-selection",
                on_click=state.clear_selection,
                disabled=not rows,
                icon=":material/close:",
                type="tertiary",
            )
            st.button(
                "Unpin",
                key="unpin",
                on_click=state.pin,
                args=(None,),
                disabled=pinned is None,
                icon=":material/keep_off:",
                type="tertiary",
            )
