"""The inputs or outputs of a task: literals by name, read when first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flyteidl2.core import literals_pb2
from flyteidl2.core.literals_pb2 import Literal
from flyteidl2.core.types_pb2 import LiteralType
from flyteidl2.task.common_pb2 import Inputs
from google.protobuf.message import DecodeError, EncodeError, Message

from airside.model import ConversionError
from airside.wire.literal_reader import Fetch, load_offloaded, read
from airside.wire.literal_writer import write
from airside.wire.misfit import MAX_DEPTH, Misfit

_MISSING = object()


class LiteralValues(Mapping[str, Any]):
    """Python values by name, each converted when it is first read.

    `data` is the serialised map, or a message that holds one (`LiteralMap`, or Flyte 2's `Inputs` and
    `Outputs`). A name in `declared` is read as the type says, any other by value. Names come in the declared
    order; of a repeated name the last entry counts. `fetch` reads the file of an offloaded literal.

    Raises `ConversionError` for bytes that are no literal map, and on reading a value that does not convert.

    >>> values = LiteralValues(pack({"x": 5, "y": "a"}).data)
    >>> values["x"], sorted(values)
    (5, ['x', 'y'])
    """

    __slots__ = ("_bytes", "_declared", "_fetch", "_fetched", "_index", "_message", "_offloaded", "_read", "_where")

    def __init__(
        self,
        data: bytes | Message,
        declared: Mapping[str, LiteralType] | None = None,
        where: str = "inputs",
        fetch: Fetch | None = None,
    ) -> None:
        self._bytes = data if isinstance(data, bytes) else None
        self._message = _parse(data, where) if isinstance(data, bytes) else data
        self._declared = declared
        self._where = where
        self._fetch = fetch
        self._fetched: dict[str, bytes] = {}
        self._index: dict[str, Literal] | None = None
        self._offloaded: list[tuple[str, Literal]] | None = None
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        value = self._read.get(name, _MISSING)
        if value is not _MISSING:
            return value
        literal = (self.literals if self._index is None else self._index)[name]
        declared = self._declared.get(name) if self._declared is not None else None
        try:
            value = read(literal, declared, self._load if self._fetch else None)
        except Misfit as misfit:
            raise misfit.under(name).at(self._where) from None
        self._read[name] = value
        return value

    def __iter__(self) -> Iterator[str]:
        literals, declared = self.literals, self._declared
        if declared is None:
            return iter(literals)
        return iter([*(n for n in declared if n in literals), *(n for n in literals if n not in declared)])

    def __len__(self) -> int:
        return len(self.literals)

    def __contains__(self, name: object) -> bool:
        return name in self.literals

    def __repr__(self) -> str:
        return f"<{self._where}: {', '.join(self)}>"

    @property
    def literals(self) -> Mapping[str, Literal]:
        """The literals as they came, by name."""
        if self._index is None:
            self._index = _index(self._message)
        return self._index

    @property
    def declared(self) -> Mapping[str, LiteralType] | None:
        """The types that the values are read as, or None if they are read by value."""
        return self._declared

    @property
    def size(self) -> int:
        """How many bytes the serialised map has."""
        return len(self._bytes) if self._bytes is not None else int(self._message.ByteSize())

    @property
    def fetched(self) -> Mapping[str, bytes]:
        """The files of offloaded literals that were fetched so far, by their address."""
        return self._fetched

    @property
    def has_offloaded(self) -> bool:
        """Whether reading some value needs a fetch that has not happened yet."""
        offloaded = self._find_offloaded() if self._offloaded is None else self._offloaded
        return bool(offloaded) and any(one.offloaded_metadata.uri not in self._fetched for _, one in offloaded)

    def prefetch(self) -> None:
        """Fetch every offloaded literal now, so that no later read blocks. Blocks; errors of `fetch` pass through."""
        pending = [(name, literal, 0) for name, literal in self._find_offloaded()]
        while pending:
            name, literal, depth = pending.pop()
            try:
                loaded = load_offloaded(literal, self._load if self._fetch else None, depth)
            except Misfit as misfit:
                raise misfit.under(name).at(self._where) from None
            pending += [(name, inner, depth + 1) for inner in _offloaded_in(loaded)]

    def to_bytes(self) -> bytes:
        """The serialised map, byte for byte as it came if it came as bytes."""
        if self._bytes is None:
            self._bytes = self._message.SerializeToString(deterministic=True)
        return self._bytes

    def _load(self, uri: str) -> bytes:
        data = self._fetched.get(uri)
        if data is None:
            assert self._fetch is not None  # noqa: S101 - callers checked
            data = self._fetched[uri] = self._fetch(uri)
        return data

    def _find_offloaded(self) -> list[tuple[str, Literal]]:
        if self._offloaded is None:
            self._offloaded = [
                (name, found)
                for name, one in self.literals.items()
                if not one.HasField("scalar") or one.scalar.HasField("union")  # most are plain, and asked for often
                for found in _offloaded_in(one)
            ]
        return self._offloaded


class Packed(NamedTuple):
    """A serialised literal map, and the names of the values that were left out since nobody declared them."""

    data: bytes
    dropped: tuple[str, ...]


def pack(
    values: Mapping[str, Any], declared: Mapping[str, LiteralType] | None = None, where: str = "outputs"
) -> Packed:
    """Values by name as a serialised literal map: the same values give the same bytes.

    With `declared`, every declared name must be there and of its type (an int widens to a float), others are
    dropped; without, all are typed by their values. The literals of a `LiteralValues` are passed on unread
    unless it reads them as another type. Raises `ConversionError` with the path of the first value that does
    not fit.

    >>> from airside.wire.types import to_literal_type
    >>> pack({"x": "abc"}, {"x": to_literal_type(int)})
    Traceback (most recent call last):
    airside.model.errors.ConversionError: outputs.x: expected int, got 'abc'
    """
    literals = values if isinstance(values, LiteralValues) else None
    if literals is not None and _passes(literals, declared):
        return Packed(literals.to_bytes(), ())
    packed = literals_pb2.LiteralMap()
    for name in values if declared is None else declared:
        literal_type = None if declared is None else declared[name]
        try:
            into = _entry(packed, name)
            if name not in values:
                raise Misfit("missing")  # noqa: TRY301 - the handler adds the path
            if literals is not None and _same_type(literals, name, literal_type):
                into.CopyFrom(literals.literals[name])
            else:
                write(into, values[name], literal_type)
        except Misfit as misfit:
            raise misfit.under(name).at(where) from None
    dropped = () if declared is None else tuple(name for name in values if name not in declared)
    try:
        return Packed(packed.SerializeToString(deterministic=True), dropped)
    except (EncodeError, ValueError) as error:
        raise ConversionError(where, f"cannot be serialised: {error}") from None


def _entry(into: literals_pb2.LiteralMap, name: str) -> Literal:
    try:
        return into.literals[name]
    except (TypeError, UnicodeEncodeError):
        raise Misfit("a name must be valid text") from None


def _passes(values: LiteralValues, declared: Mapping[str, LiteralType] | None) -> bool:
    if declared is None:
        return True
    return declared.keys() == values.literals.keys() and all(_same_type(values, n, t) for n, t in declared.items())


def _same_type(values: LiteralValues, name: str, declared: LiteralType | None) -> bool:
    """Whether a literal may pass unread: it is as its maker wrote it, or already read as this type."""
    if declared is None or values.declared is None:
        return True
    return bool(values.declared.get(name) == declared)


def _parse(data: bytes, where: str) -> Message:
    try:
        parsed: Message = Inputs.FromString(data)
    except DecodeError:
        raise ConversionError(where, "not a literal map") from None
    return parsed


def _index(message: Any) -> dict[str, Literal]:
    if isinstance(message, Inputs):
        return {entry.name: entry.value for entry in message.literals}
    if message.DESCRIPTOR.full_name.startswith("flyteidl."):  # Flyte 1's classes: the same bytes
        message = Inputs.FromString(message.SerializeToString())
    literals = message.literals
    if isinstance(literals, Mapping):
        return dict(literals)
    return {entry.name: entry.value for entry in literals}


def _offloaded_in(literal: Literal) -> list[Literal]:
    found: list[Literal] = []
    _collect_offloaded(literal, found, 0)
    return found


def _collect_offloaded(literal: Literal, found: list[Literal], depth: int) -> None:
    kind = literal.WhichOneof("value")
    if kind == "scalar":
        if literal.scalar.HasField("union") and depth <= MAX_DEPTH:
            _collect_offloaded(literal.scalar.union.value, found, depth + 1)
    elif kind == "offloaded_metadata":
        found.append(literal)
    elif kind is not None and depth <= MAX_DEPTH:
        items = literal.map.literals.values() if kind == "map" else literal.collection.literals
        for item in items:
            _collect_offloaded(item, found, depth + 1)
