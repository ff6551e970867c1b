"""An agent's options: the table `[agents.NAME]` of airside.toml, made into the agent's `Options` class."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from airside.model import UsageError


def read_options(cls: type[Any] | None, table: Mapping[str, Any], where: str) -> Any:
    """An instance of `cls` filled from `table`; `UsageError` names the key that is wrong.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Options:
    ...     host: str = ""
    ...     retries: int = 3
    >>> read_options(Options, {"host": "example.org"}, "agents.my_query")
    Options(host='example.org', retries=3)
    >>> read_options(Options, {"hots": "example.org"}, "agents.my_query")
    Traceback (most recent call last):
    airside.model.errors.UsageError: agents.my_query.hots: unknown key (known: host, retries)
    """
    if cls is None:
        if table:
            raise UsageError(f"{where}: this agent has no options, but {', '.join(table)} is set")
        return None
    if not dataclasses.is_dataclass(cls):
        return _read_model(cls, table, where)
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in table:
        if key not in known:
            raise UsageError(f"{where}.{key}: unknown key (known: {', '.join(known)})")
    values = {key: _coerce(value, hints[key], f"{where}.{key}") for key, value in table.items()}
    for key, field in known.items():
        if key not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{where}.{key}: missing")
    try:
        return cls(**values)
    except (ValueError, TypeError) as exc:
        raise UsageError(f"{where}: {exc}") from exc


def _read_model(cls: Any, table: Mapping[str, Any], where: str) -> Any:
    try:
        return cls(**table)
    except (ValueError, TypeError) as exc:
        first_line = str(exc).replace("\n", " ")
        raise UsageError(f"{where}: {first_line}") from exc


def _coerce(value: Any, annotation: Any, path: str) -> Any:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, args, path)
    if origin in (list, tuple, set, frozenset):
        if not isinstance(value, list):
            raise UsageError(f"{path}: expected a list, got {value!r}")
        item = args[0] if args else Any
        return origin(_coerce(one, item, f"{path}[{i}]") for i, one in enumerate(value))
    if origin is dict or annotation is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{path}: expected a table, got {value!r}")
        return {key: _coerce(one, args[1] if args else Any, f"{path}.{key}") for key, one in value.items()}
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type) and isinstance(value, dict):
        return read_options(annotation, value, path)
    return _coerce_scalar(value, annotation, path)


def _coerce_union(value: Any, args: tuple[Any, ...], path: str) -> Any:
    problems = []
    for arg in args:
        if arg is type(None):
            if value is None:
                return None
            continue
        try:
            return _coerce(value, arg, path)
        except UsageError as exc:
            problems.append(str(exc))
    raise UsageError(problems[0])


def _coerce_scalar(value: Any, annotation: Any, path: str) -> Any:
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        isinstance(annotation, type)
        and isinstance(value, annotation)
        and not (annotation is int and isinstance(value, bool))
    ):
        return value
    raise UsageError(f"{path}: expected {getattr(annotation, '__name__', annotation)}, got {value!r}")
