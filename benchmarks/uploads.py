"""One file after the other dropped on the page Inspect and taken away: what the server's memory does.

``python -m benchmarks.uploads [--uploads 100] [--megabytes 20]`` speaks Streamlit's protocol
(:mod:`benchmarks.app_client`): a file is sent as a browser sends it, the page is drawn, and the file is taken off
again. Printed is the resident memory of the server and its children before the first upload (after some small ones,
which load the libraries), along the way, and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

import numpy as np
import psutil
from safetensors.numpy import save

from benchmarks.app_client import Session
from benchmarks.sessions import memory, server_process
from tests.browser.running_app import server

_WARM = 3


async def drop(session: Session, content: bytes, name: str) -> None:
    """Upload one file, wait until the page has drawn it, and take it off the page."""
    run = await session.run()
    (uploader,) = (each for each in run.elements["file_uploader"] if each.label.startswith("Drop"))
    run = await session.run(await session.upload(uploader.id, name, content))
    shown = [each for each in run.elements["button"] if each.help == "Take this file off the page"]
    assert len(shown) == 1, [each.label for each in run.elements["button"]]
    session.widgets.pop(uploader.id)
    run = await session.click(shown[0].id)
    assert not run.problem, run.problem


async def main(address: str, process: psutil.Process, uploads: int, megabytes: int) -> None:
    """Upload, and say what the memory is."""
    session = await Session(address, page="inspect").open()
    for number in range(_WARM):
        weights = np.full((30, 40), number + 1, np.float32)
        await drop(session, save({"fc.weight": weights}), f"small-{number}.safetensors")
    await asyncio.sleep(10)  # the warm-up behind the first page
    start = memory(process)
    print(f"before: {start / 2**20:.0f} MiB", flush=True)
    for number in range(1, uploads + 1):
        # Integers: no view computes on them, so the upload is what is measured.
        await drop(session, save({"buffer": np.full(megabytes * 125_000, number)}), f"net-{number}.safetensors")
        if number == 1 or number % 10 == 0:
            now = memory(process)
            done = f"after {number} of {megabytes} MB"
            print(f"{done}: {now / 2**20:.0f} MiB ({(now - start) / 2**20:+.0f})", flush=True)
    await session.close()
    await asyncio.sleep(5)
    now = memory(process)
    print(f"session closed: {now / 2**20:.0f} MiB ({(now - start) / 2**20:+.0f})", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.uploads", description=__doc__)
    parser.add_argument("--uploads", type=int, default=100)
    parser.add_argument("--megabytes", type=int, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="uploads-") as place, server(Path(place)) as running:
        asyncio.run(main(running, server_process(running), chosen.uploads, chosen.megabytes))
