"""The app as a process of its own, for a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",  # WebGL without a graphics card
]


def chromium() -> str | None:
    """The browser to drive, if there is one."""
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def server(workspace: Path, app: Path = ROOT / "app.py") -> Iterator[str]:
    """A fresh server on a free port; its log is ``server.log`` in the workspace."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(app)]
    command += ["--server.port", str(port), "--server.headless", "true"]
    environment = {**os.environ, "SANE_WORKSPACE": str(workspace)}
    log = (workspace / "server.log").open("wb")
    process = subprocess.Popen(
        command, cwd=app.parent, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (workspace / "server.log").read_text(encoding="utf-8")
                time.sleep(0.1)
        yield address
    finally:
        with suppress(ProcessLookupError):  # a test may have killed it
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
        log.close()
