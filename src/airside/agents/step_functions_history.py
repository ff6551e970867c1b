"""The history of an execution as log lines, followed as it grows: the number of an event is the cursor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from airside.agents.step_functions_answers import cause_of
from airside.model import Fail, LogLine

ENDS = frozenset({"ExecutionSucceeded", "ExecutionFailed", "ExecutionAborted", "ExecutionTimedOut"})
_FOLLOW_EVERY = 2.0  # seconds
_PAGE = 1000  # events

Page = Callable[..., Mapping[str, Any]]


def lines_of(page: Page, *, after: str, limit: int) -> Iterator[LogLine]:
    """The events after the cursor `after`, until the execution ends. `page` asks for one page of the history."""
    if after and not after.isdigit():
        raise Fail(f"{after!r} is no place in this log; take the token of the page before.", code="BadToken")
    last, given, is_over = int(after or 0), 0, False
    while True:
        for event in _newer(page, last, limit - given):
            last, given, is_over = event["id"], given + 1, event["type"] in ENDS
            yield LogLine(words_of(event), timestamp=event["timestamp"], originator="system", cursor=str(last))
            if given == limit:
                return
        if is_over or (not given and _is_over(page)):
            return
        time.sleep(_FOLLOW_EVERY)


def words_of(event: Mapping[str, Any]) -> str:
    """An event in one line: what happened, to which state or resource, and what went wrong.

    >>> words_of({"type": "TaskStateEntered", "stateEnteredEventDetails": {"name": "Load", "input": "{}"}})
    'TaskStateEntered Load'
    >>> words_of({"type": "TaskFailed", "taskFailedEventDetails": {"resource": "glue", "error": "E", "cause": "no"}})
    'TaskFailed glue: E: no'
    """
    details: Mapping[str, Any] = next((one for name, one in event.items() if name.endswith("EventDetails")), {})
    about = [str(details[name]) for name in ("name", "resourceType", "resource") if details.get(name)]
    wrong = [str(details[name]) for name in ("error", "reason") if details.get(name)]
    if details.get("cause"):
        wrong.append(cause_of(str(details["cause"])))
    return ": ".join([" ".join([str(event["type"]), *about]), *wrong])


def _newer(page: Page, last: int, wanted: int) -> list[Mapping[str, Any]]:
    """The first events after the number `last`: from the beginning, or from the end back to it."""
    found: list[Mapping[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        told = page(maxResults=_PAGE, reverseOrder=last > 0, includeExecutionData=False, **more)
        fresh = [event for event in told["events"] if event["id"] > last]
        found += fresh
        is_enough = last == 0 and len(found) >= wanted
        if is_enough or len(fresh) < len(told["events"]) or not told.get("nextToken"):
            return sorted(found, key=lambda event: int(event["id"]))
        more = {"nextToken": told["nextToken"]}


def _is_over(page: Page) -> bool:
    events = page(maxResults=1, reverseOrder=True, includeExecutionData=False)["events"]
    return bool(events) and max(events, key=lambda event: int(event["id"]))["type"] in ENDS
