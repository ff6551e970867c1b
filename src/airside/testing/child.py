"""The service in a process of its own: prints its port, serves until its input is closed.

Started by `airside.testing.service`; the order comes as one JSON argument. Ending with the input means that no
service outlives the test that started it, however that test ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from airside.model import AirsideError
from airside.server.app import Server
from airside.server.settings import ServerSettings
from airside.testing.target import find_agent


async def serve(order: dict[str, Any]) -> None:
    """Serve the ordered agent until standard input ends."""
    agent = find_agent(order["agent"])()
    settings = ServerSettings(**order["settings"])
    async with Server([agent], settings, options=order["options"], strict=True) as server:
        print(server.port, flush=True)  # noqa: T201 - how the parent learns the port
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Run the order on the command line; a mistake in it is one sentence on standard output."""
    logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(serve(json.loads(sys.argv[1])))
    except AirsideError as exc:
        print(exc, flush=True)  # noqa: T201 - as above
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
