"""`airside.run`: run a task from Python, in a script or a notebook."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from airside.engine.background import Background
from airside.engine.local import LocalRun, opened
from airside.engine.lookup import find_agent
from airside.engine.progress import Outcome
from airside.hosting import ADAPTERS
from airside.model import TaskError, TaskTemplate, TaskType
from airside.sdk.adapt import adapt
from airside.sdk.agent import Agent
from airside.sdk.options import read_options
from airside.sdk.registry import Registry


def run(
    task: TaskTemplate,
    /,
    *,
    endpoint: str | None = None,
    agents: Registry | Iterable[Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **inputs: Any,
) -> dict[str, Any]:
    """Run a task and return its outputs by name. Blocks until the task is over.

    The agent is one of `agents` if they are given, else a registered one, else an installed plugin's; `options`
    is what `airside.toml` would say of it. With `endpoint` ("host:port") the task runs on the agent service there.

    Raises `ConversionError` for an input that does not fit, `UsageError` if no agent runs the task, `Retry` if
    nothing answers at the endpoint, and `TaskError`, with phase and code, if the task does not succeed.

    Ctrl-C cancels the job and waits until it is over; a second one leaves it. It works where an event loop runs
    already, as in a notebook. The job lives in memory: what is to outlive the program, or to be used again from the
    cache, is for an `Engine`.

    >>> from airside import TaskTemplate, kwtypes, run
    >>> hello = TaskTemplate(name="hello", task_type="echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int))
    >>> run(hello, x=3)
    {'x': 3}
    """
    background = Background(lambda: _run(task, inputs, endpoint, agents, options))
    try:
        return background.result()
    except KeyboardInterrupt:
        background.cancel()
        background.settle()
        raise


async def arun(
    task: TaskTemplate,
    /,
    *,
    endpoint: str | None = None,
    agents: Registry | Iterable[Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **inputs: Any,
) -> dict[str, Any]:
    """Run a task and return its outputs by name: `run`, for code that is async itself.

    If the awaiting task is cancelled, the job is cancelled too, and waited for.

    >>> import asyncio
    >>> from airside import TaskTemplate, arun, kwtypes
    >>> hello = TaskTemplate(name="hello", task_type="echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int))
    >>> asyncio.run(arun(hello, x=3))
    {'x': 3}
    """
    return await _run(task, inputs, endpoint, agents, options)


async def _run(
    task: TaskTemplate,
    inputs: Mapping[str, Any],
    endpoint: str | None,
    agents: Registry | Iterable[Any] | None,
    options: Mapping[str, Any] | None,
) -> dict[str, Any]:
    agent, agent_options = await asyncio.to_thread(choose_agent, task.type, endpoint, agents, options or {})
    local = LocalRun(task, inputs, agent)
    async with opened(agent, agent_options):
        return outputs_of(task, await local.finish())


def choose_agent(
    task_type: TaskType,
    endpoint: str | None = None,
    agents: Registry | Iterable[Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Agent, Any]:
    """The agent for a task type, not open yet, and its options: on a service, given, registered, or installed."""
    if endpoint is not None:
        from airside.engine.remote import RemoteAgent

        return RemoteAgent(endpoint, task_type=task_type), None
    agent = adapt(find_agent(task_type, agents), ADAPTERS)
    return agent, read_options(agent.options_type, options or {}, f"options of {agent.name}", local=True)


def outputs_of(task: TaskTemplate, outcome: Outcome) -> dict[str, Any]:
    """The outputs of a run that succeeded; `TaskError` for any other."""
    if outcome.phase.is_success:
        return dict(outcome.outputs)
    where = "".join(f" ({link.name or 'link'}: {link.uri})" for link in outcome.links)
    message = f"{outcome.message or outcome.phase.name}{where}"
    raise TaskError(f"task {task.name}: {message}", code=outcome.code, phase=outcome.phase)
