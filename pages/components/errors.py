"""What went wrong, in one line, where the eye is; the session goes on."""

from __future__ import annotations

import logging

import streamlit as st

from pages.components.show import inert
from sane_engine.checkpoint import Refusal

_LOG = logging.getLogger("sane_explorer")


def show_refusal(refusal: Refusal, name: str = "") -> None:
    """One red line: the file's name, what is wrong with it, what to do."""
    line = " ".join(refusal.line().split())
    st.error(inert(f"{name}: {line}" if name else line), icon=":material/error:")


def show_failure(error: Exception, doing: str) -> None:
    """One red line for an error nobody foresaw; the traceback goes to the log."""
    _LOG.error("while %s", doing, exc_info=error)
    st.error(
        inert(f"Something went wrong while {doing} ({type(error).__name__}). The details are in the server's log."),
        icon=":material/error:",
    )


def explain(message: str, hint: str = "") -> None:
    """An empty state: why there is nothing here and what to do next."""
    st.info(inert(f"{message} {hint}".strip()), icon=":material/info:")
