"""Predict: what can be read off the weights, by which representation, and how surely."""

from __future__ import annotations

import streamlit as st

from pages.components import state
from pages.components.current import current
from pages.components.navigation import page
from pages.components.predict_feature import feature_view
from pages.components.predict_scatter import prediction_view
from pages.components.predict_table import table_view

VIEWS = {"Table": table_view, "Prediction": prediction_view, "One feature": feature_view}


def main() -> None:
    now = current()
    if now is None:
        return
    state.keep_valid(state.PREDICT_VIEW, list(VIEWS), "Table")
    chosen = st.segmented_control(
        "View",
        list(VIEWS),
        key=state.PREDICT_VIEW,
        persist_state="session",
        required=True,
        label_visibility="collapsed",
    )
    VIEWS[str(chosen or "Table")](now)


with page("Predict"):
    main()
