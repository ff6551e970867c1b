"""What every test shares."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    """Say that there is no event loop yet: looptime asks for one before the first test, and asyncio would make it.

    Nobody would close that loop, and its warning would fail a test far from here.
    """
    asyncio.set_event_loop(None)
