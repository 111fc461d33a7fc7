"""What stands before Gradio: only the addresses that the page needs, and nothing that leads outside.

Gradio also has addresses that fetch any page of the web, relay to other servers, list what is running, or load a file
from a URL. None of them is needed here, so all but a short list is answered with 404.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

__all__ = ["Gate"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FILE = "/gradio_api/file="
JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"
_READ = re.compile(
    r"/|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static|svelte)/.+"
    r"|/gradio_api/(heartbeat/\w+|queue/data|upload_progress|startup-events)|/gradio_api/file=.+"
)
_SEND = {JOIN, UPLOAD, "/gradio_api/cancel", "/gradio_api/reset"}
_QUESTION = 64 * 1024  # bytes: an event holds names of files and choices, never an image
_ROOM = 64 * 1024  # bytes around the file in an upload
_DRAINED = 4

# The browser itself then refuses to fetch anything from elsewhere, whatever the page says. Gradio's page has scripts
# inside it and makes functions from text.
_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "form-action 'self'",
    ]
)
_FILE_POLICY = "default-src 'none'; sandbox"  # an uploaded file is shown, never run
# Gradio's links for those who share a page's address: they name pictures and pages elsewhere.
_SHARING = re.compile(rb'<meta\s+(property|name)="(og|twitter):[^>]*>\s*')
_SAMPLE = re.compile(rb"https://raw\.githubusercontent\.com/[^\"\\]*")  # a picture for programs that call the page


class Gate:
    """An ASGI application around Gradio's.

    Args:
        folder: where uploaded files lie; no other file can be fetched.
        most_bytes: size of the largest file that may be uploaded.
    """

    def __init__(self, app: App, folder: Path, most_bytes: int) -> None:
        self.app, self.folder, self.most_bytes = app, folder.resolve(), most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # Gradio needs no WebSocket
            return await send({"type": "websocket.close", "code": 1008})
        path, method = scope["path"], scope["method"]
        if not self._allowed(method, path):
            return await _answer(send, 404, "not found")
        if method == "POST":
            body = await _read(receive, self.most_bytes + _ROOM if path == UPLOAD else _QUESTION)
            if body is None:
                return await _answer(send, 413, f"too large; the limit is {self.most_bytes / 2**20:.0f} MB")
            if path == JOIN and not self._is_ours(body):
                return await _answer(send, 400, "a file that was not uploaded here")
            return await self.app(scope, _replay(body, receive), _Headed(send, _POLICY))
        if path == "/":
            # as it is, for some of it is taken out
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]}
            return await self.app(scope, receive, _Page(send))
        return await self.app(scope, receive, _Headed(send, _FILE_POLICY if path.startswith(FILE) else _POLICY))

    def _allowed(self, method: str, path: str) -> bool:
        if method == "POST":
            return path.rstrip("/") in _SEND
        if method not in ("GET", "HEAD") or not _READ.fullmatch(path):
            return False
        return not path.startswith(FILE) or self._is_uploaded(path.removeprefix(FILE))

    def _is_uploaded(self, name: str) -> bool:
        try:
            return Path(name).is_absolute() and Path(name).resolve().is_relative_to(self.folder)
        except (OSError, ValueError):  # a NUL in it, or links that lead in a circle
            return False

    def _is_ours(self, body: bytes) -> bool:
        """Whether every file that an event names was uploaded. Gradio would fetch one that is a URL."""
        try:
            return all(self._is_uploaded(name) for name in _paths(json.loads(body)))
        except (ValueError, RecursionError):
            return False


def _paths(value: Any) -> Iterator[str]:
    """All that stands under the key ``path``, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "path" and inner is not None:
                yield str(inner)
            else:
                yield from _paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)


async def _read(receive: Receive, most: int) -> bytes | None:
    """The body of a request, or None where it is longer than ``most`` bytes.

    The rest of a longer one is read and dropped, up to ``_DRAINED`` times as much: a browser whose connection is closed
    while it still sends does not see the answer.
    """
    body, size = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size <= most:
            body += part
        else:
            body.clear()
        if size > _DRAINED * most:
            return None
        if not message.get("more_body"):
            return bytes(body) if size <= most else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` first."""
    whole = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return next(whole, None) or await receive()

    return replay


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


class _Headed:
    """``send`` that adds the headers of a page which fetches nothing from elsewhere."""

    def __init__(self, send: Send, policy: str) -> None:
        self.send, self.policy = send, policy

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            added = {
                b"content-security-policy": self.policy.encode(),
                b"referrer-policy": b"no-referrer",
                b"x-content-type-options": b"nosniff",
            }
            kept = [pair for pair in message["headers"] if pair[0].lower() not in added]
            message = {**message, "headers": [*kept, *added.items()]}
        await self.send(message)


class _Page:
    """``send`` for the page itself, without what it says of other addresses."""

    def __init__(self, send: Send) -> None:
        self.send, self.start, self.body = _Headed(send, _POLICY), {}, bytearray()  # type: ignore[var-annotated]

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = dict(message)
            return
        self.body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = _SAMPLE.sub(b"", _SHARING.sub(b"", bytes(self.body)))
        headers = [pair for pair in self.start["headers"] if pair[0].lower() != b"content-length"]
        await self.send({**self.start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self.send({"type": "http.response.body", "body": body})
