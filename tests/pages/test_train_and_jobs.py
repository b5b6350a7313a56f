"""Train and Jobs: forms that make what the command line reads, and jobs that can be followed and stopped."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from streamlit.testing.v1 import AppTest
from test_pages import assert_healthy, texts

from pages.components import embed_job, encoder_form, state
from pages.components.job_views import curves, duration
from sane_engine import jobs
from sane_engine.cli import build_parser
from sane_engine.jobs import Report
from sane_engine.sane import SaneConfig
from sane_engine.zoo import ZooSpec

Open = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Jobs wait in the queue: what is tested here is what they are, not what they do."""
    monkeypatch.setattr("sane_engine.jobs.queue._start", lambda job: None)
    yield


def press(app: AppTest, label: str) -> AppTest:
    button = next(button for button in app.button if button.label == label)
    return button.click().run()


def only_job() -> jobs.Job:
    (job,) = jobs.jobs()
    return job


def test_train_makes_the_specification_that_the_template_holds(app: Open) -> None:
    shown = app("train")
    assert_healthy(shown)
    shown = press(shown, "Train the zoo")
    assert_healthy(shown)
    job = only_job()
    arguments = build_parser().parse_args(job.arguments)
    assert (arguments.command, arguments.out.name, arguments.folder.parent) == (
        "train-zoo",
        "my-digits",
        job.folder,
    )
    made, template = ZooSpec.load(arguments.spec), ZooSpec.load(Path("assets/specs/digits.json"))
    assert made.name == "my-digits"
    assert {**made.to_json(), "name": ""} == {**template.to_json(), "name": ""}
    assert "Zoo my-digits: 320 models × 25 epochs" in texts(shown)


@pytest.mark.parametrize("template", ["digits", "digits-independent"])
def test_what_is_changed_in_the_form_is_in_the_specification(app: Open, template: str) -> None:
    shown = app("train")
    shown = shown.selectbox(key="zoo-template").set_value(template).run()
    key = f"zoo-{template}-"
    shown.number_input(key=f"{key}models").set_value(7)
    shown.number_input(key=f"{key}epochs").set_value(3).run()
    assert shown.text_input(key=f"{key}checkpoints-3").value == "1, 2, 3", "what fits, and the last"
    shown.text_input(key=f"{key}checkpoints-3").set_value("1, 3")
    shown.text_input(key=f"{key}hidden").set_value("11, 12")
    shown.multiselect(key=f"{key}optimiser").set_value(["sgd"])
    shown.text_input(key=f"{key}pruning").set_value("0.5")
    shown = press(shown.run(), "Train the zoo")
    assert_healthy(shown)
    spec = ZooSpec.load(only_job().folder / "spec.json")
    assert (spec.n_models, spec.epochs, spec.checkpoint_epochs, spec.optimiser) == (7, 3, (1, 3), ("sgd",))
    assert (spec.architecture.hidden, spec.pruning) == ((11, 12), (0.5,))


def test_a_residual_network_has_fields_of_its_own(app: Open) -> None:
    shown = app("train")
    shown = shown.selectbox(key="zoo-template").set_value("digits-resnet").run()
    assert_healthy(shown)
    shown.text_input(key="zoo-digits-resnet-widths").set_value("4, 6")
    shown.text_input(key="zoo-digits-resnet-blocks").set_value("2, 1")
    press(shown.run(), "Train the zoo")
    architecture = ZooSpec.load(only_job().folder / "spec.json").to_json()["architecture"]
    assert (architecture["family"], architecture["widths"], architecture["blocks"]) == ("resnet", [4, 6], [2, 1])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("checkpoints", "1, 99", "from 0 to epochs"),
        ("checkpoints", "one", "whole numbers"),
        ("hidden", "0", "positive whole number"),
        ("pruning", "2", "between 0 and 1"),
        ("batch", "", "positive whole numbers"),
    ],
)
def test_an_impossible_zoo_is_said_in_one_line_and_cannot_be_trained(
    app: Open, field: str, value: str, said: str
) -> None:
    shown = app("train")
    shown = shown.text_input(key=f"zoo-digits-{field}").set_value(value).run()
    assert_healthy(shown)
    assert said in texts(shown)
    assert "Train the zoo" not in [button.label for button in shown.button]


@pytest.mark.parametrize("name", ["tiny", "", "../elsewhere", "a/b", ".hidden"])
def test_a_name_that_is_taken_or_leads_elsewhere_is_not_used(app: Open, name: str) -> None:
    shown = app("train")
    shown = shown.text_input(key="zoo-digits-name").set_value(name).run()
    assert_healthy(shown)
    assert not [button for button in shown.button if button.label == "Train the zoo" and not button.disabled]


def test_train_an_encoder_on_the_zoo_of_the_sidebar(app: Open) -> None:
    shown = app("train")
    shown.segmented_control(key="train-what").set_value("An encoder")
    shown = shown.run()
    assert_healthy(shown)
    shown.number_input(key="encoder-tiny-defaults-latent").set_value(5)
    shown = press(shown.run(), "Pretrain the encoder")
    assert_healthy(shown)
    arguments = build_parser().parse_args(only_job().arguments)
    assert (arguments.command, arguments.zoo, arguments.out.name) == ("pretrain", ["tiny"], "tiny-sane-2")
    config = SaneConfig.from_file(arguments.config)
    assert config.to_json() == {**SaneConfig().to_json(), "latent": 5}
    assert "Encoder tiny-sane-2 on tiny" in texts(shown)


def test_every_setting_of_an_encoder_is_explained() -> None:
    said = encoder_form.descriptions()
    assert set(said) == set(SaneConfig().to_json())
    assert all(said.values())


def test_train_without_a_zoo_still_offers_to_make_one(empty_app: Open) -> None:
    shown = empty_app("train")
    assert_healthy(shown)
    shown.segmented_control(key="train-what").set_value("An encoder")
    assert "no zoo to train on" in texts(shown.run())


def test_jobs_without_any_says_where_they_come_from(app: Open) -> None:
    shown = app("jobs")
    assert_healthy(shown)
    assert "There are no jobs yet" in texts(shown)


def test_a_job_can_be_cancelled_repeated_and_removed_from_its_page(app: Open) -> None:
    jobs.submit(["inspect", "/nowhere.pt"], "Look at *nothing*")
    shown = app("jobs")
    assert_healthy(shown)
    assert "Look at *nothing*" in texts(shown) and "1 active" in texts(shown)
    shown = press(shown, "Cancel")
    assert only_job().state == "cancelled"
    shown = press(shown, "Run again")
    assert only_job().state == "queued"
    shown = press(press(shown, "Cancel"), "Remove")
    assert jobs.jobs() == [] and "There are no jobs yet" in texts(shown)


def test_a_waiting_job_says_how_many_are_before_it(app: Open) -> None:
    for number in range(3):
        jobs.submit(["inspect", "/nowhere.pt"], f"Look {number}")
    bars = [bar.proto.text for bar in app("jobs").get("progress")]
    assert bars[:3] == [
        "waiting, 2 before it in the queue",
        "waiting, 1 before it in the queue",
        "waiting, the next to start",
    ]


def test_the_page_shows_what_others_train_and_what_became_of_the_own(app: Open) -> None:
    other = jobs.submit(["pretrain", "tiny"], "Somebody else's")
    start = {"pid": os.getpid(), "started": psutil.Process().create_time()}
    (other.folder / "runner.json").write_text(json.dumps(start))
    shown = app("train")
    assert_healthy(shown)
    assert "Somebody else's" in texts(shown)
    jobs.submit(["pretrain", "tiny"], "Still waiting")
    assert "Still waiting" not in texts(shown.run())
    end = {"state": "done", "outcome": "", "time": time.time()}
    (other.folder / "ended.json").write_text(json.dumps(end))
    assert "Somebody else's" not in texts(app("train"))
    shown.session_state["train-job"] = other.id
    shown = shown.run()
    assert_healthy(shown)
    assert "Somebody else's" in texts(shown) and "Open encoder" in [button.label for button in shown.button]


def test_a_large_zoo_is_embedded_by_a_job_and_then_shown(
    app: Open, tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_job, "AT_ONCE", 10)
    monkeypatch.setenv("SANE_ASSETS", str(tmp_path))  # the same zoo and encoder, never embedded
    for name in ("zoos", "encoders"):
        (tmp_path / name).symlink_to(tiny_assets / name)
    shown = press(app("explore"), "Embed 36 checkpoints")
    assert_healthy(shown)
    job = only_job()
    assert "Embedding of tiny by tiny-sane" in texts(shown) and job.state == "queued"
    arguments = build_parser().parse_args(job.arguments)
    assert (arguments.command, arguments.zoo, arguments.project) == ("embed", "tiny", True)
    shutil.copytree(tiny_assets / "embeddings" / "tiny--tiny-sane", arguments.out)
    (job.folder / "ended.json").write_text(json.dumps({"state": "done", "time": time.time()}))
    shown = app("explore")
    assert_healthy(shown)
    assert "trustworthiness" in texts(shown) and "Embed 36 checkpoints" not in [each.label for each in shown.button]


def test_a_failed_job_says_why_and_a_done_one_opens_what_it_made(app: Open, tiny_assets: Path) -> None:
    failed = jobs.submit(["inspect", "/nowhere.pt"], "Look")
    end = {"state": "failed", "outcome": "nowhere.pt is <b>not</b> there", "time": time.time()}
    (failed.folder / "ended.json").write_text(json.dumps(end))
    done = jobs.submit(["pretrain", "tiny"], "Pretrain")
    (done.folder / "ended.json").write_text(json.dumps({"state": "done", "time": time.time()}))
    (done.folder / "result.json").write_text(json.dumps({"encoder": str(tiny_assets / "encoders" / "tiny-sane")}))
    shown = app("jobs")
    assert_healthy(shown)
    assert "nowhere.pt is <b>not</b> there" in texts(shown)
    shown = press(shown, "Open encoder")
    assert_healthy(shown)
    assert shown.session_state[state.ENCODER] == "tiny-sane"


def test_curves_show_every_number_that_is_reported(app: Open) -> None:
    found = [Report(0.0, 0, 10, "reading the zoo")]
    found += [Report(0.0, step, 10, f"loss {1 / step:.3f} · validation R² 0.{step}") for step in range(1, 10)]
    figure = curves(found)
    assert figure is not None
    assert [trace.name for trace in figure.data] == ["loss", "validation R²"]
    assert list(figure.data[0].x) == list(range(1, 10))
    assert [axis.title.text for axis in figure.select_yaxes()] == ["loss", "validation R²"]
    assert curves(found[:2]) is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said
