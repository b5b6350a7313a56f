"""The full probe of a zoo as a job, started and watched from the page Predict."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from pages.components.current import Current
from pages.components.job_views import REFRESH_SECONDS, job_card, known_jobs, put_in_queue
from pages.components.library import zoo_location
from pages.components.show import show_caption
from sane_engine.jobs import ACTIVE, Job
from sane_engine.probing import ProbeTable
from sane_engine.representations import representations


def missing(found: ProbeTable | None) -> list[str]:
    """Representations that no table of the zoo has, nor says why it has not."""
    if found is None:
        return list(representations())
    return [name for name in representations() if name not in {*found.representations, *found.left_out}]


def probe_job(now: Current, found: ProbeTable | None) -> None:
    """The running job of this zoo, or a button that starts one for what is not in the table."""
    job = _latest(now)
    if job is not None and job.state in ACTIVE:
        st.fragment(_watch, run_every=REFRESH_SECONDS)(now)
        return
    if job is not None and job.state in {"failed", "cancelled"}:
        job_card(job)
    names = missing(found)
    if not names:
        return
    wanted = "Probe all representations" if found is None else f"Probe the other {len(names)} representations"
    clicked = st.button(
        wanted,
        icon=":material/play_arrow:",
        type="primary" if found is None else "secondary",
        help="As a job, beside the app: encoders are trained for every split, so it takes a while. What it has "
        "finished it keeps.",
    )
    title = f"Probe of {now.name}: {len(names)} representations"
    if clicked and put_in_queue(arguments_of(now, found, names), title) is not None:
        st.rerun()


def arguments_of(now: Current, found: ProbeTable | None, names: Sequence[str]) -> list[str]:
    """Of the command: on the same splits as the table that is there, so that both go into one."""
    arguments = ["probe", str(zoo_location(now.key))]
    if found is None:
        return arguments
    record = found.record
    for flag, key in (("--splits", "outer_splits"), ("--seeds", "encoder_seeds"), ("--seed", "seed")):
        arguments += [flag, str(record[key])]
    if record.get("crossed"):
        arguments.append("--crossed")
    for target in found.targets:
        arguments += ["--target", target]
    for name in names:
        arguments += ["--representation", name]
    return arguments


def _latest(now: Current) -> Job | None:
    """The newest job that probes this zoo."""
    location = str(zoo_location(now.key))
    own = (job for job in known_jobs() if job.kind == "probe" and job.arguments[1:2] == (location,))
    return next(own, None)


def _watch(now: Current) -> None:
    job = _latest(now)
    if job is None or job.state not in ACTIVE:
        st.rerun()  # it has ended: what it found belongs into the table
    job_card(job)
    show_caption("The table is drawn when it is done. You can leave this page.")
