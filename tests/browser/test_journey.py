"""The app in a real browser: first requests to a fresh server, and one journey from the map to a CSV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running_app import FLAGS, chromium, server

pytestmark = pytest.mark.browser

PAGES = ("explore", "zoo", "layers", "predict", "inspect", "sample", "train", "jobs", "workspace")
WAIT = 90_000  # milliseconds; the slowest thing is the first WeightWatcher run on a busy machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = chromium()
    if executable is None:
        reason = "There is no Chromium: install it, for example with `apt-get install chromium`."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield running
        running.close()


@contextmanager
def tab(browser: Any, **settings: Any) -> Iterator[Any]:
    """A tab in which every request that leaves this machine is noted and refused."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True, **settings)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.strangers = []

    def guard(route: Any) -> None:
        if route.request.url.startswith(("http://127.0.0.1", "data:", "blob:")):
            route.continue_()
        else:
            page.strangers.append(route.request.url)
            route.abort()

    page.route("**/*", guard)
    try:
        yield page
    finally:
        context.close()


def settle(page: Any) -> None:
    """Wait until the script has run to its end and the page is drawn."""
    page.wait_for_selector("h1")
    page.wait_for_timeout(300)
    page.wait_for_selector("[data-test-script-state=notRunning]", state="attached")
    page.wait_for_timeout(300)


def plots(page: Any, count: int) -> None:
    """Wait until that many plots are drawn, and no more."""
    page.wait_for_function(
        "n => [...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot._fullData).length === n",
        arg=count,
    )


def assert_no_error(page: Any) -> None:
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.locator("[data-testid=stAlertContentError]").count() == 0


@pytest.mark.parametrize("name", PAGES)
def test_deep_link_as_the_first_request_to_a_fresh_server(browser: Any, tmp_path: Path, name: str) -> None:
    with server(tmp_path) as address, tab(browser) as page:
        page.goto(f"{address}/{name}?zoo=digits&selection=0-3&epoch=Last")
        settle(page)
        assert page.locator("h1").inner_text() == name.capitalize()
        menu = page.locator("[data-testid=stSidebar] [data-testid=stPageLink]")
        menu.nth(len(PAGES) - 1).wait_for()
        assert [line.strip().lower() for line in menu.all_inner_texts()] == list(PAGES)
        page.get_by_text("Selection: 4 checkpoints").wait_for()
        assert "selection=0-3" in page.url.replace("%2C", ",")
        assert_no_error(page)
        assert not page.strangers, "the app asked another server for something"


def test_the_menu_keeps_the_view_and_back_is_one_step(browser: Any, tmp_path: Path) -> None:
    def go(page: Any, name: str) -> None:
        page.locator("[data-testid=stSidebar] [data-testid=stPageLink]").get_by_text(name, exact=True).click()
        page.wait_for_function("name => document.querySelector('h1')?.innerText === name", arg=name)
        settle(page)

    with server(tmp_path) as address, tab(browser) as page:
        page.goto(f"{address}/zoo?zoo=digits&selection=0-3")
        settle(page)
        for name in ("Jobs", "Workspace"):
            go(page, name)
            assert "selection=0-3" in page.url.replace("%2C", ",")
        for name in ("Jobs", "Zoo"):
            page.go_back()
            page.wait_for_function("name => document.querySelector('h1')?.innerText === name", arg=name)
            settle(page)
            page.get_by_text("Selection: 4 checkpoints").wait_for()
        assert_no_error(page)


def lasso(page: Any) -> None:
    """Draw around the left half of the map."""
    box = page.locator(".nsewdrag").first.bounding_box()
    corners = [(0.02, 0.02), (0.5, 0.02), (0.5, 0.98), (0.02, 0.98), (0.02, 0.04)]
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in corners]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


def selected(page: Any) -> int:
    return int(page.get_by_text("Selection:").first.inner_text().split()[1].replace(",", ""))


def save_resnet_like(path: Path) -> None:
    """A residual network's weights as people publish them: under ``state_dict``, with ``module.`` prefixes."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def conv(out: int, into: int) -> torch.Tensor:
        return torch.randn(out, into, 3, 3, generator=generator) * (2 / (9 * into)) ** 0.5

    tensors = {"conv1.weight": conv(16, 3)}
    for name in ("bn1", "layer1.0.bn1", "layer1.0.bn2"):
        tensors |= {
            f"{name}.weight": torch.ones(16),
            f"{name}.bias": torch.zeros(16),
            f"{name}.running_mean": torch.randn(16, generator=generator),
            f"{name}.running_var": torch.rand(16, generator=generator) + 0.5,
        }
    tensors |= {"layer1.0.conv1.weight": conv(16, 16), "layer1.0.conv2.weight": conv(16, 16)}
    tensors |= {"linear.weight": torch.randn(10, 16, generator=generator), "linear.bias": torch.zeros(10)}
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, path)


def test_journey_from_the_map_to_a_table(browser: Any, tmp_path: Path) -> None:
    with server(tmp_path) as address, tab(browser) as page:
        page.goto(address)
        settle(page)
        page.locator(".nsewdrag").first.wait_for()
        assert selected(page) == 0

        lasso(page)
        page.get_by_text("Mean test accuracy").wait_for()
        settle(page)
        chosen = selected(page)
        assert chosen > 0
        assert "selection=" in page.url

        page.get_by_role("radio", name="Click").click()
        settle(page)
        assert selected(page) == chosen, "another way of selecting must not lose what is selected"

        page.get_by_role("link", name="Layers", exact=True).click()
        page.locator("h1", has_text="Layers").wait_for()
        settle(page)
        assert selected(page) == chosen
        plots(page, 3)
        # A click on a point of a layer curve chooses the layer whose spectrum is shown below.
        page.locator(".js-plotly-plot").first.locator(".scatterlayer .points path").nth(1).click(force=True)
        page.wait_for_url("**spectrum=conv2**")
        page.get_by_text("conv2 · n = ").wait_for()
        settle(page)
        assert_no_error(page)

        page.get_by_role("link", name="Inspect", exact=True).click()
        page.locator("h1", has_text="Inspect").wait_for()
        settle(page)
        file, text = tmp_path / "resnet-like.pth", tmp_path / "notes.pt"
        save_resnet_like(file)
        text.write_text("no weights here\n" * 10, encoding="utf-8")
        page.locator("[data-testid=stMain] input[type=file]").set_input_files([str(file), str(text)])
        page.get_by_text("notes.pt: ").first.wait_for()
        page.get_by_role("heading", name="On the map").wait_for()
        page.get_by_text("resnet-like.pth").first.wait_for()
        settle(page)
        assert page.locator("[data-testid=stFileUploaderFile]").count() == 0, "one list of files is enough"
        assert page.locator("[data-testid=stException]").count() == 0
        assert page.locator("[data-testid=stAlertContentError]").count() == 1
        verdict = page.get_by_text("Outside what this zoo knows").or_(page.get_by_text("Near the zoo in the"))
        assert verdict.count() == 1, "a network of another architecture is never simply inside the zoo"

        with page.expect_download() as waiting:
            page.get_by_role("button", name="CSV").last.click()
        table = Path(waiting.value.path()).read_text(encoding="utf-8-sig").splitlines()
        assert table[0].startswith("layer,name,why not,WW · alpha")
        assert any(",layer1.0.conv2," in line for line in table)
        assert any("layer1.0.bn1" in line and "WeightWatcher:" in line for line in table), (
            "a reason for a skipped layer"
        )
        assert not page.strangers


def test_a_click_on_the_map_selects_one_point(browser: Any, tmp_path: Path) -> None:
    with server(tmp_path) as address, tab(browser) as page:
        page.goto(address)
        settle(page)
        page.get_by_role("radio", name="Click").click()
        settle(page)
        page.locator(".nsewdrag").first.wait_for()
        spot = page.evaluate(
            """() => {
                const plot = document.querySelector('.js-plotly-plot'), layout = plot._fullLayout;
                const trace = plot._fullData.find(item => item.customdata), frame = plot.getBoundingClientRect();
                return [frame.left + layout.xaxis._offset + layout.xaxis.d2p(trace.x[0]),
                        frame.top + layout.yaxis._offset + layout.yaxis.d2p(trace.y[0])];
            }"""
        )
        page.mouse.move(*spot)
        page.wait_for_timeout(300)
        page.mouse.click(*spot)
        page.get_by_text("Selection: 1 checkpoint", exact=True).wait_for()


def test_plots_are_downloaded_as_html_and_png(browser: Any, tmp_path: Path) -> None:
    with server(tmp_path) as address, tab(browser) as page:
        page.goto(address)
        settle(page)
        for kind, start, least in (("HTML", b"<", 1_000_000), ("PNG", b"\x89PNG", 10_000)):
            with page.expect_download() as waiting:
                page.get_by_role("button", name=kind).first.click()
            content = Path(waiting.value.path()).read_bytes()
            assert content.startswith(start)
            assert len(content) > least


def test_symmetry_draws_the_barrier_between_two_models(browser: Any, tmp_path: Path) -> None:
    with server(tmp_path) as address, tab(browser) as page:
        page.goto(f"{address}/layers?zoo=digits-independent&selection=5,11")
        settle(page)
        plots(page, 3)  # both curves, and the spectrum of a layer
        page.get_by_text("Show", exact=True).click()
        page.get_by_text("test images of digits").first.wait_for()
        settle(page)
        assert "symmetry=1" in page.url
        plots(page, 5)
        drawn = page.evaluate(
            """() => [...document.querySelectorAll('.js-plotly-plot')].slice(3).map(plot => plot._fullData.map(
                trace => [trace.name, trace.y.length, Math.max(...trace.y)]))"""
        )
        (loss, accuracy) = ({name: (points, top) for name, points, top in traces} for traces in drawn)
        assert loss["before"][0] == loss["after alignment"][0] == accuracy["before"][0] == 25
        assert loss["before"][1] > loss["after alignment"][1] > loss["straight line between the ends"][1]
        assert_no_error(page)
        page.reload()
        settle(page)
        page.get_by_text("test images of digits").first.wait_for()
