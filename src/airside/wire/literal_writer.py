"""Writing a Python value as a literal: strict, except that an int widens to a declared float.

Each function sets the empty literal that it is given, so that nothing is copied. `declared` is the type to
write, `widen` whether an int may become a float, `room` how many messages may still nest inside.
"""

from __future__ import annotations

import enum
import numbers
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from types import NoneType
from typing import Any

from flyteidl2.core import types_pb2
from flyteidl2.core.literals_pb2 import Literal
from flyteidl2.core.types_pb2 import LiteralType
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct

from airside.model import ConversionError, Directory, File, StructuredDataset
from airside.wire import msgpack_values
from airside.wire.instants import write_duration, write_timestamp
from airside.wire.misfit import Misfit, expected, shown
from airside.wire.msgpack_values import strict_bool, strict_float, strict_int, strict_none, strict_str
from airside.wire.types import describe, is_none, to_literal_type

_WIDEN, _EXACT = True, False
_PICKLE = "FlytePickle"  # Flyte 2 declares what it pickles as a union, but sends it bare
_ROOM = 80  # readers stop at 100 nested messages, some of which hold the literal


def write(into: Literal, value: Any, declared: LiteralType | None) -> None:
    """Set the empty literal `into`. Raises `Misfit` if `value` is not of the declared type.

    A value that is a literal already is taken as it is.
    """
    if isinstance(value, Message) and value.DESCRIPTOR.name == "Literal":
        into.MergeFromString(value.SerializeToString())
        return
    try:
        _write(into, value, declared, _WIDEN, _ROOM)
    except UnicodeEncodeError:
        raise Misfit("text is not valid Unicode (a lone surrogate)") from None


def _write(into: Literal, value: Any, declared: LiteralType | None, widen: bool, room: int) -> None:
    if room < 0:
        raise Misfit("nested too deeply for protobuf readers; use a dict or dataclass as a struct")
    kind = declared.WhichOneof("type") if declared is not None else None
    if declared is None or kind is None:
        _write_by_value(into, value, room)
    elif kind == "simple":
        simple = _SIMPLE.get(declared.simple)
        if simple:
            simple(into, value, widen)
        elif declared.simple == types_pb2.STRUCT:
            _struct(into, value, declared)
        else:  # a type newer than this version
            _write_by_value(into, value, room)
    else:
        _COMPOUND[kind](into, value, declared, widen, room)


def _none(into: Literal, value: Any, widen: bool) -> None:
    strict_none(value, widen)
    into.scalar.none_type.SetInParent()


def _int(into: Literal, value: Any, widen: bool) -> None:
    into.scalar.primitive.integer = strict_int(value, widen)


def _float(into: Literal, value: Any, widen: bool) -> None:
    into.scalar.primitive.float_value = strict_float(value, widen)


def _str(into: Literal, value: Any, widen: bool) -> None:
    into.scalar.primitive.string_value = strict_str(value, widen)


def _bool(into: Literal, value: Any, widen: bool) -> None:
    into.scalar.primitive.boolean = strict_bool(value, widen)


def _datetime(into: Literal, value: Any, _widen: bool) -> None:
    if not isinstance(value, date):
        raise expected("datetime", value)
    write_timestamp(into.scalar.primitive.datetime, value)


def _timedelta(into: Literal, value: Any, _widen: bool) -> None:
    if not isinstance(value, timedelta):
        raise expected("timedelta", value)
    write_duration(into.scalar.primitive.duration, value)


def _bytes(into: Literal, value: Any, _widen: bool) -> None:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise expected("bytes", value)
    into.scalar.binary.value = bytes(value)


def _error(into: Literal, value: Any, widen: bool) -> None:
    if not isinstance(value, Mapping):
        raise expected("dict with 'message'", value)
    into.scalar.error.message = strict_str(value.get("message"), widen)
    into.scalar.error.failed_node_id = strict_str(value.get("failed_node_id", ""), widen)


def _struct(into: Literal, value: Any, declared: LiteralType | None) -> None:
    if isinstance(value, Message):
        _generic(into.scalar.generic, value)
    elif msgpack_values.is_struct(value):
        into.scalar.binary.value = msgpack_values.encode(value, declared)
        into.scalar.binary.tag = msgpack_values.TAG
    else:
        raise expected("dict or dataclass", value)


def _generic(into: Struct, message: Message) -> None:
    try:
        if isinstance(message, Struct):
            into.CopyFrom(message)
        else:
            into.update(json_format.MessageToDict(message))
    except (ValueError, TypeError, AttributeError, RecursionError, json_format.Error, DecodeError) as error:
        raise Misfit(f"{type(message).__name__} cannot be written as JSON: {shown(str(error))}") from None
    into.SetInParent()


_Simple = Callable[[Literal, Any, bool], None]
_SIMPLE: dict[int, _Simple] = {
    types_pb2.NONE: _none,
    types_pb2.INTEGER: _int,
    types_pb2.FLOAT: _float,
    types_pb2.STRING: _str,
    types_pb2.BOOLEAN: _bool,
    types_pb2.DATETIME: _datetime,
    types_pb2.DURATION: _timedelta,
    types_pb2.BINARY: _bytes,
    types_pb2.ERROR: _error,
}


def _list(into: Literal, value: Any, declared: LiteralType | None, widen: bool, room: int) -> None:
    if not isinstance(value, (list, tuple)):
        raise expected("list", value)
    items = into.collection.literals
    into.collection.SetInParent()
    item_type = None if declared is None else declared.collection_type
    for index, item in enumerate(value):
        try:
            _write(items.add(), item, item_type, widen, room - 2)
        except Misfit as misfit:
            raise misfit.under(index) from None


def _map(into: Literal, value: Any, declared: LiteralType, widen: bool, room: int) -> None:
    if not isinstance(value, Mapping):
        raise expected("dict", value)
    items = into.map.literals
    into.map.SetInParent()
    for key, item in value.items():
        try:
            _write(items[strict_str(key, widen)], item, declared.map_value_type, widen, room - 3)
        except Misfit as misfit:
            raise misfit.under(key) from None


def _union(into: Literal, value: Any, declared: LiteralType, widen: bool, room: int) -> None:
    variants = [v for v in declared.union_type.variants if value is None or not is_none(v)]
    if len(variants) > 1:
        variants.sort(key=_takes_any_dict)
    pickled = any(variant.structure.tag == _PICKLE for variant in variants)
    passes = (_EXACT, _WIDEN) if widen and len(variants) > 1 else (widen,)  # an int is rather int than float
    for widening in passes:
        for variant in variants:
            try:
                _write(into if pickled else into.scalar.union.value, value, variant, widening, room - 3)
            except Misfit:
                into.Clear()
                if len(variants) == 1:
                    raise
            else:
                if not pickled:
                    into.scalar.union.type.CopyFrom(variant)
                return
    raise expected(describe(declared), value)


def _takes_any_dict(declared: LiteralType) -> bool:
    return declared.WhichOneof("type") == "simple" and bool(declared.simple == types_pb2.STRUCT)


def _enum(into: Literal, value: Any, declared: LiteralType, _widen: bool, _room: int) -> None:
    values = declared.enum_type.values
    text = value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum) and text not in values:
        text = value.name  # Flyte 2 declares an enum by its names
    if not isinstance(text, str) or (values and text not in values):
        raise expected(describe(declared), value)
    into.scalar.primitive.string_value = text


def _blob(into: Literal, value: Any, declared: LiteralType, _widen: bool, _room: int) -> None:
    if not isinstance(value, Directory if declared.blob.dimensionality else File):
        raise expected(describe(declared), value)
    _write_blob(into, value, declared.blob.format)


def _write_blob(into: Literal, value: File | Directory, form: str = "") -> None:
    blob = into.scalar.blob
    blob.uri = strict_str(value.uri, _EXACT)
    blob.metadata.type.format = value.format or form
    if isinstance(value, Directory):
        blob.metadata.type.dimensionality = types_pb2.BlobType.MULTIPART
    blob.metadata.type.SetInParent()


def _schema(into: Literal, value: Any, declared: LiteralType, _widen: bool, _room: int) -> None:
    if not isinstance(value, StructuredDataset):
        raise expected("StructuredDataset", value)
    into.scalar.schema.uri = strict_str(value.uri, _EXACT)
    into.scalar.schema.type.CopyFrom(declared.schema)


def _dataset(into: Literal, value: Any, declared: LiteralType, _widen: bool, _room: int) -> None:
    if not isinstance(value, StructuredDataset):
        raise expected("StructuredDataset", value)
    _write_dataset(into, value, declared.structured_dataset_type)


def _write_dataset(
    into: Literal, value: StructuredDataset, declared: types_pb2.StructuredDatasetType | None = None
) -> None:
    dataset = into.scalar.structured_dataset
    dataset.uri = strict_str(value.uri, _EXACT)
    type_ = dataset.metadata.structured_dataset_type
    if declared is not None:
        type_.CopyFrom(declared)
    if value.columns:
        del type_.columns[:]
        _write_columns(type_, value.columns)
    if value.format:
        type_.format = value.format
    type_.SetInParent()


def _write_columns(into: types_pb2.StructuredDatasetType, columns: Mapping[str, Any]) -> None:
    for name, annotation in columns.items():
        try:
            into.columns.add(name=name, literal_type=to_literal_type(annotation))
        except ConversionError as error:
            raise Misfit(error.problem).under(name).under("columns") from None


_Compound = Callable[[Literal, Any, LiteralType, bool, int], None]
_COMPOUND: dict[str, _Compound] = {
    "collection_type": _list,
    "map_value_type": _map,
    "union_type": _union,
    "enum_type": _enum,
    "blob": _blob,
    "schema": _schema,
    "structured_dataset_type": _dataset,
}


# --- without a declared type

_BY_CLASS: dict[type, _Simple] = {
    NoneType: _none,
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    datetime: _datetime,
    date: _datetime,
    timedelta: _timedelta,
    bytes: _bytes,
}


def _write_by_value(into: Literal, value: Any, room: int) -> None:
    simple = _BY_CLASS.get(type(value))
    if simple:
        simple(into, value, _EXACT)
    elif isinstance(value, (list, tuple)):
        _list(into, value, None, _EXACT, room)
    elif isinstance(value, (File, Directory)):
        _write_blob(into, value)
    elif isinstance(value, StructuredDataset):
        _write_dataset(into, value)
    elif isinstance(value, enum.Enum):
        _write_by_value(into, value.value, room - 1)
    elif isinstance(value, Message) or msgpack_values.is_struct(value):
        _struct(into, value, None)
    else:
        _write_subclass(into, value)


def _write_subclass(into: Literal, value: Any) -> None:
    for cls in (str, datetime, date, timedelta):
        if isinstance(value, cls):
            _BY_CLASS[cls](into, value, _EXACT)
            return
    if isinstance(value, (bytearray, memoryview)):
        _bytes(into, value, _EXACT)
    elif isinstance(value, numbers.Integral):
        _int(into, value, _EXACT)
    elif isinstance(value, numbers.Real):
        _float(into, value, _EXACT)
    else:
        raise Misfit(f"{type(value).__name__} is no type that Flyte knows, got {shown(value)}")
