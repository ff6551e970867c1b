"""What crosses between the service and an agent in a process of its own: values as msgpack, never as pickles.

The two sides may run different interpreters with different libraries, so a value travels by what it means to Flyte:
plain values as they are, an enum with name and value, a dataclass or pydantic model as the struct it would become, and
what Flyte has no type for by its name alone, so that the service refuses it in the same words as ever.
"""

from __future__ import annotations

import enum
import numbers
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

import msgpack
from flyteidl2.core import literals_pb2, types_pb2
from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message

from airside.model import AirsideError, Directory, File, StructuredDataset
from airside.wire import msgpack_values
from airside.wire.literal_map import LiteralValues
from airside.wire.misfit import Misfit, shown
from airside.wire.struct import StructValues
from airside.wire.types import to_annotation, to_literal_type

_SURROGATES = "surrogatepass"  # refused later, where the message can say which value it is


class BadParcel(AirsideError):
    """Bytes that are no parcel."""


def pack(value: Any) -> bytes:
    """A value in msgpack.

    >>> unpack(pack({"x": [1, 2**80, None], "at": timedelta(seconds=3)}))
    {'x': [1, 1208925819614629174706176, None], 'at': datetime.timedelta(seconds=3)}
    """
    data: bytes = msgpack.packb(value, default=_write, strict_types=True, unicode_errors=_SURROGATES)
    return data


def unpack(data: bytes) -> Any:
    """The value in a parcel. Raises `BadParcel`."""
    try:
        return msgpack.unpackb(data, ext_hook=_read, strict_map_key=False, unicode_errors=_SURROGATES)
    except (ValueError, TypeError, LookupError, AttributeError, msgpack.UnpackException) as exc:
        raise BadParcel(f"not a parcel: {exc}") from exc


class _Kind(enum.IntEnum):
    """The number of a msgpack extension. Numbers are for ever: the other side may be older."""

    DATETIME = 1
    DATE = 2
    DURATION = 3
    FILE = 4
    DIRECTORY = 5
    DATASET = 6
    ENUM = 7
    INTEGER = 8
    LITERAL = 9
    GENERIC = 10
    STRUCT = 11
    LITERALS = 12
    OTHER = 13


def _write(value: Any) -> Any:
    """What msgpack cannot say by itself. Called for everything whose class is not exactly a plain one."""
    if isinstance(value, LiteralValues):
        return _ext(_Kind.LITERALS, value.to_bytes())
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Message):
        return _write_message(value)
    for cls, write in _WRITERS.items():
        if isinstance(value, cls):
            return write(value)
    if msgpack_values.is_struct(value):
        try:
            return _ext(_Kind.STRUCT, msgpack_values.encode(value))
        except Misfit:
            pass
    return _ext(_Kind.OTHER, pack([type(value).__name__, shown(value)]))


def _write_message(value: Message) -> msgpack.ExtType:
    if value.DESCRIPTOR.name == "Literal":
        return _ext(_Kind.LITERAL, value.SerializeToString())
    struct = struct_pb2.Struct()
    if isinstance(value, struct_pb2.Struct):
        struct = value
    else:
        struct.update(json_format.MessageToDict(value))
    return _ext(_Kind.GENERIC, struct.SerializeToString())


def _dataset(value: StructuredDataset) -> msgpack.ExtType:
    columns = {name: to_literal_type(kind).SerializeToString() for name, kind in value.columns.items()}
    return _ext(_Kind.DATASET, pack([value.uri, value.format, columns]))


def _ext(kind: _Kind, data: bytes) -> msgpack.ExtType:
    return msgpack.ExtType(kind, data)


_WRITERS: dict[type, Callable[[Any], Any]] = {  # in this order: a datetime is a date, an IntEnum an int
    enum.Enum: lambda value: _ext(_Kind.ENUM, pack([value.name, value.value])),
    datetime: lambda value: _ext(_Kind.DATETIME, value.isoformat().encode()),
    date: lambda value: _ext(_Kind.DATE, value.isoformat().encode()),
    timedelta: lambda value: _ext(_Kind.DURATION, pack([value.days, value.seconds, value.microseconds])),
    File: lambda value: _ext(_Kind.FILE, pack([value.uri, value.format])),
    Directory: lambda value: _ext(_Kind.DIRECTORY, pack([value.uri, value.format])),
    StructuredDataset: _dataset,
    str: str.__str__,
    bytes: bytes,
    bytearray: bytes,
    memoryview: bytes,
    list: list,
    tuple: list,
    bool: bool,
    int: lambda value: _ext(_Kind.INTEGER, str(int(value)).encode()),
    numbers.Integral: lambda value: _ext(_Kind.INTEGER, str(int(value)).encode()),
    numbers.Real: float,
}


def _read(code: int, data: bytes) -> Any:
    return _READERS[_Kind(code)](data)


def _read_dataset(data: bytes) -> StructuredDataset:
    uri, form, columns = unpack(data)
    kinds = {name: to_annotation(types_pb2.LiteralType.FromString(kind)) for name, kind in columns.items()}
    return StructuredDataset(uri, form, kinds)


def _read_enum(data: bytes) -> Any:
    name, value = unpack(data)
    make: Any = enum.Enum
    return make("Value", {name: value})[name]


def _read_other(data: bytes) -> Any:
    name, text = unpack(data)
    return type(name, (), {"__repr__": lambda _: text})()


_READERS: dict[_Kind, Callable[[bytes], Any]] = {
    _Kind.DATETIME: lambda data: datetime.fromisoformat(data.decode()),
    _Kind.DATE: lambda data: date.fromisoformat(data.decode()),
    _Kind.DURATION: lambda data: timedelta(*unpack(data)),
    _Kind.FILE: lambda data: File(*unpack(data)),
    _Kind.DIRECTORY: lambda data: Directory(*unpack(data)),
    _Kind.DATASET: _read_dataset,
    _Kind.ENUM: _read_enum,
    _Kind.INTEGER: lambda data: int(data.decode()),
    _Kind.LITERAL: literals_pb2.Literal.FromString,
    _Kind.GENERIC: lambda data: dict(StructValues(struct_pb2.Struct.FromString(data))),
    _Kind.STRUCT: msgpack_values.decode,
    _Kind.LITERALS: LiteralValues,
    _Kind.OTHER: _read_other,
}
