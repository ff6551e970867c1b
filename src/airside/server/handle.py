"""The handle: the envelope that Flyte stores for a job and sends back with every later call (`resource_meta`).

Layout: magic (4 bytes) · format version (1) · length of the MAC (1) · MAC · body. The body is a msgpack map with
small integers as keys, so that fields can be added and removed: a reader ignores what it does not know and takes a
default for what is missing. The MAC is HMAC-SHA-256 over magic, version and body.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Any

import msgpack

from airside.model import AirsideError, TaskType
from airside.model.redaction import redact

MAGIC = b"\x89ASH"
FORMAT = 1
MAX_BYTES = 64 * 1024  # Flyte keeps it in etcd
_HEADER = len(MAGIC) + 2


class HandleError(AirsideError):
    """Bytes that cannot be read as a handle."""


class ForeignHandle(HandleError):
    """The bytes never were a handle of ours."""


class BadSignature(HandleError):
    """The handle is not signed as it should be."""


class UnreadableHandle(HandleError):
    """The handle is ours, but this process cannot read it now: a newer format, or a retired key.

    The job behind it is honest, so it must not fail at once.
    """


class HandleTooLarge(HandleError):
    """The handle would not fit into what Flyte can store."""


class Kind(IntEnum):
    """What a handle stands for."""

    JOB = 0
    """A job that the agent made."""
    DONE = 1
    """A task that was over when it was created; its result is in the handle."""
    FAILED = 2
    """A task that can never be created; the reason is in the handle."""
    PENDING = 3
    """A job that was still being created when the caller had to be answered."""


@dataclass(slots=True, kw_only=True)
class Handle:
    """What a handle says. `meta` is the agent's own bytes; `declared` the packed types of the outputs; `request` the
    packed request of a pending create."""

    task_type: TaskType
    key: str = ""
    kind: Kind = Kind.JOB
    output_prefix: str = ""
    created_at: float = field(default_factory=time.time)
    connection: str = ""
    declared: bytes = b""
    meta: bytes = b""
    code: str = ""
    message: str = ""
    result: bytes = b""
    request: bytes = b""
    key_id: str = field(default="", compare=False)
    """The key that signed the handle, as far as this process could read it."""


# Field numbers are for ever: a number that is no longer used is never used again.
_TYPE, _VERSION, _KEY, _KIND, _PREFIX, _CREATED, _CONNECTION, _DECLARED = 1, 2, 3, 4, 5, 6, 7, 8
_KEY_ID, _META, _CODE, _MESSAGE, _RESULT, _REQUEST = 9, 10, 11, 12, 13, 14
_PACKER = msgpack.Packer()


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The keys that sign and verify handles: `current` signs, all of `known` verify."""

    current: str = ""
    known: Mapping[str, bytes] = field(default_factory=dict)
    require: bool = False
    """Refuse handles that are not signed."""


UNSIGNED = SigningKeys()


def seal(handle: Handle, keys: SigningKeys = UNSIGNED) -> bytes:
    """The bytes of a handle, signed if there is a current key. Raises `HandleTooLarge` over 64 KiB."""
    body: dict[int, Any] = {
        _TYPE: handle.task_type.name,
        _VERSION: handle.task_type.version,
        _KEY: handle.key,
        _KIND: handle.kind,
        _PREFIX: handle.output_prefix,
        _CREATED: handle.created_at,
        _CONNECTION: handle.connection,
        _DECLARED: handle.declared,
        _KEY_ID: keys.current,
        _META: handle.meta,
        _CODE: handle.code and redact(handle.code),
        _MESSAGE: handle.message and redact(handle.message),
        _RESULT: handle.result,
        _REQUEST: handle.request,
    }
    packed = _PACKER.pack({number: value for number, value in body.items() if value})
    mac = _mac(keys.known[keys.current], FORMAT, packed) if keys.current else b""
    data = b"".join((MAGIC, bytes((FORMAT, len(mac))), mac, packed))
    if len(data) > MAX_BYTES:
        raise HandleTooLarge(f"the job handle would be {len(data):,} bytes; Flyte can store {MAX_BYTES:,}")
    return data


def unseal(data: bytes, keys: SigningKeys = UNSIGNED) -> Handle:
    """The handle in these bytes.

    Raises `ForeignHandle` for bytes that never were ours, `BadSignature` for a wrong or missing MAC, and
    `UnreadableHandle` for a newer format or a retired key.

    >>> unseal(seal(Handle(task_type=TaskType("spark"), meta=b"job-1"))).meta
    b'job-1'
    """
    if not data.startswith(MAGIC) or len(data) < _HEADER:
        raise ForeignHandle("these bytes are not a job handle of this service")
    version, mac_length = data[len(MAGIC)], data[len(MAGIC) + 1]
    if version > FORMAT:
        raise UnreadableHandle(f"the job handle has format {version}; this service reads up to {FORMAT}")
    mac, packed = data[_HEADER : _HEADER + mac_length], data[_HEADER + mac_length :]
    try:
        body = msgpack.unpackb(packed, strict_map_key=False)
        _verify(mac, body, version, packed, keys)
        return _read(body)
    except HandleError:
        raise
    except Exception as exc:
        raise ForeignHandle(f"the job handle is damaged: {exc}") from exc


def _read(body: Mapping[int, Any]) -> Handle:
    return Handle(
        task_type=_task_type(str(body[_TYPE]), int(body.get(_VERSION, 0))),
        key=body.get(_KEY, ""),
        kind=Kind(body.get(_KIND, 0)),
        output_prefix=body.get(_PREFIX, ""),
        created_at=float(body.get(_CREATED, 0.0)),
        connection=body.get(_CONNECTION, ""),
        declared=body.get(_DECLARED, b""),
        meta=body.get(_META, b""),
        code=body.get(_CODE, ""),
        message=body.get(_MESSAGE, ""),
        result=body.get(_RESULT, b""),
        request=body.get(_REQUEST, b""),
        key_id=body.get(_KEY_ID, ""),
    )


@lru_cache(maxsize=1024)
def _task_type(name: str, version: int) -> TaskType:
    """One object for all handles of a task type."""
    return TaskType(name, version)


def _verify(mac: bytes, body: Mapping[int, Any], version: int, packed: bytes, keys: SigningKeys) -> None:
    key_id = body.get(_KEY_ID, "")
    if not mac:
        # Anybody can write an unsigned handle, so it must not choose whose credentials are used.
        if keys.require or (keys.known and body.get(_CONNECTION)):
            raise BadSignature("the job handle is not signed")
        return
    if key_id not in keys.known:
        if keys.known:
            raise UnreadableHandle(
                f"the job handle is signed with the key {key_id!r}, which this service does not have"
            )
        return  # a service without keys cannot judge, and never could
    if not hmac.compare_digest(mac, _mac(keys.known[key_id], version, packed)):
        raise BadSignature("the job handle's signature is wrong")


def _mac(key: bytes, version: int, packed: bytes) -> bytes:
    return hmac.new(key, MAGIC + bytes((version,)) + packed, hashlib.sha256).digest()
