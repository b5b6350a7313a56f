"""Jobs: long work that runs beside the app."""

from __future__ import annotations

import streamlit as st

from pages.components.errors import explain
from pages.components.job_views import job_list, known_jobs
from pages.components.navigation import page, page_path


def main() -> None:
    if not known_jobs():
        explain("There are no jobs yet.", "Train a zoo or an encoder and it will run here, beside the app.")
        st.page_link(page_path("train"), label="Train", icon=":material/model_training:")
        return
    job_list()


with page("Jobs"):
    main()
