"""Logs: one line an event, JSON or for the console, with every known secret replaced by `***`."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Literal, TextIO

from airside.model.redaction import redact

MAX_FIELD = 16 * 1024
"""Characters of a message, a traceback or another field of a line; the middle of a longer one is left out."""

Format = Literal["console", "json"]
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """Formats a record as one redacted line; fields given as `extra` are kept."""

    def __init__(self, style: Format) -> None:
        super().__init__()
        self._shape = style

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        extra = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        line = self._json(record, extra) if self._shape == "json" else self._console(record, extra)
        return redact(line)

    def _json(self, record: logging.LogRecord, extra: dict[str, object]) -> str:
        fields: dict[str, object] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **extra,
        }
        if record.exc_info:
            fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        shown = {key: _short(redact(value)) if isinstance(value, str) else value for key, value in fields.items()}
        return json.dumps(shown, default=str, ensure_ascii=False)

    def _console(self, record: logging.LogRecord, extra: dict[str, object]) -> str:
        tail = "".join(
            f" {key}={_short(redact(str(value)))}" for key, value in extra.items() if value not in ("", None)
        )
        text = f"{_time(record):%H:%M:%S} {record.levelname.lower():<7} {_short(redact(record.getMessage()))}{tail}"
        if record.exc_info and record.levelno >= logging.ERROR:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return text


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines. A record that cannot be formatted is told of without its arguments, which may hold a secret."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """One line with the reason and where the record was made."""
        error = sys.exc_info()[1]
        reason = " ".join(redact(str(error)).split())
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(f"log record of {record.pathname}:{record.lineno}: {type(error).__name__}: {reason}\n")


_TALKATIVE = ("httpx", "httpx2")


def configure(style: Format = "console", level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all log records of the process to `stream` (standard error) in one style.

    HTTP libraries that tell every request are heard with `level="debug"` only: polls are many.
    """
    handler = LineHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(style))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.NOTSET if level.upper() == "DEBUG" else logging.WARNING)


def _short(text: str) -> str:
    """The text, or its beginning and its end: callers must not fill the disk with names they make up."""
    if len(text) <= MAX_FIELD:
        return text
    half = MAX_FIELD // 2
    return f"{text[:half]} ... {len(text) - MAX_FIELD:,} characters left out ... {text[-half:]}"


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC).astimezone()
