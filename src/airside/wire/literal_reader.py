"""Reading a literal as a Python value, by what it is; `leniency` then bends it to the declared type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flyteidl2.core import literals_pb2
from flyteidl2.core.literals_pb2 import Literal
from flyteidl2.core.types_pb2 import LiteralType
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value

from airside.model import Directory, File, StructuredDataset
from airside.wire import msgpack_values
from airside.wire.instants import read_duration, read_timestamp
from airside.wire.leniency import conform
from airside.wire.misfit import MAX_DEPTH, Misfit, shown, too_deep
from airside.wire.storage import FileMissing, FileTooLarge, UnusableUri
from airside.wire.types import column_types

Fetch = Callable[[str], bytes]


def read(literal: Literal, declared: LiteralType | None, fetch: Fetch | None) -> Any:
    """The value of a literal, as the declared type says. Raises `Misfit` if it cannot be read so."""
    value = _read(literal, fetch, 0, 0)
    return value if declared is None else conform(value, declared)


def load_offloaded(literal: Literal, fetch: Fetch | None, offloads: int = 0) -> Literal:
    """The literal that an offloaded one stands for: its file is one serialised literal.

    `offloads` is the number of offloaded literals that this one lies in. An offloaded list may hold offloaded
    items; beyond that, files that name each other could keep a reader busy for ever.
    """
    if offloads > 1:
        raise Misfit("offloaded literals nested deeper than 2")
    uri = literal.offloaded_metadata.uri
    if fetch is None:
        raise Misfit(f"offloaded to {shown(uri)}, which cannot be fetched here")
    try:
        return Literal.FromString(fetch(uri))
    except DecodeError:
        raise Misfit(f"offloaded to {shown(uri)}, which does not hold a literal") from None
    except (FileMissing, FileTooLarge, UnusableUri) as exc:
        raise Misfit(f"offloaded, but {str(exc).rstrip('.')}") from exc


def _read(literal: Literal, fetch: Fetch | None, depth: int, offloads: int) -> Any:
    if depth > MAX_DEPTH:
        raise too_deep()
    kind = literal.WhichOneof("value")
    if kind == "scalar":
        scalar = literal.scalar
        part = scalar.WhichOneof("value")
        if part == "primitive":
            primitive = scalar.primitive
            held = primitive.WhichOneof("value")
            return getattr(primitive, held) if held in _PLAIN else _primitive(primitive, held)
        if part == "union":
            return _read(scalar.union.value, fetch, depth + 1, offloads)
        if part is None:
            raise Misfit("a scalar without a value")
        return _SCALARS[part](getattr(scalar, part))
    if kind == "collection":
        return _list(literal.collection, fetch, depth, offloads)
    if kind == "map":
        return _map(literal.map, fetch, depth, offloads)
    if kind == "offloaded_metadata":
        return _read(load_offloaded(literal, fetch, offloads), fetch, depth + 1, offloads + 1)
    raise Misfit("a literal without a value")


def _primitive(primitive: literals_pb2.Primitive, kind: str | None) -> Any:
    if kind == "datetime":
        return read_timestamp(primitive.datetime)
    if kind == "duration":
        return read_duration(primitive.duration)
    raise Misfit("a primitive without a value")


def _list(collection: literals_pb2.LiteralCollection, fetch: Fetch | None, depth: int, offloads: int) -> list[Any]:
    items = []
    for index, item in enumerate(collection.literals):
        try:
            items.append(_read(item, fetch, depth + 1, offloads))
        except Misfit as misfit:
            raise misfit.under(index) from None
    return items


def _map(literal_map: literals_pb2.LiteralMap, fetch: Fetch | None, depth: int, offloads: int) -> dict[str, Any]:
    items = {}
    for key, item in literal_map.literals.items():
        try:
            items[key] = _read(item, fetch, depth + 1, offloads)
        except Misfit as misfit:
            raise misfit.under(key) from None
    return items


def _blob(blob: literals_pb2.Blob) -> File | Directory:
    kind = blob.metadata.type
    return (Directory if kind.dimensionality else File)(blob.uri, kind.format)


def _binary(binary: literals_pb2.Binary) -> Any:
    return msgpack_values.decode(binary.value) if binary.tag == msgpack_values.TAG else binary.value


def _schema(schema: literals_pb2.Schema) -> StructuredDataset:
    return StructuredDataset(schema.uri, "parquet", column_types(schema.type))


def _dataset(dataset: literals_pb2.StructuredDataset) -> StructuredDataset:
    kind = dataset.metadata.structured_dataset_type
    return StructuredDataset(dataset.uri, kind.format, column_types(kind))


def _struct(struct: Struct) -> dict[str, Any]:
    return _struct_fields(struct, 0)


def _struct_fields(struct: Struct, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise too_deep()
    return {key: _struct_value(value, depth + 1) for key, value in struct.fields.items()}


def _struct_value(value: Value, depth: int) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _struct_fields(value.struct_value, depth)
    if kind == "list_value":
        if depth > MAX_DEPTH:
            raise too_deep()
        return [_struct_value(item, depth + 1) for item in value.list_value.values]
    return None if kind is None or kind == "null_value" else getattr(value, kind)


_PLAIN = frozenset({"integer", "float_value", "string_value", "boolean"})  # Python's own values already

_SCALARS: dict[str, Callable[[Any], Any]] = {
    "blob": _blob,
    "binary": _binary,
    "schema": _schema,
    "none_type": lambda _nothing: None,
    "error": lambda error: {"failed_node_id": error.failed_node_id, "message": error.message},
    "generic": _struct,
    "structured_dataset": _dataset,
}
