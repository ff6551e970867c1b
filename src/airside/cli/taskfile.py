"""Load the file that `airside run` is given, and find the tasks in it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from airside.model import TaskTemplate, UsageError
from airside.sdk.agent import AgentDeclaration
from airside.sdk.agent_base import AgentBase
from airside.sdk.discovery import explain

# Where an error is raised, but not what a person can mend.
_OURS = ("<frozen", importlib.__file__, str(Path(__file__).parents[1]))


@dataclass(frozen=True, slots=True)
class TaskFile:
    """A loaded file: its tasks by variable name, and the agent classes that it defines itself."""

    name: str
    tasks: Mapping[str, TaskTemplate]
    agent_classes: tuple[type[Any], ...]

    def find(self, name: str) -> TaskTemplate:
        """The task of this variable name or task name; `UsageError` lists those there are."""
        if name in self.tasks:
            return self.tasks[name]
        named = {id(task): task for task in self.tasks.values() if task.name == name}
        if len(named) > 1:
            variables = [variable for variable, task in self.tasks.items() if task.name == name]
            raise UsageError(f"{self.name} has several tasks named {name!r}: say which by {', '.join(variables)}.")
        if not named:
            there = f"tasks there: {', '.join(self.tasks)}" if self.tasks else "it defines no task at all"
            raise UsageError(f"{self.name} has no task {name!r} ({there}).")
        return next(iter(named.values()))


def load_file(target: str) -> TaskFile:
    """Import a Python file, or a module by its dotted name, and find its tasks.

    The file's folder comes first on `sys.path`, so that it may import its neighbours. Raises `UsageError` if it
    cannot be imported.
    """
    module = _import_path(Path(target)) if target.endswith(".py") or Path(target).is_file() else _import_name(target)
    found = vars(module).items()
    return TaskFile(
        target,
        {name: value for name, value in found if isinstance(value, TaskTemplate)},
        tuple(value for _, value in found if _is_agent_class(value, module)),
    )


def _is_agent_class(value: Any, module: ModuleType) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, AgentDeclaration)
        and not issubclass(value, AgentBase)  # Flyte's documentation registers an instance with its task type
        and value.__module__ == module.__name__
    )


def _import_name(name: str) -> ModuleType:
    _put_first(Path.cwd())
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise UsageError(f"{name} is neither a file nor a module that can be found from here.")
    return _import(name, name)


def _import_path(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"{path} does not exist." if not path.exists() else f"{path} is not a file.")
    path = path.resolve()
    root, name = path.parent, path.stem
    while (root / "__init__.py").is_file():  # a file inside a package may import its siblings relatively
        root, name = root.parent, f"{root.name}.{name}"
    _put_first(root)
    spec = importlib.util.find_spec(name) if name.isidentifier() or "." in name else None
    if spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path:
        return _import(name, path.name)
    return _import_as(f"_airside_run_{path.stem}", path)  # its name belongs to another module already


def _import_as(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        raise _failed(path.name, exc) from exc
    return module


def _import(name: str, shown: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        raise _failed(shown, exc) from exc


def _failed(shown: str, exc: BaseException) -> UsageError:
    if isinstance(exc, SyntaxError):
        return UsageError(f"{shown} cannot be imported: {explain(exc)}")  # its text says where
    frames = [f for f in traceback.extract_tb(exc.__traceback__) if not f.filename.startswith(_OURS)]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return UsageError(f"{shown} cannot be imported: {explain(exc)}{where}")


def _put_first(folder: Path) -> None:
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
