"""What Airside talks about: tasks, resources, phases, errors. Standard library only."""

from airside.model.errors import (
    AgentError,
    AirsideError,
    ConversionError,
    Fail,
    MissingExtra,
    NotFound,
    PluginError,
    Retry,
    TaskError,
    UsageError,
)
from airside.model.phase import Phase
from airside.model.resource import LogLine, LogLink, Metric, OutputsAt, Resource
from airside.model.task import (
    Call,
    Connection,
    Container,
    Execution,
    Interface,
    Sql,
    Task,
    TaskTemplate,
    TaskType,
    attempt_key,
)
from airside.model.values import Directory, File, StructuredDataset, kwtypes

__all__ = (
    "AgentError",
    "AirsideError",
    "Call",
    "Connection",
    "Container",
    "ConversionError",
    "Directory",
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
    "Resource",
    "Retry",
    "Sql",
    "StructuredDataset",
    "Task",
    "TaskError",
    "TaskTemplate",
    "TaskType",
    "UsageError",
    "attempt_key",
    "kwtypes",
)
