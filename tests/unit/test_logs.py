"""Log lines: one an event, of whatever was given, and never a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from airside.model.redaction import hide
from airside.observe.logs import MAX_FIELD, Format, configure

SECRET = 'pass"word-with\nlines'


class Unprintable:
    def __str__(self) -> str:
        raise ValueError(SECRET)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    monkeypatch.setattr(logging.root, "handlers", [])
    level = logging.root.level
    hide(SECRET)
    yield io.StringIO()
    logging.root.setLevel(level)


@pytest.mark.parametrize("style", ["json", "console"])
def test_whatever_is_given_is_one_line_without_the_secret(style: Format, stream: io.StringIO) -> None:
    configure(style, "debug", stream)
    extra = {"list": [SECRET], "dict": {SECRET: SECRET}, "text": SECRET, "empty": "", "none": None, "number": 3}
    logging.getLogger("t").warning("said %s and %r", SECRET, SECRET, extra=extra)
    (line,) = stream.getvalue().splitlines()
    assert "said *** and '***'" in line
    assert "password" not in line
    assert "lines" not in line
    if style == "json":
        assert json.loads(line)["number"] == 3


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_record_that_cannot_be_formatted_is_told_of_without_what_it_holds(style: Format, stream: io.StringIO) -> None:
    configure(style, "debug", stream)
    logging.getLogger("t").error("%s and %d", SECRET, "no number")
    logging.getLogger("t").error("%s %s", Unprintable(), SECRET)
    text = stream.getvalue()
    assert text.count("test_logs.py:") == 2
    assert ": TypeError: %d format" in text
    assert ": ValueError: ***" in text
    assert "with" not in text.replace("Unprintable", "")


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_name_that_a_caller_made_up_does_not_fill_the_disk(style: Format, stream: io.StringIO) -> None:
    """The cut leaves no half of a secret behind."""
    configure(style, "debug", stream)
    name = "A" * (MAX_FIELD // 2 - 5) + SECRET + "Z" * 1_000_000
    logging.getLogger("t").warning("refused %s", name, extra={"task_type": name})
    (line,) = stream.getvalue().splitlines()
    assert len(line) < 3 * MAX_FIELD
    assert "characters left out" in line
    assert "pass" not in line


@pytest.mark.parametrize(("level", "heard"), [("info", []), ("debug", ["GET /v1/jobs"])])
def test_a_request_of_an_http_library_is_told_to_whoever_debugs(
    stream: io.StringIO, level: str, heard: list[str]
) -> None:
    configure("json", level, stream)
    logging.getLogger("httpx2").info("GET /v1/jobs")
    logging.getLogger("httpx2").warning("a warning")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == [*heard, "a warning"]
