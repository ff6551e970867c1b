"""`python asker.py PORT REQUESTS RATE SECONDS WARM_UP`: asks for jobs in an open loop, and prints JSON on the answers.

REQUESTS is a file of serialised GetTaskRequests, each after its length in four bytes; they are asked in turn, at RATE
a second, whatever has been answered. h2load sends one body only, and a gRPC client in Python takes as much time as the
service, so this one writes HTTP/2 frames that are made beforehand and reads no more of the answers than how they end.
When an ask goes out depends on the clock alone; how late this client itself was with it is told apart.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATH = b"/flyteidl.service.AsyncAgentService/GetTask"
DEADLINE = 0.05  # seconds
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
ENDS, ACK, WHOLE = 1, 1, 4  # flags
OK = b"grpc-status\x010"


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header that goes into no table."""
    return bytes((0, len(name))) + name + bytes((len(value),)) + value


def header_block(deadline: float) -> bytes:
    timeout = b"%dm" % (deadline * 1000)
    named = b"\x83\x86" + bytes((4, len(PATH))) + PATH + bytes((1, 9)) + b"localhost"  # POST, http, :path, :authority
    pairs = ((b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", timeout))
    return named + b"".join(literal(*pair) for pair in pairs)


class Connection:
    """One HTTP/2 connection, driven by hand."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        no_table = struct.pack(">HI", 1, 0)  # answers' headers come as they are
        wide = struct.pack(">HI", 4, 2**31 - 1)
        self.socket.sendall(
            PREFACE + frame(SETTINGS, no_table + wide) + frame(WINDOW, struct.pack(">I", 2**31 - 1 - 65535))
        )
        self._headers = header_block(DEADLINE)
        self._buffer = b""
        self._next = 1
        self._window = 65535

    def ask(self, message: bytes) -> tuple[int, bytes]:
        """The frames of one call, and the stream it has."""
        stream, self._next = self._next, self._next + 2
        body = b"\x00" + struct.pack(">I", len(message)) + message
        self._window -= len(body)
        if self._window < 0:
            raise RuntimeError("the service takes nothing more on this connection")
        return stream, frame(HEADERS, self._headers, WHOLE, stream) + frame(DATA, body, ENDS, stream)

    def ended(self) -> Iterator[tuple[int, str]]:
        """The streams that have ended according to what has come, and how."""
        data = self._buffer + self.socket.recv(1 << 18)
        at = 0
        while len(data) - at >= 9:
            length = int.from_bytes(data[at : at + 3], "big")
            if len(data) - at < 9 + length:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
            payload = data[at + 9 : at + 9 + length]
            at += 9 + length
            if kind == HEADERS and flags & ENDS:
                yield stream, "ok" if OK in payload else payload.decode("latin-1")
            elif kind == RESET:
                yield stream, f"reset {payload.hex()}"
            elif kind == SETTINGS and not flags & ACK:
                self.socket.sendall(frame(SETTINGS, b"", ACK))
            elif kind == PING and not flags & ACK:
                self.socket.sendall(frame(PING, payload, ACK))
            elif kind == WINDOW and not stream:
                self._window += int.from_bytes(payload, "big")
            elif kind == GOAWAY:
                raise RuntimeError(f"the service hung up: {payload!r}")
        self._buffer = data[at:]


def read_requests(path: str) -> Iterator[bytes]:
    data, at = Path(path).read_bytes(), 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def main(port: str, path: str, rate: str, seconds: str, warm_up: str) -> None:
    """Ask, and print what came."""
    requests, connection = cycle(list(read_requests(path))), Connection(int(port))
    interval, total = 1 / float(rate), int(float(rate) * float(seconds))
    time.sleep(0.2)
    began = time.perf_counter() + 0.1
    measured_from = began + float(warm_up)
    under_way: dict[int, float] = {}
    took: list[float] = []
    late: list[float] = []
    ends: Counter[str] = Counter()
    sent = measured = missed = early_missed = 0
    while sent < total or under_way:
        now = time.perf_counter()
        if sent >= total and now > began + float(seconds) + 2:
            break
        batch = []
        while sent < total and began + sent * interval <= now:
            planned = began + sent * interval
            stream, data = connection.ask(next(requests))
            under_way[stream] = now
            measured += planned >= measured_from
            batch.append(data)
            sent += 1
            if planned >= measured_from:
                late.append(now - planned)
        if batch:
            connection.socket.sendall(b"".join(batch))
        wait = began + sent * interval - time.perf_counter() if sent < total else 0.05
        if not select.select([connection.socket], [], [], max(0.0, wait))[0]:
            continue
        now = time.perf_counter()
        for stream, how in connection.ended():
            asked = under_way.pop(stream, 0.0)
            if not asked:  # a reset behind the end
                continue
            wrong = how != "ok" or now - asked > DEADLINE
            if asked < measured_from:
                early_missed += wrong
                continue
            took.append(now - asked)
            missed += wrong
            ends[how] += 1
    missed += sum(asked >= measured_from for asked in under_way.values())
    found = {
        "asks": measured,
        "missed": missed,
        "missed_in_warm_up": early_missed,
        "p50": 1000 * quantile(took, 0.5),
        "p99": 1000 * quantile(took, 0.99),
        "worst": 1000 * max(took, default=0.0),
        "late_p99": 1000 * quantile(late, 0.99),
        "late_worst": 1000 * max(late, default=0.0),
        "ends": dict(ends.most_common(5)),
        "cpu": time.process_time(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
