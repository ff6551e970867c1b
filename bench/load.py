"""h2load: repeat one call with many in flight, and see that every answer brought its message."""

from __future__ import annotations

import re
import subprocess
import tempfile

from bench.calls import Call
from bench.errors import BenchError

CONNECTIONS, STREAMS = 4, 32
_FRAME = 5
_SLACK = 0.1


def rate(port: int, call: Call, seconds: float) -> float:
    """Calls per second over about `seconds`, after a warm-up that also tells how many calls that makes."""
    count = max(1000, round(_repeat(port, call, 1000) * seconds))
    return _repeat(port, call, count)


def _repeat(port: int, call: Call, count: int) -> float:
    with tempfile.NamedTemporaryFile() as frame:
        frame.write(b"\0" + len(call.request).to_bytes(4, "big") + call.request)
        frame.flush()
        command = [
            "h2load",
            f"--requests={count}",
            f"--clients={CONNECTIONS}",
            f"--max-concurrent-streams={STREAMS}",
            f"--data={frame.name}",
            "--header=content-type: application/grpc",
            "--header=te: trailers",
            f"http://127.0.0.1:{port}/flyteidl.service.AsyncAgentService/{call.method}",
        ]
        report = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    succeeded = int(_find(r"(\d+) succeeded", report))
    data = int(_find(r"\((\d+)\) data", report))
    expected = count * (call.answer_size + _FRAME)
    # h2load sees HTTP only: a failed gRPC call is a 200 without a message, so the bytes tell.
    if succeeded != count or abs(data - expected) > expected * _SLACK:
        raise BenchError(f"{call.method}: {succeeded} of {count} succeeded, {data} bytes of {expected}.\n{report}")
    return float(_find(r"finished in [\d.]+m?s, ([\d.]+) req/s", report))


def _find(pattern: str, report: str) -> str:
    found = re.search(pattern, report)
    if found is None:
        raise BenchError(f"h2load's report was not understood:\n{report}")
    return found.group(1)
