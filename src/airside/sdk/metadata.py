"""Job metadata: the author's small class to bytes and back, as JSON.

Reading is tolerant: a field that a newer version added is ignored, one that an older version lacked takes
its default, so that jobs in flight survive an upgrade of their agent.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from typing import Any, Generic, TypeVar

from airside.model import PluginError

M = TypeVar("M")


@dataclasses.dataclass(frozen=True, slots=True)
class MetadataCodec(Generic[M]):
    """How one metadata class travels: `encode` to bytes, `decode` back.

    >>> @dataclasses.dataclass
    ... class Job:
    ...     id: str
    ...     region: str = "eu"
    >>> codec = codec_for(Job)
    >>> codec.encode(Job("j-1"))
    b'{"id":"j-1","region":"eu"}'
    >>> codec.decode(b'{"id": "j-1", "added_later": 1}').region
    'eu'
    """

    encode: Callable[[M], bytes]
    decode: Callable[[bytes], M]


def codec_for(cls: Any) -> MetadataCodec[Any]:
    """The codec of a metadata class: a dataclass, pydantic model, msgspec struct, NamedTuple, TypedDict, or `bytes`,
    `str`, `int`, `list` or `dict`.

    `encode` raises `TypeError` for what is not of the class. Raises `PluginError` for a class that is not JSON,
    naming the field.
    """
    cls = getattr(cls, "__supertype__", cls)  # NewType
    codec, kind = _codec(cls)

    def encode(job: Any) -> bytes:
        if not isinstance(job, kind):
            raise TypeError(f"expected {_name(cls)}")
        return codec.encode(job)

    return MetadataCodec(encode, codec.decode)


def _codec(cls: Any) -> tuple[MetadataCodec[Any], type[Any]]:
    """The codec, and the class of what it encodes."""
    plain = typing.get_origin(cls) or cls
    if cls is bytes:
        return MetadataCodec(bytes, bytes), bytes
    if plain in (str, int, dict, list):
        return MetadataCodec(_dumps, _loads_as(cls)), plain
    if dataclasses.is_dataclass(cls) and isinstance(cls, type):
        return MetadataCodec(_dataclass_encoder(cls), _loads_as(cls)), cls
    if hasattr(cls, "model_validate_json") and hasattr(cls, "model_dump_json"):
        return MetadataCodec(lambda job: job.model_dump_json().encode(), cls.model_validate_json), cls
    if hasattr(cls, "__struct_fields__"):
        import msgspec

        return MetadataCodec(msgspec.json.encode, partial(msgspec.json.decode, type=cls)), cls
    if _is_named_tuple(cls):
        read = _record_reader(cls, cls._fields, _name(cls))
        return MetadataCodec(lambda job: _dumps(job._asdict()), lambda data: read(json.loads(data))), cls
    if typing.is_typeddict(cls):
        return MetadataCodec(_dumps, _loads_as(cls)), dict
    raise PluginError(
        f"Job metadata {_name(cls)} must be a dataclass, a pydantic model, a msgspec struct, "
        "or a str or dict of JSON values."
    )


def _loads_as(cls: Any) -> Callable[[bytes], Any]:
    try:
        read = _reader(cls, _name(cls))
    except RecursionError:
        raise PluginError(
            f"Job metadata {_name(cls)} contains itself; keep what finds the job, as a flat class."
        ) from None
    return lambda data: read(json.loads(data))


def _is_named_tuple(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")


def _dumps(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()


def _dataclass_encoder(cls: type[Any]) -> Callable[[Any], bytes]:
    names = tuple(field.name for field in dataclasses.fields(cls))
    return lambda job: _dumps({name: getattr(job, name) for name in names})


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


_ENCODER = json.JSONEncoder(separators=(",", ":"), default=_plain)

Reader = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _reader(annotation: Any, path: str) -> Reader:
    """A function that makes a value of `annotation` out of parsed JSON."""
    if annotation in (Any, str, int, float, bool, None, type(None), list, dict, object):
        return _same
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _record_reader(annotation, [one.name for one in dataclasses.fields(annotation) if one.init], path)
    if typing.is_typeddict(annotation):
        return _record_reader(annotation, annotation.__annotations__, path)
    if hasattr(annotation, "__supertype__"):
        return _reader(annotation.__supertype__, path)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return annotation
    if annotation is datetime:
        return datetime.fromisoformat
    if annotation is date:
        return date.fromisoformat
    return _generic_reader(annotation, path)


def _generic_reader(annotation: Any, path: str) -> Reader:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _reader(args[0], path)
    if origin is typing.Literal:
        return _same
    if origin in (dict, Mapping) and args[0] is str:
        item = _reader(args[1], f"{path}[...]")
        return lambda value: {key: item(one) for key, one in value.items()}
    if origin in (list, Sequence):
        item = _reader(args[0], f"{path}[...]")
        return lambda value: [item(one) for one in value]
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        item = _reader(args[0], f"{path}[...]")
        return lambda value: tuple(item(one) for one in value)
    if origin in (typing.Union, types.UnionType):
        others = [arg for arg in args if arg is not type(None)]
        readers = [_reader(arg, path) for arg in others]
        if len(others) == 1:
            return lambda value: None if value is None else readers[0](value)
        if all(reader is _same for reader in readers):
            return _same
    raise PluginError(
        f"Job metadata {path} has type {_name(annotation)}, which is not a JSON value; "
        "use str, int, float, bool, list, dict or a dataclass of them."
    )


def _record_reader(cls: Any, names: Iterable[str], path: str) -> Reader:
    hints = _hints_of(cls, path)
    readers = {name: _reader(hints[name], f"{path}.{name}") for name in names}
    if all(reader is _same for reader in readers.values()):

        def read_flat(value: dict[str, Any]) -> Any:
            try:
                return cls(**value)
            except TypeError:
                return cls(**{name: value[name] for name in readers if name in value})

        return read_flat
    return lambda value: cls(**{name: read(value[name]) for name, read in readers.items() if name in value})


def _hints_of(cls: Any, path: str) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError) as exc:
        raise PluginError(
            f"Job metadata {path} has a type that cannot be read: {exc}; import it outside `if TYPE_CHECKING`."
        ) from None


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)
