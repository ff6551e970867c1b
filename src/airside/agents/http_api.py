"""JSON over HTTP for agents of services that have no SDK that is light enough: one pooled client, no redirects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from airside.agents.http_answer import HttpAnswer
from airside.model import Connection, Fail, Retry, UsageError
from airside.model.redaction import hide, redact
from airside.sdk.hosts import HostAllowList
from airside.sdk.secrets import secret

_LARGEST = 32 * 1024 * 1024


class HttpApi:
    """A client for the servers of one kind of service; `who` is how messages name them."""

    def __init__(self, who: str, *, timeout: float) -> None:
        self._who = who
        self._timeout = timeout
        self._client: Any = None
        self._making = asyncio.Lock()

    async def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.aclose()

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        largest: int = _LARGEST,
    ) -> HttpAnswer:
        """The answer, whatever its status. Raises `Retry` if there is none, `Fail` if it has over `largest` bytes."""
        client = await self._get_client()
        import httpx2

        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        kind = {} if content is None else {"Content-Type": "application/json"}
        taken = bytearray()
        try:
            request = client.build_request(method, url, headers={**(headers or {}), **kind}, content=content)
            response = await client.send(request, stream=True)
            try:
                async for piece in response.aiter_bytes():
                    taken += piece
                    if len(taken) > largest:
                        raise Fail(
                            f"{self._who} answered with more than {largest // 1024 // 1024} MiB.",
                            code="ResponseTooLarge",
                        )
            finally:
                await response.aclose()
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            words = " ".join(str(exc).split()) or type(exc).__name__
            raise Retry(redact(f"{self._who} cannot be reached: {words}")) from None
        told = {name.lower(): value for name, value in response.headers.items()}
        return HttpAnswer(response.status_code, told, bytes(taken).decode("utf-8", errors="replace"))

    async def _get_client(self) -> Any:
        """The client, made at its first use and on a thread: the library takes a while to load, and 4 MiB."""

        def make() -> Any:
            import httpx2

            return httpx2.AsyncClient(timeout=self._timeout, follow_redirects=False, trust_env=False)

        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(make)
        return self._client

    def read(self, answer: HttpAnswer) -> Any:
        """The JSON of an answer; `Retry` if it is none."""
        try:
            return json.loads(answer.text or "")
        except ValueError:
            raise Retry(f"{self._who} answered {answer.status} without JSON.") from None


def pattern_of(url: str) -> str:
    """An address that an operator has set, as lists of hosts take it.

    >>> pattern_of("http://10.0.0.7:8265/ray"), pattern_of("https://ray.example.org")
    ('http://10.0.0.7:8265', 'ray.example.org')
    """
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    return host if scheme == "https" else f"{scheme}://{host}"


def check_server(url: str, hosts: HostAllowList, key: str) -> None:
    """Raise `Fail` for a server that a task may not name; `key` is where it is named."""
    if not url:
        raise Fail(f"The task needs {key}, since the service has no default.", code="NoServer")
    hosts.check(url)


async def bearer(name: str, connection: Connection | None, *, always: bool = False) -> Mapping[str, str]:
    """The header with a token: that of the connection, else the secret `name`. None is no error unless `always`."""
    given = connection.secrets if connection is not None else {}
    value = given.get("token") or given.get(name)
    if value:
        hide(value, passing=True)
    else:
        try:
            value = await asyncio.to_thread(secret, name)
        except UsageError as exc:
            if always:
                raise Fail(str(exc), code="NoCredentials") from None
            return {}
    return {"Authorization": f"Bearer {value}"}
