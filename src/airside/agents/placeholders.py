"""Flyte's placeholders in the texts of a task: `{{.inputs.NAME}}`, `{{.outputPrefix}}` and their kind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airside.agents.json_values import to_json
from airside.model import Fail

PLACEHOLDER = re.compile(r"\{\{\s*(?:\.|\$\.?)(\w+(?:\.[^}\s]+)?)\s*\}\}")


def text_of(value: Any) -> str:
    """A value as it stands in a text, as Flyte's engines write it.

    >>> text_of(True), text_of(1.5), text_of([1, "a"]), text_of({"a": 1})
    ('true', '1.5', '[1,a]', '{"a":1}')
    """
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case datetime():
            aware = value if value.tzinfo else value.replace(tzinfo=UTC)
            return aware.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            return f"{value.total_seconds():g}s"
        case list() | tuple():
            return f"[{','.join(text_of(one) for one in value)}]"
        case None:
            return ""
    plain = to_json(value)
    return plain if isinstance(plain, str) else json.dumps(plain, separators=(",", ":"))


def render(
    text: str,
    inputs: Mapping[str, Any],
    others: Mapping[str, str] | None = None,
    write: Callable[[str, Any], str] = lambda _name, value: text_of(value),
) -> str:
    """`text` with its placeholders filled in; names are matched without regard to capitals, as Flyte does.

    `others` fills those that are no inputs; a placeholder that is neither stays as it is, since it may be meant
    for the command itself. `write(name, value)` makes the text of an input. Raises `Fail` for an unknown input.

    >>> render("--x={{.inputs.x}} --to {{.outputPrefix}} {{.Names}}", {"x": 3}, {"outputprefix": "/tmp/out"})
    '--x=3 --to /tmp/out {{.Names}}'
    """

    def fill(match: re.Match[str]) -> str:
        scope, _, name = match[1].partition(".")
        if scope.lower() == "inputs" and name:
            real = _find(name, inputs)
            return write(real, inputs[real])
        return (others or {}).get(match[1].lower(), match[0])

    return PLACEHOLDER.sub(fill, text)


def render_value(value: Any, inputs: Mapping[str, Any], others: Mapping[str, str] | None = None) -> Any:
    """JSON with the placeholders in its strings filled in; a string that is just one input becomes its value.

    >>> render_value({"n": "{{.inputs.n}}", "text": "n={{.inputs.n}}"}, {"n": 3})
    {'n': 3, 'text': 'n=3'}
    """
    match value:
        case str():
            whole = PLACEHOLDER.fullmatch(value.strip())
            scope, _, name = whole[1].partition(".") if whole else ("", "", "")
            if scope.lower() == "inputs" and name:
                return to_json(inputs[_find(name, inputs)])
            return render(value, inputs, others)
        case list():
            return [render_value(one, inputs, others) for one in value]
        case dict():
            return {key: render_value(one, inputs, others) for key, one in value.items()}
    return value


def _find(name: str, inputs: Mapping[str, Any]) -> str:
    if name in inputs:
        return name
    for known in inputs:
        if known.lower() == name.lower():
            return known
    raise Fail(
        f"The task's text asks for the input {name!r}, which is not there (inputs: {', '.join(inputs) or 'none'})."
    )
