"""Inputs from text (a flag's value) and from JSON (an inputs file) to the Python types that a task declares."""

from __future__ import annotations

import base64
import binascii
import collections.abc
import dataclasses
import enum
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from airside.cli.durations import read_duration
from airside.model import ConversionError, Directory, File, StructuredDataset

_NOTHING = ("null", "none")


def from_text(text: str, annotation: Any, path: str) -> Any:
    """The value of a flag. Lists, dicts and classes are written as JSON, everything else plainly.

    Raises `ConversionError`, which begins with `path`.

    >>> from_text("3", int, "inputs.x"), from_text("[1, 2]", list[float], "inputs.x")
    (3, [1.0, 2.0])
    >>> from_text("abc", int, "inputs.x")
    Traceback (most recent call last):
    airside.model.errors.ConversionError: inputs.x: expected int, got 'abc'
    """
    kind = strip(annotation)
    options = union_of(kind)
    if options:
        return _union_from_text(text, options, path)
    if kind is Any or kind is object:
        return _json_or_text(text)
    if kind is bool:
        return _bool_from_text(text, path)
    if kind in (int, float):
        return _number_from_text(text, kind, path)
    if kind is type(None):
        return from_json(None if text.lower() in _NOTHING else text, kind, path)
    if kind is str or choices_of(kind) or (kind in _SCALARS and not text.startswith("{")):
        return from_json(text, kind, path)
    return from_json(_json(text, kind, path), kind, path)


def from_json(value: Any, annotation: Any, path: str) -> Any:
    """The value of an input in parsed JSON, checked against its declared type.

    Raises `ConversionError` with the path to what does not fit: `inputs.x[3].y: expected int, got 'abc'`.
    """
    kind = strip(annotation)
    options = union_of(kind)
    if options:
        return _union_from_json(value, options, path)
    if kind is Any or kind is object:
        return value
    if choices_of(kind):
        return _choice(value, kind, path)
    if kind in _SCALARS:
        return _scalar(value, kind, path)
    if kind in _PLAIN:
        return _plain(value, kind, path)
    origin = typing.get_origin(kind) or kind
    if origin in _SEQUENCES:
        return _sequence(value, kind, path)
    if origin in _MAPPINGS:
        return _mapping(value, kind, path)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(value, kind, path)
    if typing.is_typeddict(kind):
        return _typed_dict(value, kind, path)
    return _model(value, kind, path)


def strip(annotation: Any) -> Any:
    """The annotation without `Annotated`, `NewType` and type aliases; the type of None for None."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return type(None) if annotation is None else annotation


def union_of(annotation: Any) -> tuple[Any, ...]:
    """The members of a union or an optional type; empty for anything else."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else ()


def choices_of(annotation: Any) -> tuple[str, ...]:
    """What may be written for an enum or a `Literal`; empty for anything else."""
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(str(member.value) for member in annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return tuple(str(one) for one in typing.get_args(annotation))
    return ()


def type_name(annotation: Any) -> str:
    """A declared type for a person.

    >>> type_name(int | None), type_name(dict[str, list[float]]), type_name(typing.Literal["a", "b"])
    ('int | None', 'dict[str, list[float]]', 'a | b')
    """
    kind = strip(annotation)
    if kind is type(None):
        return "None"
    if choices_of(kind):
        return " | ".join(choices_of(kind))
    if union_of(kind):
        return " | ".join(type_name(one) for one in union_of(kind))
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is not None and args:
        inner = ", ".join("..." if one is Ellipsis else type_name(one) for one in args)
        return f"{origin.__name__}[{inner}]"
    return getattr(kind, "__name__", None) or str(kind)


def _wrong(value: Any, annotation: Any, path: str) -> ConversionError:
    return ConversionError(path, f"expected {type_name(annotation)}, got {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _json(text: str, kind: Any, path: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise ConversionError(path, f"expected {type_name(kind)} as JSON, got {_shown(text)} ({exc})") from None


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _bool_from_text(text: str, path: str) -> bool:
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise _wrong(text, bool, path)


def _number_from_text(text: str, kind: type[int] | type[float], path: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise _wrong(text, kind, path) from None


def _union_from_text(text: str, options: tuple[Any, ...], path: str) -> Any:
    if type(None) in options and text.lower() in _NOTHING:
        return None
    rest = [one for one in options if strip(one) is not type(None)]
    if len(rest) == 1:
        return from_text(text, rest[0], path)
    rest.sort(key=lambda one: strip(one) is str)  # any text is a str, so that is tried last
    for one in rest:
        try:
            return from_text(text, one, path)
        except ConversionError:
            continue
    raise _wrong(text, typing.Union[options], path)  # noqa: UP007 - made at run time


def _union_from_json(value: Any, options: tuple[Any, ...], path: str) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [one for one in options if strip(one) is not type(None)]
    if len(rest) == 1:
        return from_json(value, rest[0], path)
    rest.sort(key=lambda one: (type(value) is not strip(one), strip(one) is str))
    for one in rest:
        try:
            return from_json(value, one, path)
        except ConversionError:
            continue
    raise _wrong(value, typing.Union[options], path)  # noqa: UP007 - made at run time


def _plain(value: Any, kind: Any, path: str) -> Any:
    if kind is float:
        if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
            return math.nan if value == "NaN" else float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        raise _wrong(value, kind, path)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong(value, kind, path)
    return value


def _choice(value: Any, kind: Any, path: str) -> Any:
    members: Mapping[str, Any]
    if typing.get_origin(kind) is typing.Literal:
        members = {str(one): one for one in typing.get_args(kind)}
    else:
        members = {**{one.name: one for one in kind}, **{str(one.value): one for one in kind}}
    if str(value) not in members:
        raise ConversionError(path, f"expected one of {', '.join(choices_of(kind))}, got {_shown(value)}")
    return members[str(value)]


def _sequence(value: Any, kind: Any, path: str) -> Any:
    origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
    if not isinstance(value, list):
        raise _wrong(value, kind, path)
    item = args[0] if args else Any
    items = [from_json(one, item, f"{path}[{i}]") for i, one in enumerate(value)]
    return tuple(items) if origin is tuple else items


def _mapping(value: Any, kind: Any, path: str) -> dict[Any, Any]:
    args = typing.get_args(kind)
    if not isinstance(value, dict):
        raise _wrong(value, kind, path)
    key_type, item = (strip(args[0]), args[1]) if args else (str, Any)
    return {
        key if key_type in (str, Any) else from_text(key, key_type, f"{path}[{key!r}]"): from_json(
            one, item, f"{path}[{key!r}]"
        )
        for key, one in value.items()
    }


def _dataclass(value: Any, kind: type[Any], path: str) -> Any:
    if not isinstance(value, dict):
        raise ConversionError(path, f"expected {kind.__name__} as a JSON object, got {_shown(value)}")
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in value:
        if name not in fields:
            raise ConversionError(f"{path}.{name}", f"not a field of {kind.__name__} (fields: {', '.join(fields)})")
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in value and not has_default:
            raise ConversionError(f"{path}.{name}", "missing")
    values = {name: from_json(one, hints[name], f"{path}.{name}") for name, one in value.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as exc:
        raise ConversionError(path, str(exc)) from None


def _typed_dict(value: Any, kind: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConversionError(path, f"expected {kind.__name__} as a JSON object, got {_shown(value)}")
    hints = typing.get_type_hints(kind, include_extras=True)
    for name in value:
        if name not in hints:
            raise ConversionError(f"{path}.{name}", f"not a key of {kind.__name__} (keys: {', '.join(hints)})")
    for name, hint in hints.items():
        mark = typing.get_origin(hint)
        if name not in value and (mark is typing.Required or (kind.__total__ and mark is not typing.NotRequired)):
            raise ConversionError(f"{path}.{name}", "missing")
    hints = typing.get_type_hints(kind)
    return {name: from_json(one, hints[name], f"{path}.{name}") for name, one in value.items()}


def _model(value: Any, kind: Any, path: str) -> Any:
    """A pydantic model or a msgspec struct; any other class must be what JSON gave already."""
    try:
        if hasattr(kind, "model_validate"):
            return kind.model_validate(value)
        if hasattr(kind, "__struct_fields__"):
            import msgspec

            return msgspec.convert(value, kind)
    except (ValueError, TypeError) as exc:
        raise ConversionError(path, " ".join(str(exc).split())) from None
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise ConversionError(path, f"{type_name(kind)} cannot be given on the command line; use the Python API")


def _scalar(value: Any, kind: Any, path: str) -> Any:
    """A value that JSON has no notation for: written as a string, or as its own small object."""
    if isinstance(value, dict) and dataclasses.is_dataclass(kind):
        return _dataclass(value, typing.cast("type[Any]", kind), path)
    if kind is timedelta and isinstance(value, (int, float)) and not isinstance(value, bool):
        return timedelta(seconds=value)
    if not isinstance(value, str):
        raise _wrong(value, kind, path)
    try:
        return _SCALARS[kind](value)
    except ValueError as exc:
        raise ConversionError(path, str(exc)) from None


def _datetime(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expected a time such as 2026-01-31T12:00:00Z, got {text!r}") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expected a day such as 2026-01-31, got {text!r}") from None


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(f"expected bytes in Base64, got {_shown(text)}") from None


def _located(text: str, *, folder: bool) -> str:
    """A URI as it is; a local path made absolute, since the job runs elsewhere. It must exist."""
    if "://" in text:
        return text
    path = Path(text).expanduser()
    if not path.exists():
        raise ValueError(f"no such {'folder' if folder else 'file'}: {text}")
    if path.is_dir() is not folder:
        raise ValueError(
            f"expected a folder, but {text} is a file" if folder else f"expected a file, but {text} is a folder"
        )
    return str(path.resolve())


def _file(text: str) -> File:
    return File(_located(text, folder=False))


def _directory(text: str) -> Directory:
    return Directory(_located(text, folder=True))


def _dataset(text: str) -> StructuredDataset:
    is_folder = "://" not in text and Path(text).expanduser().is_dir()
    suffix = Path(text).suffix.removeprefix(".").lower()
    return StructuredDataset(_located(text, folder=is_folder), format=suffix or "parquet")


_SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_PLAIN: tuple[Any, ...] = (bool, int, float, str, type(None))
_SCALARS: dict[Any, Callable[[str], Any]] = {
    datetime: _datetime,
    date: _date,
    timedelta: read_duration,
    bytes: _bytes,
    File: _file,
    Directory: _directory,
    StructuredDataset: _dataset,
}
