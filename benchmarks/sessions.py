"""Do many people at once get their picture? ``python -m benchmarks.sessions [--sessions 20]``.

Twenty browsers on one machine wait for each other's drawing, not for the server; twenty people have a machine each.
So one real browser takes the picture, alone and while the other sessions open the app at the same moment. These
fetch the same files as the browser and speak Streamlit's protocol over websockets (:mod:`benchmarks.app_client`);
of them the time from opening to the plot's data is told as well, alone and together: the server and nothing
else. Everybody comes for the first time, nothing is cached. Memory is what the server and its children grew by,
shared among the sessions, which stay open meanwhile. The answer is a line of JSON.
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
from urllib.parse import urlsplit

import psutil
from playwright.async_api import Browser, async_playwright

from benchmarks.app_client import Run, Session, first_picture
from tests.browser.running_app import FLAGS, chromium, server

DRAWN = "document.querySelectorAll('.js-plotly-plot .gl-container canvas').length > 0"
ROUNDS = 3
WARM_S = 25.0
PATIENCE_MS = 300_000.0


async def in_browser(browser: Browser, address: str, files: list[str] | None = None) -> float:
    """Seconds until a browser that was never here has drawn the map; ``files`` takes the paths that it fetched."""

    def note(answer: Any) -> None:
        if files is not None and answer.status == 200 and answer.url.startswith(address):
            files.append(urlsplit(answer.url).path)

    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    page = await context.new_page()
    page.on("response", note)
    start = time.perf_counter()
    await page.goto(address, timeout=PATIENCE_MS)
    await page.wait_for_function(DRAWN, timeout=PATIENCE_MS)
    seconds = time.perf_counter() - start
    await context.close()
    return seconds


def memory(process: psutil.Process) -> int:
    """Resident bytes of a process and its children."""
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


def cpu(process: psutil.Process) -> float:
    """Seconds of processor that a process has used."""
    return sum(process.cpu_times()[:2])


async def opened_together(address: str, files: list[str], count: int) -> tuple[list[Run], list[Session], list[str]]:
    """Sessions that open at the same moment: their runs, the sessions, and what went wrong."""
    found = await asyncio.gather(*[first_picture(address, files) for _ in range(count)], return_exceptions=True)
    failed = [f"{type(each).__name__}: {each}" for each in found if isinstance(each, BaseException)]
    opened = [each for each in found if not isinstance(each, BaseException)]
    failed += [run.problem or "no plot" for run, _ in opened if run.problem or not run.picture_s]
    return [run for run, _ in opened], [session for _, session in opened], failed


async def measure(browser: Browser, address: str, process: psutil.Process, count: int) -> dict[str, Any]:
    """The browser and single sessions, then all together, in turns, so that both meet the same machine."""
    files: list[str] = []
    first = await in_browser(browser, address, files)  # loads what is loaded once, and starts the warm-up
    await asyncio.sleep(WARM_S)
    drawn_alone, drawn_among, alone, together = [], [], [], []
    failed: list[str] = []
    grown, worked = [], []
    for _ in range(ROUNDS):
        drawn_alone.append(await in_browser(browser, address))
        for _ in range(2):
            runs, sessions, wrong = await opened_together(address, files, 1)
            alone += runs
            failed += wrong
            await sessions[0].close()
        others = asyncio.create_task(opened_together(address, files, count - 1))
        drawn_among.append(await in_browser(browser, address))
        failed += await closed(await others)
        before, cpu_before = memory(process), cpu(process)
        runs, sessions, wrong = await opened_together(address, files, count)
        together += runs
        worked.append((cpu(process) - cpu_before) / count)
        grown.append((memory(process) - before) / count)
        failed += await closed((runs, sessions, wrong), runs_more=True)
    server_alone, server_together = (median(run.picture_s or 1e9 for run in found) for found in (alone, together))
    return {
        "sessions": count,
        "browser_alone_s": [round(seconds, 2) for seconds in drawn_alone],
        "browser_among_s": [round(seconds, 2) for seconds in drawn_among],
        "browser_ratio": round(median(drawn_among) / median(drawn_alone), 2),
        "browser_on_a_fresh_server_s": round(first, 2),
        "server_alone_s": round(server_alone, 3),
        "server_together_s": round(server_together, 3),
        "server_ratio": round(server_together / server_alone, 2),
        "server_cpu_s_a_session": round(median(worked), 3),
        "memory_mb_a_session": [round(each / 1e6, 2) for each in grown],
        "server_rss_mb": round(memory(process) / 1e6),
        "kilobytes_a_run": round(together[0].n_bytes / 1e3) if together else None,
        "files_a_session": len(files),
        "failed": failed,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


async def closed(found: tuple[list[Run], list[Session], list[str]], *, runs_more: bool = False) -> list[str]:
    """Close sessions, where asked for after one more run each; what went wrong."""
    _, sessions, failed = found
    for session in sessions:
        if runs_more and (problem := (await session.run()).problem):
            failed.append(problem)
    for session in sessions:
        await session.close()
    return failed


async def main(executable: str, address: str, count: int) -> None:
    """Measure and print."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=FLAGS)
        print(json.dumps(await measure(browser, address, server_process(address), count)))
        await browser.close()


def server_process(address: str) -> psutil.Process:
    """The process that listens at an address of this machine, a child of ours."""
    port = f"{address.rsplit(':', 1)[1]}"
    for child in psutil.Process().children(recursive=True):
        if port in child.cmdline():
            return child
    raise SystemExit("The server is not there.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sessions", description=__doc__)
    parser.add_argument("--sessions", type=int, default=20)
    path = chromium()
    if path is None:
        raise SystemExit("There is no Chromium on the path.")
    chosen = parser.parse_args().sessions
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as running:
        asyncio.run(main(path, running, chosen))
