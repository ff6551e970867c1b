"""An agent's options: the table `[agents.NAME]` of airside.toml, made into the agent's `Options` class."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import PurePath
from typing import Any

from airside.model import PluginError, UsageError


def read_options(cls: type[Any] | None, table: Mapping[str, Any], where: str, *, local: bool = False) -> Any:
    """An instance of `cls` filled from `table`; `UsageError` names the key that is wrong.

    `local`: the process is the user's own, and serves nobody else; a field whose metadata has `local` defaults to that.

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
    hints = types_of(cls)
    known = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in table:
        if key not in known:
            raise UsageError(f"{where}.{key}: unknown key (known: {', '.join(known)})")
    values = {key: _coerce(value, hints[key], f"{where}.{key}") for key, value in table.items()}
    if local:
        values = {key: field.metadata["local"] for key, field in known.items() if "local" in field.metadata} | values
    for key, field in known.items():
        if key not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{where}.{key}: missing")
    try:
        return cls(**values)
    except (ValueError, TypeError) as exc:
        raise UsageError(f"{where}: {exc}") from exc


def types_of(cls: type[Any]) -> Mapping[str, Any]:
    """The types of the fields of an options class. Raises `PluginError` for one that only a type checker can see."""
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError) as exc:
        raise PluginError(
            f"{cls.__qualname__} has a type that cannot be read: {exc}; import it outside `if TYPE_CHECKING`."
        ) from None


def _read_model(cls: Any, table: Mapping[str, Any], where: str) -> Any:
    """A pydantic model, a msgspec struct, or any class that takes its options by name."""
    known = _model_keys(cls)
    for key in table:
        if known is not None and key not in known:
            raise UsageError(f"{where}.{key}: unknown key (known: {', '.join(known)})")
    try:
        if hasattr(cls, "__struct_fields__"):
            import msgspec

            return msgspec.convert(dict(table), cls)
        return cls(**table)
    except (ValueError, TypeError) as exc:
        raise UsageError(_first_problem(exc, where)) from exc


def _model_keys(cls: Any) -> Sequence[str] | None:
    """The keys that a model knows; None if it takes any, or does not say."""
    if hasattr(cls, "__struct_encode_fields__"):
        return tuple(cls.__struct_encode_fields__)
    fields = getattr(cls, "model_fields", None)
    if fields is None or cls.model_config.get("extra") == "allow":
        return None
    aliases = (field.validation_alias or field.alias for field in fields.values())
    return (*fields, *(alias for alias in aliases if isinstance(alias, str)))


def _first_problem(exc: Exception, where: str) -> str:
    if hasattr(exc, "errors"):
        first = exc.errors()[0]
        return f"{'.'.join((where, *map(str, first['loc'])))}: {first['msg']}"
    problem, at, path = " ".join(str(exc).split()).partition(" - at `$")
    return f"{where}{path.rstrip('`')}: {problem}" if at else f"{where}: {problem}"


def _coerce(value: Any, annotation: Any, path: str) -> Any:
    annotation = getattr(annotation, "__supertype__", annotation)  # NewType
    origin, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, args, path)
    if origin is typing.Literal:
        return _choose({one: one for one in args}, value, path)
    if origin in (list, tuple, set, frozenset, Sequence):
        return _coerce_list(value, origin, args, path)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise UsageError(f"{path}: expected a table, got {value!r}")
        return {key: _coerce(one, args[1] if args else Any, f"{path}.{key}") for key, one in value.items()}
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type) and isinstance(value, dict):
        return read_options(annotation, value, path)
    return _coerce_scalar(value, annotation, path)


def _coerce_list(value: Any, origin: Any, args: tuple[Any, ...], path: str) -> Any:
    if not isinstance(value, list):
        raise UsageError(f"{path}: expected a list, got {value!r}")
    items = [args[0] if args else Any] * len(value)
    if origin is tuple and args and args[-1] is not Ellipsis:
        if len(args) != len(value):
            raise UsageError(f"{path}: expected a list of {len(args)}, got {value!r}")
        items = list(args)
    coerced = [_coerce(one, item, f"{path}[{i}]") for i, (one, item) in enumerate(zip(value, items, strict=True))]
    return coerced if origin in (list, Sequence) else origin(coerced)


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
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is float and is_number:
        return float(value)
    if annotation is timedelta:
        if is_number:
            return timedelta(seconds=value)
        raise UsageError(f"{path}: expected a number of seconds, got {value!r}")
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        if isinstance(value, str):
            return annotation(value)
        raise UsageError(f"{path}: expected a path, got {value!r}")
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _choose({one.value: one for one in annotation}, value, path)
    if isinstance(annotation, type) and isinstance(value, annotation) and (annotation is not int or is_number):
        return value
    raise UsageError(f"{path}: expected {getattr(annotation, '__name__', annotation)}, got {value!r}")


def _choose(choices: Mapping[Any, Any], value: Any, path: str) -> Any:
    for given, chosen in choices.items():
        if type(given) is type(value) and given == value:
            return chosen
    raise UsageError(f"{path}: expected {' or '.join(map(repr, choices))}, got {value!r}")
