"""Jobs: long work that runs beside the app."""

from __future__ import annotations

from pages.components.errors import explain
from pages.components.job_views import job_list, known_jobs
from pages.components.navigation import link_to, page


def main() -> None:
    if not known_jobs():
        explain("There are no jobs yet.", "Train a zoo or an encoder and it will run here, beside the app.")
        link_to("train", "Train", ":material/model_training:")
        return
    job_list()


with page("Jobs"):
    main()
