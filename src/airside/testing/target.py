"""The agent under test: an instance, a class, or where to find one (`module:Class`, `path/file.py:Class`)."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from airside.hosting import ADAPTERS
from airside.model import PluginError, UsageError
from airside.sdk.adapt import adapt
from airside.sdk.agent import Agent
from airside.sdk.discovery import explain

Factory = Callable[[], Agent]


def find_agent(target: object) -> Factory:
    """A function that makes the raw protocol of the agent that `target` names.

    A class (or another callable without arguments) is called each time; an instance stays the same one.
    Raises `UsageError` if there is no such thing, `PluginError` if it is no agent.

    >>> find_agent("airside.agents.echo:EchoAgent")().name
    'echo'
    >>> find_agent("airside.agents.echo:Nobody")
    Traceback (most recent call last):
    airside.model.errors.UsageError: airside.agents.echo has no 'Nobody' (agents there: EchoAgent).
    """
    found = load(target) if isinstance(target, str) else target
    if isinstance(found, type) or inspect.isroutine(found):
        return lambda: adapt(_made(found), ADAPTERS)
    adapted = adapt(found, ADAPTERS)
    return lambda: adapted


def load(target: str) -> Any:
    """The object that `module:name` or `path/file.py:name` names."""
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise UsageError(f"{target!r} does not name an agent; write module:Class or path/file.py:Class.")
    module = load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise UsageError(f"{where} has no {name!r} (agents there: {', '.join(_agents_in(module)) or 'none'}).")
    return found


def load_file(path: Path) -> ModuleType:
    """The module in a file, under the file's own name unless another module has it."""
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # it may import its neighbours, and hides no module by its own name
    name = path.stem if _is_free(path.stem, path) else f"_airside_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # a file that calls sys.exit, too
        del sys.modules[name]
        raise UsageError(f"{path} cannot be imported: {explain(exc)}") from exc
    return module


def _is_free(name: str, path: Path) -> bool:
    """True if importing this name gives this file, or nothing."""
    known = sys.modules.get(name)
    if known is not None:
        return getattr(known, "__file__", None) == str(path)
    spec = importlib.machinery.PathFinder.find_spec(name)
    return spec is None or spec.origin == str(path)


def address_of(agent: object) -> str:
    """Where another process finds the class of this agent: `module:Class`, or its file if that is not on the path.

    Raises `UsageError` for a class that only exists inside a function, or in no file at all.
    """
    if isinstance(agent, str):
        return agent
    cls = agent if isinstance(agent, type) else type(agent)
    if "<locals>" in cls.__qualname__:
        raise UsageError(f"{cls.__qualname__} is defined inside a function; move it to the top of its module.")
    try:
        where = cls.__module__ if _on_path(cls.__module__, cls) else inspect.getfile(cls)
    except (TypeError, OSError):
        raise UsageError(f"{cls.__qualname__} is in no file; put it into a module of its own.") from None
    return f"{where}:{cls.__qualname__}"


def _load_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # a module that calls sys.exit, too
        raise UsageError(f"Module {name!r} cannot be imported: {explain(exc)}") from exc


def _on_path(module: str, cls: type) -> bool:
    """True if a fresh interpreter with this `sys.path` would import the class's own file under this name."""
    first, *rest = module.split(".")
    spec = importlib.machinery.PathFinder.find_spec(first)
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return False
        spec = importlib.machinery.PathFinder.find_spec(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    return spec is not None and spec.origin is not None and Path(spec.origin) == Path(inspect.getfile(cls))


def _made(factory: Any) -> Any:
    try:
        return factory()
    except TypeError as exc:
        raise PluginError(f"{factory.__name__} cannot be made without arguments: {exc}") from exc
    except Exception as exc:
        raise PluginError(f"{factory.__name__} cannot be made: {explain(exc)}") from exc


def _agents_in(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if _is_agent(value) and value.__module__ == module.__name__]


def _is_agent(value: object) -> bool:
    verbs = ("create", "do")
    return isinstance(value, type) and any(callable(getattr(value, verb, None)) for verb in verbs)
