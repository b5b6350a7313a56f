"""A session of the app without a browser: Streamlit's own protocol over a real websocket.

What a browser does when the page is opened, except for drawing: it fetches the page with its scripts, opens the
websocket, asks for a run of the script and takes in what comes until the run has ended. So what is measured is the
server, and twenty sessions do not wait for each other's pixels.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.Common_pb2 import FileURLs, FileURLsRequest, UploadedFileInfo
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

PATIENCE = 300.0
_LARGEST_MESSAGE = 64 * 2**20


@dataclass
class Run:
    """What one run of the script sent.

    Attributes:
        picture_s: Seconds from asking to the first plot, or None where none came.
        seconds: Seconds from asking to the end of the run.
        n_bytes: Bytes that came.
        elements: Type → elements of that type, in the order they came.
        status: How the run ended, by Streamlit's name.
    """

    picture_s: float | None = None
    seconds: float = 0.0
    n_bytes: int = 0
    elements: dict[str, list[Any]] = field(default_factory=dict)
    status: str = ""

    @property
    def problem(self) -> str:
        """What went wrong; empty where nothing did."""
        if exceptions := self.elements.get("exception"):
            return str(exceptions[0].message or exceptions[0].type)
        errors = [each.body for each in self.elements.get("alert", []) if each.format == each.ERROR]
        if errors:
            return str(errors[0])
        return "" if self.status == "FINISHED_SUCCESSFULLY" else f"the run ended with {self.status}"


async def fetch(address: str, paths: Sequence[str], *, connections: int = 6) -> int:
    """GET every path over a few kept connections, as a browser does; the bytes that came.

    Raises:
        RuntimeError: One was not there.
    """
    waiting = list(reversed(paths))
    host, port = urlsplit(address).hostname or "", urlsplit(address).port or 80

    async def worker() -> int:
        reader, writer = await asyncio.open_connection(host, port)
        received = 0
        try:
            while waiting:
                path = waiting.pop()
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if b" 200 " not in head.split(b"\r\n")[0]:
                    raise RuntimeError(f"{path}: {head.splitlines()[0].decode()}")
                size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                received += len(await reader.readexactly(size))
        finally:
            writer.close()
        return received

    return sum(await asyncio.gather(*[worker() for _ in range(min(connections, len(paths)))]))


def xsrf_token(address: str) -> str:
    """The token that a browser gets with the page and sends with every file."""
    with urlopen(f"{address}/_stcore/health", timeout=PATIENCE) as answer:
        found = SimpleCookie(answer.headers.get("Set-Cookie", ""))
    return found["_streamlit_xsrf"].value if "_streamlit_xsrf" in found else ""


def _put(address: str, token: str, name: str, content: bytes) -> None:
    edge = "----a-file"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}", "X-Xsrftoken": token}
    request = Request(address, body, {**headers, "Cookie": f"_streamlit_xsrf={token}"}, method="PUT")
    urlopen(request, timeout=PATIENCE).close()


class Session:
    """One visitor: ``await (await Session(address).open()).run()``."""

    def __init__(self, address: str, query: str = "", page: str = "") -> None:
        self.address, self.query, self.page = address, query, page
        self.widgets: dict[str, WidgetState] = {}
        self.session_id = ""

    async def open(self) -> Session:
        """Connect."""
        address = self.address.replace("http://", "ws://") + "/_stcore/stream"
        self._socket = await websockets.connect(
            address,
            subprotocols=[websockets.Subprotocol("streamlit")],
            max_size=_LARGEST_MESSAGE,
            open_timeout=PATIENCE,
        )
        return self

    async def close(self) -> None:
        """Go."""
        await self._socket.close()

    async def upload_urls(self, *names: str) -> list[FileURLs]:
        """Where the server wants files of these names."""
        wanted = FileURLsRequest(request_id="upload", session_id=self.session_id, file_names=names)
        await self._socket.send(BackMsg(file_urls_request=wanted).SerializeToString())
        message = ForwardMsg()
        while message.WhichOneof("type") != "file_urls_response":
            message = await self._receive()
        return list(message.file_urls_response.file_urls)

    async def upload(self, uploader: str, name: str, content: bytes) -> WidgetState:
        """Send a file to the server; the state of the uploader that makes the script see it."""
        cookie = await asyncio.to_thread(xsrf_token, self.address)
        (urls,) = await self.upload_urls(name)
        await asyncio.to_thread(_put, f"{self.address}{urls.upload_url}", cookie, name, content)
        state = WidgetState(id=uploader)
        told = UploadedFileInfo(file_id=urls.file_id, name=name, size=len(content), file_urls=urls)
        state.file_uploader_state_value.uploaded_file_info.append(told)
        return state

    async def click(self, button: str) -> Run:
        """Press a button; what the run sent."""
        run = await self.run(WidgetState(id=button, trigger_value=True))
        self.widgets.pop(button)  # pressed once
        return run

    async def _receive(self) -> ForwardMsg:
        content = await self._socket.recv()
        message = ForwardMsg()
        message.ParseFromString(content if isinstance(content, bytes) else content.encode())
        return message

    async def run(self, changed: WidgetState | None = None, *, since: float | None = None) -> Run:
        """Ask for a run of the script, with one widget changed, and take in everything until it has ended.

        Args:
            changed: The widget that was clicked, as it is afterwards.
            since: When the clock was started, if before now.
        """
        start = time.perf_counter() if since is None else since
        state = ClientState(query_string=self.query, page_name=self.page)
        if changed is not None:
            self.widgets[changed.id] = changed
            state.widget_states.widgets.extend(self.widgets.values())
        await self._socket.send(BackMsg(rerun_script=state).SerializeToString())
        found = Run()
        async with asyncio.timeout(PATIENCE):
            while not found.status:
                self._take(await self._receive(), found, start)
        found.seconds = time.perf_counter() - start
        return found

    def _take(self, message: ForwardMsg, found: Run, start: float) -> None:
        found.n_bytes += message.ByteSize()
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self.session_id = message.new_session.initialize.session_id
            found.elements.clear()  # a run that asked for another one has not been shown
        elif kind == "script_finished":
            status = ForwardMsg.ScriptFinishedStatus.Name(message.script_finished)
            if status != "FINISHED_EARLY_FOR_RERUN":  # another run follows at once
                found.status = status
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            name = element.WhichOneof("type")
            if name is not None:
                found.elements.setdefault(name, []).append(getattr(element, name))
            if name == "plotly_chart" and found.picture_s is None and len(element.plotly_chart.spec) > 1000:
                found.picture_s = time.perf_counter() - start


async def first_picture(address: str, files: Sequence[str] = ("/",)) -> tuple[Run, Session]:
    """Open the app as a browser does that was never here: its files, then the run; the session stays open."""
    start = time.perf_counter()
    await fetch(address, files)
    session = await Session(address).open()
    return await session.run(since=start), session
