"""Send an HTTP request to a checked address of its host, and take no more of the answer than is allowed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from airside.agents.destinations import Destinations
from airside.agents.http_answer import HttpAnswer
from airside.agents.http_request import HttpRequest
from airside.model import Fail

if TYPE_CHECKING:
    import ssl

    import httpx2

_CONNECT_TIMEOUT = 10.0  # seconds for one address of a host


class HttpSender:
    """Sends requests to these destinations. Answers of more than `max_response_bytes` come without their text."""

    def __init__(self, destinations: Destinations, max_response_bytes: int) -> None:
        self._destinations = destinations
        self._max_response_bytes = max_response_bytes
        self._tls: ssl.SSLContext | None = None

    async def get_ready(self) -> None:
        """Load the library and the certificates, which takes a while, before the first request."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(_tls_context)

    async def send(self, request: HttpRequest) -> HttpAnswer:
        """Send to a checked address of the host; to the next one only while nothing has been sent."""
        import httpx2

        addresses = await self._destinations.addresses(request.host, request.port)
        for address in addresses[:-1]:
            try:
                return await self._send_to(address, request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._send_to(addresses[-1], request)

    async def _send_to(self, address: str, request: HttpRequest) -> HttpAnswer:
        """Send to this address. The host is still the one that TLS and the server are told.

        A client for one request: a pooled connection would belong to an address, and so to every host there.
        """
        import httpx2

        try:
            url = httpx2.URL(request.url).copy_with(host=address, port=request.port)
        except httpx2.InvalidURL as exc:
            raise Fail("config.url: not a valid address.") from exc
        transport = httpx2.AsyncHTTPTransport(verify=self._tls or True, trust_env=False)
        patience = httpx2.Timeout(request.timeout, connect=min(request.timeout, _CONNECT_TIMEOUT))
        async with httpx2.AsyncClient(transport=transport, trust_env=False, timeout=patience) as client:
            headers = [("Host", request.netloc), ("Accept-Encoding", "identity"), *request.headers]
            message = client.build_request(
                request.method,
                url,
                headers=[(name.encode(), value.encode("latin-1")) for name, value in headers],
                content=request.content,
                extensions={"sni_hostname": request.host},
            )
            response = await client.send(message, stream=True, follow_redirects=False)
            try:
                return await self._receive(response)
            finally:
                await response.aclose()

    async def _receive(self, response: httpx2.Response) -> HttpAnswer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        taken = bytearray()
        async for piece in response.aiter_bytes():
            taken += piece
            if len(taken) > self._max_response_bytes:
                return HttpAnswer(response.status_code, headers, None)
        return HttpAnswer(response.status_code, headers, _decode(bytes(taken), response.charset_encoding))


def _tls_context() -> ssl.SSLContext:
    import httpx2

    return httpx2.create_ssl_context()


def _decode(data: bytes, charset: str | None) -> str:
    try:
        return data.decode(charset or "utf-8", errors="replace")
    except LookupError:
        return data.decode("utf-8", errors="replace")
