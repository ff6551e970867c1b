"""Values for a person or a program: as JSON, and as readable text."""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from airside.cli.durations import spell_duration


def to_json(value: Any) -> Any:
    """A value made of what JSON knows. Times are ISO 8601, durations seconds, bytes Base64, classes objects.

    >>> to_json({"took": timedelta(minutes=1), "raw": b"ab"})
    {'took': 60.0, 'raw': 'YWI='}
    """
    match value:
        case enum.Enum():
            return to_json(value.value)
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else _not_finite(value)
        case date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return base64.b64encode(value).decode()
        case Mapping():
            return {str(key): to_json(one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_json(one) for one in value]
    return _class_to_json(value)


def show(values: Mapping[str, Any]) -> str:
    """Outputs for a person: one line per name, or an indented block if the value has several lines.

    >>> print(show({"rows": 3, "name": "x", "nested": {"a": [1, 2]}, "took": timedelta(minutes=90)}))
    rows: 3
    name: x
    nested: {"a": [1, 2]}
    took: 1h30m
    """
    return "\n".join(_shown(name, value) for name, value in values.items())


def _shown(name: str, value: Any) -> str:
    if isinstance(value, timedelta):
        value = spell_duration(value)
    text = value if isinstance(value, str) else _text(value)
    if "\n" not in text:
        return f"{name}: {text}"
    return "\n".join([f"{name}:", *(f"  {line}" for line in text.splitlines())])


def _text(value: Any) -> str:
    plain = to_json(value)
    if isinstance(plain, str):
        return plain
    line = json.dumps(plain, ensure_ascii=False)
    return line if len(line) <= 100 else json.dumps(plain, ensure_ascii=False, indent=2)


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _class_to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__struct_fields__"):
        return {name: to_json(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, type):
        return value.__name__
    return str(value)
