"""Log lines read from CloudWatch Logs, whatever the job behind them does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.backends.aws.conftest import REGION, connect

from airside.agents import cloudwatch_logs
from airside.agents.aws import Aws, Place
from airside.agents.cloudwatch_logs import LogPlace, last_words, lines_of
from airside.model import Call, Fail, Retry

Write = Callable[..., LogPlace]


@pytest.fixture
def aws(door: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cloudwatch_logs, "_PAUSE", 0.01)
    monkeypatch.setattr(cloudwatch_logs, "_LOOK_EVERY", 0.0)
    made = Aws(Place(region=REGION))
    yield made
    made.close()


@pytest.fixture
def write(moto: int) -> Write:
    """Write lines, given with their milliseconds, to a stream of the group `flight-logs`."""
    logs = connect("logs", f"http://127.0.0.1:{moto}")
    begin = int(time.time() * 1000) - 60_000

    def put(stream: str, *lines: tuple[int, str], ended_at: float | None = 1.0) -> LogPlace:
        for make, more in ((logs.create_log_group, {}), (logs.create_log_stream, {"logStreamName": stream})):
            try:
                make(logGroupName="flight-logs", **more)
            except logs.exceptions.ResourceAlreadyExistsException:
                continue
        events = [{"timestamp": begin + at, "message": text} for at, text in lines]
        logs.put_log_events(logGroupName="flight-logs", logStreamName=stream, logEvents=events)
        return LogPlace("flight-logs", stream, ended_at)

    return put


def texts(aws: Aws, look: Callable[[], LogPlace], after: str = "", limit: int = 1000) -> list[str]:
    return [line.message for line in lines_of(aws, Call(), REGION, look, after=after, limit=limit)]


def test_the_lines_of_a_job_that_has_ended_come_page_by_page(aws: Aws, write: Write) -> None:
    place = write(f"pages-{time.time_ns()}", (1, "one"), (2, "two"), (2, "too"), (2, "to"), (3, "three\n"))
    first = list(lines_of(aws, Call(), REGION, lambda: place, after="", limit=3))
    assert [line.message for line in first] == ["one", "two", "too"]
    assert (first[0].originator, first[0].timestamp.tzinfo is not None) == ("user", True)  # type: ignore[union-attr]
    assert texts(aws, lambda: place, after=first[-1].cursor) == ["to", "three"]
    assert texts(aws, lambda: place) == ["one", "two", "too", "to", "three"]


def test_lines_are_followed_until_the_job_ends(aws: Aws, write: Write) -> None:
    stream = f"follow-{time.time_ns()}"
    looks = iter(
        [
            lambda: LogPlace("flight-logs"),  # it has no stream yet
            lambda: LogPlace("flight-logs", stream),  # and then one in which nothing is yet
            lambda: write(stream, (1, "one"), ended_at=None),
            lambda: write(stream, (2, "two"), ended_at=1.0),
        ]
    )

    def look() -> LogPlace:
        return next(looks)()

    assert texts(aws, look) == ["one", "two"]
    assert next(looks, None) is None


def test_a_job_that_has_just_ended_is_waited_for(aws: Aws, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudwatch_logs, "SETTLES", 0.3)
    stream, ended = f"late-{time.time_ns()}", time.time()
    place = write(stream, (1, "one"), ended_at=ended)
    lines = lines_of(aws, Call(), REGION, lambda: place, after="", limit=9)
    assert next(lines).message == "one"
    write(stream, (2, "late"))
    assert [line.message for line in lines] == ["late"]
    assert time.time() >= ended + 0.3


def test_a_job_without_a_log_has_no_lines(aws: Aws) -> None:
    assert texts(aws, lambda: LogPlace("flight-logs", ended_at=1.0)) == []
    assert texts(aws, lambda: LogPlace("never", "made", ended_at=1.0)) == []


def test_the_last_words_are_the_last_line_that_says_anything(aws: Aws, write: Write, door: Any) -> None:
    place = write(f"last-{time.time_ns()}", (1, "Traceback"), (2, "ValueError:\tno wings\n"), (3, " "))
    assert last_words(aws, Call(), REGION, place) == "ValueError: no wings"
    door.answer("GetLogEvents", 400, {"__type": "AccessDeniedException", "message": "no"})
    assert last_words(aws, Call(), REGION, place) == ""


def test_what_cannot_be_read_is_told(aws: Aws, write: Write, door: Any) -> None:
    with pytest.raises(Fail, match="'yesterday' is no place in this log"):
        texts(aws, lambda: LogPlace("flight-logs", "a", 1.0), after="yesterday")
    place = write(f"throttled-{time.time_ns()}", (1, "one"))
    door.answer("GetLogEvents", 400, {"__type": "ThrottlingException", "message": "slower"}, Retry_After="4")
    with pytest.raises(Retry) as raised:
        texts(aws, lambda: place)
    assert raised.value.after == 4.0
