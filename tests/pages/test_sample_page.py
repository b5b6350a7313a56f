"""The page Sample: a request from the form, what it gives, and what cannot be drawn."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from streamlit.testing.v1 import AppTest
from test_pages import assert_healthy, texts
from torch.testing import assert_close

from pages.components import library, sampling_run
from pages.components.current import Current
from pages.components.memory import Memory
from pages.components.sampling_run import Drawn
from sane_engine import jobs, load_zoo
from sane_engine.__main__ import main
from sane_engine.sampling.download import zip_bytes
from sane_engine.workspace import workspace_root

ROOT = Path(__file__).resolve().parents[2]

Open = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sampling_run, "_DRAWN", Memory(6))
    monkeypatch.setattr(sampling_run, "_TRACES", Memory(6))
    yield


def draw(app: AppTest) -> AppTest:
    return app.button(key="sample_draw").click().run()


def result(app: AppTest) -> Drawn:
    drawn = sampling_run.remembered(app.session_state["sample_request"])
    assert drawn is not None
    return drawn


def test_nothing_is_drawn_until_asked(app: Open) -> None:
    shown = app("sample")
    assert_healthy(shown)
    assert "press Draw" in texts(shown)


def test_samples_of_a_zoo_that_cannot_be_run_are_drawn_and_not_scored(app: Open) -> None:
    shown = app("sample")
    shown.number_input(key="sample_n").set_value(3)
    shown = draw(shown)
    assert_healthy(shown)
    assert "not scored" in texts(shown)
    drawn = result(shown)
    assert len(drawn.samples) == 3 and drawn.prepared.record["space"] == "latents"
    archive = zipfile.ZipFile(io.BytesIO(zip_bytes(sampling_run.files(drawn, [1], "safetensors"))))
    assert f"{drawn.samples[1].name}.safetensors" in archive.namelist()


def test_the_selection_is_the_anchors(app: Open) -> None:
    shown = draw(app("sample", zoo="tiny", selection="2-5"))
    assert_healthy(shown)
    assert list(result(shown).prepared.anchors.rows) == [2, 3, 4, 5]


def test_too_few_anchors_are_refused_in_one_line(app: Open) -> None:
    shown = app("sample")
    shown.text_input(key="sample_query").set_value("test_accuracy > 2")
    shown = draw(shown)
    assert_healthy(shown)
    assert "at least 2" in texts(shown) and len(shown.error) == 1


@pytest.mark.parametrize("query", ["__import__('os')", "<img src=x>", "**bold**", "epoch.__class__ == 1"])
def test_hostile_queries_are_refused(app: Open, query: str) -> None:
    shown = app("sample")
    shown.text_input(key="sample_query").set_value(query)
    shown = draw(shown)
    assert_healthy(shown)
    assert "cannot be chosen" in texts(shown)


def test_a_method_that_must_run_its_samples_says_that_it_cannot(app: Open) -> None:
    shown = app("sample")
    shown.selectbox(key="sample_method").set_value("trained").run()
    shown = draw(shown)
    assert_healthy(shown)
    assert "does not say how or on what" in texts(shown)


def test_scores_stand_beside_their_controls() -> None:
    whole = load_zoo(ROOT / "assets" / "zoos" / "digits")
    last = np.flatnonzero(whole.table["epoch"] == 25)[:40]
    digits = whole.select(last)
    now = Current("digits", "digits", digits, None, (), None)
    request = sampling_run.Request(digits.digest, None, "top 50 %", "gaussian", (("scale", 0.4),), "pca", 4, 0, ())
    drawn = sampling_run.draw(now, request, lambda done, total, message: None)
    assert drawn.evaluation is not None
    summary = drawn.evaluation.summary.set_index("group")["accuracy"]
    assert summary["samples"] > summary["random (kaiming uniform)"] + 0.3
    assert all("accuracy" in each.scores for each in drawn.samples)
    assert sampling_run.remembered(request) is drawn


def test_the_page_says_where_anchors_were_chosen_on_the_test_images(empty_app: Open, tmp_path: Path) -> None:
    whole = load_zoo(ROOT / "assets" / "zoos" / "digits")
    whole.select(np.flatnonzero(whole.table["epoch"] == 25)[:12]).save(tmp_path / "zoos" / "some")
    shown = empty_app("sample", zoo="some")
    shown.number_input(key="sample_n").set_value(2)
    for query, said in (("top 50 %", True), ("epoch == 25", False)):
        shown.text_input(key="sample_query").set_value(query)
        shown = draw(shown)
        assert_healthy(shown)
        assert ("no held-out score" in texts(shown)) is said


def test_a_job_draws_the_same_models(app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sane_engine.jobs.queue._start", lambda job: None)
    shown = app("sample", zoo="tiny", selection="1-4,8")
    shown.number_input(key="sample_n").set_value(3)
    shown.number_input(key="sample_seed").set_value(5)
    shown = draw(shown)
    drawn = result(shown)
    shown = shown.button(key="sample_job").click().run()
    assert_healthy(shown)
    (job,) = jobs.jobs()
    assert job.title in texts(shown)
    arguments = [part for part in job.arguments if part != "--score"]  # the tiny zoo has no images
    assert main([*arguments, "--quiet"]) == 0
    (folder,) = (workspace_root() / "samples").iterdir()
    for sample, file in zip(drawn.samples, sorted(folder.glob("*.safetensors")), strict=True):
        assert_close(load_file(file), dict(sample.tensors), rtol=0, atol=0)
    shown.button(key="sample_job").click().run()
    first, second = sorted(job.arguments[job.arguments.index("--out") + 1] for job in jobs.jobs())
    assert second == f"{first}-2", "nothing is written over"


def test_samples_are_shown_where_the_zoo_was_never_embedded(app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_precomputed", lambda *_: None)
    shown = draw(app("sample", zoo="tiny"))
    assert_healthy(shown)
    assert result(shown).samples
    assert "on the page Explore" in texts(shown)


def test_a_click_on_the_map_decodes_the_place(app: Open) -> None:
    shown = app("sample", zoo="tiny")
    assert "No place is chosen" in texts(shown)
    for index, said in ((3, "100 %"), (10**6, "No place is chosen")):
        shown.session_state["trace_map"] = {"selection": {"points": [{"customdata": index}]}}
        shown.run()
        assert_healthy(shown)
        assert said in texts(shown)


def test_the_line_between_two_models_is_decoded(app: Open) -> None:
    shown = app("sample", zoo="tiny", selection="2,5")
    shown.session_state["trace_kind"] = "Line between two"
    shown.run()
    shown.toggle(key="trace_on").set_value(True).run()
    assert_healthy(shown)
    assert "Decoded accuracy here" in texts(shown)
