"""OpenTelemetry spans: from the engine's call to the agent's, in the trace that the caller began.

Only the API is used, which does nothing by itself: where spans go is decided by the SDK that the operator sets up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airside.model import AirsideError, MissingExtra, UsageError
from airside.model.redaction import redact

_CANCELLED = 1
_ERRORS = {
    2: "UNKNOWN",
    4: "DEADLINE_EXCEEDED",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
}
"""gRPC statuses that count as errors of a server in OpenTelemetry's conventions; the others are the caller's."""


class Tracing:
    """Makes spans. `provider` is OpenTelemetry's tracer provider, the process's own if it is not given.

    Raises `MissingExtra` without the extra `tracing`, `UsageError` if no SDK is set up in this process: all spans
    would go nowhere.
    """

    def __init__(self, provider: Any = None) -> None:
        try:
            from opentelemetry import propagate, trace
        except ImportError as exc:
            raise MissingExtra("tracing", "Tracing") from exc
        provider = provider or trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            raise UsageError(
                "Tracing needs an OpenTelemetry SDK in this process: start the service with "
                "`opentelemetry-instrument airside serve --tracing`."
            )
        self._trace = trace
        self._extract = propagate.extract
        self._tracer = provider.get_tracer("airside")

    @contextmanager
    def rpc(self, path: str, metadata: Iterable[tuple[str, Any]] | None, code: Callable[[], Any]) -> Iterator[None]:
        """The span of an RPC `/service/Method`, in the trace that its metadata names. `code()` is asked at its end."""
        service, _, method = path.strip("/").rpartition("/")
        carrier = {key: value for key, value in metadata or () if isinstance(value, str)}
        with self._tracer.start_as_current_span(
            f"{service}/{method}",
            context=self._extract(carrier),
            kind=self._trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            cancelled = True
            try:
                yield
                cancelled = False
            except Exception:
                cancelled = False
                raise
            finally:
                number = _CANCELLED if cancelled else _number(code())
                span.set_attribute("rpc.grpc.status_code", number)
                if number in _ERRORS:
                    span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, _ERRORS[number]))

    @contextmanager
    def backend(self, operation: str, *, agent: str, task_type: str, key: str, jobs: int) -> Iterator[None]:
        """The span of one call of an agent's method."""
        attributes = {"airside.agent": agent, "airside.task_type": task_type, "airside.operation": operation}
        if key:
            attributes["airside.key"] = key
        with self._tracer.start_as_current_span(
            f"{agent} {operation}",
            kind=self._trace.SpanKind.CLIENT,
            attributes={**attributes, "airside.jobs": jobs},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as exc:
                span.set_attribute("error.type", type(exc).__name__)
                span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, _sentence(exc)))
                raise


def carrier() -> dict[str, str]:
    """What another process must be told to go on in the current trace; nothing if there is none.

    >>> carrier()
    {}
    """
    told: dict[str, str] = {}
    if "opentelemetry.propagate" in sys.modules:  # else nothing here is traced
        from opentelemetry import propagate

        propagate.inject(told)
    return told


@contextmanager
def continued(told: Mapping[str, str]) -> Iterator[None]:
    """Go on in the trace that another process told of by `carrier`, if OpenTelemetry is installed here."""
    if not told:
        yield
        return
    try:
        from opentelemetry import context, propagate
    except ImportError:
        yield
        return
    token = context.attach(propagate.extract(dict(told)))
    try:
        yield
    finally:
        context.detach(token)


def _number(code: Any) -> int:
    """The number of a gRPC status, which is an enum, a number, or nothing for OK."""
    value = getattr(code, "value", code)
    number = value[0] if isinstance(value, tuple) else value
    return number if isinstance(number, int) else 0


def _sentence(exc: BaseException) -> str:
    """What a span may say of an error: the text of ours, and of others only the kind, as in a message to Flyte."""
    if isinstance(exc, AirsideError):
        return redact(" ".join(str(exc).split()))[:512]
    return type(exc).__name__
