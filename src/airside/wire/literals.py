"""Python values and Flyte's literals, both ways: strict in writing, lenient in reading."""

from __future__ import annotations

from typing import Any

from flyteidl2.core import literals_pb2
from flyteidl2.core.types_pb2 import LiteralType

from airside.wire.literal_reader import Fetch, read
from airside.wire.literal_writer import write
from airside.wire.misfit import Misfit


def to_literal(
    value: Any, literal_type: LiteralType | None = None, path: str = "value", *, content_hash: str = ""
) -> literals_pb2.Literal:
    """The literal of a Python value, typed as declared, or by the value itself if `literal_type` is None.

    A dict that is not declared as a map of one type travels as a struct. `content_hash` is what Flyte's cache
    compares instead of the value. Raises `ConversionError` at `path` if the value is not of the declared type;
    only an int widens to a float.

    >>> from airside.wire.types import to_literal_type
    >>> to_literal(5, to_literal_type(float)).scalar.primitive.float_value
    5.0
    >>> to_literal({"x": [1, "abc"]}, to_literal_type(dict[str, list[int]]), "outputs.o0")
    Traceback (most recent call last):
    airside.model.errors.ConversionError: outputs.o0.x[1]: expected int, got 'abc'
    """
    literal = literals_pb2.Literal()
    try:
        write(literal, value, literal_type)
    except Misfit as misfit:
        raise misfit.at(path) from None
    if content_hash:
        literal.hash = content_hash
    return literal


def from_literal(
    literal: literals_pb2.Literal,
    literal_type: LiteralType | None = None,
    path: str = "value",
    fetch: Fetch | None = None,
) -> Any:
    """The Python value of a literal, read as the declared type, or by the literal itself if `literal_type` is None.

    A struct becomes a dict, an enum its str, a union its inner value, a blob `File` or `Directory`, a schema or
    structured dataset `StructuredDataset`; datetimes are in UTC. `fetch` reads the file of an offloaded literal;
    what it raises passes through. Raises `ConversionError` at `path` for a value that cannot be read as the type.

    >>> from airside.wire.types import to_literal_type
    >>> from_literal(to_literal(5), to_literal_type(float | None))
    5.0
    """
    try:
        return read(literal, literal_type, fetch)
    except Misfit as misfit:
        raise misfit.at(path) from None
