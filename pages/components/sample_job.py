"""Sampling as a job: what takes minutes runs beside the app, and its models are kept in the workspace."""

from __future__ import annotations

from itertools import count

import streamlit as st

from pages.components.current import Current
from pages.components.errors import show_failure, show_refusal
from pages.components.job_views import REFRESH_SECONDS, job_card, known_jobs
from pages.components.library import zoo_location
from pages.components.navigation import link_to
from pages.components.sampling_run import Request
from pages.components.show import show_caption
from pages.components.state import write_rows
from sane_engine.checkpoint import Refusal
from sane_engine.jobs import ACTIVE, Job, submit
from sane_engine.sane import encoder_folders
from sane_engine.workspace import plain_name, workspace_root

_STARTED = "sample-job"


def start_job(now: Current, request: Request) -> None:
    """Put what the form asks for into the queue."""
    name = _free(plain_name(f"{now.name}-{request.method}-{request.space}-seed{request.seed}", "samples"))
    try:
        job = submit(arguments_of(now, request, name), f"{request.n} samples of {now.name}: {name}")
    except Refusal as refusal:
        show_refusal(refusal)
    except OSError as error:
        show_failure(error, "putting the job into the queue")
    else:
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


def _free(name: str) -> str:
    folder = workspace_root() / "samples"
    named = (name if number == 1 else f"{name}-{number}" for number in count(1))
    waiting = {part for job in known_jobs() for part in job.arguments}
    return next(each for each in named if not (folder / each).exists() and str(folder / each) not in waiting)


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
