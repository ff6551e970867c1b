"""Outputs that a job prints: the last line `AIRSIDE_OUTPUTS={"name": value}` of its log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from airside.agents.json_values import Kind, from_json, is_optional
from airside.model import ConversionError, Fail, OutputsAt, Phase, Resource

MARK = "AIRSIDE_OUTPUTS="


def said_in(lines: Iterable[str]) -> str | None:
    """What follows the mark in the last line that has it, or None.

    >>> said_in(["hello", 'AIRSIDE_OUTPUTS={"n": 3}', "bye"])
    '{"n": 3}'
    """
    found = None
    for line in lines:
        if line.startswith(MARK):
            found = line.removeprefix(MARK).strip()
    return found


def with_printed(resource: Resource, kinds: Mapping[str, Kind], said: str | None, output_prefix: str) -> Resource:
    """A success with its outputs: those that the job said, else those that it wrote under the output prefix.

    >>> with_printed(Resource(Phase.SUCCEEDED), {"n": "int"}, '{"n": 3}', "").outputs
    {'n': 3}
    """
    if not kinds:
        return replace(resource, outputs={})
    if said is None:
        return replace(resource, outputs=OutputsAt(output_prefix)) if output_prefix else resource
    try:
        return replace(resource, outputs=_read(said, kinds))
    except ConversionError as exc:
        return replace(resource, phase=Phase.FAILED, message=str(exc), code="OutputConversionError")
    except Fail as exc:
        return replace(resource, phase=Phase.FAILED, message=exc.message, code=exc.code)


def _read(said: str, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    try:
        told = json.loads(said)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise Fail(f"The job printed {MARK} without a JSON object: {said[:80]!r}.", code="OutputConversionError")
    left_out = {name: None for name, kind in kinds.items() if is_optional(kind)}
    return {
        **left_out,
        **{name: from_json(one, kinds.get(name, "any"), f"outputs.{name}") for name, one in told.items()},
    }
