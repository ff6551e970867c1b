"""A link: messages both ways between the service and an agent in a process of its own, over a connected socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Self

from airside.model import AirsideError
from airside.wire.limits import MIB
from airside.wire.parcel import BadParcel, pack, unpack

VERSION = 2
"""Of the messages below; the two sides must agree."""
MAX_MESSAGE = 64 * MIB
_HEAD = 4
_BUFFER = MIB


class LinkBroken(AirsideError):
    """The other side sent what is no message."""


class Link:
    """Messages are lists whose first item says what they are.

    To the agent: `order` (what to run), `call` (number, method, arguments, trace), `cancel` (number), `more` (number,
    lines), `ping`. From the agent: `ready` (its declaration) or `refused` (an error), `done` (number, result), `failed`
    (number, error), `item` (number, line), `pong` (its lanes).
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connected: socket.socket) -> Self:
        """The link over a connected socket, which belongs to it from now on."""
        connected.setblocking(False)  # noqa: FBT003 - the method's only form
        return cls(*await asyncio.open_unix_connection(sock=connected, limit=_BUFFER))

    def send(self, *message: Any) -> None:
        """Send a message without waiting. Lost if the other side is gone: `receive` tells."""
        self._send(pack(message))

    async def deliver(self, *message: Any) -> None:
        """Send a message, and wait while the other side is slow to take what was sent before."""
        self._send(pack(message))
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def receive(self) -> list[Any] | None:
        """The next message, None if the other side closed. Raises `LinkBroken`."""
        try:
            size = int.from_bytes(await self._reader.readexactly(_HEAD), "big")
            if size > MAX_MESSAGE:
                raise LinkBroken(f"a message of {size} bytes")
            message = unpack(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except BadParcel as exc:
            raise LinkBroken(str(exc)) from exc
        if not isinstance(message, list) or not message:
            raise LinkBroken(f"{type(message).__name__} instead of a message")
        return message

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _send(self, data: bytes) -> None:
        if self._writer.is_closing():
            return
        if len(data) > MAX_MESSAGE:
            raise AirsideError(f"{len(data)} bytes are more than crosses to an isolated agent ({MAX_MESSAGE}).")
        self._writer.writelines((len(data).to_bytes(_HEAD, "big"), data))
