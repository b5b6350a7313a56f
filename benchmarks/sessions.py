"""Do many people at once get their picture? ``python -m benchmarks.sessions [--sessions 20]``.

One server, one Chromium, one browser context a session: first single sessions one after another on the warm
server, then all at the same moment. Time is from opening the address to the map of the embedded zoo drawn;
memory is what the server's process grew by, shared among the sessions. The browser draws on the same
processor as the server computes, so the ratio of the times tells more of the browser the fewer cores there
are. The answer is a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from playwright.async_api import Browser, async_playwright

from tests.browser.running_app import FLAGS, chromium, server

DRAWN = "document.querySelectorAll('.js-plotly-plot .gl-container canvas').length > 0"
SINGLE = 3
PATIENCE_MS = 300_000.0


async def session(browser: Browser, address: str, *, stay: bool) -> tuple[float, str, Any]:
    """Seconds to the picture, what went wrong, and the context if it is to stay open."""
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    page = await context.new_page()
    start = time.perf_counter()
    problem = ""
    try:
        await page.goto(address, timeout=PATIENCE_MS)
        await page.wait_for_function(DRAWN, timeout=PATIENCE_MS)
        problem = " ".join(await page.locator("[data-testid=stException]").all_inner_texts())
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    elapsed = time.perf_counter() - start
    if not stay:
        await context.close()
    return elapsed, problem, context


async def measure(executable: str, address: str, process: psutil.Process, count: int) -> dict[str, Any]:
    """Single sessions, then all together."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=FLAGS)
        _, problem, _ = await session(
            browser, address, stay=False
        )  # what is loaded once, and the warm-up behind it
        await asyncio.sleep(40)
        alone = [await session(browser, address, stay=False) for _ in range(SINGLE)]
        before, cpu = process.memory_info().rss, sum(process.cpu_times()[:2])
        together = await asyncio.gather(*[session(browser, address, stay=True) for _ in range(count)])
        await asyncio.sleep(5)
        after, cpu = process.memory_info().rss, sum(process.cpu_times()[:2]) - cpu
        await browser.close()
    single, many = median(seconds for seconds, _, _ in alone), median(seconds for seconds, _, _ in together)
    return {
        "sessions": count,
        "alone_s": [round(seconds, 2) for seconds, _, _ in alone],
        "together_s": sorted(round(seconds, 2) for seconds, _, _ in together),
        "median_alone_s": round(single, 2),
        "median_together_s": round(many, 2),
        "ratio": round(many / single, 2),
        "server_cpu_s_a_session": round(cpu / count, 3),
        "memory_mb_a_session": round((after - before) / count / 1e6, 2),
        "server_rss_mb": round(after / 1e6),
        "failed": [problem for _, problem, _ in [*alone, *together] if problem] + ([problem] if problem else []),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def server_process(address: str) -> psutil.Process:
    """The process that listens at an address of this machine, a child of ours."""
    port = f"{address.rsplit(':', 1)[1]}"
    for child in psutil.Process().children(recursive=True):
        if port in child.cmdline():
            return child
    raise SystemExit("The server is not there.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=20)
    path = chromium()
    if path is None:
        raise SystemExit("There is no Chromium on the path.")
    chosen = parser.parse_args().sessions
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as running:
        print(json.dumps(asyncio.run(measure(path, running, server_process(running), chosen))))
