"""The keys of a task's `config`: one that its agent does not know is a slip, and may be one that costs money."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from airside.model import Fail

Kinds = type | tuple[type, ...]
"""What a value may be, as `isinstance` takes it."""

_CONNECTION = ("secrets", "configs")  # Flyte 2 puts the connection into the same place


def check_keys(config: Mapping[str, Any], known: Collection[str], kind: str) -> None:
    """Raise `Fail` for a key that is not known.

    >>> check_keys({"worgroup": "a"}, ("workgroup",), "athena")
    Traceback (most recent call last):
    airside.model.errors.Fail: config.worgroup: an athena task knows no such key (known: workgroup).
    """
    article = "an" if kind[0] in "aeiou" else "a"
    for key in config:
        if key not in known and key not in _CONNECTION:
            raise Fail(f"config.{key}: {article} {kind} task knows no such key (known: {', '.join(known)}).")


def check_kinds(config: Mapping[str, Any], known: Mapping[str, Kinds], kind: str) -> None:
    """Raise `Fail` for a key that is not known, and for a value that is of another kind than it should be.

    >>> check_kinds({"attempts": "two"}, {"attempts": int}, "aws-batch")
    Traceback (most recent call last):
    airside.model.errors.Fail: config.attempts: 'two' is not what belongs there.
    """
    check_keys(config, known, kind)
    for key, value in config.items():
        if key in known and value is not None and not isinstance(value, known[key]):
            raise Fail(f"config.{key}: {value!r} is not what belongs there.")


def text_at(config: Mapping[str, Any], key: str) -> str:
    """The text at a key, without the space around it; empty if there is none. `Fail` for anything but a text.

    >>> text_at({"job": " load "}, "job"), text_at({}, "job")
    ('load', '')
    """
    value = config.get(key) or ""
    if not isinstance(value, str):
        raise Fail(f"config.{key} must be a text, not {value!r}.")
    return value.strip()
