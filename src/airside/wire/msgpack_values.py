"""Structs: Python values in msgpack, as Flyte's SDKs write and read them.

A datetime travels as an ISO 8601 string, a timedelta as seconds, an enum as its value, a dataclass as a map
of its fields, a file or directory as `{"path": uri}`, a table as `{"uri": ..., "file_format": ...}`.
"""

from __future__ import annotations

import decimal
import enum
import numbers
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time, timedelta
from types import NoneType
from typing import Any

import msgpack
from flyteidl2.core import types_pb2
from flyteidl2.core.types_pb2 import LiteralType

from airside.model import Directory, File, StructuredDataset
from airside.wire.misfit import MAX_DEPTH, Misfit, expected, shown, too_deep
from airside.wire.types import describe, field_names

TAG = "msgpack"
_INT64 = 2**63
_WIDEN = True
_AS_IS = frozenset({str, float, bool, NoneType})


def encode(value: Any, literal_type: LiteralType | None = None) -> bytes:
    """`value` in msgpack. Fields whose types `literal_type` tells are checked, and ints widened to float.

    Raises `Misfit` for a value that msgpack, or the type, does not take.

    >>> encode({"a": 1, "b": [1, None]}).hex()
    '82a16101a1629201c0'
    """
    try:
        packed: bytes = msgpack.packb(_plain(value, literal_type, _WIDEN, 0))
    except UnicodeEncodeError:
        raise Misfit("text is not valid Unicode (a lone surrogate)") from None
    return packed


def decode(data: bytes) -> Any:
    """The value that msgpack bytes hold.

    >>> decode(bytes.fromhex("82a16101a1629201c0"))
    {'a': 1, 'b': [1, None]}
    """
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=False, timestamp=3, ext_hook=_refuse)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise Misfit(f"not valid msgpack ({shown(str(error) or type(error).__name__)[1:-1]})") from None
    if len(data) > MAX_DEPTH:  # each level takes a byte at least
        _bound(value)
    return value


def is_struct(value: object) -> bool:
    """Whether a value travels as a struct: a mapping, dataclass, pydantic model or msgspec struct."""
    if isinstance(value, (File, Directory, StructuredDataset)):
        return False
    return isinstance(value, Mapping) or field_names(type(value)) is not None


def _refuse(code: int, data: bytes) -> Any:
    raise ValueError(f"unknown extension type {code}, {len(data)} bytes")


def _bound(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for holder in level
            if isinstance(holder, (dict, list))
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
        if not level:
            return
    raise too_deep()


# --- from Python values to what msgpack takes


def _plain(value: Any, declared: LiteralType | None, widen: bool, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise too_deep()
    if declared is not None:
        kind = declared.WhichOneof("type")
        if kind == "union_type":
            return _plain_union(value, declared, widen, depth)
        if kind == "simple" and declared.simple in _SCALARS:
            value = _SCALARS[declared.simple](value, widen)
    cls = type(value)
    if cls in _AS_IS:
        return value
    if cls is int:
        return _checked_int(value)
    return _plain_compound(value, declared, widen, depth)


def _plain_compound(value: Any, declared: LiteralType | None, widen: bool, depth: int) -> Any:
    if isinstance(value, Mapping):
        return _plain_map(value.items(), declared, widen, depth)
    if isinstance(value, (list, tuple)):
        return _plain_list(value, declared, widen, depth)
    names = field_names(type(value))
    if names is None or type(value) in _RICH:
        return _plain_object(value, widen, depth)
    if hasattr(value, "model_dump"):
        return _plain_map(_dumped(value).items(), declared, widen, depth)
    return _plain_map(((name, getattr(value, name)) for name in names), declared, widen, depth)


def _plain_map(
    items: Iterable[tuple[Any, Any]], declared: LiteralType | None, widen: bool, depth: int
) -> dict[Any, Any]:
    kind = declared.WhichOneof("type") if declared is not None else None
    each = declared.map_value_type if declared is not None and kind == "map_value_type" else None
    fields = declared.structure.dataclass_type if declared is not None and kind == "simple" else {}
    plain: dict[Any, Any] = {}
    for key, item in items:
        try:
            field = fields[key] if isinstance(key, str) and key in fields else each
            plain[_plain_key(key)] = _plain(item, field, widen, depth + 1)
        except Misfit as misfit:
            raise misfit.under(key) from None
    return plain


def _plain_list(items: Iterable[Any], declared: LiteralType | None, widen: bool, depth: int) -> list[Any]:
    known = declared is not None and declared.WhichOneof("type") == "collection_type"
    each = declared.collection_type if declared is not None and known else None
    plain = []
    for index, item in enumerate(items):
        try:
            plain.append(_plain(item, each, widen, depth + 1))
        except Misfit as misfit:
            raise misfit.under(index) from None
    return plain


def _plain_union(value: Any, declared: LiteralType, widen: bool, depth: int) -> Any:
    variants = declared.union_type.variants
    for widening in (False, True) if widen else (False,):
        for variant in variants:
            try:
                return _plain(value, variant, widening, depth + 1)
            except Misfit:
                continue
    raise expected(describe(declared), value)


def _plain_key(key: Any) -> Any:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, int) and not isinstance(key, bool):
        return _checked_int(int(key))
    if isinstance(key, (str, bool, float, bytes)) or key is None:
        return key
    raise Misfit(f"a dict key must be str or a number, got {shown(key)}")


def _plain_object(value: Any, widen: bool, depth: int) -> Any:
    for cls, convert in _RICH.items():
        if isinstance(value, cls):
            return convert(value)
    if isinstance(value, enum.Enum):
        return _plain(value.value, None, widen, depth + 1)
    if isinstance(value, numbers.Integral):  # such as numpy's
        return _checked_int(int(value))
    if isinstance(value, numbers.Real):
        return float(value)
    raise Misfit(f"a value in a struct must be JSON-like, got {shown(value)}")


_RICH: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    date: lambda moment: moment.isoformat(),  # a datetime too
    time: time.isoformat,
    timedelta: timedelta.total_seconds,
    File: lambda file: {"path": file.uri},
    Directory: lambda directory: {"path": directory.uri},
    StructuredDataset: lambda table: {"uri": table.uri, "file_format": table.format},
    bytes: bytes,
    bytearray: bytes,
    memoryview: bytes,
    os.PathLike: os.fspath,
    uuid.UUID: str,
    decimal.Decimal: str,
}


def _dumped(model: Any) -> Mapping[str, Any]:
    try:
        dumped: Mapping[str, Any] = model.model_dump(mode="json")
    except (ValueError, TypeError, RecursionError) as error:
        raise Misfit(f"{type(model).__name__} cannot be written as JSON: {shown(str(error))}") from None
    return dumped


def _checked_int(value: int) -> int:
    if not -_INT64 <= value < _INT64:
        raise expected("an int of 64 bits", value)
    return value


# --- scalars of a declared type; `literals` writes by the same rules


def strict_int(value: Any, _widen: bool) -> int:
    """An int of 64 bits; a bool is none."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
        raise expected("int", value)
    return _checked_int(value if type(value) is int else int(value))


def strict_float(value: Any, widen: bool) -> float:
    """A float, or an int if it may be widened; a bool is neither."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise expected("float", value)
    if isinstance(value, numbers.Integral) and not widen:
        raise expected("float", value)
    try:
        return float(value)
    except OverflowError:
        raise expected("float", value) from None


def strict_str(value: Any, _widen: bool) -> str:
    """A str."""
    if not isinstance(value, str):
        raise expected("str", value)
    return value


def strict_bool(value: Any, _widen: bool) -> bool:
    """A bool."""
    if not isinstance(value, bool):
        raise expected("bool", value)
    return value


def strict_none(value: Any, _widen: bool) -> None:
    """None."""
    if value is not None:
        raise expected("None", value)


_SCALARS: dict[int, Callable[[Any, bool], Any]] = {
    types_pb2.NONE: strict_none,
    types_pb2.INTEGER: strict_int,
    types_pb2.FLOAT: strict_float,
    types_pb2.STRING: strict_str,
    types_pb2.BOOLEAN: strict_bool,
}
