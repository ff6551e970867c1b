"""A task made for a test: inputs by value, the rest as little or as much as the test says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airside.model import Container, Sql, TaskTemplate, TaskType, UsageError
from airside.sdk.agent import Agent


def assign(
    agent: Agent,
    *,
    task_type: str | tuple[str, int] | None = None,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    sql: str | Sql | None = None,
    container: Container | None = None,
) -> TaskTemplate:
    """A task for this agent: of its first type unless told, its inputs declared as the types of their values.

    Raises `UsageError` for a type that the agent does not serve.

    >>> from airside.agents.echo import EchoAgent
    >>> from airside.sdk.adapt import adapt
    >>> assign(adapt(EchoAgent()), inputs={"x": 3, "names": ["a"]}).inputs
    {'x': <class 'int'>, 'names': list[str]}
    """
    wanted = _wanted(agent, task_type)
    return TaskTemplate(
        name=f"test.{wanted.name}",
        task_type=wanted.name,
        task_type_version=wanted.version,
        inputs={name: annotation_of(value) for name, value in (inputs or {}).items()},
        outputs=outputs or {},
        config=config or {},
        sql=Sql(sql) if isinstance(sql, str) else sql,
        container=container,
    )


def annotation_of(value: Any) -> Any:
    """The type to declare for a value when the value is all that is known.

    >>> annotation_of({"a": [1.5]}), annotation_of([[1], [2]])
    (<class 'dict'>, list[list[int]])
    """
    if isinstance(value, list) and value:
        return list[annotation_of(value[0])]  # type: ignore[misc]  # made at run time
    return type(value)


def _wanted(agent: Agent, task_type: str | tuple[str, int] | None) -> TaskType:
    if task_type is None:
        return agent.task_types[0]
    wanted = TaskType(task_type) if isinstance(task_type, str) else TaskType(*task_type)
    if wanted not in agent.task_types:
        served = ", ".join(map(str, agent.task_types))
        raise UsageError(f"{agent.name} does not serve the task type {wanted} (it serves {served}).")
    return wanted
