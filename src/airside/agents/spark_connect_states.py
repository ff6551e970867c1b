"""What a Spark Connect server says of an operation, in Airside's words: its responses and its errors.

The tables are complete as of the Spark that the tests install; one of them fails when Spark knows more. A response that
is in no table is passed over, and an error in none is taken for one that may pass.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from airside.model import AgentError, Fail, Phase, Resource, Retry

log = logging.getLogger("airside.agents.spark_connect")

ROWS, PROGRESS, END, OTHER = "rows", "progress", "end", "other"
RESPONSES: Mapping[str, str] = {
    "arrow_batch": ROWS,
    "execution_progress": PROGRESS,
    "result_complete": END,
    "sql_command_result": OTHER,
    "write_stream_operation_start_result": OTHER,
    "streaming_query_command_result": OTHER,
    "get_resources_command_result": OTHER,
    "streaming_query_manager_command_result": OTHER,
    "streaming_query_listener_events_result": OTHER,
    "create_resource_profile_command_result": OTHER,
    "checkpoint_command_result": OTHER,
    "ml_command_result": OTHER,
    "pipeline_event_result": OTHER,
    "pipeline_command_result": OTHER,
    "pipeline_query_function_execution_signal": OTHER,
    "extension": OTHER,
}
"""Every kind of response about an operation, and what it is here."""

Handle = Literal["there", "unknown", "dropped", "closed", "again", "trimmed", "wrong"]
HANDLES: Mapping[str, Handle] = {
    "INVALID_HANDLE.OPERATION_ALREADY_EXISTS": "there",
    "INVALID_HANDLE.OPERATION_NOT_FOUND": "unknown",
    "INVALID_HANDLE.SESSION_NOT_FOUND": "unknown",
    "INVALID_HANDLE.SESSION_CHANGED": "unknown",  # the server is another one since
    "INVALID_HANDLE.OPERATION_ABANDONED": "dropped",
    "INVALID_HANDLE.SESSION_CLOSED": "closed",
    "INVALID_HANDLE.FORMAT": "wrong",
    "INVALID_CURSOR.DISCONNECTED": "again",  # somebody else has asked meanwhile
    "INVALID_CURSOR.POSITION_NOT_FOUND": "again",
    "INVALID_CURSOR.POSITION_NOT_AVAILABLE": "trimmed",
    "INVALID_CURSOR.NOT_REATTACHABLE": "wrong",
}
"""What Spark's errors about the operation itself, rather than its work, say of it."""

_MAY_PASS = Phase.RETRYABLE_FAILED
SQL_STATES: Mapping[str, Phase] = {
    **dict.fromkeys(("07", "0A", "21", "22", "23", "2B", "38", "39", "3F", "42", "46", "54", "56", "P0"), Phase.FAILED),
    **dict.fromkeys(("40", "51", "53", "58", "82", "F0", "HV", "HY", "KD", "XX"), _MAY_PASS),
}
"""How a failure ends a task, by the class of its SQLSTATE: the task's own doing, or Spark's and its storage's."""

_EXCEPTIONS: Mapping[str, str] = {
    "org.apache.spark.api.python.PythonException": "PythonException",
    "org.apache.hadoop.security.AccessControlException": "Forbidden",
    "java.nio.file.AccessDeniedException": "Forbidden",
    "org.apache.hadoop.fs.UnsupportedFileSystemException": "UnsupportedFileSystem",
    "java.io.FileNotFoundException": "FileNotFound",
    "java.lang.ClassNotFoundException": "ClassNotFound",
}
"""Exceptions without a condition that are the task's own doing, and their codes."""

_LONGEST = 2000  # characters of a message


@dataclass(frozen=True, slots=True)
class Told:
    """An error that a server told. `condition` is Spark's name of it; empty if Spark has none, or did not answer.

    `status` is gRPC's name of the status, `is_sparks` whether it was Spark that answered, `after` when to ask again.
    """

    status: str
    words: str
    condition: str = ""
    sql_state: str = ""
    classes: tuple[str, ...] = ()
    is_sparks: bool = False
    after: float | None = None

    @property
    def handle(self) -> Handle | None:
        return HANDLES.get(self.condition)


def failure_of(told: Told) -> Resource:
    """How an operation ended that Spark says has failed.

    >>> failure_of(Told("INTERNAL", "no such table", "TABLE_OR_VIEW_NOT_FOUND", "42P01", (), True)).code
    'TableOrViewNotFound'
    """
    words = told.words.strip()[:_LONGEST]
    if told.condition == "OPERATION_CANCELED":
        return Resource(Phase.ABORTED, message=words, code="Canceled")
    for name in () if told.condition else (*told.classes, words.partition(":")[0]):
        if name in _EXCEPTIONS:
            return Resource(Phase.FAILED, message=words, code=_EXCEPTIONS[name])
    phase = SQL_STATES.get(told.sql_state[:2])
    if phase is None and told.sql_state:
        log.warning("Spark names an SQLSTATE that is not in the table: %s", told.sql_state)
    code = "Forbidden" if told.sql_state == "42501" else _camel(told.condition.partition(".")[0])
    return Resource(phase or _MAY_PASS, message=words, code=code or "SparkFailed")


def error_of(told: Told, *, polling: bool = False) -> AgentError:
    """The error of a call that did not come to an operation: while polling, everything may pass."""
    words = f"Spark answered {told.status}: {told.words.strip()[:_LONGEST]}"
    if told.is_sparks:
        end = failure_of(told)
        return Retry(words) if polling or end.phase is _MAY_PASS else Fail(end.message, code=end.code)
    if told.status == "UNAVAILABLE":
        return Retry(f"Spark cannot be reached: {told.words.strip()[:_LONGEST]}", after=told.after)
    code = {"PERMISSION_DENIED": "Forbidden", "INVALID_ARGUMENT": "InvalidRequest", "UNIMPLEMENTED": "InvalidRequest"}
    if polling or told.status not in code:
        return Retry(words, after=told.after)
    return Fail(words, code=code[told.status])


def _camel(condition: str) -> str:
    return "".join(word.capitalize() for word in re.split(r"[^A-Za-z0-9]+", condition))
