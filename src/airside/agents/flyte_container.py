"""What the containers of tasks need, wherever they run: their words, their environment, the place of their outputs."""

from __future__ import annotations

from collections.abc import Sequence

from airside.agents.json_values import Kind, kind_of
from airside.agents.placeholders import render
from airside.model import Container, Fail, Task

_OUTPUT_PREFIX = "--output-prefix"  # of flytekit's own entry point


def container_of(task: Task) -> Container:
    """The container of a task. `Fail` if it has none with an image."""
    if task.container is None or not task.container.image:
        raise Fail(f"A task of the type {task.type.name} needs a container with an image.")
    return task.container


def words_of(task: Task) -> list[str]:
    """The words of the container's command, filled in. `Fail` if there are none."""
    container = task.container
    if container is None or not (container.command or container.args):
        raise Fail(f"A {task.type.name} task needs a container with a command.")
    return rendered(task, [*container.command, *container.args])


def rendered(task: Task, words: Sequence[str]) -> list[str]:
    """Words of a command with what stands for inputs and places filled in."""
    others = {"outputprefix": task.output_prefix, "perretryuniquekey": task.key}
    return [render(word, task.inputs, others) for word in words]


def environment_of(task: Task) -> dict[str, str]:
    """The environment of a task's container, with the ids that Flyte gives to containers of its own.

    >>> from airside.model import TaskType
    >>> environment_of(Task(type=TaskType("a"), key="0a", output_prefix="s3://runs/0"))
    {'FLYTE_FAIL_ON_ERROR': 'true', 'AIRSIDE_KEY': '0a', 'AIRSIDE_OUTPUT_PREFIX': 's3://runs/0'}
    """
    own = dict(task.container.env) if task.container is not None else {}
    return {
        **flyte_variables(task),
        **dict(zip(own, rendered(task, list(own.values())), strict=True)),
        **task.execution.env,
        "AIRSIDE_KEY": task.key,
        "AIRSIDE_OUTPUT_PREFIX": task.output_prefix,
    }


def flyte_variables(task: Task) -> dict[str, str]:
    """What Flyte puts into the environment of containers of its own."""
    execution = task.execution
    ids = {
        "FLYTE_INTERNAL_EXECUTION_ID": execution.name,
        "FLYTE_INTERNAL_EXECUTION_PROJECT": execution.project,
        "FLYTE_INTERNAL_EXECUTION_DOMAIN": execution.domain,
        "FLYTE_INTERNAL_TASK_PROJECT": execution.project,
        "FLYTE_INTERNAL_TASK_DOMAIN": execution.domain,
        "FLYTE_INTERNAL_TASK_NAME": execution.task_name,
        "FLYTE_INTERNAL_TASK_VERSION": execution.task_version,
        "FLYTE_ATTEMPT_NUMBER": str(execution.attempt) if execution.name else "",
    }
    return {
        **{name: value for name, value in ids.items() if value},
        "FLYTE_FAIL_ON_ERROR": "true",  # else flytekit's entry point ends well whatever its task does
    }


def place_of(task: Task, words: Sequence[str]) -> str:
    """Where the container leaves `outputs.pb` or `error.pb`; empty if it leaves neither.

    Flytekit's plugin for AWS Batch has them in a folder of the output prefix, as its entry point is told.

    >>> from airside.model import TaskType
    >>> place_of(Task(type=TaskType("a"), output_prefix="s3://runs/0"), ["--output-prefix", "s3://runs/0/0"])
    's3://runs/0/0'
    """
    prefix = task.output_prefix.rstrip("/")
    told = words[words.index(_OUTPUT_PREFIX) + 1 :][:1] if _OUTPUT_PREFIX in words else []
    place = told[0].rstrip("/") if told else ""
    if prefix and (place == prefix or place.startswith(f"{prefix}/")) and ".." not in place.split("/"):
        return place
    return prefix if told or task.interface.outputs else ""


def kinds_of(task: Task, words: Sequence[str]) -> dict[str, Kind]:
    """The kinds of the outputs that a container may tell in JSON; none if it is told to write them as flytekit does.

    >>> from airside.model import Interface, TaskType
    >>> kinds_of(Task(type=TaskType("a"), interface=Interface(outputs={"n": int})), ["count"])
    {'n': 'int'}
    """
    if _OUTPUT_PREFIX in words:
        return {}
    return {name: kind_of(annotation) for name, annotation in task.interface.outputs.items()}
