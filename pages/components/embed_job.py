"""A large zoo is embedded by a job, started and watched from whichever page needs it first."""

from __future__ import annotations

import streamlit as st

from pages.components.errors import explain
from pages.components.job_views import REFRESH_SECONDS, job_card, known_jobs, put_in_queue
from pages.components.library import digest_of, encoder_digest, zoo_location
from pages.components.show import show_caption
from sane_engine.demo import precomputed_folder
from sane_engine.jobs import ACTIVE, Job
from sane_engine.sane import encoder_folders
from sane_engine.zoo import Zoo

AT_ONCE = 200
"""Checkpoints that are embedded while the page waits. More take minutes, WeightWatcher above all: work of that
length in the server itself would slow everybody's clicks, and a reload would lose it."""


def embed_job(key: str, name: str, zoo: Zoo, encoder: str) -> None:
    """The job that embeds this zoo, while it runs; else a button that starts one.

    Args:
        key: What links call the zoo.
        name: What the user calls it.
        zoo: The zoo.
        encoder: Name of the encoder.
    """
    arguments = arguments_of(key, zoo, encoder)
    job = _latest(arguments)
    if job is not None and job.state in ACTIVE:
        st.fragment(_watch, run_every=REFRESH_SECONDS)(arguments)
        return
    if job is not None and job.state in {"failed", "cancelled"}:
        job_card(job)
    explain(
        f"{name} has not been seen through the encoder {encoder}.",
        "Embed it once, as a job beside the app: embeddings, maps and WeightWatcher's features are then kept.",
    )
    if st.button(f"Embed {len(zoo.table):,} checkpoints", type="primary", icon=":material/play_arrow:"):
        title = f"Embedding of {name} by {encoder}: {len(zoo.table):,} checkpoints"
        if put_in_queue(arguments, title) is not None:
            st.rerun()


def arguments_of(key: str, zoo: Zoo, encoder: str) -> list[str]:
    """Of the command that writes what the pages look for."""
    out = precomputed_folder(digest_of(zoo), encoder_digest(encoder))
    folder = encoder_folders()[encoder]
    return ["embed", str(zoo_location(key)), "--encoder", str(folder), "--project", "--out", str(out)]


def _latest(arguments: list[str]) -> Job | None:
    return next((job for job in known_jobs() if list(job.arguments) == arguments), None)


def _watch(arguments: list[str]) -> None:
    job = _latest(arguments)
    if job is None or job.state not in ACTIVE:
        st.rerun()  # it has ended: what it made is shown
    job_card(job, known_jobs())
    show_caption("The page is drawn when it is done. You can leave it.")
