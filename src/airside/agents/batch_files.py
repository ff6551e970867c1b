"""The files of batches of language models: JSON lines up, JSON lines down, one request or answer each."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from airside.model import Fail

_ERRORS_TOLD = 3


@dataclass(slots=True)
class Tally:
    """What went by in a file of answers: tokens, and the first errors with the ids of their requests."""

    input_tokens: int = 0
    output_tokens: int = 0
    errors: list[str] = field(default_factory=list)

    def lines(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The lines as they are, each looked at in passing."""
        for line in lines:
            if line.strip():
                self.see(line)
                yield line + b"\n"

    @property
    def is_full(self) -> bool:
        """True if no more errors are kept."""
        return len(self.errors) >= _ERRORS_TOLD

    def see(self, line: bytes) -> None:
        """Count one answer. A line that is no JSON object is an error itself."""
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self._error("?", "not a JSON object")
            return
        result = _table(answer, "result")
        body = _table(_table(answer, "response"), "body") or _table(result, "message")
        usage = _table(body, "usage")
        self.input_tokens += _count(usage, "input_tokens", "prompt_tokens")
        self.output_tokens += _count(usage, "output_tokens", "completion_tokens")
        error = answer.get("error") or _inner_error(result) or body.get("error")
        if error:
            words = error.get("message") or error.get("code") or error if isinstance(error, dict) else error
            self._error(str(answer.get("custom_id") or "?"), str(words))

    def _error(self, request: str, words: str) -> None:
        if not self.is_full:
            self.errors.append(f"{request}: {' '.join(words.split())}")

    def usage(self) -> dict[str, int]:
        """The tokens, if any were told."""
        if not self.input_tokens and not self.output_tokens:
            return {}
        return {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens}


def _inner_error(result: Mapping[str, Any]) -> Any:
    """The error in an answer of Anthropic: `{"type": "errored", "error": {"type": "error", "error": {...}}}`."""
    error = result.get("error") or {}
    return error.get("error") or error if isinstance(error, dict) else error


def _table(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object within an answer; an empty one if there is something else, or nothing."""
    found = answer.get(name)
    return found if isinstance(found, dict) else {}


def _count(usage: Mapping[str, Any], *names: str) -> int:
    return next((one for name in names if isinstance(one := usage.get(name), int)), 0)


def lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    r"""The lines of a file of JSON lines that comes in pieces: only a line feed ends one, as a text may have U+2028.

    >>> list(lines_of([b'{"a"', b': 1}\r\n{"b": "\xe2\x80\xa8"', b"}"]))
    [b'{"a": 1}', b'{"b": "\xe2\x80\xa8"}']
    """
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in whole)
    if rest:
        yield rest


def spool(requests: Sequence[Any]) -> BinaryIO:
    """A temporary file with one request a line, to be closed by the caller."""
    file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - handed on
    for number, one in enumerate(requests):
        if not isinstance(one, Mapping):
            file.close()
            raise Fail(f"inputs.requests[{number}]: expected an object, got {one!r}.")
        file.write(json.dumps(one, separators=(",", ":")).encode() + b"\n")
    file.seek(0)
    return file
