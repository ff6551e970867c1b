"""Read what an author's agent declares, and say in one sentence what is wrong with it."""

from __future__ import annotations

import inspect
import math
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

from airside.model import MissingExtra, PluginError, TaskType
from airside.sdk.agent import Agent, AgentSettings, AsyncAgent, SyncAgent
from airside.sdk.agent_base import AgentBase
from airside.sdk.metadata import MetadataCodec, codec_for

_REQUIRED: dict[type, tuple[str, ...]] = {
    AsyncAgent: ("create", "get", "delete"),
    SyncAgent: ("do",),
    AgentBase: ("create", "get", "delete"),
}

_ARGUMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # by position and by name; all may take `call`, too
    "create": (("task",), ()),
    "get": (("job",), ()),
    "delete": (("job",), ()),
    "do": (("task",), ()),
    "get_many": (("jobs",), ()),
    "find": (("task", "key"), ()),
    "logs": (("job",), ("after", "limit")),
    "metrics": (("job",), ("queries", "start", "end", "step")),
}


def name_of(agent: object) -> str:
    """The agent's name; the class name unless it says otherwise."""
    return getattr(agent, "name", "") or type(agent).__name__


def task_types_of(agent: object) -> tuple[TaskType, ...]:
    """The task types that an agent declares, as `TaskType`s without repeats."""
    declared: Iterable[Any] = getattr(agent, "task_types", ()) or ()
    if isinstance(declared, str):
        declared = (declared,)
    single = getattr(agent, "task_type", "")
    entries = [*([single] if single else []), *declared]
    found: dict[TaskType, None] = {}
    for entry in entries:
        found[_task_type(entry, agent)] = None
    if not found:
        raise PluginError(f'Agent {name_of(agent)} declares no task type; set task_type = "..." on the class.')
    return tuple(found)


def missing_extra(agent: object) -> MissingExtra | None:
    """What keeps an agent that is part of Airside from being opened: one of the modules that it `requires`.

    >>> class Far:
    ...     name = "far"
    ...     requires = {"far_away_sdk": "far"}  # a module, and the extra that brings it along
    >>> print(missing_extra(Far()))
    The far agent needs an optional library: pip install 'airside[far]'
    """
    requires: Mapping[str, str] = getattr(agent, "requires", {})
    for module, extra in requires.items():
        if not _is_there(module):
            return MissingExtra(extra, f"The {name_of(agent)} agent")
    return None


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that would hold it
        return False


def settings_of(agent: object) -> AgentSettings:
    """The agent's settings, checked."""
    values: dict[str, Any] = {field.name: getattr(agent, field.name, field.default) for field in fields(AgentSettings)}
    for name, value in values.items():
        if name == "max_age" and value is None:
            continue
        if isinstance(getattr(AgentSettings(), name), bool):
            if not isinstance(value, bool):
                raise PluginError(f"Agent {name_of(agent)}: {name} must be True or False, not {value!r}.")
        elif not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise PluginError(f"Agent {name_of(agent)}: {name} must be a number of seconds above 0, not {value!r}.")
    return AgentSettings(**values)


def check(agent: object) -> None:
    """Raise `PluginError` unless the agent can be served."""
    if isinstance(agent, type):
        raise PluginError(f"Register an instance, not the class: {agent.__name__}().")
    face = next((face for face in _REQUIRED if isinstance(agent, face)), None)
    if face is None:
        if isinstance(agent, Agent):
            return
        raise PluginError(f"{type(agent).__name__} is not an agent; subclass AsyncAgent, SyncAgent or AgentBase.")
    missing = [name for name in _REQUIRED[face] if not callable(getattr(agent, name, None))]
    if missing:
        raise PluginError(f"Agent {name_of(agent)} ({face.__name__}) has no method {' and no method '.join(missing)}.")
    task_types_of(agent)
    settings_of(agent)
    if isinstance(agent, AsyncAgent):
        metadata_codec(agent)
    if face is not AgentBase:
        for name, arguments in _ARGUMENTS.items():
            _check_arguments(agent, name, *arguments)
        for name in ("links", "read_handle"):
            if inspect.iscoroutinefunction(getattr(agent, name, None)):
                raise PluginError(f"Agent {name_of(agent)}: {name} must be a plain def, since it asks no backend.")


def _check_arguments(agent: object, name: str, positional: tuple[str, ...], named: tuple[str, ...]) -> None:
    """Raise `PluginError` for a method that could never be called: its job would only be seen to fail much later."""
    method = getattr(agent, name, None)
    try:
        signature = inspect.signature(method) if callable(method) else None
    except (ValueError, TypeError):  # written in C
        signature = None
    if signature is None or _binds(signature, positional, named) or _binds(signature, positional, (*named, "call")):
        return
    wanted = ", ".join((*positional, *(("*", *named) if named else ())))
    raise PluginError(
        f"Agent {name_of(agent)}: {name} must take ({wanted}) or ({wanted}, call), not {_shown(signature)}."
    )


def _binds(signature: inspect.Signature, positional: tuple[str, ...], named: tuple[str, ...]) -> bool:
    try:
        signature.bind(*positional, **dict.fromkeys(named))
    except TypeError:
        return False
    return True


def _shown(signature: inspect.Signature) -> str:
    """The names of the arguments, without their types."""
    return str(
        signature.replace(
            parameters=[one.replace(annotation=one.empty) for one in signature.parameters.values()],
            return_annotation=signature.empty,
        )
    )


def metadata_codec(agent: AsyncAgent[Any]) -> MetadataCodec[Any]:
    """How the agent's job metadata travels. Raises `PluginError` if it cannot, naming the agent."""
    metadata_type = metadata_type_of(agent)
    try:
        return codec_for(metadata_type)
    except PluginError as exc:
        raise PluginError(f"Agent {name_of(agent)}: {exc}") from None


def metadata_type_of(agent: AsyncAgent[Any]) -> Any:
    """The `M` of `AsyncAgent[M]`, also through generic classes in between."""
    metadata_type = _argument_of(type(agent))
    if metadata_type is not None and not isinstance(metadata_type, typing.TypeVar):
        return metadata_type
    raise PluginError(
        f"Agent {name_of(agent)} does not say what its job metadata is; write AsyncAgent[Job] with a dataclass Job."
    )


def _argument_of(cls: type[Any]) -> Any:
    """What a class puts in for `M`: a type, a type variable of its own, or None if it does not say."""
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin, arguments = typing.get_origin(base) or base, typing.get_args(base)
        if origin is AsyncAgent:
            return _resolved(arguments[0], cls) if arguments else None
        if isinstance(origin, type) and issubclass(origin, AsyncAgent):
            inner = _argument_of(origin)
            if isinstance(inner, typing.TypeVar) and arguments:
                parameters: tuple[Any, ...] = getattr(origin, "__parameters__", ())
                return _resolved(arguments[parameters.index(inner)], cls)
            return inner
    return None


def _resolved(argument: Any, cls: type[Any]) -> Any:
    """A type that was written as a string, looked up in the module of its class."""
    if isinstance(argument, typing.ForwardRef):
        return vars(sys.modules[cls.__module__]).get(argument.__forward_arg__)
    return argument


def _task_type(entry: Any, agent: object) -> TaskType:
    match entry:
        case TaskType():
            return entry
        case str() if entry:
            return TaskType(entry)
        case (str() as name, int() as version) if name and version >= 0:
            return TaskType(name, version)
    raise PluginError(f'Agent {name_of(agent)}: a task type is "name" or ("name", version), not {entry!r}.')
