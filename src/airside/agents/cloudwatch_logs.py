"""The log lines of AWS's jobs in CloudWatch Logs: streamed, and links to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from airside.agents.aws import Aws, console
from airside.model import AirsideError, Call, Fail, LogLine, LogLink, NotFound

SETTLES = 10.0  # seconds after the end of a job in which lines may still come in
_PAUSE = 2.0  # seconds between two looks at a stream that has shown all
_LOOK_EVERY = 6.0  # seconds between two looks at the job itself
_PAGE = 1000
_LONGEST = 64 * 1024  # characters of a line; the rest of it is left out
_LAST = 5  # events among which the last words are looked for


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Where a job's lines are: a stream of a group. Without a stream: it has none yet.

    `ended_at` is when the job ended, in seconds since 1970, or None while it runs.
    """

    group: str
    stream: str = ""
    ended_at: float | None = None

    @property
    def is_complete(self) -> bool:
        """True once no more lines are to be expected."""
        return self.ended_at is not None and time.time() - self.ended_at >= SETTLES


def log_link(region: str, group: str, stream: str = "") -> LogLink:
    """A link to a group of logs, or to one of its streams, in the console.

    >>> log_link("eu-west-1", "/aws/batch/job").uri.rpartition("#")[2]
    'logsV2:log-groups/log-group/$252Faws$252Fbatch$252Fjob'
    """
    place = f"logsV2:log-groups/log-group/{_escaped(group)}"
    if stream:
        place += f"/log-events/{_escaped(stream)}"
    return LogLink(f"{console(region)}/cloudwatch/home?region={region}#{place}", "CloudWatch")


def lines_of(
    aws: Aws, call: Call, region: str, look: Callable[[], LogPlace], *, after: str, limit: int
) -> Iterator[LogLine]:
    """The lines after a cursor, as they come, until the job has ended. `look` tells where they are.

    A cursor is the time of a line in milliseconds, and how many lines of that time there were.
    """
    begin, seen = _read(after) if after else (0, 0)
    current, count, given, token = begin, 0, 0, ""
    place, looked = look(), time.monotonic()
    while given < limit:
        was_complete = place.is_complete
        page = _page(aws, call, region, place, begin, token) if place.stream else {}
        for event in page.get("events") or ():
            current, count = event["timestamp"], count + 1 if event["timestamp"] == current else 1
            if current == begin and count <= seen:
                continue
            yield _line(event, f"{current}#{count}")
            given += 1
            if given == limit:
                return
        following = str(page.get("nextForwardToken") or token)
        if page.get("events") or following != token:
            token = following
            continue
        if was_complete:
            return
        time.sleep(_PAUSE)
        if place.ended_at is None and (not place.stream or time.monotonic() - looked >= _LOOK_EVERY):
            place, looked = look(), time.monotonic()


def streams_of(aws: Aws, call: Call, region: str, group: str, prefix: str = "", *, limit: int = 50) -> list[str]:
    """The streams of a group that begin so; none if there is no such group yet."""
    asked: dict[str, Any] = {"logGroupName": group, "limit": limit}
    if prefix:
        asked["logStreamNamePrefix"] = prefix
    try:
        page = aws.ask(
            call, "logs", region, lambda client: client.describe_log_streams(**asked), is_missing=_is_missing
        )
    except NotFound:
        return []
    return [str(one["logStreamName"]) for one in page.get("logStreams") or ()]


def last_words(aws: Aws, call: Call, region: str, place: LogPlace) -> str:
    """The last line of a log that says anything; empty if there is none, or it cannot be read."""
    asked = {"logGroupName": place.group, "logStreamName": place.stream, "limit": _LAST, "startFromHead": False}
    try:
        page = aws.ask(call, "logs", region, lambda client: client.get_log_events(**asked))
    except AirsideError:
        return ""
    lines = (" ".join(str(event.get("message") or "").split()) for event in reversed(page.get("events") or ()))
    return next((line for line in lines if line), "")


def _escaped(name: str) -> str:
    """A name as the console wants it: escaped twice, with a sign of its own."""
    return quote(quote(name, safe=""), safe="").replace("%", "$")


def _page(aws: Aws, call: Call, region: str, place: LogPlace, begin: int, token: str) -> Mapping[str, Any]:
    asked = {
        "logGroupName": place.group,
        "logStreamName": place.stream,
        "startFromHead": True,
        "limit": _PAGE,
        **({"startTime": begin} if begin else {}),
        **({"nextToken": token} if token else {}),
    }
    try:
        page: Mapping[str, Any] = aws.ask(
            call, "logs", region, lambda client: client.get_log_events(**asked), is_missing=_is_missing
        )
    except NotFound:  # nothing was written yet
        return {}
    return page


def _line(event: Mapping[str, Any], cursor: str) -> LogLine:
    text = str(event.get("message") or "").rstrip("\r\n")[:_LONGEST]
    moment = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
    return LogLine(text, timestamp=moment, originator="user", cursor=cursor)


def _read(cursor: str) -> tuple[int, int]:
    moment, _, count = cursor.partition("#")
    if not (moment.isdecimal() and count.isdecimal()):
        raise Fail(f"{cursor!r} is no place in this log; take the token of the page before.", code="BadToken")
    return int(moment), int(count)


def _is_missing(code: str, _message: str) -> bool:
    return code == "ResourceNotFoundException"
