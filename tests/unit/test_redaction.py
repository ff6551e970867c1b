"""Secrets are hidden in whatever leaves, whatever there is of both."""

from __future__ import annotations

import time
from collections import OrderedDict

import pytest

from airside.model import redaction
from airside.model.redaction import hide, redact


@pytest.fixture(autouse=True)
def _secrets_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests keep theirs."""
    monkeypatch.setattr(redaction, "_known", OrderedDict())
    monkeypatch.setattr(redaction, "_longest_first", ())
    monkeypatch.setattr(redaction, "_stale", False)


def test_the_longer_of_two_secrets_is_hidden_whole() -> None:
    hide("abcd-1")
    hide("abcd-1-and-more")
    assert redact("x abcd-1-and-more y abcd-1 z") == "x *** y *** z"


def test_short_values_stay() -> None:
    hide("yes")
    hide("")
    assert redact("yes, it says yes") == "yes, it says yes"


def test_many_secrets_do_not_hold_up_a_long_message() -> None:
    """A message is redacted on the loop, while every other job waits."""
    for number in range(4000):
        hide(f"s3cret-{number:04}-of-many")
    text = "the job is running and has written 3 rows " * 400 + "s3cret-0007-of-many"
    redact(text)
    began = time.perf_counter()
    assert redact(text).endswith(" ***")
    assert time.perf_counter() - began < 0.1
