"""Fill in a container's arguments as Flyte's engines do: `{{.inputs.x}}`, `{{.outputPrefix}}` and the like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airside.model import Directory, Fail, File, StructuredDataset

_PLACE = re.compile(r"\{\{\s*[.$]([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)?)\s*\}\}")


def render(args: Sequence[str], inputs: Mapping[str, Any], paths: Mapping[str, str]) -> tuple[str, ...]:
    """The arguments with every place filled in. `paths` holds what the run knows, by name in lower case.

    Raises `Fail` for a place that nothing fills, as the engines fail such a task.

    >>> render(["--n", "{{.inputs.n}}", "{{ .OutputPrefix }}/x"], {"n": 3}, {"outputprefix": "/tmp/0"})
    ('--n', '3', '/tmp/0/x')
    """
    return tuple(_PLACE.sub(lambda match: _filled(match[1], inputs, paths), arg) for arg in args)


def _filled(name: str, inputs: Mapping[str, Any], paths: Mapping[str, str]) -> str:
    head, _, rest = name.partition(".")
    if head.lower() == "inputs" and rest:
        by_case = {key.lower(): key for key in inputs}
        key = rest if rest in inputs else by_case.get(rest.lower())
        if key is None:
            raise Fail(f"The container's arguments use {{{{.{name}}}}}, which is no input.", code="BadTaskTemplate")
        return text_of(inputs[key], name)
    if name.lower() not in paths:
        raise Fail(f"The container's arguments use {{{{.{name}}}}}, which nothing fills in.", code="BadTaskTemplate")
    return paths[name.lower()]


def text_of(value: Any, name: str) -> str:
    """An input as an argument's text. Raises `Fail` for a value that has none, such as a dict.

    >>> text_of([1, 2], "x"), text_of(True, "x")
    ('[1,2]', 'true')
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float() | str():
            return str(value)
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            return f"{value.total_seconds():g}s"
        case File() | Directory() | StructuredDataset():
            return value.uri
        case list():
            return f"[{','.join(text_of(one, name) for one in value)}]"
    raise Fail(
        f"{{{{.{name}}}}} is a {type(value).__name__}, which has no text as an argument.", code="BadTaskTemplate"
    )
