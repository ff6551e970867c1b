"""Secrets are hidden in whatever leaves, whatever there is of both."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import quote

import pytest

from airside.model import redaction
from airside.model.redaction import hide, redact


@pytest.fixture(autouse=True)
def _secrets_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests keep theirs."""
    monkeypatch.setattr(redaction, "_known", OrderedDict())
    monkeypatch.setattr(redaction, "_passing", OrderedDict())
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
    began = time.process_time()
    assert redact(text).endswith(" ***")
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize(
    "secret", ['quo"ted', "back\\slash", "apo'strophe", "tab\there", "umläut", "two\nlines", "a b/c+d=e"]
)
@pytest.mark.parametrize(
    "write",
    [str, repr, json.dumps, quote, lambda s: " ".join(s.split()), lambda s: repr({"k": [s]}), lambda s: repr(repr(s))],
)
def test_a_secret_is_found_in_whatever_notation(secret: str, write: Callable[[str], str]) -> None:
    hide(secret)
    text = write(secret)
    assert redact(f"before {text} after").count("***") == 1
    for part in secret.splitlines():
        assert part not in redact(text)


def test_a_key_is_hidden_line_by_line_but_not_the_words_around_it() -> None:
    hide("-----BEGIN PRIVATE KEY-----\nMIIEvgIBADANBgkqhkiG9w0\nshort\n-----END PRIVATE KEY-----\n")
    assert redact("read MIIEvgIBADANBgkqhkiG9w0 from it") == "read *** from it"
    assert (
        redact("no -----BEGIN PRIVATE KEY----- in it; cut short") == "no -----BEGIN PRIVATE KEY----- in it; cut short"
    )


def test_callers_cannot_make_it_forget_its_own_secrets() -> None:
    hide("our-own-secret")
    for number in range(10_000):
        hide(f"made-up-{number}", passing=True)
    assert redact("our-own-secret made-up-9999 made-up-1") == "*** *** made-up-1"


def test_a_huge_value_is_not_kept() -> None:
    hide("x" * 1_000_000, passing=True)
    assert sum(map(len, redaction._passing)) == 0
