"""Errors to statuses and back."""

from __future__ import annotations

import asyncio
import traceback

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from airside import ConversionError, Fail, MissingExtra, NotFound, Phase, PluginError, Retry
from airside.model.redaction import hide
from airside.sdk.invoke import AgentCrash
from airside.wire import limits
from airside.wire.status import FAILURES, error_from_status, failure, sentence, status_for


@pytest.mark.parametrize(
    ("error", "status", "details", "phase", "code"),
    [
        (NotFound("j-1"), StatusCode.NOT_FOUND, "j-1", Phase.RETRYABLE_FAILED, "JobNotFound"),
        (NotFound(), StatusCode.NOT_FOUND, "JobNotFound", Phase.RETRYABLE_FAILED, "JobNotFound"),
        (Retry("later", after=3), StatusCode.UNAVAILABLE, "later", Phase.RETRYABLE_FAILED, "Retryable"),
        (Fail("no", code="TableNotFound"), StatusCode.FAILED_PRECONDITION, "no", Phase.FAILED, "TableNotFound"),
        (Fail("no", code="OutOfRange"), StatusCode.OUT_OF_RANGE, "no", Phase.FAILED, "OutOfRange"),
        (
            ConversionError("inputs.x", "expected int"),
            StatusCode.INVALID_ARGUMENT,
            "inputs.x: expected int",
            Phase.FAILED,
            "ConversionError",
        ),
        (PluginError("bad class"), StatusCode.FAILED_PRECONDITION, "bad class", Phase.FAILED, "UsageError"),
        (NotImplementedError(), StatusCode.UNIMPLEMENTED, "NotImplementedError", Phase.FAILED, "Unimplemented"),
        (TimeoutError(), StatusCode.DEADLINE_EXCEEDED, "TimeoutError", Phase.RETRYABLE_FAILED, "Timeout"),
        (asyncio.CancelledError(), StatusCode.CANCELLED, "CancelledError", Phase.RETRYABLE_FAILED, "Cancelled"),
        (
            ValueError("line 1\n  line 2"),
            StatusCode.INTERNAL,
            "ValueError: line 1 line 2",
            Phase.RETRYABLE_FAILED,
            "UnexpectedError",
        ),
        (
            AgentCrash("SystemExit raised"),
            StatusCode.INTERNAL,
            "SystemExit raised",
            Phase.RETRYABLE_FAILED,
            "UnexpectedError",
        ),
    ],
)
def test_the_table(error: BaseException, status: StatusCode, details: str, phase: Phase, code: str) -> None:
    assert status_for(error) == (status, details)
    resource = failure(error)
    assert (resource.phase, resource.message, resource.code) == (phase, details, code)


@pytest.mark.parametrize("status", [status for status in StatusCode if status is not StatusCode.OK])
def test_every_status_means_something_to_the_caller(status: StatusCode) -> None:
    error = error_from_status(status, "what happened")
    expected: type[Exception] = NotFound if status is StatusCode.NOT_FOUND else Fail if status in FAILURES else Retry
    assert type(error) is expected
    assert str(error) == "what happened"
    assert str(error_from_status(status, "")) == f"The agent service answered {status.name} without details."


def test_a_message_over_grpcs_limit_is_not_repeated() -> None:
    error = error_from_status(StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)")
    assert isinstance(error, Fail)
    assert error.code == "MessageTooLarge"
    assert isinstance(error_from_status(StatusCode.RESOURCE_EXHAUSTED, "quota"), Retry)


@pytest.mark.parametrize(
    "error",
    [Retry("later"), NotFound("gone"), *(Fail("no", code=code) for code in FAILURES.values())],
    ids=lambda error: error.code,
)
def test_an_error_survives_a_proxy(error: Retry | NotFound | Fail) -> None:
    again = error_from_status(*status_for(error))
    assert type(again) is type(error)
    assert again.code == error.code
    assert str(again) == str(error)


@given(st.text(max_size=3000))
def test_details_are_one_bounded_line(text: str) -> None:
    for error in (ValueError(text), Fail(text), RuntimeError(f"{text}\n{text}")):
        details = status_for(error)[1]
        assert details
        assert len(details.splitlines()) == 1
        assert len(details.encode()) <= limits.DETAILS


def test_no_traceback_leaves() -> None:
    try:
        {}["rows"]
    except KeyError:
        text = traceback.format_exc()
    assert status_for(RuntimeError(text))[1] == "RuntimeError: KeyError: 'rows'"
    assert (
        str(error_from_status(StatusCode.INTERNAL, f"failed to create:\n{text}"))
        == "failed to create: KeyError: 'rows'"
    )


def test_secrets_are_hidden() -> None:
    hide("p4ssw0rd-in-details")
    assert status_for(MissingExtra("x", "p4ssw0rd-in-details"))[1].startswith("*** needs")


def test_an_error_that_cannot_be_printed_is_told_by_its_name() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert sentence(Mute()) == "Mute"
