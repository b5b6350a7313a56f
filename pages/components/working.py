"""Long work on a page: progress while it runs, a button that stops it, nothing half-finished left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from pages.components.show import inert
from sane_engine.progress import Cancelled, Progress


def _set_stopped(title: str, stopped: bool) -> None:
    st.session_state[f"stopped-{title}"] = stopped


@contextmanager
def working(title: str) -> Iterator[Progress]:
    """Show a bar with a Stop button while the block runs.

    Any click makes Streamlit stop the run at the next report of progress, by an exception that passes through the
    engine like a cancellation: what it wrote is atomic, so there is nothing to clean up. Work that was stopped
    stays stopped until the user resumes it.

    Args:
        title: What is being done, shown beside the engine's own messages.

    Yields:
        The callback for the engine.

    Raises:
        Cancelled: The user stopped this work; a line saying so stands in its place.
    """
    place = st.empty()
    if st.session_state.get(f"stopped-{title}"):
        with place.container(horizontal=True, vertical_alignment="center"):
            st.text(f"{title}: stopped, nothing was changed.")
            st.button(
                "Resume",
                key=f"resume-{title}",
                on_click=_set_stopped,
                args=(title, False),
                icon=":material/play_arrow:",
            )
        raise Cancelled(title)
    with place.container():
        line, button = st.columns([6, 1], vertical_alignment="center")
        bar = line.progress(0.0, text=inert(f"{title} …"))
        button.button(
            "Stop",
            key=f"stop-{title}",
            on_click=_set_stopped,
            args=(title, True),
            icon=":material/stop_circle:",
            type="tertiary",
        )

    def report(done: int, total: int, message: str, /) -> None:
        share = min(max(done / total, 0.0), 1.0) if total > 0 else 0.0
        bar.progress(share, text=inert(f"{title} · {message}" if message else f"{title} …"))

    try:
        yield report
    except Exception:
        place.empty()
        raise
    place.empty()
