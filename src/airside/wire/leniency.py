"""Reading a value as a declared type says, though it may have been written otherwise.

Flyte's engines do not check types, older SDKs write structs with floats only, and a field taken from a
struct arrives in msgpack. What can be read without guessing is read; the rest is a `Misfit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import NoneType
from typing import Any

from flyteidl2.core import types_pb2
from flyteidl2.core.types_pb2 import LiteralType

from airside.model import Directory, File, StructuredDataset
from airside.wire.instants import utc
from airside.wire.misfit import MAX_DEPTH, Misfit, expected, too_deep
from airside.wire.types import column_types, describe, sole_variant


def conform(value: Any, declared: LiteralType, depth: int = 0) -> Any:
    """`value` as a value of the declared type. Raises `Misfit` if it cannot be read as one.

    >>> conform(7.0, LiteralType(simple=types_pb2.INTEGER))
    7
    """
    if depth > MAX_DEPTH:
        raise too_deep()
    return _reader(declared, depth)(value)


def _reader(declared: LiteralType, depth: int) -> Callable[[Any], Any]:
    """The function that reads one value of a type: a list looks its items' type up once."""
    kind = declared.WhichOneof("type")
    if kind == "simple":
        return _SIMPLE.get(declared.simple, _anything)
    compound = _COMPOUND.get(kind)
    return _anything if compound is None else lambda value: compound(value, declared, depth)


def _anything(value: Any) -> Any:
    return value


# --- simple types


def _int(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is float and math.isfinite(value):
        return int(value)  # as flytekit reads it: old structs know floats only
    raise expected("int", value)


def _float(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise expected("float", value)


def _exactly(cls: type, name: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is cls:
            return value
        raise expected(name, value)

    return read


def _datetime(value: Any) -> datetime:
    if type(value) is datetime:
        return value
    if type(value) is str:
        try:
            return utc(datetime.fromisoformat(value)).astimezone(UTC)
        except ValueError:
            pass
    raise expected("datetime", value)


def _timedelta(value: Any) -> timedelta:
    if type(value) is timedelta:
        return value
    if type(value) in (int, float):
        try:
            return timedelta(seconds=value)
        except (OverflowError, ValueError):
            pass
    raise expected("timedelta", value)


def _struct(value: Any) -> Any:
    if isinstance(value, (dict, list, bytes)):
        return value
    raise expected("dict", value)


_SIMPLE: dict[int, Callable[[Any], Any]] = {
    types_pb2.INTEGER: _int,
    types_pb2.FLOAT: _float,
    types_pb2.STRING: _exactly(str, "str"),
    types_pb2.BOOLEAN: _exactly(bool, "bool"),
    types_pb2.DATETIME: _datetime,
    types_pb2.DURATION: _timedelta,
    types_pb2.NONE: _exactly(NoneType, "None"),
    types_pb2.BINARY: _exactly(bytes, "bytes"),
    types_pb2.STRUCT: _struct,
}


# --- types made of others


def _list(value: Any, declared: LiteralType, depth: int) -> list[Any]:
    if type(value) is not list:
        raise expected("list", value)
    if depth >= MAX_DEPTH:
        raise too_deep()
    read = _reader(declared.collection_type, depth + 1)
    items = []
    for index, item in enumerate(value):
        try:
            items.append(read(item))
        except Misfit as misfit:
            raise misfit.under(index) from None
    return items


def _map(value: Any, declared: LiteralType, depth: int) -> dict[str, Any]:
    if type(value) is not dict:
        raise expected("dict", value)
    if depth >= MAX_DEPTH:
        raise too_deep()
    read = _reader(declared.map_value_type, depth + 1)
    items = {}
    for key, item in value.items():
        try:
            items[key] = read(item)
        except Misfit as misfit:
            raise misfit.under(key) from None
    return items


def _union(value: Any, declared: LiteralType, depth: int) -> Any:
    variants = declared.union_type.variants
    for variant in variants:
        if _fits(value, variant, depth + 1):
            return conform(value, variant, depth + 1)
    sole = sole_variant(declared)
    if sole is not None:
        return conform(value, sole, depth + 1)
    for variant in variants:
        try:
            return conform(value, variant, depth + 1)
        except Misfit:
            continue
    raise expected(describe(declared), value)


def _enum(value: Any, declared: LiteralType, _depth: int) -> str:
    if type(value) is not str:
        raise expected(describe(declared), value)
    return value


def _blob(value: Any, declared: LiteralType, _depth: int) -> File | Directory:
    wanted = Directory if declared.blob.dimensionality else File
    if isinstance(value, dict):
        uri = value.get("path", value.get("uri"))
        form = value.get("format") or ""
        if isinstance(uri, str) and isinstance(form, str):
            return wanted(uri, form or declared.blob.format)
    if isinstance(value, (wanted, File)):  # a lone file may be marked so by default only
        return wanted(value.uri, value.format or declared.blob.format)
    raise expected(describe(declared), value)


def _dataset(value: Any, declared: LiteralType, depth: int) -> StructuredDataset:
    type_ = getattr(declared, declared.WhichOneof("type"))
    if isinstance(value, dict) and isinstance(value.get("uri"), str):
        form = value.get("file_format") or value.get("format") or ""
        value = StructuredDataset(value["uri"], form if isinstance(form, str) else "")
    if not isinstance(value, StructuredDataset):
        raise expected("StructuredDataset", value)
    if value.columns and value.format:
        return value
    columns = value.columns or column_types(type_, depth=depth)
    return StructuredDataset(value.uri, value.format or getattr(type_, "format", ""), columns)


_COMPOUND: dict[str | None, Callable[[Any, LiteralType, int], Any]] = {
    "collection_type": _list,
    "map_value_type": _map,
    "union_type": _union,
    "enum_type": _enum,
    "blob": _blob,
    "schema": _dataset,
    "structured_dataset_type": _dataset,
}


# --- which variant of a union a value was written as

_CLASSES: dict[int, type] = {
    types_pb2.NONE: NoneType,
    types_pb2.INTEGER: int,
    types_pb2.FLOAT: float,
    types_pb2.STRING: str,
    types_pb2.BOOLEAN: bool,
    types_pb2.DATETIME: datetime,
    types_pb2.DURATION: timedelta,
    types_pb2.BINARY: bytes,
    types_pb2.ERROR: dict,
    types_pb2.STRUCT: dict,
}


def _fits(value: Any, declared: LiteralType, depth: int) -> bool:
    """Whether `value` is of the declared type already, so that nothing needs to be bent."""
    if depth > MAX_DEPTH:
        raise too_deep()
    kind = declared.WhichOneof("type")
    if kind == "simple":
        return type(value) is _CLASSES.get(declared.simple)
    if kind == "collection_type":
        return type(value) is list and all(_fits(item, declared.collection_type, depth + 1) for item in value)
    if kind == "map_value_type":
        items = value.values() if type(value) is dict else ()
        return type(value) is dict and all(_fits(item, declared.map_value_type, depth + 1) for item in items)
    if kind == "union_type":
        return any(_fits(value, variant, depth + 1) for variant in declared.union_type.variants)
    if kind == "enum_type":
        return value in declared.enum_type.values
    if kind == "blob":
        return type(value) is (Directory if declared.blob.dimensionality else File)
    return kind is None or type(value) is StructuredDataset
