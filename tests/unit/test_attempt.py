"""What an error of an agent means for the attempt that it ends."""

from __future__ import annotations

import pytest

from airside import ConversionError, Fail, MissingExtra, Phase, Retry
from airside.engine.attempt import refused


@pytest.mark.parametrize(
    ("error", "phase", "code"),
    [
        (Fail("x", code="TableNotFound"), Phase.FAILED, "TableNotFound"),
        (ConversionError("inputs.x", "expected int"), Phase.FAILED, "InputConversionError"),
        (MissingExtra("duckdb", "It"), Phase.FAILED, "UsageError"),
        (Retry("x"), Phase.RETRYABLE_FAILED, "Retryable"),
        (TimeoutError(), Phase.RETRYABLE_FAILED, "Timeout"),
        (ValueError("x"), Phase.RETRYABLE_FAILED, "UnexpectedError"),
    ],
)
def test_how_a_create_that_raised_ends_the_attempt(error: Exception, phase: Phase, code: str) -> None:
    resource = refused(error)
    assert (resource.phase, resource.code) == (phase, code)
    assert resource.message
