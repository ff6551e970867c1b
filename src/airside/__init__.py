"""Airside: the agent service for Flyte.

Write an agent (`AsyncAgent`, `SyncAgent`), describe a task (`TaskTemplate`), run it (`run`). The names below are
all that is promised; everything else may move. Importing this module loads no third-party library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airside.engine.engine import Engine
    from airside.engine.run import arun, run
    from airside.model import (
        Call,
        Connection,
        Container,
        ConversionError,
        Directory,
        Execution,
        Fail,
        File,
        Interface,
        LogLine,
        LogLink,
        Metric,
        MissingExtra,
        NotFound,
        OutputsAt,
        Phase,
        PluginError,
        Resource,
        Retry,
        Sql,
        StructuredDataset,
        Task,
        TaskError,
        TaskTemplate,
        TaskType,
        UsageError,
        kwtypes,
    )
    from airside.sdk.agent import Agent, AsyncAgent, SyncAgent
    from airside.sdk.agent_base import AgentBase
    from airside.sdk.registry import AgentRegistry, Registry
    from airside.sdk.secrets import secret

__version__ = "0.1.0"

_ELSEWHERE = {
    "Engine": "airside.engine.engine",
    **dict.fromkeys(("Agent", "AsyncAgent", "SyncAgent"), "airside.sdk.agent"),
    "AgentBase": "airside.sdk.agent_base",
    **dict.fromkeys(("AgentRegistry", "Registry"), "airside.sdk.registry"),
    "secret": "airside.sdk.secrets",
    **dict.fromkeys(("arun", "run"), "airside.engine.run"),
}

__all__ = (
    "Agent",
    "AgentBase",
    "AgentRegistry",
    "AsyncAgent",
    "Call",
    "Connection",
    "Container",
    "ConversionError",
    "Directory",
    "Engine",
    "Execution",
    "Fail",
    "File",
    "Interface",
    "LogLine",
    "LogLink",
    "Metric",
    "MissingExtra",
    "NotFound",
    "OutputsAt",
    "Phase",
    "PluginError",
    "Registry",
    "Resource",
    "Retry",
    "Sql",
    "StructuredDataset",
    "SyncAgent",
    "Task",
    "TaskError",
    "TaskTemplate",
    "TaskType",
    "UsageError",
    "arun",
    "kwtypes",
    "run",
    "secret",
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'airside' has no attribute {name!r}")
    value = getattr(import_module(_ELSEWHERE.get(name, "airside.model")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
