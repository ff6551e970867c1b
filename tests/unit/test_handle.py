"""The handle: what goes in comes out, and what is not ours is told apart from what is."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airside.model import TaskType
from airside.model.redaction import redact
from airside.server import handle as handles
from airside.server.handle import (
    BadSignature,
    ForeignHandle,
    Handle,
    HandleTooLarge,
    Kind,
    SigningKeys,
    UnreadableHandle,
    seal,
    unseal,
)

OLD = SigningKeys("old", {"old": b"o" * 32})
BOTH = SigningKeys("new", {"new": b"n" * 32, "old": b"o" * 32})
NEW = SigningKeys("new", {"new": b"n" * 32})

names = st.text(min_size=1, max_size=40)
handle_values = st.builds(
    Handle,
    task_type=st.builds(TaskType, names, st.integers(0, 2**31 - 1)),
    key=st.text(alphabet="0123456789abcdef", max_size=32),
    kind=st.sampled_from(Kind),
    output_prefix=st.text(max_size=80),
    created_at=st.floats(0, 1e11),
    connection=st.text(max_size=20),
    declared=st.binary(max_size=200),
    meta=st.binary(max_size=200),
    code=st.text(max_size=20),
    message=st.text(max_size=80),
    result=st.binary(max_size=200),
)


@given(handle_values, st.sampled_from([SigningKeys(), OLD, NEW]))
def test_round_trip(handle: Handle, keys: SigningKeys) -> None:
    # Other tests have secrets, and hypothesis tries texts that it finds in the code.
    told = replace(handle, code=redact(handle.code), message=redact(handle.message))
    assert unseal(seal(handle, keys), keys) == told


@given(st.binary(max_size=300))
def test_foreign_bytes_are_told_apart(data: bytes) -> None:
    with pytest.raises(ForeignHandle):
        unseal(data)


@given(handle_values, st.data())
def test_damage_never_raises_anything_else(handle: Handle, data: st.DataObject) -> None:
    sealed = bytearray(seal(handle, NEW))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises((ForeignHandle, BadSignature, UnreadableHandle)):
        unseal(bytes(sealed), SigningKeys("new", NEW.known, require=True))


def test_every_single_bit_of_a_signed_handle_counts() -> None:
    sealed = seal(Handle(task_type=TaskType("t"), meta=b"job"), NEW)
    keys = SigningKeys("new", NEW.known, require=True)
    for position in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises((ForeignHandle, BadSignature, UnreadableHandle)):
            unseal(bytes(flipped), keys)


def test_a_retired_key_is_not_a_forgery() -> None:
    sealed = seal(Handle(task_type=TaskType("t")), OLD)
    assert unseal(sealed, BOTH).task_type == TaskType("t")
    with pytest.raises(UnreadableHandle, match="key 'old'"):
        unseal(sealed, NEW)


def test_unsigned_handles_are_accepted_until_switched_off() -> None:
    sealed = seal(Handle(task_type=TaskType("t")))
    assert unseal(sealed, NEW).task_type.name == "t"
    with pytest.raises(BadSignature):
        unseal(sealed, SigningKeys("new", NEW.known, require=True))


def test_the_next_version_may_add_and_remove_fields() -> None:
    body = msgpack.packb({1: "spark", 10: b"job-1", 99: {"added": "later"}})
    assert unseal(handles.MAGIC + bytes((1, 0)) + body) == Handle(
        task_type=TaskType("spark"), meta=b"job-1", created_at=0.0
    )


def test_a_newer_format_is_ours_but_unreadable() -> None:
    with pytest.raises(UnreadableHandle, match="format 2"):
        unseal(handles.MAGIC + bytes((2, 0)) + b"whatever")


def test_a_handle_that_flyte_cannot_store_is_refused() -> None:
    with pytest.raises(HandleTooLarge, match=r"65,\d+ bytes; Flyte can store 65,536"):
        seal(Handle(task_type=TaskType("t"), meta=b"x" * 64 * 1024))
