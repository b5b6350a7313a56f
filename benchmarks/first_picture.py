"""How long until a newcomer sees something? ``python -m benchmarks.first_picture [--runs 5]``.

From the start of the server's process to the map of the embedded zoo drawn in Chromium, a fresh server and a fresh
browser profile each time. The browser runs before the clock starts: it is not ours. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

from tests.browser.running_app import FLAGS, chromium, server

DRAWN = "document.querySelectorAll('.js-plotly-plot .gl-container canvas').length > 0"


def seconds_to_picture(executable: str) -> float:
    """One fresh server and browser profile."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as workspace:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        start = time.perf_counter()
        with server(Path(workspace)) as address:
            page.goto(address)
            page.wait_for_function(DRAWN, timeout=90_000)
            elapsed = time.perf_counter() - start
            browser.close()
        return elapsed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    path = chromium()
    if path is None:
        raise SystemExit("There is no Chromium on the path.")
    times = [seconds_to_picture(path) for _ in range(parser.parse_args().runs)]
    print(f"first picture after {', '.join(f'{t:.2f}' for t in times)} s, median {median(times):.2f} s")
