"""Sample: new models drawn around chosen ones, and what they are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from pages.components.current import Current, current
from pages.components.errors import explain, show_failure
from pages.components.library import digest_of, kept
from pages.components.navigation import page
from pages.components.palette import palette
from pages.components.sample_job import sample_job, start_job
from pages.components.sampling_charts import accuracy_against_novelty, fine_tuning_curves, landing_map
from pages.components.sampling_frontier import frontier_lines, frontier_said, frontier_table
from pages.components.sampling_run import Drawn, Request, draw, files, landing, remembered
from pages.components.sampling_trace import SPACES, trace_tab
from pages.components.show import file_name, one_line, show_caption, show_figure, show_table, three
from pages.components.working import working
from sane_engine.checkpoint import Refusal

if TYPE_CHECKING:
    from sane_engine.sampling.batch_norm import Condition

_METHODS = {
    "kde-token": "KDE, every token on its own",
    "kde-layer": "KDE, every layer on its own",
    "kde-sequence": "KDE, whole network",
    "gaussian": "Gaussian, shrunk",
    "low-rank": "Gaussian, low rank",
    "difference": "Difference of anchors",
    "interpolation": "Mixture of anchors",
    "subsampled": "Best of many draws",
    "bootstrapped": "Rounds of the best draws",
    "conditional": "Towards a property",
    "refined": "Each draw refined",
    "trained": "Sampler trained on its samples",
}
_CONDITIONS: dict[Condition, str] = {
    "images": "Measured on images",
    "noise": "Measured on noise",
    "none": "As drawn",
}
_CHOSEN_ON_TEST = (
    " The anchors were chosen by their results on these test images, so their own accuracy is no held-out score."
)
_REQUEST = "sample_request"
_EPOCHS = (0, 1, 2, 5, 25)


def _anchors(now: Current, place: Any) -> tuple[int, ...] | str:
    """A selection made elsewhere, or a query typed here."""
    offered = ["Query", "Selection"]
    if "sample_anchors" not in st.session_state:
        st.session_state["sample_anchors"] = "Selection" if len(now.selected) > 1 else "Query"
    kind = place.segmented_control(
        "Anchors", offered, key="sample_anchors", required=True, persist_state="session",
        help="Models to draw around: those selected on the map, or those a condition chooses.",
    )  # fmt: skip
    if kind == "Selection":
        place.text(f"{len(now.selected)} checkpoints are selected.")
        return now.selected
    default = "top 10 %" if "test_accuracy" in now.zoo.table else 'split == "train"'
    text: str = place.text_input(
        "Which models", value=default, key="sample_query", persist_state="session",
        help='For example: top 10 %, bottom 5 by train_loss, test_accuracy > 0.9 and activation == "tanh".',
    )  # fmt: skip
    return text


def _parameters(method: str, place: Any) -> tuple[tuple[str, float | str], ...]:
    """The one parameter that trades novelty for accuracy, and what some methods cannot do without."""
    from sane_engine.sampling import METHODS

    entry = METHODS[method]
    name = entry.knob.removeprefix("base.")
    owner = entry.default.base if entry.knob.startswith("base.") else entry.default
    value = place.slider(
        name.capitalize(), 0.0, max(2.0, entry.levels[-1]), float(getattr(owner, name)), 0.05,
        key=f"sample_knob_{method}", help=f"{entry.says}. Less stays near the anchors, more is newer.",
    )  # fmt: skip
    return ((entry.knob, float(value)),)


def _steering(now: Current, method: str, place: Any) -> tuple[tuple[str, float | str], ...]:
    if method != "conditional":
        return ()
    numeric = [name for name in now.zoo.properties if now.zoo.kind(name) == "numeric"]
    if not numeric:
        return ()
    first = numeric.index(now.accuracy) if now.accuracy in numeric else 0
    target = place.selectbox("Property", numeric, index=first, key="sample_target", format_func=one_line)
    low, high = float(now.zoo.table[target].min()), float(now.zoo.table[target].max())
    value = place.number_input("Value", value=high, min_value=low, max_value=high, key=f"sample_value_{target}")
    return (("target", str(target)), ("value", float(value)))


def _condition(now: Current, place: Any) -> Condition:
    """What running statistics are measured on, where the networks have batch norm."""
    if not any(each.name.endswith("running_mean") for each in now.zoo.signature(0)):
        return "auto"
    chosen: Condition = place.selectbox(
        "Batch-norm statistics", list(_CONDITIONS), format_func=lambda name: _CONDITIONS[name],
        key="sample_condition", persist_state="session",
        help="Drawn statistics belong to no data. Measured on the zoo's images, without their labels, samples work "
        "far better. Noise is for samples where there are no images, and harms networks whose statistics fit.",
    )  # fmt: skip
    return chosen


def _form(now: Current) -> Request | None:
    """The row of controls; a request once the button is pressed."""
    left, middle, right = st.columns([1.3, 1.3, 1], gap="medium")
    anchors = _anchors(now, left)
    method = middle.selectbox(
        "Method",
        list(_METHODS),
        format_func=lambda name: _METHODS[name],
        key="sample_method",
        persist_state="session",
    )
    spaces = [name for name in SPACES if name != "latents" or now.encoder is not None]
    space = middle.segmented_control(
        "Space", spaces, format_func=lambda name: SPACES[name], key="sample_space", default=spaces[0],
        required=True, persist_state="session",
        help="Where the draws are made. The same method in weight space is always scored beside it.",
    )  # fmt: skip
    n = right.number_input("Samples", 2, 200, 12, key="sample_n", persist_state="session")
    seed = right.number_input("Seed", 0, 2**31, 0, key="sample_seed", persist_state="session")
    parameters = _parameters(method, left) + _steering(now, method, middle)
    condition = _condition(now, middle)
    epochs = _EPOCHS if right.toggle("Fine-tune (slow)", key="sample_tune", persist_state="session") else ()
    request = Request(
        digest_of(now.zoo), now.encoder, anchors, method, parameters, space, int(n), int(seed), epochs, condition
    )
    with st.container(horizontal=True, gap="small"):
        drawn = st.button("Draw", type="primary", icon=":material/casino:", key="sample_draw")
        if st.button(
            "Draw as a job",
            icon=":material/schedule:",
            key="sample_job",
            help="Beside the app: for many samples, slow methods and fine-tuning. The models are kept in the "
            "workspace, with their scores.",
        ):
            start_job(now, request)
    sample_job()
    return request if drawn else None


def _drawn(now: Current) -> Drawn | None:
    request = st.session_state.get(_REQUEST)
    if not isinstance(request, Request) or request.zoo != digest_of(now.zoo):
        explain("Nothing is drawn yet.", "Choose anchors and a method, then press Draw.")
        return None
    found = remembered(request)
    if found is not None:
        return found
    try:
        with working("Sampling") as progress:
            return draw(now, request, progress)
    except Refusal:
        st.session_state[_REQUEST] = None
        raise
    except (ValueError, RuntimeError, OSError) as error:
        st.session_state[_REQUEST] = None
        show_failure(error, "sampling")
        return None


def _said(now: Current, drawn: Drawn) -> str:
    request, record = drawn.request, drawn.prepared.record
    return " · ".join(
        [
            f"{len(drawn.samples)} samples, {_METHODS[request.method]}, {SPACES[request.space]}",
            f"{len(drawn.prepared.anchors)} anchors ({one_line(record['anchors']['chosen'])})",
            f"seed {request.seed}",
            str(record["alignment"]),
            f"zoo {now.name}",
            *([f"batch norm {drawn.samples[0].provenance['batch_norm']}"] if _has_norms(drawn) else []),
            *([f"{drawn.evaluation.images} test images"] if drawn.evaluation is not None else []),
        ]
    )


def _has_norms(drawn: Drawn) -> bool:
    return bool(drawn.samples) and drawn.samples[0].provenance["batch_norm"] != "no batch norm"


def _worth(now: Current, drawn: Drawn) -> None:
    found = drawn.evaluation
    if found is None:
        explain("The zoo does not say how to run its models, so the samples are not scored.")
        return
    summary = found.summary
    from sane_engine.sampling.frontier import frontier_of

    frontier = frontier_of(digest_of(now.zoo))
    figure = accuracy_against_novelty(
        found.table, found.distances, palette(), frontier_lines(frontier) if frontier is not None else None
    )
    said = _said(now, drawn) + (f" · lines: {frontier_said(frontier)}" if frontier is not None else "")
    show_figure(figure, f"{now.name}-novelty", said, alt="Accuracy of samples against their novelty")
    own = summary[summary["group"] == "samples"].iloc[0]
    twin = summary[summary["group"] == "same method in weight space"]
    if len(twin):
        beside = twin.iloc[0]
        better = own["accuracy"] - beside["accuracy"]
        spread = max(own["accuracy_std"], beside["accuracy_std"])
        word = "within the spread of" if abs(better) <= spread else ("above" if better > 0 else "below")
        st.text(
            f"The samples' accuracy {three(own['accuracy'])} at novelty {three(own['novelty'])} is {word} that of "
            f"the same method in weight space, {three(beside['accuracy'])} at novelty {three(beside['novelty'])}."
        )
    shown = summary[
        ["group", "n", "accuracy", "accuracy_std", "novelty", "diversity", "agreement", "error_overlap", "ensemble"]
    ]
    show_table(shown, "sample-groups")
    show_caption(
        "Novelty and diversity in radians; agreement: same answers as the nearest training model; error overlap: "
        "shared errors as a part of the errors of either; ensemble: accuracy of the group's mean probabilities."
        + (_CHOSEN_ON_TEST if drawn.prepared.record["anchors"]["chosen_on_test_images"] else "")
    )
    if frontier is not None:
        frontier_table(frontier)
    if len(found.curves):
        curves = fine_tuning_curves(found.curves, palette())
        rates = found.curves.groupby("group", sort=False)["learning_rate"].first()
        said = ", ".join(f"{group} {rate:g}" for group, rate in rates.items())
        show_figure(
            curves, f"{now.name}-fine-tuning",
            f"{_said(now, drawn)} · mean and standard deviation · Adam, learning rate by validation images: {said}",
            alt="Accuracy over epochs of fine-tuning",
        )  # fmt: skip


def _map(now: Current, drawn: Drawn) -> None:
    if now.encoder is None:
        explain("There is no encoder, so there is no map.")
        return
    known = kept(now.key, now.encoder)
    if known is None:
        explain("This zoo has no map yet.", "Embed it once, on the page Explore.")
        return
    found = landing(known, drawn, now.encoder, "umap")
    if found is None:
        explain("The map's encoder cannot place these samples.")
        return
    rows = drawn.prepared.anchors.rows
    figure = landing_map(
        known.projections["models", "umap"].coordinates, found.coordinates, [s.name for s in drawn.samples],
        rows if rows is not None else np.zeros(0, dtype=np.int64), "UMAP", palette(),
    )  # fmt: skip
    said = f"{_said(now, drawn)} · placed among their five nearest models, the map is not refitted"
    show_figure(figure, f"{now.name}-landing", said, alt="Where the samples land on the map of the models")


def _table(now: Current, drawn: Drawn) -> None:
    import pandas as pd

    from sane_engine.sampling.download import FORMATS, zip_bytes

    table = pd.DataFrame([{"name": each.name, **each.scores} for each in drawn.samples])
    chosen = show_table(table, "samples", selectable=True)
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    format = left.segmented_control("Format", FORMATS, default=FORMATS[0], key="sample_format", required=True)
    count = len(chosen) or len(drawn.samples)
    right.download_button(
        f"Download {count} as zip",
        lambda: zip_bytes(files(drawn, chosen, format)),
        file_name(f"{now.name}-{drawn.request.method}-{drawn.request.space}-seed{drawn.request.seed}", ".zip"),
        "application/zip",
        key="sample-zip",
        icon=":material/download:",
        on_click="ignore",
        help="Weights, model.py, provenance.json and a README that loads them. Choose rows to take only some.",
    )


def main() -> None:
    now = current()
    if now is None:
        return
    request = _form(now)
    if request is not None:
        st.session_state[_REQUEST] = request
        st.session_state["stopped-Sampling"] = False
    samples, where, table, line = st.tabs(["Worth", "Map", "Models", "Trace"])
    with line:
        trace_tab(now)
    with samples:
        drawn = _drawn(now)
        if drawn is not None:
            _worth(now, drawn)
    if drawn is None:
        for tab in (where, table):
            with tab:
                explain("Nothing is drawn yet.")
        return
    with where:
        _map(now, drawn)
    with table:
        _table(now, drawn)


with page("Sample"):
    main()
