"""Caller tokens: who may call, on top of who can reach the port."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from airside.model import UsageError
from airside.model.redaction import hide
from airside.observe.events import Event, What
from airside.server.reload import WatchedFiles
from airside.wire.families import FAMILIES

log = logging.getLogger("airside.server")

MIN_LENGTH = 16
"""Characters of a token; a shorter one could be guessed."""
REFUSAL = "This service wants a token that it knows: send the metadata `authorization: Bearer TOKEN`."
_OPEN = "/grpc.health.v1.Health/"  # probes have no token
_VERBS = {method.path: verb for family in FAMILIES for verb, method in family.methods.items()}
_COMPLAIN_AGAIN = 10.0  # seconds between two log lines of refused calls

Tell = Callable[[Event], None]


class Tokens:
    """The tokens in a file, one a line; empty lines and lines with `#` are skipped. Making one blocks.

    Several tokens are good at once, so that callers can change from one to the next. `tell` is called on any
    thread. Raises `UsageError`, naming the line, if the file cannot be read or a token is too short.
    """

    def __init__(self, file: Path, tell: Tell) -> None:
        self._file = file
        self._tell = tell
        self._watched = WatchedFiles(file)
        self._complaint = ""
        self._digests = self._read()
        if not self._digests:
            raise UsageError(f"{file} holds no token: put one on each line, such as `openssl rand -hex 32` makes.")

    def knows(self, token: str) -> bool:
        """True if this is one of the tokens. How long it takes tells nothing about them."""
        offered = _digest(token.encode("utf-8", "replace"))
        return any([hmac.compare_digest(offered, one) for one in self._digests])  # noqa: C419 - all are compared

    def look(self) -> None:
        """Read the file again if it has changed. Blocks.

        A file without a token lets nobody in. One that cannot be read, or holds a bad line, changes nothing.
        """
        try:
            if not self._watched.renew() and not self._complaint:
                return
            digests = self._read()
        except UsageError as exc:
            if str(exc) != self._complaint:
                self._complaint = str(exc)
                log.error("the tokens cannot be read again, the last ones stay good: %s", exc)
                self._tell(Event(what=What.NOT_RELOADED, operation="tokens", message=str(exc)))
            return
        self._complaint = ""
        self._digests = digests
        log.info("the tokens have changed; %d are good from now on", len(digests))
        self._tell(Event(what=What.RELOADED, operation="tokens"))

    def _read(self) -> Sequence[bytes]:
        found = []
        for number, line in enumerate(self._watched.contents[0].splitlines(), start=1):
            token = line.strip()
            if not token or token.startswith(b"#"):
                continue
            if len(token) < MIN_LENGTH or not token.isascii() or len(token.split()) > 1:
                raise UsageError(
                    f"{self._file}, line {number}: a token has at least {MIN_LENGTH} letters, digits or signs "
                    "and no spaces; `openssl rand -hex 32` makes one."
                )
            hide(token.decode())
            found.append(_digest(token))
        return found


class TokenGate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not generic at run time
    """Lets a call pass only with `authorization: Bearer TOKEN`. Health checks pass without."""

    def __init__(self, tokens: Tokens, tell: Tell) -> None:
        self._tokens = tokens
        self._tell = tell
        self._refused = 0
        self._complained_at = float("-inf")
        # One handler for calls of every kind: a refusal is the same bytes for all of them.
        self._refusal = grpc.stream_stream_rpc_method_handler(self._refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of the call, or one that refuses it."""
        path = handler_call_details.method
        if path.startswith(_OPEN) or self._tokens.knows(_bearer(handler_call_details.invocation_metadata)):
            return await continuation(handler_call_details)
        self._tell(Event(what=What.CALL, operation=_VERBS.get(path, ""), code="UNAUTHENTICATED"))
        return self._refusal

    async def _refuse(self, requests: Any, context: Any) -> None:
        del requests
        self._refused += 1
        now = time.monotonic()
        if now - self._complained_at >= _COMPLAIN_AGAIN:
            log.warning("%d calls without a known token were refused, the last from %s", self._refused, context.peer())
            self._refused, self._complained_at = 0, now
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)


def _bearer(metadata: Any) -> str:
    given = next((value for key, value in metadata or () if key == "authorization"), "")
    scheme, _, token = str(given).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
