"""A real server without a browser: who can reach it, what a lost upload leaves, what an error shows."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from running_app import ROOT, server

sys.path.insert(0, str(ROOT))
from benchmarks.app_client import Session, xsrf_token

BROKEN = """
import streamlit as st
st.write("before")
raise RuntimeError("a secret of the server")
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process, Path]]:
    workspace = tmp_path_factory.mktemp("served")
    with server(workspace) as address:
        port = str(urlsplit(address).port)
        (process,) = (child for child in psutil.Process().children() if port in child.cmdline())
        yield address, process, workspace


def test_only_this_machine_can_reach_it(running: tuple[str, psutil.Process, Path]) -> None:
    address, process, _ = running
    listening = [each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
    assert [(place.ip, place.port) for place in listening] == [("127.0.0.1", urlsplit(address).port)]


def test_it_asks_nobody_else_for_anything(running: tuple[str, psutil.Process, Path]) -> None:
    address, process, _ = running

    async def visit() -> None:
        session = await Session(address).open()
        assert not (await session.run()).problem
        seen = process.net_connections("inet")
        await session.close()
        strangers = [each.raddr for each in seen if each.raddr and each.raddr.ip != "127.0.0.1"]
        assert not strangers, "usage statistics, a fetched icon, a look for a newer version"

    asyncio.run(visit())


def _half(address: str, path: str, token: str, size: int) -> None:
    """Send the beginning of an upload, then hang up."""
    place = urlsplit(address)
    head = (
        f"PUT {path} HTTP/1.1\r\nHost: {place.netloc}\r\n"
        f"X-Xsrftoken: {token}\r\nCookie: _streamlit_xsrf={token}\r\n"
        f"Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: {size}\r\n\r\n"
        '--edge\r\nContent-Disposition: form-data; name="file"; filename="net.pt"\r\n\r\n'
    )
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(head.encode() + bytes(size // 2))


def test_an_upload_that_is_lost_midway_leaves_nothing(running: tuple[str, psutil.Process, Path]) -> None:
    address, process, workspace = running
    size = 64 * 2**20

    async def visit() -> None:
        session = await Session(address, page="inspect").open()
        run = await session.run()
        before = process.memory_info().rss
        token = await asyncio.to_thread(xsrf_token, address)
        for _ in range(6):
            (urls,) = await session.upload_urls("net.pt")
            await asyncio.to_thread(_half, address, urls.upload_url, token, size)
        run = await session.run()
        assert not run.problem and not [each for each in run.elements["button"] if each.id.startswith("remove-")]
        patience = time.monotonic() + 20
        while process.memory_info().rss - before > size and time.monotonic() < patience:
            await asyncio.sleep(0.2)
        assert process.memory_info().rss - before < size, "half of six uploads of 64 MiB are 192 MiB"
        await session.close()

    asyncio.run(visit())
    assert not [path for path in workspace.rglob("*") if path.is_file() and path.stat().st_size > 2**20]


def test_an_error_that_nobody_foresaw_shows_no_line_of_code(
    running: tuple[str, psutil.Process, Path], tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(BROKEN)
    (tmp_path / ".streamlit").mkdir()
    settings = (ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    (tmp_path / ".streamlit" / "config.toml").write_text(settings, encoding="utf-8")

    async def visit(address: str) -> str:
        session = await Session(address).open()
        run = await session.run()
        await session.close()
        (shown,) = run.elements["exception"]
        return json.dumps([shown.type, shown.message, list(shown.stack_trace)])

    with server(tmp_path, app=tmp_path / "app.py") as address:
        said = asyncio.run(visit(address))
    assert "secret" not in said and "app.py" not in said and "RuntimeError" not in said
    assert "secret" in (tmp_path / "server.log").read_text(encoding="utf-8"), "the log has it"
