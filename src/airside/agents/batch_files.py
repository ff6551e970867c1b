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

    def lines(self, lines: Iterable[str]) -> Iterator[bytes]:
        """The lines as they are, each looked at in passing."""
        for line in lines:
            if line.strip():
                self.see(line)
                yield line.encode() + b"\n"

    def see(self, line: str) -> None:
        """Count one answer. A line that is no JSON object is an error itself."""
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self._error("?", "not a JSON object")
            return
        result = answer.get("result") or {}
        body = (answer.get("response") or {}).get("body") or result.get("message") or {}
        usage = (body.get("usage") or {}) if isinstance(body, dict) else {}
        self.input_tokens += usage.get("input_tokens") or usage.get("prompt_tokens") or 0
        self.output_tokens += usage.get("output_tokens") or usage.get("completion_tokens") or 0
        error = answer.get("error") or _inner_error(result) or (body.get("error") if isinstance(body, dict) else None)
        if error:
            words = error.get("message") or error.get("code") or error if isinstance(error, dict) else error
            self._error(str(answer.get("custom_id") or "?"), str(words))

    def _error(self, request: str, words: str) -> None:
        if len(self.errors) < _ERRORS_TOLD:
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
