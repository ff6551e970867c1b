"""Requests as they went over the wire against botocore's description of a service."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_KINDS: dict[str, Any] = {
    **dict.fromkeys(("integer", "long"), int),
    **dict.fromkeys(("float", "double"), (int, float)),
    **dict.fromkeys(("string", "blob"), str),
    "boolean": bool,
}


def enum_of(model: Any, shape: str) -> Sequence[str]:
    """The values that a text of the service may have."""
    values: Sequence[str] = model.shape_for(shape).enum
    return values


def asked_of(client: Any) -> list[tuple[str, Any]]:
    """What this client asks from now on, by operation: what a service of REST is asked is not in the body alone."""
    asked: list[tuple[str, Any]] = []

    def note(params: Any, model: Any, **_more: Any) -> None:
        asked.append((model.name, params))

    client.meta.events.register("before-parameter-build", note)
    return asked


def departures(model: Any, operation: str, body: Any) -> list[str]:
    """Where a JSON body departs from what the operation takes: fields, types, enums, lengths and patterns."""
    return _check(body, model.operation_model(operation).input_shape, operation)


def _check(value: Any, shape: Any, path: str) -> list[str]:
    match shape.type_name:
        case "structure":
            names = {member.serialization.get("name", name): member for name, member in shape.members.items()}
            unknown = [f"{path}.{name}: no such field" for name in value if name not in names]
            missing = [f"{path}.{name}: missing" for name in shape.required_members if name not in value]
            inner = [
                problem
                for name, one in value.items()
                if name in names
                for problem in _check(one, names[name], f"{path}.{name}")
            ]
            return [*unknown, *missing, *inner]
        case "list":
            problems = [p for at, one in enumerate(value) for p in _check(one, shape.member, f"{path}[{at}]")]
            return [*_size(len(value), shape, path), *problems]
        case "map":
            return [problem for name, one in value.items() for problem in _check(one, shape.value, f"{path}.{name}")]
    kind = _KINDS.get(shape.type_name)
    if kind is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        return [f"{path}: {value!r} is no {shape.type_name}"]
    if shape.type_name != "string":
        return _size(value, shape, path) if isinstance(value, int) else []
    told = _size(len(value), shape, path)
    if shape.enum and value not in shape.enum:
        told.append(f"{path}: {value!r} is none of {shape.enum}")
    pattern = _in_python(shape.metadata.get("pattern") or "")
    if pattern and "\\u" not in pattern and not re.search(pattern, value):
        told.append(f"{path}: {value!r} does not match {pattern}")
    return told


def _in_python(pattern: str) -> str:
    """A pattern without the classes of characters that Python has other names for."""
    for theirs, ours in {r"\p{L}": r"\w", r"\p{N}": r"\w", r"\p{Z}": r"\s"}.items():
        pattern = pattern.replace(theirs, ours)
    return pattern


def _size(size: float, shape: Any, path: str) -> list[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    fits = (low is None or size >= low) and (high is None or size <= high)
    return [] if fits else [f"{path}: {size} is not from {low} to {high}"]
