"""Train: make a zoo, or an encoder for one; both run as jobs."""

from __future__ import annotations

import json
import re

import streamlit as st

from pages.components import state
from pages.components.current import Current, current, describe
from pages.components.encoder_form import encoder_form
from pages.components.errors import explain
from pages.components.job_views import REFRESH_SECONDS, job_card, known_jobs, put_in_queue
from pages.components.library import zoo_location
from pages.components.navigation import link_to, page
from pages.components.show import inert, show_caption
from pages.components.zoo_form import zoo_form
from sane_engine.jobs import ACTIVE, OWN_FOLDER, Job
from sane_engine.sane.encoder_file import encoder_folders
from sane_engine.workspace import assets_root, first_free, plain_name, workspace_root

ZOO, ENCODER = "A zoo", "An encoder"
_KINDS, _AT_WORK = ("train-zoo", "pretrain"), ("running", "cancelling")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


def _name_problem(name: str, kind: str) -> str | None:
    """Why a zoo or encoder cannot be called that, or None."""
    if not _NAME.fullmatch(name):
        return "A name has up to 60 letters, digits, dots, dashes and underscores; the first is a letter or digit."
    if (assets_root() / kind / name).exists():
        return f"{name} ships with the app; choose another name."
    if (workspace_root() / kind / name).exists():
        return f"There is already one called {name}; choose another name."
    return None


def _start(label: str, arguments: list[str], title: str, files: dict[str, str], problem: str | None) -> None:
    if problem:
        st.warning(inert(problem), icon=":material/edit:")
    if st.button(label, type="primary", icon=":material/play_arrow:", disabled=problem is not None):
        job = put_in_queue(arguments, title, files=files)
        if job is not None:
            st.session_state["train-job"] = job.id
            st.rerun()


def _zoo() -> None:
    made = zoo_form()
    if made is None:
        return
    spec, data = made
    out = workspace_root() / "zoos" / spec.name
    arguments = [
        "train-zoo",
        "--spec",
        f"{OWN_FOLDER}/spec.json",
        "--out",
        str(out),
        "--folder",
        f"{OWN_FOLDER}/state",
    ]
    if data is not None:
        arguments += ["--data", str(data)]
    files = {"spec.json": json.dumps(spec.to_json(), indent=1)}
    title = f"Zoo {spec.name}: {spec.n_models} models × {spec.epochs} epochs"
    _start("Train the zoo", arguments, title, files, _name_problem(spec.name, "zoos"))


def _encoder(now: Current) -> None:
    table = now.zoo.table
    train = int((table["split"] == "train").sum())
    show_caption(
        f"On the zoo {now.name}, chosen in the sidebar: {describe(now.zoo)}, {train:,} checkpoints to train on"
    )
    if not train:
        explain(
            "This zoo has no training models.", "Give its CSV a column split, or choose another zoo in the sidebar."
        )
        return
    free = first_free(f"{plain_name(now.name, 'my')[:50]}-sane", encoder_folders())
    name = st.text_input("Name", free, key=f"encoder-name-{now.key}", max_chars=60)
    config = encoder_form(now.key)
    if config is None:
        return
    out = workspace_root() / "encoders" / name
    arguments = ["pretrain", str(zoo_location(now.key)), "--config", f"{OWN_FOLDER}/config.json", "--out", str(out)]
    arguments += ["--folder", f"{OWN_FOLDER}/state"]
    files = {"config.json": json.dumps(config.to_json(), indent=1)}
    title = f"Encoder {name} on {now.name}: {config.steps:,} steps"
    _start("Pretrain the encoder", arguments, title, files, _name_problem(name, "encoders"))


def _shown(known: list[Job]) -> list[Job]:
    """What is being trained, whoever started it; and what this session started last, whatever became of it."""
    own = st.session_state.get("train-job")
    return [job for job in known if job.id == own or (job.kind in _KINDS and job.state in _AT_WORK)]


def _trainings() -> None:
    """The jobs with their curves. When one has ended the page is drawn anew: what it made is in the pickers."""
    known = known_jobs()
    shown = _shown(known)
    active = [job.id for job in shown if job.state in ACTIVE]
    if set(st.session_state.get("train-active", ())) - set(active):
        st.session_state["train-active"] = active
        st.rerun()
    st.session_state["train-active"] = active
    watched = next((job for job in shown if job.state in _AT_WORK), shown[0] if shown else None)
    for job in shown:
        job_card(job, known, watched=job is watched)
        if job.state not in ACTIVE:
            st.button(
                "Put away", key="train-job-seen", on_click=_put_away, icon=":material/close:", type="tertiary"
            )


def _put_away() -> None:
    st.session_state.pop("train-job", None)


def main() -> None:
    if shown := _shown(known_jobs()):
        any_active = any(job.state in ACTIVE for job in shown)
        st.fragment(_trainings, run_every=REFRESH_SECONDS if any_active else None)()
        link_to("jobs", "All jobs", ":material/list:")
    what = st.segmented_control(
        "Train", (ZOO, ENCODER), default=ZOO, required=True, key="train-what", persist_state="session"
    )
    if what == ENCODER:
        now = current() if st.session_state.get(state.ZOO) is not None else None
        if now is None:
            explain("There is no zoo to train on.", "Open one in the sidebar, or train one.")
        else:
            _encoder(now)
    else:
        _zoo()


with page("Train"):
    main()
