"""The pytest plugin: fixtures for authors' tests. Loaded by entry point, so it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airside.testing.blocking import BlockingHarness
    from airside.testing.client import Wire


@pytest.fixture(params=["v1", "v2"])
def agent_wire(request: pytest.FixtureRequest) -> Wire:
    """The wire family of `agent_harness`: each in turn.

    For one family only: `@pytest.mark.parametrize("agent_wire", ["v2"])`.
    """
    wire: Wire = request.param
    return wire


@pytest.fixture
def agent_harness(agent_wire: Wire) -> Iterator[Callable[..., BlockingHarness]]:
    """Serve an agent for a plain `def` test: `h = agent_harness(MyAgent())`, then `h.create(...)`, `h.finish(job)`.

    Takes the arguments of `airside.testing.harness`. Everything is stopped after the test. An `async def` test
    says `async with harness(MyAgent(), wire=agent_wire) as h` instead.
    """
    from airside.testing.blocking import blocking_harness

    with ExitStack() as running:

        def serve(agent: object, **arguments: Any) -> BlockingHarness:
            return running.enter_context(blocking_harness(agent, **{"wire": agent_wire, **arguments}))

        yield serve
