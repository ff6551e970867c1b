"""Run the conformance cases against an agent and say what came out."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from airside.model import Connection, TaskTemplate, UsageError
from airside.model.redaction import hide
from airside.sdk.agent import Agent
from airside.sdk.discovery import explain
from airside.testing.assignment import assign
from airside.testing.client import WIRES, Wire
from airside.testing.conformance import create, delete, get, limits, logs, metadata, sync
from airside.testing.conformance.case import Case, CaseFailed, NotApplicable, Probe, Specimen
from airside.testing.conformance.report import Report, Result, Status
from airside.testing.service import ChildService, LocalService, Service
from airside.testing.target import address_of, find_agent
from airside.wire.literal_map import pack
from airside.wire.template import write_template
from airside.wire.types import to_literal_type

T = TypeVar("T")

CASES: tuple[Case, ...] = tuple(
    sorted(
        (case for group in (metadata, create, get, delete, sync, logs, limits) for case in group.CASES),
        key=lambda case: case.id,
    )
)
"""Every case, in the order of their ids."""


def check_agent(
    target: object,
    *,
    task: TaskTemplate | None = None,
    inputs: Mapping[str, Any] | None = None,
    bad_inputs: Mapping[str, Any] | None = None,
    connection: Connection | None = None,
    options: Mapping[str, Any] | None = None,
    wires: Sequence[Wire] = WIRES,
    only: Collection[str] = (),
    timeout: float = 30.0,
    slow: bool = False,
    watch: Callable[[Result], None] | None = None,
) -> Report:
    """Serve an agent and try the conformance cases that apply to it, over real gRPC on loopback.

    `target` is `"module:Class"`, `"path/file.py:Class"`, a class or an instance. `task` says what to run (without
    it, a task of the agent's first type) and `inputs` with which values; without a task their types are those of
    the values, and no outputs are declared. `bad_inputs` are those that differ so that the task fails; the cases about
    failures need them. Real jobs are created, about ten for each family, and deleted
    afterwards. `options` is the agent's table of airside.toml, `only` names the cases to run, `timeout` (seconds)
    bounds every call and the run of one job, `slow` adds the cases that take minutes, `watch` hears of each result
    as it comes.

    Raises `UsageError` if the target cannot be loaded or served, `ConversionError` if an input does not fit.
    It blocks until all is done, and may be called where an event loop runs.

    >>> from airside.testing import check_agent
    >>> report = check_agent("airside.agents.echo:EchoAgent", inputs={"x": 3}, only=["S09", "S37"])
    >>> print(report.summary())
    3 passed, 0 failed, 0 skipped
    """
    make = find_agent(target)
    agent = make()
    name = target if isinstance(target, str) else agent.name
    known_cases(only)

    async def check() -> tuple[Result, ...]:
        tables = {agent.name: options} if options else None
        service = LocalService([make], options=tables)
        await service.start()
        try:
            with TemporaryDirectory(prefix="airside-check-") as folder:
                specimen = await asyncio.to_thread(
                    specimen_of, agent, task, inputs or {}, connection, Path(folder), bad_inputs
                )
                return await run_cases(
                    service,
                    specimen,
                    wires=wires,
                    only=only,
                    timeout=timeout,
                    slow=slow,
                    watch=watch,
                    second=_in_another_process(target, tables, Path(folder)),
                )
        finally:
            await service.stop()

    return Report(str(name), outside_any_loop(check))


def known_cases(only: Collection[str]) -> None:
    """Raise `UsageError` if one of these is no case."""
    unknown = sorted(set(only) - {case.id for case in CASES})
    if unknown:
        raise UsageError(f"There is no case {unknown[0]} (cases: {', '.join(case.id for case in CASES)}).")


async def run_cases(
    service: Service,
    specimen: Specimen,
    *,
    wires: Sequence[Wire] = WIRES,
    only: Collection[str] = (),
    timeout: float = 30.0,
    slow: bool = False,
    watch: Callable[[Result], None] | None = None,
    second: Callable[[], Service] | None = None,
    revive: Callable[[Result], Awaitable[str]] | None = None,
) -> tuple[Result, ...]:
    """Try the cases on a running service with one task; arguments as in `check_agent`.

    `second` makes another service of the same agent, for the cases about jobs that another process started.
    `revive` starts the service again if a case has ended it, and tells how it ended, which fails that case.
    """
    results: list[Result] = []
    for wire in wires:
        probe = Probe(service, specimen, wire, timeout=timeout, slow=slow, second=second)
        for case in CASES:
            if wire not in case.wires or (only and case.id not in only):
                continue
            result = await _run(case, probe)
            ended = await revive(result) if revive is not None else ""
            if ended:
                result = replace(result, status=Status.FAILED, why=f"{ended}; {result.why}".removesuffix("; "))
            results.append(result)
            if watch is not None:
                watch(result)
        await _clean_up(probe)
    return tuple(results)


def specimen_of(
    agent: Agent,
    task: TaskTemplate | None,
    inputs: Mapping[str, Any],
    connection: Connection | None,
    folder: Path,
    bad_inputs: Mapping[str, Any] | None = None,
) -> Specimen:
    """The task to try an agent with, as protobuf."""
    if task is None:
        task = assign(agent, inputs=inputs)
    if task.type not in agent.task_types:
        served = ", ".join(map(str, agent.task_types))
        raise UsageError(f"Task {task.name!r} has the type {task.type}, which {agent.name} does not serve ({served}).")
    for value in (connection.secrets if connection else {}).values():
        hide(value)
    declared = {name: to_literal_type(kind) for name, kind in task.inputs.items()}
    values = task.complete(inputs)
    bad = None if bad_inputs is None else pack({**values, **bad_inputs}, declared, where="inputs").data
    return Specimen(
        task_type=task.type,
        template=write_template(task).SerializeToString(),
        inputs=pack(values, declared, where="inputs").data,
        bad_inputs=bad,
        has_inputs=bool(task.inputs),
        outputs=frozenset(task.outputs),
        connection=connection,
        prefix=str(folder),
        is_sync=agent.is_sync,
        task_types=agent.task_types,
        supports=agent.supports,
    )


def _in_another_process(
    target: object, tables: Mapping[str, Mapping[str, Any]] | None, folder: Path
) -> Callable[[], Service] | None:
    """What serves the agent in a process of its own; None for an agent that only this process can make."""
    if not isinstance(target, str | type) or getattr(target, "__module__", "") == "__main__":
        return None  # a script would be run once more, with all that it does
    try:
        where = address_of(target)
    except UsageError:
        return None
    return lambda: ChildService(where, folder / "second.log", options=tables)


async def _run(case: Case, probe: Probe) -> Result:
    probe.exchanges.clear()
    began = time.monotonic()
    status, why = Status.PASSED, ""
    try:
        await case.run(probe)
    except NotApplicable as exc:
        status, why = Status.SKIPPED, str(exc)
    except CaseFailed as exc:
        status, why = Status.FAILED, str(exc)
    except Exception as exc:  # noqa: BLE001 - an answer that nobody foresaw must not end the check
        status, why = Status.FAILED, f"the answer cannot be judged: {explain(exc)}"
    seconds = time.monotonic() - began
    return Result(case.id, probe.wire, case.group, case.rule, status, why, tuple(probe.exchanges), seconds)


async def _clean_up(probe: Probe) -> None:
    """Delete the jobs that the cases made and did not see the end of."""
    for handle in [handle for handle, is_over in probe.made.items() if not is_over]:
        with contextlib.suppress(Exception):
            await probe.delete(handle)


def outside_any_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of `work` on a loop of its own: on this thread, or on another if a loop runs here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    found: list[T] = []
    problem: list[BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work()))
        except BaseException as exc:  # noqa: BLE001 - raised again on the caller's thread
            problem.append(exc)

    thread = threading.Thread(target=run, name="airside-check")
    thread.start()
    thread.join()
    if problem:
        raise problem[0]
    return found[0]
