"""Every error that Airside raises or that an agent may raise.

AirsideError
├── AgentError              what an agent's author raises
│   ├── Retry               it may work later
│   ├── Fail                it will never work
│   └── NotFound            the backend does not know the job
├── ConversionError         a value does not fit its declared type; carries the path to it
├── UsageError              a person's mistake: one sentence that says what to do
│   ├── MissingExtra        an optional library is not installed
│   └── PluginError         an agent class or module cannot be used
└── TaskError               a task ended without success (raised by `airside.run`)
"""

from __future__ import annotations


class AirsideError(Exception):
    """Any error that Airside raises on purpose."""


class AgentError(AirsideError):
    """What an agent raises to say how a call went wrong. Raise one of its three subclasses."""

    code = "AgentError"

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class Retry(AgentError):
    """The call failed in a way that may pass: a timeout, a quota, a server error.

    `after` is the number of seconds to wait before the next try, as told by the backend (Retry-After).

    >>> Retry("the warehouse is resuming", after=30).after
    30
    """

    code = "Retryable"

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Fail(AgentError):
    """The call failed for good: repeating it with the same task cannot help.

    `code` is the error code that Flyte shows, in CamelCase.

    >>> Fail("no such table: trips", code="TableNotFound").code
    'TableNotFound'
    """

    def __init__(self, message: str, *, code: str = "UserError") -> None:
        super().__init__(message)
        self.code = code


class NotFound(AgentError):
    """The backend does not know the job that the metadata names.

    >>> NotFound("no job 7").code
    'JobNotFound'
    """

    code = "JobNotFound"


class ConversionError(AirsideError):
    """A value does not fit its declared type. `path` leads to it: `inputs.x[3].y`.

    >>> str(ConversionError("inputs.x[3].y", "expected int, got 'abc'"))
    "inputs.x[3].y: expected int, got 'abc'"
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class UsageError(AirsideError):
    """A mistake of the person at the keyboard; its text is one sentence that says what to do.

    >>> from airside import TaskTemplate
    >>> TaskTemplate(name="", task_type="echo")
    Traceback (most recent call last):
    airside.model.errors.UsageError: A task needs a name and a task_type.
    """


class MissingExtra(UsageError):
    """An optional library is not installed.

    >>> str(MissingExtra("duckdb", "The duckdb_query agent"))
    "The duckdb_query agent needs an optional library: pip install 'airside[duckdb]'"
    """

    def __init__(self, extra: str, who: str) -> None:
        super().__init__(f"{who} needs an optional library: pip install 'airside[{extra}]'")
        self.extra = extra


class PluginError(UsageError):
    """An agent class, or the module that should hold it, cannot be used.

    >>> from airside import Registry, SyncAgent
    >>> Registry().register(SyncAgent())
    Traceback (most recent call last):
    airside.model.errors.PluginError: Agent SyncAgent (SyncAgent) has no method do.
    """


class TaskError(AirsideError):
    """A task ended without success. `phase`, `code` and `message` say how.

    >>> TaskError("no such table: trips", code="TableNotFound").code
    'TableNotFound'
    """

    def __init__(self, message: str, *, code: str = "", phase: object = None) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.message = message
        self.code = code
        self.phase = phase
