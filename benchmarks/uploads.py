"""Fifty files, one after the other, dropped on the Inspect page and taken away: what the server's memory does.

``python -m benchmarks.uploads [--uploads 50] [--megabytes 20]`` drives the app in Chromium and prints the resident
memory of the server before the first upload (after a small one that loads the libraries), along the way, and at the
end.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import Page, sync_playwright
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))
from running_app import FLAGS, chromium, server


def memory(port: str) -> float:
    """Resident memory of the server that listens on this port, in MiB."""
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
        except OSError:
            continue
        if b"streamlit" in command and port.encode() in command:
            pages = int((process / "statm").read_text(encoding="ascii").split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    raise RuntimeError("the server is not there")


def drop(page: Page, path: Path) -> None:
    """Upload one file, wait for its card, and take it off the page."""
    page.locator("input[type=file]").last.set_input_files(str(path))
    page.get_by_text("Container", exact=True).first.wait_for(timeout=120_000)
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for(timeout=120_000)
    page.locator('[class*="st-key-remove-"] button').first.click()
    page.get_by_text("Nothing to inspect yet.").wait_for(timeout=120_000)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.uploads", description=__doc__)
    parser.add_argument("--uploads", type=int, default=50)
    parser.add_argument("--megabytes", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="uploads-") as name, sync_playwright() as playwright:
        folder = Path(name)
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        with server(folder) as address:
            port = address.rsplit(":", 1)[1]
            page = browser.new_page()
            page.goto(f"{address}/inspect")
            for number in range(-1, arguments.uploads):
                count = arguments.megabytes * 125_000 if number >= 0 else 1000
                # Integers: no view computes on them, so the upload is what is measured.
                path = folder / f"net-{number}.safetensors"
                save_file({"buffer": torch.full((count,), number)}, path)
                drop(page, path)
                path.unlink()
                if number == -1:
                    start = memory(port)
                    print(f"before: {start:.0f} MiB", flush=True)
                elif (number + 1) % 10 == 0 or number == 0:
                    now = memory(port)
                    done = f"after {number + 1} of {arguments.megabytes} MB"
                    print(f"{done}: {now:.0f} MiB ({now - start:+.0f})", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
