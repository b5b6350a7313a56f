"""Jobs on the screen: one line in the sidebar, one card each on their page, curves of what they report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import state
from pages.components.charts import empty_figure
from pages.components.errors import show_failure, show_refusal
from pages.components.labels import in_plot
from pages.components.palette import palette
from pages.components.show import inert, show_caption, show_figure
from sane_engine.checkpoint import Refusal
from sane_engine.jobs import ACTIVE, Job, Report, again, cancel, jobs, measures, remove, reports, submit

if TYPE_CHECKING:
    import plotly.graph_objects as go

REFRESH_SECONDS = 2.0

_BADGES = {
    "queued": ("queued", "gray", ":material/schedule:"),
    "running": ("running", "blue", ":material/play_arrow:"),
    "cancelling": ("cancelling", "orange", ":material/stop_circle:"),
    "cancelled": ("cancelled", "gray", ":material/stop_circle:"),
    "failed": ("failed", "red", ":material/error:"),
    "done": ("done", "green", ":material/check:"),
}
_MADE = {"train-zoo": ("zoo", state.ZOO), "pretrain": ("encoder", state.ENCODER)}


def known_jobs() -> list[Job]:
    """All jobs, newest first; none where the queue is held up, which a line says."""
    try:
        return jobs()
    except Refusal as refusal:
        show_refusal(refusal)
        return []


def put_in_queue(arguments: Sequence[str], title: str, *, files: Mapping[str, str] | None = None) -> Job | None:
    """Submit a job; what keeps it from the queue is said on the page."""
    try:
        return submit(arguments, title, files=files or {})
    except Refusal as refusal:
        show_refusal(refusal)
    except OSError as error:
        show_failure(error, "putting the job into the queue")
    return None


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: ``"3 min 20 s"``."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def sidebar_status() -> None:
    """How many jobs run and how far they are, kept up to date while there are any."""
    any_active = any(job.state in ACTIVE for job in known_jobs())
    st.fragment(_sidebar_status, run_every=REFRESH_SECONDS if any_active else None)()


def _sidebar_status() -> None:
    active = [job for job in known_jobs() if job.state in ACTIVE]
    seen = st.session_state.get("jobs-active", ())
    st.session_state["jobs-active"] = tuple(job.id for job in active)
    if not active:
        if seen:
            st.rerun()  # the last one has ended: what it made belongs into the pickers, and the polling stops
        return
    waiting = sum(job.state == "queued" for job in active)
    running = [job for job in active if job.state != "queued"]
    share = sum(job.share for job in running) / max(1, len(running))
    text = f"Jobs: {len(running)} running, {share:.0%}" + (f", {waiting} queued" if waiting else "")
    st.progress(share, text=inert(text))


def job_list() -> None:
    """All jobs as cards, kept up to date while any is active."""
    any_active = any(job.state in ACTIVE for job in known_jobs())
    st.fragment(_job_list, run_every=REFRESH_SECONDS if any_active else None)()


def _job_list() -> None:
    found = known_jobs()
    active = sum(job.state in ACTIVE for job in found)
    show_caption(f"{len(found)} job{'' if len(found) == 1 else 's'} · {active} active · newest first")
    for job in found:
        job_card(job, found)


def job_card(job: Job, known: Sequence[Job] = (), *, watched: bool = False) -> None:
    """One job: what it is, how far it is, what can be done with it.

    Args:
        job: The job.
        known: All jobs, newest first, to say how many are before one that waits.
        watched: Its curves stand in the open.
    """
    with st.container(border=True, gap="small"):
        left, right = st.columns([5, 2.2], vertical_alignment="center")
        with left.container(horizontal=True, vertical_alignment="center", gap="small"):
            text, colour, icon = _BADGES[job.state]
            st.badge(text, color=colour, icon=icon)  # type: ignore[arg-type]  # the colours above are its own
            st.text(job.title)
        with right.container(horizontal=True, gap="small", horizontal_alignment="right"):
            _buttons(job)
        if job.state in ACTIVE or (job.report is not None and job.state != "done"):
            message = (
                job.report.message if job.report else "starting" if job.state != "queued" else _turn(job, known)
            )
            st.progress(job.share, text=inert(message))
        if job.outcome:
            st.error(inert(job.outcome), icon=":material/error:")
        show_caption(_times(job))
        if watched:
            draw_curves(job)
        with st.expander("Log and command" if watched else "Log, command and curves", icon=":material/terminal:"):
            st.code(shlex.join(("python", "-m", "sane_engine", *job.arguments)), language="bash", wrap_lines=True)
            st.code(job.log() or "(nothing was written yet)", language=None, height=200)
            if not watched:
                draw_curves(job)


def _turn(job: Job, known: Sequence[Job]) -> str:
    """Where a waiting job stands in the queue; the oldest is the next."""
    queue = [each.id for each in known if each.state == "queued"][::-1]
    if job.id not in queue:
        return "waiting for its turn"
    before = queue.index(job.id)
    return "waiting, the next to start" if before == 0 else f"waiting, {before} before it in the queue"


def _buttons(job: Job) -> None:
    if job.state in ACTIVE:
        _button(job, "Cancel", cancel, ":material/stop_circle:", disabled=job.state == "cancelling")
        return
    if job.state == "done" and job.kind in _MADE:
        _button(job, f"Open {_MADE[job.kind][0]}", _open, ":material/open_in_new:")
    if job.state in {"failed", "cancelled"}:
        _button(job, "Run again", again, ":material/replay:")
    _button(job, "Remove", remove, ":material/delete:")


def _button(job: Job, label: str, act: object, icon: str, *, disabled: bool = False) -> None:
    clicked = st.button(label, key=f"{label}-{job.id}", icon=icon, type="tertiary", disabled=disabled)
    if clicked and callable(act):
        try:
            act(job.id)
        except Refusal as refusal:
            show_refusal(refusal)
            return
        st.rerun()


def _open(name: str) -> None:
    """Make the zoo or encoder that a job made the current one."""
    job = next(job for job in known_jobs() if job.id == name)
    what, key = _MADE[job.kind]
    made = (job.result() or {}).get(what)
    if made:
        folder = str(made).replace("\\", "/").rstrip("/").rpartition("/")[2]
        st.session_state["picker-next"] = {key: folder}


def _times(job: Job) -> str:
    parts = [f"submitted {datetime.fromtimestamp(job.created).astimezone():%d %b %H:%M}"]
    if job.started is not None:
        until = job.ended if job.ended is not None else time.time()
        if job.state in ACTIVE or job.ended is not None:
            parts.append(f"ran {duration(until - job.started)}")
    if (left := job.remaining(time.time())) is not None:
        parts.append(f"about {duration(left)} left")
    if job.report is not None and job.report.total and job.state != "done":
        parts.append(f"{job.report.done:,} of {job.report.total:,} steps")
    return " · ".join(parts)


def draw_curves(job: Job) -> None:
    """What a job has reported of its numbers (loss, reconstruction …) over its steps."""
    found = reports(job.folder / "progress.jsonl")
    figure = curves(found)
    if figure is None:
        return
    said = f"{len(found)} reports of one job · seed as in the command"
    show_figure(figure, f"curves-{job.id}", said, alt="Numbers that the job reported over its steps")


def curves(found: list[Report]) -> go.Figure | None:
    """A curve for every number in the messages of progress, each on its own axis; None where there are none."""
    from plotly.subplots import make_subplots

    series: dict[str, tuple[list[int], list[float]]] = {}
    for report in found:
        for name, value in measures(report.message).items():
            steps, values = series.setdefault(name, ([], []))
            steps.append(report.done)
            values.append(value)
    series = {name: points for name, points in series.items() if len(points[0]) > 1}
    if not series:
        return None
    colours = palette()
    figure = make_subplots(rows=1, cols=len(series), horizontal_spacing=0.12)
    figure.update_layout(empty_figure(height=260).layout, showlegend=False)
    for column, (name, (steps, values)) in enumerate(series.items(), start=1):
        line = {"color": colours.categories[column - 1], "width": 2}
        figure.add_scatter(x=steps, y=values, mode="lines", name=in_plot(name), line=line, row=1, col=column)
        figure.update_xaxes(title_text="step", row=1, col=column, automargin=True, zeroline=False)
        positive = min(values) > 0 and max(values) / min(values) > 10
        figure.update_yaxes(
            title_text=in_plot(name), type="log" if positive else "linear", row=1, col=column, automargin=True
        )
    return figure
