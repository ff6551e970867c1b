"""The declared outputs of a task, small enough to travel in its handle."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import lru_cache

from flyteidl2.core import interface_pb2, types_pb2

MAX_PACKED = 16 * 1024  # larger interfaces are left out: their outputs are typed by value
_MAX_UNPACKED = 1024 * 1024


@lru_cache(maxsize=1024)
def pack_declared(outputs: bytes) -> bytes:
    """A serialised VariableMap without descriptions and JSON schemas, compressed; empty if it is too large."""
    variables = interface_pb2.VariableMap.FromString(outputs)
    for entry in variables.variables:
        entry.value.ClearField("description")
        _strip(entry.value.type)
    packed = zlib.compress(variables.SerializeToString(deterministic=True), 6)
    return packed if len(packed) <= MAX_PACKED else b""


@lru_cache(maxsize=1024)
def unpack_declared(packed: bytes) -> Mapping[str, types_pb2.LiteralType] | None:
    """Name → type of the declared outputs, or None if the handle does not say."""
    if not packed:
        return None
    plain = zlib.decompressobj().decompress(packed, _MAX_UNPACKED)
    variables = interface_pb2.VariableMap.FromString(plain)
    return {entry.key: entry.value.type for entry in variables.variables}


def _strip(literal_type: types_pb2.LiteralType) -> None:
    """Drop the JSON-schema metadata, which can be large and types nothing, at every level."""
    literal_type.ClearField("metadata")
    literal_type.ClearField("annotation")
    match literal_type.WhichOneof("type"):
        case "collection_type":
            _strip(literal_type.collection_type)
        case "map_value_type":
            _strip(literal_type.map_value_type)
        case "union_type":
            for variant in literal_type.union_type.variants:
                _strip(variant)
        case _:
            pass
