"""What an HTTP answer means for a webhook task: success or failure, worth another try or not, and the outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from airside.agents.http_request import HttpRequest
from airside.agents.json_values import Kind, from_json, is_optional
from airside.model import ConversionError, Fail, Phase, Resource
from airside.model.redaction import redact

_RETRIED = (408, 425, 429)  # and every 5xx
_SNIPPET = 300  # characters of an answer in a message
_KEPT_BACK = ("set-cookie", "set-cookie2")  # credentials


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A response: its status, its headers by lower-case name, its text (None if it was too large to take)."""

    status: int
    headers: Mapping[str, str]
    text: str | None

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait, or None.

        >>> HttpAnswer(429, {"retry-after": "7"}, "").retry_after
        7.0
        """
        told = self.headers.get("retry-after", "").strip()
        if not told:
            return None
        if told.isascii() and told.isdigit():
            return float(told)
        try:
            at = parsedate_to_datetime(told)
        except ValueError:
            return None
        aware = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def judge(answer: HttpAnswer, request: HttpRequest, declared: Mapping[str, Kind]) -> Resource:
    """The end of a task whose request was answered so. `declared` are the kinds of its outputs."""
    expected = answer.status in request.expected if request.expected else 200 <= answer.status < 300
    if not expected:
        return _unexpected(answer, request)
    if answer.text is None:
        return Resource(
            Phase.FAILED,
            code="ResponseTooLarge",
            message=f"{request.host} answered with more than the webhook agent's max_response_bytes.",
        )
    try:
        outputs = {name: _output(name, kind, answer, request) for name, kind in declared.items()}
    except ConversionError as exc:
        return Resource(Phase.FAILED, message=str(exc), code="OutputConversionError")
    except Fail as exc:
        return Resource(Phase.FAILED, message=exc.message, code=exc.code)
    return Resource(Phase.SUCCEEDED, outputs=outputs)


def _unexpected(answer: HttpAnswer, request: HttpRequest) -> Resource:
    told = f"{request.method} {request.host} answered {answer.status} {_phrase(answer.status)}".rstrip()
    place = answer.headers.get("location", "")
    if 300 <= answer.status < 400 and place:
        message = f"{told}, to {place[:_SNIPPET]}: redirects are not followed, so give the final address as the url"
        return Resource(Phase.FAILED, message=redact(message), code="Redirect")
    words = " ".join((answer.text or "").split())[:_SNIPPET]
    again = answer.status in _RETRIED or answer.status >= 500
    return Resource(
        Phase.RETRYABLE_FAILED if again else Phase.FAILED,
        message=redact(f"{told}: {words}" if words else told),
        code=f"Http{answer.status}",
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _output(name: str, kind: Kind, answer: HttpAnswer, request: HttpRequest) -> Any:
    """The value of one output, by its name. What a server echoes of our secrets is masked."""
    text = redact(answer.text or "")
    match name:
        case "status":
            return answer.status
        case "body":
            return text
        case "headers":
            return {key: redact(value) for key, value in answer.headers.items() if key not in _KEPT_BACK}
        case "json":
            return _json(text, request)
        case "info":
            return {"status_code": answer.status, "response_data": text, **request.info}
    fields = _json(text, request)
    if isinstance(fields, dict) and (name in fields or is_optional(kind)):
        return from_json(fields.get(name), kind, f"outputs.{name}")
    raise Fail(
        f"Output {name!r} is neither status, body, json nor headers, and no field of the answer of {request.host}.",
        code="OutputsNotFound",
    )


def _json(text: str, request: HttpRequest) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        snippet = " ".join(text.split())[:_SNIPPET]
        raise Fail(f"{request.host} did not answer with JSON: {snippet!r}.", code="NotJson") from exc
