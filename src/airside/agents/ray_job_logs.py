"""The log of a Ray job's driver, as it comes, over the dashboard's web socket."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from airside.agents.http_status import error_of_status
from airside.model import Fail, LogLine, Retry
from airside.model.redaction import redact

_LONGEST = 64 * 1024  # characters of a line; the rest of it is left out
_PATIENCE = 30.0


async def lines_of(url: str, headers: Mapping[str, str], *, after: str, limit: int) -> AsyncGenerator[LogLine, None]:
    """The lines after the cursor, which counts them. Ends when the job has."""
    if after and not after.isdecimal():
        raise Fail(f"{after!r} is no place in this log; take the token of the page before.", code="BadToken")
    begin, number = int(after or 0), 0
    async with aclosing(_pieces(url, headers)) as pieces, aclosing(_split(pieces)) as lines:
        async for line in lines:
            number += 1
            if number > begin:
                yield LogLine(line[:_LONGEST], originator="user", cursor=str(number))
                if number >= begin + limit:
                    return


async def _pieces(url: str, headers: Mapping[str, str]) -> AsyncGenerator[str, None]:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosedError, InvalidHandshake, InvalidStatus

    encrypted = url.startswith("https:")
    address = "ws" + url.removeprefix("http")
    context = await asyncio.to_thread(ssl.create_default_context) if encrypted else None
    try:
        async with connect(
            address,
            additional_headers=dict(headers),
            ssl=context,
            proxy=None,
            compression=None,  # Ray hands the offer on to its own next hop, and the answer could not be read
            max_size=None,
            open_timeout=_PATIENCE,
            user_agent_header="airside",
        ) as socket:
            async for piece in socket:
                yield piece if isinstance(piece, str) else piece.decode("utf-8", errors="replace")
    except InvalidStatus as exc:
        status, text = exc.response.status_code, exc.response.body.decode("utf-8", errors="replace")
        raise error_of_status(status, f"Ray answered {status}: {text[:300].strip()}", {}, polling=True) from None
    except ConnectionClosedError as exc:
        raise Retry(f"Ray broke off the log: {exc}") from None
    except (OSError, InvalidHandshake) as exc:
        raise Retry(redact(f"Ray cannot be reached: {exc}")) from None


async def _split(pieces: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    rest = ""
    async for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            yield line.rstrip("\r")
    if rest:
        yield rest
