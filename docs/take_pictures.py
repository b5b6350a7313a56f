"""Take the README's pictures from the real app: ``python -m docs.take_pictures resnet20.th [more checkpoints]``.

Needs Chromium and playwright. Every picture is the page as a user sees it at 1440 × 900, after a real choice.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.browser.running_app import FLAGS, chromium, server

PICTURES = Path(__file__).resolve().parent / "pictures"
# Rows of the zoo ``digits``: the last epoch of a model that learned little and of three better ones.
CHOSEN = "selection=5,41,83,155"


def settle(page: Any) -> None:
    """Wait until the script has ended and the plots are drawn."""
    page.wait_for_selector("h1")
    page.wait_for_timeout(500)
    page.wait_for_selector("[data-test-script-state=notRunning]", state="attached", timeout=120_000)
    page.wait_for_timeout(2_500)


def take(executable: str, files: list[Path]) -> None:
    """All pictures, light and dark."""
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as workspace:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        with server(Path(workspace)) as address:
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
                for name in ("explore", "zoo", "layers", "predict"):
                    chosen = "" if name == "explore" else CHOSEN
                    page.goto(f"{address}/{name}?zoo=digits&encoder=digits-sane&{chosen}")
                    settle(page)
                    page.screenshot(path=PICTURES / f"{name}-{scheme}.png")
                page.goto(f"{address}/inspect?zoo=digits&encoder=digits-sane")
                settle(page)
                page.locator("[data-testid=stMain] input[type=file]").set_input_files([str(f) for f in files])
                page.get_by_role("heading", name="On the map").wait_for(timeout=180_000)
                settle(page)
                # Tall enough for the curves to be in the picture as well.
                page.set_viewport_size({"width": 1440, "height": 1400})
                settle(page)
                page.screenshot(path=PICTURES / f"inspect-{scheme}.png")
                page.set_viewport_size({"width": 1440, "height": 900})
                page.goto(f"{address}/sample?zoo=digits&encoder=digits-sampling")
                settle(page)
                page.get_by_role("button", name="Draw", exact=True).click()
                page.get_by_text("Download 12 as zip").first.wait_for(state="attached", timeout=120_000)
                settle(page)
                page.screenshot(path=PICTURES / f"sample-{scheme}.png")
                page.close()
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    found = chromium()
    if found is None:
        raise SystemExit("There is no Chromium on the path.")
    take(found, parser.parse_args().checkpoints)
