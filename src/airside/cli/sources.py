"""Where a detached job's agent comes from: written down when it is submitted, read when an engine drives it."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airside.cli.choice import choose
from airside.cli.endpoint import from_source, to_source
from airside.cli.run import RunOptions
from airside.cli.settings import FILE_NAME, VARIABLE
from airside.cli.taskfile import TaskFile, load_file
from airside.model import TaskType, UsageError
from airside.sdk.agent import Agent

if TYPE_CHECKING:
    from airside.engine.database import Record


def source_of(file: TaskFile, options: RunOptions) -> dict[str, Any]:
    """What finds the agent of a task again, from any folder."""
    if options.endpoint:
        options.access()  # a mistake in it is told now, not by the engine
    path = Path(file.name)
    settings = options.settings or os.environ.get(VARIABLE) or (FILE_NAME if Path(FILE_NAME).exists() else None)
    return {
        "file": str(path.resolve()) if path.is_file() else file.name,
        "folder": str(Path.cwd()),
        "modules": list(options.modules),
        **to_source(options),
        "settings": str(Path(settings).resolve()) if settings else None,
        **({"config": str(Path(options.config).resolve())} if options.config else {}),
        **{name: value for name in ("project", "domain", "containers") if (value := getattr(options, name))},
    }


async def choose_for(record: Record) -> tuple[Agent, Any]:
    """The agent of a detached job, not open yet, and its options; chosen as `airside run` chose it."""
    return await asyncio.to_thread(_choose, record)


async def choose_container(record: Record) -> tuple[Agent, Any]:
    """The agent for a task that is routed to Flyte's plugin `container`: the one that its submitter named."""
    source = record.source
    return await asyncio.to_thread(container_agent, source.get("containers"), source.get("settings"), record.task_type)


def container_agent(name: str | None, settings: str | None, task_type: TaskType) -> tuple[Agent, Any]:
    """An agent that runs the containers of tasks here, by its name, and its options."""
    if not name:
        raise UsageError(
            f"Task type {task_type} is routed to the plugin 'container' by default-for-task-types; "
            "--containers docker_container runs it here by Docker or Podman, --containers local_process "
            "runs its command as a process, without its image."
        )
    return choose(TaskType(name), TaskFile("", {}, ()), RunOptions(settings=settings))


def _choose(record: Record) -> tuple[Agent, Any]:
    source = record.source
    options = RunOptions(modules=tuple(source.get("modules", ())), settings=source.get("settings"))
    options = from_source(options, source)
    if options.endpoint or not source.get("file"):
        return choose(record.task_type, TaskFile("", {}, ()), options)
    if source["folder"] not in sys.path:
        sys.path.insert(0, source["folder"])
    return choose(record.task_type, _load(source["file"]), options)


@cache
def _load(name: str) -> TaskFile:
    return load_file(name)
