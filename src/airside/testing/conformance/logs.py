"""Cases about GetTaskLogs and GetTaskMetrics."""

from __future__ import annotations

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from airside.testing.conformance.case import Answer, Probe, cases

_PAGE = 2
_MAX_PAGES = 1000


async def pages_logs(probe: Probe) -> None:
    """GetTaskLogs streams at most as many lines as asked for, then a header; the last page's token is empty"""
    handle, _ = await probe.finished()
    token, pages = "", 0
    while True:
        answer = await _page(probe, handle, token)
        _needs_an_answer(probe, answer, "logs")
        probe.expect_ok(answer, "GetTaskLogs")
        parts = [message.WhichOneof("part") for message in answer.message]
        probe.expect(parts and parts[-1] == "header", f"the stream is {parts or 'empty'}, without a closing header")
        probe.expect("header" not in parts[:-1], f"the header is not last: {parts}")
        lines = sum(_line_count(probe, message) for message in answer.message[:-1])
        probe.expect(lines <= _PAGE, f"{lines} lines for lines={_PAGE}")
        token, pages = answer.message[-1].header.token, pages + 1
        if not token:
            return
        probe.expect(pages < _MAX_PAGES, f"no end after {pages} pages")
        del probe.exchanges[-1]


async def says_what_it_lacks(probe: Probe) -> None:
    """GetTaskLogs and GetTaskMetrics of an agent without them are UNIMPLEMENTED"""
    handle, _ = await probe.finished()
    supports = probe.specimen.supports
    if supports is not None and supports >= _ASK.keys():
        probe.skip("the agent has logs and metrics")
    lacking = []
    for name in [name for name in _ASK if supports is None or name not in supports]:
        answer = await _ASK[name](probe, handle)
        if supports is None and answer.code in _HAS:
            continue
        unimplemented = answer.code is grpc.StatusCode.UNIMPLEMENTED
        probe.expect(unimplemented, f"{name} are answered {answer.code.name}")
        lacking.append(name)
    if not lacking:
        probe.skip("the service has logs and metrics")


async def has_no_metrics_of_long_ago(probe: Probe) -> None:
    """GetTaskMetrics for a time without data is OUT_OF_RANGE"""
    handle, _ = await probe.finished()
    answer = await _metrics(probe, handle, 0, 1)
    _needs_an_answer(probe, answer, "metrics")
    probe.expect(answer.code is grpc.StatusCode.OUT_OF_RANGE, f"the year 1970 is answered {answer.code.name}")


def _needs_an_answer(probe: Probe, answer: Answer, what: str) -> None:
    """Skip the case for an agent without logs or metrics; one elsewhere may have its own way of saying so."""
    if answer.code is grpc.StatusCode.UNIMPLEMENTED:
        probe.skip(f"the agent has no {what}")
    if probe.specimen.supports is None and answer.code not in _HAS:
        probe.skip(f"the service has no {what}: it answers {answer.code.name}, which S44 judges")


async def _page(probe: Probe, handle: bytes, token: str) -> Answer:
    request = probe.job_request("GetTaskLogsRequest", handle, lines=_PAGE, token=token)
    return await probe.stream("GetTaskLogs", [request], probe.client.stream_logs(request))


async def _metrics(probe: Probe, handle: bytes, start: int, end: int) -> Answer:
    request = probe.job_request(
        "GetTaskMetricsRequest",
        handle,
        queries=["cpu"],
        start_time=Timestamp(seconds=start),
        end_time=Timestamp(seconds=end),
    )
    return await probe.call("GetTaskMetrics", request)


_ASK = {
    "logs": lambda probe, handle: _page(probe, handle, ""),
    "metrics": lambda probe, handle: _metrics(probe, handle, 0, 1),
}
_HAS = {grpc.StatusCode.OK, grpc.StatusCode.OUT_OF_RANGE}


def _line_count(probe: Probe, message: object) -> int:
    body = message.body  # type: ignore[attr-defined]  # generated classes are untyped here
    return len(body.structured_lines if probe.wire == "v1" else body.lines)


CASES = cases(
    "logs",
    {
        "S43": pages_logs,
        "S44": says_what_it_lacks,
        "S45": has_no_metrics_of_long_ago,
    },
)
