"""A container's command as Flyte's SDKs write it: what runs a function, and what it must find in its environment."""

from __future__ import annotations

from airside.agents.placeholders import render
from airside.model import Fail, Task


def words_of(task: Task) -> list[str]:
    """The words of the container's command. `Fail` if there are none."""
    container = task.container
    if container is None or not (container.command or container.args):
        raise Fail(f"A {task.type.name} task needs a container with a command.")
    others = {"outputprefix": task.output_prefix, "perretryuniquekey": task.key}
    return [render(one, task.inputs, others) for one in (*container.command, *container.args)]


def environment_of(task: Task) -> dict[str, str]:
    """The container's environment, and what tells flytekit that it is not run by hand.

    Without `FLYTE_FAIL_ON_ERROR`, flytekit's program ends well although its function has failed.
    """
    execution = task.execution
    told = {
        "FLYTE_FAIL_ON_ERROR": "true",
        "FLYTE_INTERNAL_EXECUTION_ID": execution.name or task.key,
        "FLYTE_INTERNAL_EXECUTION_PROJECT": execution.project,
        "FLYTE_INTERNAL_EXECUTION_DOMAIN": execution.domain,
    }
    own = {} if task.container is None else dict(task.container.env)
    return {**{name: value for name, value in told.items() if value}, **own}
