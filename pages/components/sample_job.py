"""Sampling as a job: what takes minutes runs beside the app, and its models are kept in the workspace."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.components.current import Current
from pages.components.job_views import REFRESH_SECONDS, job_card, known_jobs, put_in_queue
from pages.components.library import zoo_location
from pages.components.navigation import link_to
from pages.components.sampling_run import Request
from pages.components.show import show_caption
from pages.components.state import write_rows
from sane_engine.jobs import ACTIVE, Job
from sane_engine.sane import encoder_folders
from sane_engine.workspace import first_free, plain_name, visible, workspace_root

_STARTED = "sample-job"


def start_job(now: Current, request: Request) -> None:
    """Put what the form asks for into the queue."""
    wanted = plain_name(f"{now.name}-{request.method}-{request.space}-seed{request.seed}", "samples")
    name = first_free(wanted, _taken())
    job = put_in_queue(arguments_of(now, request, name), f"{request.n} samples of {now.name}: {name}")
    if job is not None:
        st.session_state[_STARTED] = job.id


def arguments_of(now: Current, request: Request, name: str) -> list[str]:
    """Of the command that draws, scores and writes the same models as the page."""
    anchors = request.anchors if isinstance(request.anchors, str) else f"rows {write_rows(request.anchors)}"
    arguments = ["sample", str(zoo_location(now.key)), "--anchors", anchors, "--method", request.method]
    arguments += ["--space", request.space, "--n", str(request.n), "--seed", str(request.seed)]
    arguments += ["--condition", request.condition, "--out", str(workspace_root() / "samples" / name)]
    if request.encoder is not None:
        arguments += ["--encoder", str(encoder_folders()[request.encoder])]
    for parameter, value in request.parameters:
        arguments += ["--set", f"{parameter}={value}"]
    if request.epochs:
        arguments += ["--fine-tune", ",".join(map(str, request.epochs))]
    elif now.zoo.architecture is not None:
        arguments.append("--score")
    return arguments


def sample_job() -> None:
    """The job that this session started last, until it is put away."""
    job = _started()
    if job is None:
        return
    if job.state in ACTIVE:
        st.fragment(_watch, run_every=REFRESH_SECONDS)()
        return
    job_card(job)
    with st.container(horizontal=True, gap="small"):
        if job.state == "done":
            link_to("workspace", "The models are in the workspace", ":material/folder:")
        st.button("Put away", key="sample-job-seen", on_click=_put_away, icon=":material/close:", type="tertiary")


def _taken() -> set[str]:
    """Names of samples that are there, or that a job is to write."""
    folder = workspace_root() / "samples"
    waiting = (Path(part) for job in known_jobs() if job.kind == "sample" for part in job.arguments)
    return {path.name for path in visible(folder, "*")} | {path.name for path in waiting if path.parent == folder}


def _started() -> Job | None:
    return next((job for job in known_jobs() if job.id == st.session_state.get(_STARTED)), None)


def _watch() -> None:
    job = _started()
    if job is None or job.state not in ACTIVE:
        st.rerun()
    job_card(job, known_jobs())
    show_caption("You can leave this page.")


def _put_away() -> None:
    st.session_state.pop(_STARTED, None)
