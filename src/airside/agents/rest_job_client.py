"""The requests to a REST job service that a file describes, and what is read out of the answers."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from airside.agents.http_request import HEADER_VALUE
from airside.agents.http_status import error_of_status
from airside.agents.json_values import to_json
from airside.agents.placeholders import render, render_value, text_of
from airside.agents.rest_job_description import Description, Request, compiled
from airside.model import Connection, Fail, Retry, UsageError
from airside.model.redaction import hide
from airside.sdk.secrets import secret

if TYPE_CHECKING:
    import httpx2

_SNIPPET = 300  # characters of an answer in a message
_NO_SECRET = ("NoCredentials", "CredentialsNotUsable")

Facts = Mapping[str, str]


class RestClient:
    """Asks one service. Made on a thread, since its libraries take a while to load."""

    def __init__(self, name: str, described: Description) -> None:
        import httpx2

        self._name = name
        self._described = described
        self._paths = compiled(described)
        self._client = httpx2.AsyncClient(timeout=described.timeout, follow_redirects=False, trust_env=False)

    async def close(self) -> None:
        """Close the sockets."""
        await self._client.aclose()

    async def knock(self) -> int:
        """The status of an answer from the service's address. Raises `Retry` if nothing answers, or with an error."""
        import httpx2

        try:
            response = await self._client.get(self._described.base_url)
        except httpx2.HTTPError as exc:
            raise Retry(f"{self._name}: {' '.join(str(exc).split()) or type(exc).__name__}") from None
        if response.status_code >= 500:
            raise Retry(f"{self._name} answered {response.status_code} {response.reason_phrase}".rstrip())
        return response.status_code

    def first(self, path: str, answer: Any) -> Any:
        """The first value that a path finds; None if there is none, or it is null."""
        return next((match.obj for match in self._paths[path].finditer(answer)), None) if _is_json(answer) else None

    def all(self, path: str, answer: Any) -> list[Any]:
        """Every value that a path finds."""
        return self._paths[path].findall(answer) if _is_json(answer) else []

    def text(self, path: str, answer: Any) -> str:
        """The first value that a path finds, in one line; empty without one, or without a path."""
        found = self.first(path, answer) if path else None
        return "" if found is None else " ".join(text_of(found).split())

    async def prepare(
        self,
        described: Request,
        facts: Facts,
        inputs: Mapping[str, Any],
        connection: Connection | None,
        default: Any = None,
        *,
        polling: bool = True,
    ) -> httpx2.Request:
        """A request with everything filled in, on a thread: inputs and secrets may have to be read.

        While polling, a secret that is missing is `Retry`: a job is not given up for that.
        """
        try:
            return await asyncio.to_thread(self._request, described, facts, inputs, connection, default)
        except Fail as exc:
            if polling and exc.code in _NO_SECRET:
                raise Retry(exc.message) from None
            raise

    def _request(
        self,
        described: Request,
        facts: Facts,
        inputs: Mapping[str, Any],
        connection: Connection | None,
        default: Any,
    ) -> httpx2.Request:
        """A request with everything filled in. What is filled into a path is one part of it, whatever it contains."""
        quoted = {name: quote(value, safe=",") for name, value in facts.items()}
        path = render(described.path, inputs, quoted, lambda _, value: quote(text_of(value), safe=""))
        if any(part in (".", "..") for part in path.split("?")[0].split("/")):
            raise Fail(f"{self._name}: an input would lead the request elsewhere: {path}", code="InvalidRequest")
        query = render_value(described.query, inputs, facts)
        url = self._described.base_url.rstrip("/") + path
        if query:
            url += ("&" if "?" in url else "?") + urlencode({name: text_of(one) for name, one in query.items()})
        headers = {name: render(value, inputs, facts) for name, value in described.headers.items()}
        content: bytes | None = None
        if described.body:
            content = render(described.body, inputs, facts).encode()
        elif described.json is not None or default is not None:
            told = dict(default) if described.json is None else render_value(described.json, inputs, facts)
            content = json.dumps(to_json(told), ensure_ascii=False, separators=(",", ":")).encode()
            headers.setdefault("Content-Type", "application/json")
        for name, value in headers.items():
            if not HEADER_VALUE.match(value):
                raise Fail(
                    f"{self._name}: the header {name} has characters that it cannot have.", code="InvalidRequest"
                )
        headers |= self.credential(connection)
        sent = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        return self._client.build_request(described.method, url, headers=sent, content=content)

    def credential(self, connection: Connection | None) -> dict[str, str]:
        """The header with the secret. Raises `Fail` if there is none, or none that a header can hold."""
        auth = self._described.auth
        if auth is None:
            return {}
        group, slash, name = auth.secret.rpartition("/")
        if connection is not None and connection.secrets.get(name):
            value = connection.secrets[name]
            hide(value, passing=True)
        else:
            try:
                value = secret(name, group if slash else None)
            except UsageError as exc:
                raise Fail(str(exc), code="NoCredentials") from None
        value = value.strip()  # files of secrets end with a line feed
        if not auth.user and not HEADER_VALUE.match(value):
            raise Fail(f"The secret {name} has characters that no header can have.", code="CredentialsNotUsable")
        if auth.user:
            basic = b64encode(f"{auth.user}:{value}".encode()).decode()
            hide(basic, passing=True)
            return {auth.header: f"Basic {basic}"}
        return {auth.header: auth.prefix + value}

    async def send(
        self, request: httpx2.Request, *, polling: bool = False, exists: Sequence[int] = (), as_text: bool = False
    ) -> tuple[int, Any]:
        """Status and content of the answer. Raises `Retry`, `Fail` or `NotFound` for one that is no success."""
        import httpx2

        try:
            response = await self._client.send(request, stream=True)
            try:
                content = await self._receive(response)
            finally:
                await response.aclose()
        except httpx2.HTTPError as exc:
            raise Retry(f"{self._name}: {' '.join(str(exc).split()) or type(exc).__name__}") from None
        text = content.decode("utf-8", errors="replace")
        if response.is_success or response.status_code in exists:
            return response.status_code, text if as_text else _from_json(text)
        words = self.text(self._described.error, _from_json(text)) or " ".join(text.split())[:_SNIPPET]
        said = f"{self._name} answered {response.status_code} {response.reason_phrase}".rstrip()
        headers = {name.lower(): value for name, value in response.headers.items()}
        raise error_of_status(response.status_code, f"{said}: {words}" if words else said, headers, polling=polling)

    async def _receive(self, response: httpx2.Response) -> bytes:
        taken = bytearray()
        async for piece in response.aiter_bytes():
            taken += piece
            if len(taken) > self._described.max_response_bytes:
                if response.is_error:  # its status tells enough
                    break
                raise Fail(f"{self._name} answered with more than max_response_bytes.", code="ResponseTooLarge")
        return bytes(taken)


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_json(answer: Any) -> bool:
    return isinstance(answer, (dict, list))
