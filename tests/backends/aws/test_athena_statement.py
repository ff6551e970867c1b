"""An input is a value in the statement, whatever it says and wherever it stands."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from airside.agents.athena_statement import to_statement
from airside.model import AirsideError, Fail

EVIL = "a'; DROP TABLE trips; --"


@pytest.mark.parametrize(
    ("text", "inputs", "statement"),
    [
        ("SELECT '{{ .Inputs.s }}'", {"s": EVIL}, "SELECT 'a''; DROP TABLE trips; --'"),
        ("SELECT {{ .Inputs.s }}", {"s": EVIL}, "SELECT 'a''; DROP TABLE trips; --'"),
        ("SELECT '''{{.inputs.s}}'", {"s": "'"}, "SELECT ''''''"),
        ('SELECT * FROM "{{ .inputs.t }}"', {"t": 'a" b'}, 'SELECT * FROM "a"" b"'),
        ("SELECT {{.inputs.x}} -- {{.inputs.x}}'", {"x": 1}, "SELECT 1 -- {{.inputs.x}}'"),
        ("SELECT /* it's {{.inputs.x}} */ {{.inputs.x}}", {"x": -1}, "SELECT /* it's {{.inputs.x}} */ (-1)"),
        ("SELECT {{.inputs.x}}, {{.inputs.y}}", {"x": 0.1, "y": None}, "SELECT DOUBLE '0.1', NULL"),
        ("SELECT {{.inputs.d}}", {"d": date(2024, 1, 2)}, "SELECT DATE '2024-01-02'"),
        ("SELECT {{.inputs.d}}", {"d": timedelta(minutes=1)}, "SELECT INTERVAL '60.000000' SECOND"),
        (
            "SELECT '{{.inputs.d}}'",
            {"d": datetime(2024, 1, 2, 3, tzinfo=UTC)},
            "SELECT '2024-01-02 03:00:00.000000'",
        ),
        ("SELECT {{.inputs.l}}", {"l": ["a'", 1]}, "SELECT ARRAY['a''', 1]"),
        ("SELECT {{.inputs.m}}", {"m": {"a": "it's"}}, """SELECT JSON '{"a":"it''s"}'"""),
        ("SELECT {{.inputs.b}}", {"b": b"\x00'"}, "SELECT X'0027'"),
        ("MSCK REPAIR TABLE `{{.inputs.t}}`", {"t": "trips"}, "MSCK REPAIR TABLE `trips`"),
        ("UNLOAD (SELECT 1) TO '{{.outputPrefix}}/x'", {}, "UNLOAD (SELECT 1) TO 's3://b/x'"),
    ],
)
def test_a_placeholder_becomes_a_value(text: str, inputs: dict[str, Any], statement: str) -> None:
    assert to_statement(text, inputs, {"outputprefix": "s3://b"}) == statement


@pytest.mark.parametrize(
    ("text", "inputs", "message"),
    [
        ("  -- nothing\n ;", {}, "needs a query"),
        ("SELECT \"a, '{{.inputs.s}}'", {"s": 'x"'}, "is not closed"),
        ("SELECT {{.inputs.s}} /* and", {"s": "x"}, "is not closed"),
        ("DROP TABLE `{{.inputs.s}}`", {"s": "a\\"}, "takes no input with quotes"),
        ("CREATE EXTERNAL TABLE t (a INT) LOCATION '{{.inputs.s}}'", {"s": "s3://b/\\"}, "takes no input with quotes"),
        ("ALTER TABLE t ADD PARTITION (d = {{.inputs.s}})", {"s": "1'"}, "takes no input with quotes"),
        ("SELECT '{{.inputs.s}}'", {"s": None}, "None cannot stand between quotes"),
        ("SELECT {{.inputs.gone}}", {"s": 1}, "input 'gone', which is not there"),
        ("SELECT {{.inputs.x}}", {"x": float("nan")}, "no literal in SQL"),
        ("SELECT '{{.inputs.s}}'", {"s": "ü" * 140_000}, "Athena takes 262144"),
    ],
)
def test_what_cannot_be_written_safely_is_refused(text: str, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(AirsideError, match=message):
        to_statement(text, inputs, {})


def test_a_refusal_is_for_good() -> None:
    with pytest.raises(Fail):
        to_statement("", {}, {})
