"""JSON-like values to `google.protobuf.Struct` and back."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from google.protobuf import struct_pb2

from airside.model import ConversionError
from airside.model.redaction import redact

_MAX_DEPTH = 20  # receivers refuse messages nested deeper than 100, and a value takes three levels
_EXACT = 2**53  # a Struct's numbers are doubles: whole numbers up to here are exact


class StructValues(Mapping[str, Any]):
    """A Struct as a mapping of Python values, each converted when it is first read.

    A Struct has one kind of number, a double: whole numbers come back as int (also 3.0), others as float.
    Its order is not defined: names come sorted.

    >>> message = struct_pb2.Struct()
    >>> message.update({"warehouse": "big", "rows": 3, "ratio": 0.5})
    >>> StructValues(message)
    {'ratio': 0.5, 'rows': 3, 'warehouse': 'big'}
    """

    __slots__ = ("_fields", "_known")

    def __init__(self, message: struct_pb2.Struct) -> None:
        self._fields = message.fields
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        try:
            return self._known[name]
        except KeyError:
            if name not in self._fields:  # reading a missing key would create it in a protobuf map
                raise
        value = self._known[name] = _read(self._fields[name])
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._fields))

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._fields

    def __repr__(self) -> str:
        return repr(dict(self))


def write_struct(values: Mapping[str, Any], where: str) -> struct_pb2.Struct:
    """A Struct of JSON-like values: None, bool, numbers, strings, lists, mappings, enums, dates, dataclasses.

    Raises `ConversionError` with the path for anything else, for numbers that are not finite and for whole
    numbers beyond ±2**53, which a double would change.

    >>> write_struct({"x": [1, {"y": object}]}, "config")
    Traceback (most recent call last):
    airside.model.errors.ConversionError: config.x[1].y: type is not a JSON value
    """
    message = struct_pb2.Struct()
    for name, value in values.items():
        _write(message.fields[_key(name, where)], value, f"{where}.{name}")
    return message


def write_loosely(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """A Struct of whatever is given, for people to read.

    What JSON cannot say becomes a string, numbers that are not finite are dropped, secrets are hidden.

    >>> StructValues(write_loosely({"path": object, "nan": float("nan"), "n": 2}))
    {'n': 2, 'path': "<class 'object'>"}
    """
    message = struct_pb2.Struct()
    for name, value in _plain(values, _MAX_DEPTH).items():
        _write(message.fields[name], value, name)
    return message


def _read(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _EXACT else number
        case "bool_value":
            return value.bool_value
        case "struct_value":
            fields = value.struct_value.fields
            return {name: _read(fields[name]) for name in sorted(fields)}
        case "list_value":
            return [_read(item) for item in value.list_value.values]
        case _:
            return None


def _write(into: struct_pb2.Value, value: Any, path: str) -> None:
    match value:
        case None:
            into.null_value = struct_pb2.NULL_VALUE
        case bool():
            into.bool_value = value
        case str():
            into.string_value = value
        case int() | float():
            into.number_value = _number(value, path)
        case Mapping():
            into.struct_value.SetInParent()
            for name, item in value.items():
                _write(into.struct_value.fields[_key(name, path)], item, f"{path}.{name}")
        case list() | tuple():
            into.list_value.SetInParent()
            for index, item in enumerate(value):
                _write(into.list_value.values.add(), item, f"{path}[{index}]")
        case _:
            _write(into, _meaning(value, path), path)


def _meaning(value: Any, path: str) -> Any:
    match value:
        case enum.Enum():
            return value.value
        case date():
            return value.isoformat()
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise ConversionError(path, f"{type(value).__name__} is not a JSON value")


def _number(value: float, path: str) -> float:
    if isinstance(value, int) and abs(value) > _EXACT:
        raise ConversionError(path, f"{value} is too large for a JSON number; write it as a string")
    if not math.isfinite(value):
        raise ConversionError(path, f"{value} is not a JSON number")
    return value


def _key(name: Any, path: str) -> str:
    if not isinstance(name, str):
        raise ConversionError(path, f"keys must be strings, got {name!r}")
    return name


_DROPPED = object()


def _plain(value: Any, depth: int) -> Any:
    """A value that `_write` takes, or `_DROPPED`."""
    match value:
        case None | bool():
            return value
        case str():
            return _text(value)
        case int():
            return value if abs(value) <= _EXACT else str(value)
        case float():
            return value if math.isfinite(value) else _DROPPED
        case Mapping() if depth:
            items = {_text(name): _plain(item, depth - 1) for name, item in value.items()}
            return {name: item for name, item in items.items() if item is not _DROPPED}
        case list() | tuple() | set() | frozenset() if depth:
            return [item for item in (_plain(item, depth - 1) for item in value) if item is not _DROPPED]
    try:
        return _plain(_meaning(value, ""), depth - 1) if depth else _text(value)
    except ConversionError:
        return _text(value)


def _text(value: Any) -> str:
    return redact(str(value)).encode("utf-8", "replace").decode()
