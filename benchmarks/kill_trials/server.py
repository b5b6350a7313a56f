"""Kill the server while somebody uploads zoos in their browser and keeps them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import random
import signal
import zipfile

import numpy as np
import psutil
from safetensors.numpy import save

from benchmarks.app_client import Session
from benchmarks.sessions import server_process
from pages.components import opening
from sane_engine.workspace import visible, workspace_root
from sane_engine.zoo import load_zoo
from tests.browser.running_app import server

_LONGEST = 2.0
_PATIENCE = 120.0


def _zip(number: int) -> bytes:
    """Two checkpoints full of a number."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("a", "b"):
            content = save({"0.weight": np.full((200, 100), number, np.float32)})
            archive.writestr(f"{name}.safetensors", content)
    return packed.getvalue()


async def _upload_and_keep(address: str, first: int, acknowledged: asyncio.Queue[str]) -> None:
    """Until the server is gone: upload, keep, and note what was said to be kept."""
    session = await Session(address).open()
    run = await session.run()
    acknowledged.put_nowait("")
    for number in range(first, first + 1000):
        content = _zip(number)
        uploader = next(each for each in run.elements["file_uploader"] if "zip" in each.label)
        run = await session.run(await session.upload(uploader.id, "mine.zip", content))
        keep = next(each for each in run.elements["button"] if each.label == "Keep")
        run = await session.click(keep.id)
        assert not run.problem, run.problem
        acknowledged.put_nowait(hashlib.sha256(content).hexdigest()[:12])


async def _until_killed(address: str, process: psutil.Process, first: int, chance: random.Random) -> list[str]:
    """What was acknowledged until the kill: at a random moment after the page stands and up to two are kept."""
    acknowledged: asyncio.Queue[str] = asyncio.Queue()
    visit = asyncio.create_task(_upload_and_keep(address, first, acknowledged))
    said = []
    async with asyncio.timeout(_PATIENCE):
        for _ in range(1 + chance.choice((0, 1, 2))):
            said.append(await acknowledged.get())
    await asyncio.wait([visit], timeout=chance.uniform(0.0, _LONGEST))
    while not acknowledged.empty():
        said.append(acknowledged.get_nowait())
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.wait([visit])
    if isinstance(error := visit.exception(), AssertionError):
        raise error
    return said[1:]


def trial(number: int, chance: random.Random) -> int:
    """Start, upload, kill, look; how much had been acknowledged."""
    with server(workspace_root()) as address:
        process = server_process(address)
        said = asyncio.run(_until_killed(address, process, number * 1000, chance))
    opening._mine = dict
    seen = {zoo.key: zoo for zoo in opening.opened_zoos()}
    assert {f"opened-{key}" for key in said} <= set(seen), (said, sorted(seen))
    for path in visible(workspace_root(), "uploads/*.zip"):
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:32] == path.stem
    for zoo in seen.values():
        assert len(load_zoo(zoo.path)) == 2
        opening.forget(zoo)
    return len(said)
