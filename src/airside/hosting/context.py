"""A gRPC context for an agent that is called without an RPC: it records what the agent tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import grpc

from airside.model import AgentError, Call
from airside.wire.status import error_from_status


class Aborted(Exception):
    """The agent called `context.abort`."""


class RecordingContext(grpc.ServicerContext):
    """Looks like the context of an RPC that nobody cancels. `error` is what the agent reported through it, if anything.

    Works for `def` and `async def` agents alike: `abort` raises as soon as it is called.

    >>> context = RecordingContext("CustomAgent.get")
    >>> context.set_code(grpc.StatusCode.NOT_FOUND)
    >>> context.set_details("no job 7")
    >>> context.error
    NotFound('no job 7')
    """

    def __init__(self, where: str, call: Call = Call()) -> None:  # noqa: B008 - frozen
        self._where = where
        self._call = call
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: tuple[Any, ...] = ()

    @property
    def error(self) -> AgentError | None:
        """The error that the recorded status means, or None for OK."""
        if self._code in (None, grpc.StatusCode.OK):
            return None
        return error_from_status(self._code, self._details or f"{self._where} set the status {self._code.name}")

    def set_code(self, code: grpc.StatusCode | int) -> None:
        self._code = code if isinstance(code, grpc.StatusCode) else _BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)

    def set_details(self, details: str | bytes) -> None:
        self._details = details.decode("utf-8", "replace") if isinstance(details, bytes) else str(details)

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def details(self) -> str:
        return self._details

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        self.set_code(code)
        self.set_details(details)
        self._trailing = tuple(trailing_metadata)
        if self._code is grpc.StatusCode.OK:
            self._code = grpc.StatusCode.UNKNOWN  # as gRPC has it: aborting is never a success
        raise Aborted(f"{self._code}: {details}")

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self.abort(status.code, status.details, status.trailing_metadata or ())

    def invocation_metadata(self) -> tuple[Any, ...]:
        return ()

    def set_trailing_metadata(self, trailing_metadata: Iterable[Any]) -> None:
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> tuple[Any, ...]:
        return self._trailing

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        del initial_metadata

    def peer(self) -> str:
        return "airside"

    def peer_identities(self) -> Sequence[bytes] | None:
        return None

    def peer_identity_key(self) -> str | None:
        return None

    def auth_context(self) -> Mapping[str, bytes]:
        return {}

    def time_remaining(self) -> float | None:  # type: ignore[override]  # gRPC too returns None without a deadline
        return self._call.remaining

    def is_active(self) -> bool:
        return True

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        del callback
        return False


_BY_NUMBER = {status.value[0]: status for status in grpc.StatusCode}
