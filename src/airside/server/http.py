"""The metrics port: /metrics, /readyz and /healthz over plain HTTP, for Kubernetes and Prometheus."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

_MAX_HEAD = 8192
_PATIENCE = 5.0  # seconds a client may take to send its request


@dataclass(frozen=True, slots=True)
class Page:
    """One answer: status, content type and body."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class HttpPages:
    """Serves GET requests for a few paths, one request a connection."""

    def __init__(self, pages: dict[str, Callable[[], Page]]) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises `OSError` if it is taken."""
        self._server = await asyncio.start_server(self._serve, limit=_MAX_HEAD, **_where(host, port))
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                page = self._answer(head)
                writer.write(_encode(page, with_body=not head.startswith(b"HEAD")))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client went away or sent nonsense; there is nobody to tell
        finally:
            writer.close()

    def _answer(self, head: bytes) -> Page:
        method, path, *_ = [*head.split(b"\r\n", 1)[0].decode("latin-1").split(" "), "", ""]
        if method not in {"GET", "HEAD"}:
            return Page(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET\n")
        page = self._pages.get(path.split("?", 1)[0])
        if page is None:
            return Page(HTTPStatus.NOT_FOUND, ("try " + ", ".join(self._pages) + "\n").encode())
        return page()


def _where(host: str, port: int) -> dict[str, Any]:
    """What to listen on. All interfaces means IPv4 too, as it does for gRPC: asyncio's own socket would refuse it."""
    if host != "::":
        return {"host": host, "port": port}
    if socket.has_dualstack_ipv6():
        return {"sock": socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)}
    return {"host": "0.0.0.0", "port": port}  # noqa: S104 - what the caller asked for


def _encode(page: Page, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\nContent-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (page.body if with_body else b"")
