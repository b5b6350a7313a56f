"""A pretraining from the page Train outlives a reload and the server, can be cancelled, and is in the picker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from running_app import FLAGS, ROOT, chromium, server

pytestmark = pytest.mark.browser

WAIT = 90_000  # milliseconds
JOB_WAIT = 300_000  # a job stands back: on a machine that is busy with other work its start takes minutes
SHOTS = os.environ.get("SANE_SCREENSHOTS")  # a folder, for whoever wants to look

# Whether a menu of the sidebar shows that name, be it as the value of a field or as text.
PICKED = """name => [...document.querySelectorAll('[data-testid=stSidebar] [data-testid=stSelectbox]')].some(box =>
    box.innerText.includes(name) || [...box.querySelectorAll('input')].some(field => field.value === name))"""
ZOO = """
import sys
sys.path.insert(0, "tests/pages")
from tiny_zoo import tiny_zoo
tiny_zoo().save(sys.argv[1])
"""


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like ``assets`` with nothing but a tiny zoo; made elsewhere, so that torch is not loaded here."""
    subprocess.run([sys.executable, "-c", ZOO, str(tmp_path / "assets" / "zoos" / "tiny")], cwd=ROOT, check=True)
    (tmp_path / "assets" / "specs").symlink_to(ROOT / "assets" / "specs")
    monkeypatch.setenv("SANE_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("SANE_PARALLEL_JOBS", "1")
    yield tmp_path / "assets"
    for path in tmp_path.glob("workspace/jobs/*/*.json"):  # else it would run for hours
        if path.name in {"runner.json", "child.json"}:
            with suppress(psutil.Error):
                process = psutil.Process(json.loads(path.read_text(encoding="utf-8"))["pid"])
                if any(str(tmp_path) in argument for argument in process.cmdline()):
                    process.kill()


@contextmanager
def window() -> Any:
    executable = chromium()
    if executable is None:
        if os.environ.get("CI"):
            pytest.fail("There is no Chromium.")
        pytest.skip("There is no Chromium.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(WAIT)
        try:
            yield page
        finally:
            shoot(page, "last")
            browser.close()


def shoot(page: Any, name: str) -> None:
    if SHOTS:
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            page.wait_for_timeout(1500)
            page.screenshot(path=str(Path(SHOTS, f"{name}-{theme}.png")), full_page=True)
        page.emulate_media(color_scheme="light")


def settle(page: Any) -> None:
    """Wait until the script has run to its end."""
    page.wait_for_timeout(300)
    page.wait_for_selector("[data-test-script-state=notRunning]", state="attached")


def enter(page: Any, label: str, value: str) -> None:
    """Type into a field and send it; what is typed while the page is drawn anew is lost, so wait first."""
    settle(page)
    field = page.get_by_label(label, exact=True)
    field.fill(value)
    field.press("Enter")
    settle(page)
    assert page.get_by_label(label, exact=True).input_value() == value


def pretrain(page: Any, address: str, name: str, steps: int) -> None:
    """Fill in the form as a user does, and press the button."""
    page.goto(f"{address}/train?zoo=tiny")
    page.get_by_role("radio", name="An encoder").click()
    page.get_by_label("Steps", exact=True).wait_for()
    enter(page, "Name", name)
    enter(page, "Steps", str(steps))
    page.get_by_role("button", name="Pretrain the encoder").click()
    page.get_by_text(f"Encoder {name} on tiny: {steps:,} steps").first.wait_for()


def job(workspace: Path, name: str) -> Path:
    """The folder of the job with that name in its title."""
    found = [path.parent for path in workspace.glob("jobs/*/job.json") if f"Encoder {name} " in path.read_text()]
    assert len(found) == 1
    return found[0]


def steps_done(folder: Path) -> int:
    lines = (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["done"])


def badge(page: Any, text: str) -> Any:
    return page.locator("[data-testid=stMain] .stMarkdownBadge").filter(has_text=text).first


def test_a_pretraining_outlives_reload_and_server_is_cancelled_and_another_ends_in_the_picker(
    assets: Path, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    with window() as page:
        with server(workspace) as address:
            pretrain(page, address, "long", 200_000)
            badge(page, "running").wait_for()
            page.get_by_text("of 200,000 steps").first.wait_for(timeout=JOB_WAIT)
            shoot(page, "train-running")
            folder = job(workspace, "long")
            runner = psutil.Process(json.loads((folder / "runner.json").read_text())["pid"])

            page.reload()
            badge(page, "running").wait_for()  # on the same page, in what is a new session
            page.get_by_text("Encoder long on tiny").first.wait_for()

            pretrain(page, address, "short", 20)
            page.get_by_text("waiting, the next to start").first.wait_for()
            shoot(page, "train-queued")
            served = [p for p in psutil.Process().children() if "streamlit" in p.cmdline()]
            assert len(served) == 1
            served[0].send_signal(signal.SIGKILL)
            served[0].wait(10)
        assert runner.is_running(), "the job belongs to nobody"
        done = steps_done(folder)
        with server(workspace) as address:
            page.goto(f"{address}/train")
            badge(page, "running").wait_for()
            page.goto(f"{address}/jobs")
            badge(page, "running").wait_for()
            badge(page, "queued").wait_for()
            page.get_by_text(re.compile("about .* left")).first.wait_for(timeout=JOB_WAIT)  # the estimated time
            assert steps_done(folder) > done, "it went on while there was no server"
            shoot(page, "jobs-running")

            page.get_by_role("button", name="Cancel").last.click()
            badge(page, "cancelled").wait_for()
            runner.wait(10)
            assert json.loads((folder / "ended.json").read_text())["state"] == "cancelled"

            badge(page, "done").wait_for(timeout=JOB_WAIT)  # the one that waited had its turn
            shoot(page, "jobs-ended")
            page.get_by_role("button", name="Open encoder").click()
            page.wait_for_function(PICKED, arg="short")
            assert (workspace / "encoders" / "short" / "encoder.json").is_file()
            assert not (workspace / "encoders" / "long").exists()
            assert page.locator("[data-testid=stException]").count() == 0
