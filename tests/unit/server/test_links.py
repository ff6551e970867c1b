"""Links of a job, which are asked of the agent without its backend."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from airside import LogLink, Retry, TaskType
from airside.sdk.agent import Agent
from airside.server.handle import Handle, Kind
from airside.server.job import links_of


class Linked(Agent):
    name = "linked"
    supports = frozenset({"links"})

    async def links(self, meta: bytes) -> Sequence[LogLink]:
        return [LogLink(f"https://example.org/{meta.decode()}", "Job")]


@pytest.mark.parametrize(("kind", "made"), [(Kind.JOB, 1), (Kind.FAILED, 0), (Kind.PENDING, 0), (Kind.DONE, 0)])
async def test_only_a_job_has_links(kind: Kind, made: int) -> None:
    handle = Handle(task_type=TaskType("linked"), key="0" * 32, kind=kind, meta=b"7" if kind is Kind.JOB else b"")
    assert len(await links_of(Linked(), handle)) == made


@pytest.mark.parametrize(
    ("error", "level"), [(Retry("metadata of another version"), "WARNING"), (KeyError("id"), "ERROR")]
)
async def test_links_that_fail_are_an_error_only_if_nobody_meant_it(
    error: Exception, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Linked):
        async def links(self, meta: bytes) -> Sequence[LogLink]:
            raise error

    handle = Handle(task_type=TaskType("linked"), key="0" * 32, meta=b"7")
    assert await links_of(Failing(), handle) == ()
    assert max(caplog.records, key=lambda record: record.levelno).levelname == level
    assert [record.getMessage() for record in caplog.records][-1].startswith("links failed: ")
