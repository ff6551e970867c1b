"""An HTTP proxy that goes wrong: run as `fault_proxy.py PORT UPSTREAM_PORT SEED`, it stands before any emulator.

With `CERTIFICATE KEY AUTHORITY`, three PEM files, it speaks TLS on both sides: it shows the certificate to its callers,
and checks that of the upstream against the authority. Tokens in headers pass through it.

Nothing goes wrong until told: `PUT /-/faults` with JSON says how, `GET /-/faults` tells what has happened so far.

    {"share": 0.3, "kinds": ["reset_after", "429"], "latency": [0.05, 0.4], "match": "^POST .*/jobs"}

`share` of the calls that match go wrong, each in a way drawn from `kinds`; every matching call takes a time drawn from
`latency`. The kinds: `reset_before` and `reset_after` close the connection without an answer, before or after the call
was forwarded; `429`, `401` and `503` answer so without forwarding; `503_after` forwards and then answers 503;
`malformed` forwards and gives back half a JSON object; `hang` forwards and never answers. With `"record": true` the
calls that match are kept, and told as `recorded`.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

KINDS = ("reset_before", "reset_after", "429", "401", "503", "503_after", "malformed", "hang")
_WORDS = {200: "OK", 401: "Unauthorized", 429: "Too Many Requests", 502: "Bad Gateway", 503: "Service Unavailable"}
_LONGEST_HANG = 300.0


class Call:
    """One request: what was asked, and all its bytes."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ", 2)
        self.headers = [line.split(":", 1) for line in lines if line]
        self.body = body

    def bytes(self) -> bytes:
        """The request as it goes on: the body whole, one request on a connection."""
        left_out = ("connection", "transfer-encoding", "content-length", "expect")
        kept = [f"{name}:{value}" for name, value in self.headers if name.lower() not in left_out]
        lines = [f"{self.method} {self.target} HTTP/1.1", *kept, "Connection: close"]
        if self.body or self.method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


class FaultProxy:
    """The proxy of one upstream port."""

    def __init__(self, upstream: int, seed: int, authority: str = "") -> None:
        self.upstream = upstream
        self._tls = ssl.create_default_context(cafile=authority) if authority else None
        self.rules: dict[str, Any] = {
            "share": 0.0,
            "kinds": list(KINDS),
            "latency": [0, 0],
            "match": "",
            "record": False,
        }
        self.calls: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.recorded: list[dict[str, str]] = []
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it ends."""
        try:
            while True:
                call = await _read(reader)
                if call is None or not await self._answer(call, writer):
                    break
        except (OSError, ValueError, asyncio.IncompleteReadError):
            pass  # the client is gone
        finally:
            writer.close()

    async def _answer(self, call: Call, writer: asyncio.StreamWriter) -> bool:
        """True if the connection may go on."""
        if call.target == "/-/faults":
            return await self._control(call, writer)
        line = f"{call.method} {call.target}"
        if not re.search(self.rules["match"], line):
            return await _send(writer, await self._forward(call))
        self.calls[call.method] += 1
        if self.rules["record"]:
            body = gzip.decompress(call.body) if call.body[:2] == b"\x1f\x8b" else call.body
            told = {"method": call.method, "target": call.target, "body": body.decode("utf-8", errors="replace")}
            self.recorded.append(told)
        low, high = self.rules["latency"]
        kind = self._random.choice(self.rules["kinds"]) if self._random.random() < self.rules["share"] else ""
        delay = self._random.uniform(low, high)
        await asyncio.sleep(delay / 2)
        if not kind:
            answer = await self._forward(call)
            await asyncio.sleep(delay / 2)
            return await _send(writer, answer)
        self.faults[kind] += 1
        if kind in ("reset_after", "503_after", "malformed", "hang"):
            await self._forward(call)
        await asyncio.sleep(delay / 2)
        return await self._fail(kind, writer)

    async def _fail(self, kind: str, writer: asyncio.StreamWriter) -> bool:
        if kind.startswith("reset"):
            writer.transport.abort()
            return False
        if kind == "hang":
            await asyncio.sleep(_LONGEST_HANG)
            return False
        if kind == "malformed":
            return await _send(writer, _response(200, b'{"half": ["of an'))
        status = int(kind.removesuffix("_after"))
        error = {"error": {"code": status, "message": "injected", "errors": [{"message": "injected"}]}}
        more = "Retry-After: 1\r\n" if status == 429 else ""
        return await _send(writer, _response(status, json.dumps(error).encode(), more))

    async def _forward(self, call: Call) -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream, ssl=self._tls)
        except OSError:
            return _response(502, b'{"error": {"message": "the upstream is not there"}}')
        try:
            writer.write(call.bytes())
            await writer.drain()
            return _closing(await reader.read(-1))
        finally:
            writer.close()

    async def _control(self, call: Call, writer: asyncio.StreamWriter) -> bool:
        if call.method == "PUT":
            self.rules |= json.loads(call.body)
        told = {"rules": self.rules, "calls": self.calls, "faults": self.faults, "recorded": self.recorded}
        return await _send(writer, _response(200, json.dumps(told).encode()))


def _closing(answer: bytes) -> bytes:
    """The answer, saying that the connection ends with it: not every upstream does."""
    head, end, body = answer.partition(b"\r\n\r\n")
    kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*kept, b"Connection: close"]) + end + body if end else answer


def _response(status: int, body: bytes, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} {_WORDS[status]}\r\nContent-Type: application/json\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


async def _send(writer: asyncio.StreamWriter, answer: bytes) -> bool:
    writer.write(answer)
    await writer.drain()
    return False


async def _read(reader: asyncio.StreamReader) -> Call | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    headers = dict(re.findall(r"(?im)^([\w-]+):[ \t]*(.*?)\r?$", head.decode("latin-1").lower()))
    if "chunked" in headers.get("transfer-encoding", ""):
        return Call(head, await _chunks(reader))
    return Call(head, await reader.readexactly(int(headers.get("content-length", 0))))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


async def main(port: int, upstream: int, seed: int, certificate: str = "", key: str = "", authority: str = "") -> None:
    """Serve until killed."""
    answer: Callable[..., Awaitable[None]] = FaultProxy(upstream, seed, authority).serve
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, key)
    server = await asyncio.start_server(answer, "127.0.0.1", port, limit=64 * 1024 * 1024, ssl=tls)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*(int(one) for one in sys.argv[1:4]), *sys.argv[4:]))
