"""Places in a container's arguments."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from airside import Fail, File
from airside.engine.arguments import render

PATHS = {"outputprefix": "/run/0", "input": "/run/inputs.pb"}


@pytest.mark.parametrize(
    ("arg", "value", "expected"),
    [
        ("{{.inputs.x}}", 3, "3"),
        ("{{ .Inputs.x }}", 1.5, "1.5"),
        ("{{$inputs.x}}", True, "true"),
        ("n={{.inputs.x}};", "two words", "n=two words;"),
        ("{{.inputs.x}}", datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T12:00:00Z"),
        ("{{.inputs.x}}", File("s3://b/x"), "s3://b/x"),
        ("{{.inputs.x}}", ["a", "b"], "[a,b]"),
        ("{{.outputPrefix}}/{{.inputs.x}}", 1, "/run/0/1"),
        ("{{not a place}} {.x}", 1, "{{not a place}} {.x}"),
        ("{{.inputs.x}}", "{{.outputPrefix}}", "{{.outputPrefix}}"),
    ],
)
def test_places_are_filled(arg: str, value: Any, expected: str) -> None:
    assert render([arg], {"x": value}, PATHS) == (expected,)


@pytest.mark.parametrize(
    ("arg", "value"), [("{{.inputs.y}}", 1), ("{{.nonsense}}", 1), ("{{.inputs.x}}", {"a": 1}), ("{{.inputs.x}}", None)]
)
def test_what_nothing_fills_fails_the_task(arg: str, value: Any) -> None:
    with pytest.raises(Fail, match=r"arguments use|no text") as caught:
        render([arg], {"x": value}, PATHS)
    assert caught.value.code == "BadTaskTemplate"
