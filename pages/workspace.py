"""Workspace: what was made and kept, how large it is, and how it gets out, in, and away."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable

import pandas as pd
import streamlit as st

from pages.components.errors import explain, show_failure, show_refusal
from pages.components.identity import size
from pages.components.navigation import page
from pages.components.show import file_name, inert, one_line, show_caption, show_table
from pages.components.uploads import release
from pages.components.working import working
from sane_engine.checkpoint import Refusal
from sane_engine.inventory import EXPORTABLE, Item, export_item, import_item, items, rebuild, remove_item
from sane_engine.workspace import quota_bytes, used_bytes, workspace_root

# A zip for the browser is made in memory; a larger one is written by the command line.
_LARGEST_DOWNLOAD = 500_000_000
_UPLOAD_LIMIT_MB = 500


def main() -> None:
    found = items()
    _totals(found)
    if (done := st.session_state.pop("workspace-done", None)) is not None:
        st.success(inert(done), icon=":material/check:")
    if not found:
        explain(
            "There is nothing here yet.", "Zoos, encoders, embeddings and uploads appear as soon as you make them."
        )
    else:
        _act(_chosen(found))
    left, right = st.columns(2, gap="large")
    with left:
        _import()
    with right:
        _rebuild()


def _totals(found: list[Item]) -> None:
    root = workspace_root()
    place = next((folder for folder in (root, *root.parents) if folder.exists()), root)
    used, quota = used_bytes(), quota_bytes()
    cells = st.columns(4)
    cells[0].metric("Items", f"{len(found):,}")
    cells[1].metric("Used", size(used))
    cells[2].metric("May be used", size(quota), help="Set SANE_QUOTA_GB before the app is started to change it.")
    cells[3].metric("Free on the disk", size(shutil.disk_usage(place).free))
    if used > 0.9 * quota:
        st.warning("The workspace is nearly full: remove what you no longer need.", icon=":material/warning:")
    show_caption(f"Everything lies in {root}")


def _chosen(found: list[Item]) -> list[Item]:
    table = pd.DataFrame(
        {
            "kind": [item.kind.name for item in found],
            "name": [one_line(item.label) for item in found],
            "size (MB)": [item.bytes / 1e6 for item in found],
            "last used": pd.to_datetime([item.used for item in found], unit="s"),
            "made": pd.to_datetime([item.created for item in found], unit="s"),
            "digest": [item.digest[:16] for item in found],
        },
        # When items come, go or change places, the table is another one with nothing chosen: else the place of what
        # was chosen would be that of something else, and that would be removed.
        index=[item.key for item in found],
    )
    dates = {name: st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm") for name in ("last used", "made")}
    rows = show_table(table, "workspace", columns=dates, selectable=True)
    return [found[row] for row in rows]


def _act(chosen: list[Item]) -> None:
    if not chosen:
        show_caption("Choose items in the table to remove or to export them. Times are UTC.")
        return
    total = size(sum(item.bytes for item in chosen))
    what = chosen[0].label if len(chosen) == 1 else f"{len(chosen)} items"
    st.text(f"{one_line(what)}, {total}")
    with st.container(horizontal=True, gap="small"):
        with st.popover("Remove", icon=":material/delete:"):
            st.text(f"Remove {one_line(what)}? This cannot be undone.")
            if st.button("Remove for good", key="workspace-remove", type="primary", icon=":material/delete:"):
                _remove(chosen)
        for item in chosen:
            _export(item)


def _remove(chosen: list[Item]) -> None:
    gone = 0
    for item in chosen:
        try:
            remove_item(item.key)
            gone += 1
        except Refusal as refusal:
            show_refusal(refusal, item.label)
        except OSError as error:
            show_failure(error, "removing an item")
    if gone == len(chosen):
        _done(f"Removed {gone} item{'' if gone == 1 else 's'}.")


def _export(item: Item) -> None:
    if item.kind.name not in EXPORTABLE:
        return
    if item.bytes > _LARGEST_DOWNLOAD:
        show_caption(f"Too large for the browser: python -m sane_engine workspace --export {item.key}")
        return
    st.download_button(
        f"Export {inert(item.label)}",
        _zip_maker(item),
        file_name(f"{item.kind.name}-{item.name}", ".zip"),
        "application/zip",
        key=f"export-{item.key}",
        icon=":material/download:",
        on_click="ignore",
    )


def _zip_maker(item: Item) -> Callable[[], bytes]:
    def make() -> bytes:
        packed = io.BytesIO()
        export_item(item.key, packed)
        return packed.getvalue()

    return make


def _import() -> None:
    st.subheader("Import", anchor=False)
    uploaded = st.file_uploader(
        "A zip exported from a workspace",
        type="zip",
        key="workspace-import",
        max_upload_size=_UPLOAD_LIMIT_MB,
        help="It is checked before it is kept, and never replaces anything.",
    )
    if uploaded is None or st.session_state.get("workspace-import-seen") == uploaded.file_id:
        return
    try:
        with working("Taking in the item") as progress:
            item = import_item(uploaded, progress=progress)
    except Refusal as refusal:
        release(uploaded.file_id)  # the server would keep it with the tab, and try again at every click
        show_refusal(refusal, uploaded.name)
        return
    except OSError as error:
        release(uploaded.file_id)
        show_failure(error, "taking in an item")
        return
    release(uploaded.file_id)
    st.session_state["workspace-import-seen"] = uploaded.file_id
    _done(f"Took in the {item.kind.name} {item.name}.")


def _rebuild() -> None:
    st.subheader("Index", anchor=False)
    show_caption(
        "Sizes and times are remembered in an index. It can be made again from the files at any time;"
        " what interrupted writes left a day ago or earlier goes at the same time."
    )
    if st.button("Rebuild the index", key="workspace-rebuild", icon=":material/refresh:"):
        found = rebuild()
        used_bytes(fresh=True)
        _done(f"The index has {len(found)} item{'' if len(found) == 1 else 's'}.")


def _done(message: str) -> None:
    st.session_state["workspace-done"] = message
    st.rerun()


with page("Workspace"):
    main()
