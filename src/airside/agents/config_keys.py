"""The keys of a task's `config`: one that its agent does not know is a slip, and may be one that costs money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airside.model import Fail

_CONNECTION = ("secrets", "configs")  # Flyte 2 puts the connection into the same place


def check_keys(config: Mapping[str, Any], known: Sequence[str], kind: str) -> None:
    """Raise `Fail` for a key that is not known.

    >>> check_keys({"worgroup": "a"}, ("workgroup",), "athena")
    Traceback (most recent call last):
    airside.model.errors.Fail: config.worgroup: an athena task knows no such key (known: workgroup).
    """
    article = "an" if kind[0] in "aeiou" else "a"
    for key in config:
        if key not in known and key not in _CONNECTION:
            raise Fail(f"config.{key}: {article} {kind} task knows no such key (known: {', '.join(known)}).")
