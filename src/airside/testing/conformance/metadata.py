"""Cases about what a service announces: ListAgents, GetAgent and their Flyte 2 twins."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from airside.model import TaskType
from airside.testing.conformance.case import Answer, Probe, cases

_PROMPT = 1.0  # seconds


async def announces_every_type(probe: Probe) -> None:
    """An agent is announced once, with all its task types (Flyte 1: in supported_task_types, too)"""
    entries = await _entries(probe)
    probe.expect(entries, f"the task type {probe.specimen.task_type} is not announced")
    probe.expect(len(entries) == 1, f"the task type is announced by {len(entries)} entries")
    wanted = set(probe.specimen.task_types)
    announced = {TaskType(one.name, one.version) for one in entries[0].supported_task_categories}
    probe.expect(wanted <= announced, f"not announced: {', '.join(map(str, wanted - announced))}")
    if probe.wire == "v1":
        missing = {one.name for one in wanted} - set(entries[0].supported_task_types)
        probe.expect(not missing, f"missing from supported_task_types: {', '.join(missing)}")


async def says_whether_sync(probe: Probe) -> None:
    """is_sync is true for a sync agent and false for an async one"""
    entries = await _entries(probe)
    probe.expect(entries, "the task type is not announced")
    is_sync, wanted = entries[0].is_sync, probe.specimen.is_sync
    probe.expect(is_sync is wanted, f"is_sync is {is_sync} for {'a sync' if wanted else 'an async'} agent")


async def announces_while_busy(probe: Probe) -> None:
    """ListAgents answers within a second while a task is being created"""
    busy = asyncio.ensure_future(probe.start())
    try:
        answer = await _list(probe)
    finally:
        await busy
    probe.expect_ok(answer, probe.client.family.list_method)
    probe.expect(answer.seconds < _PROMPT, f"it took {answer.seconds:.2f} s")


async def finds_by_name(probe: Probe) -> None:
    """GetAgent answers with the entry of a known name, and NOT_FOUND for an unknown one"""
    family = probe.client.family
    entries = await _entries(probe)
    probe.expect(entries, "the task type is not announced")
    request = family.message(f"{family.find_method}Request")
    known = await probe.call(family.find_method, request(name=entries[0].name))
    probe.expect_ok(known, f"{family.find_method} of {entries[0].name!r}")
    found = known.message.agent if probe.wire == "v1" else known.message.connector
    probe.expect(found == entries[0], "the entry differs from the announced one")
    unknown = await probe.call(family.find_method, request(name="no-such-agent"))
    probe.expect(unknown.code is grpc.StatusCode.NOT_FOUND, f"an unknown name is answered {unknown.code.name}")


async def _list(probe: Probe) -> Answer:
    family = probe.client.family
    return await probe.call(family.list_method, family.message(f"{family.list_method}Request")())


async def _entries(probe: Probe) -> list[Any]:
    """The announced entries that serve the specimen's task type."""
    answer = await _list(probe)
    probe.expect_ok(answer, probe.client.family.list_method)
    listed = answer.message.agents if probe.wire == "v1" else answer.message.connectors
    wanted = tuple(probe.specimen.task_type)
    return [entry for entry in listed if wanted in {(one.name, one.version) for one in entry.supported_task_categories}]


CASES = cases(
    "metadata",
    {
        "S02": announces_every_type,
        "S03": says_whether_sync,
        "S04": announces_while_busy,
        "S06": finds_by_name,
    },
    only={"S03": ("v1",)},
)
