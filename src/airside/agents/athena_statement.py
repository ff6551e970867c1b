"""The statement of an Athena task: its inputs are written into it as values of SQL, never as SQL.

Flyte fills `{{ .Inputs.name }}` in as bare text. Here a placeholder between quotes stays between them, whatever the
input says, and one outside of quotes becomes a literal with quotes of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from airside.agents.json_values import to_json
from airside.agents.placeholders import PLACEHOLDER, render, text_of
from airside.model import ConversionError, Directory, Fail, File, StructuredDataset

# Quoted texts, quoted names and comments of Athena's two dialects; what is left between them is bare.
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|--[^\n]*|/\*.*?\*/""", re.DOTALL)
_OPENED = re.compile(r"""['"`]|/\*""")
_TRINO = re.compile(
    r"(select|with|insert|delete|update|merge|unload|values|explain|execute|prepare|vacuum|optimize)\b"
    r"|\(|create\s+table\b(?!.*\blocation\b)|create\s+(or\s+replace\s+)?view\b",
    re.IGNORECASE | re.DOTALL,
)
_PLAIN = re.compile(r"[^'\"`\\;\x00-\x1f]*\Z")
_LONGEST = 262_144  # that Athena takes, in bytes of UTF-8


def to_statement(text: str, inputs: Mapping[str, Any], others: Mapping[str, str]) -> str:
    """The statement with its placeholders filled in. Raises `Fail` for an input that cannot be written safely.

    >>> to_statement("SELECT {{ .Inputs.n }} WHERE a = '{{.Inputs.s}}' OR b = {{.inputs.s}}", {"n": 3, "s": "it's"}, {})
    "SELECT 3 WHERE a = 'it''s' OR b = 'it''s'"
    """
    bare = _without_comments(text).strip().rstrip(";").strip()
    if not bare:
        raise Fail("An Athena task needs a query: the template's sql, or custom.statement.")
    in_trino = _TRINO.match(bare) is not None
    pieces = list(_pieces(text.strip()))
    if PLACEHOLDER.search(text) and any(not quote and _OPENED.search(piece) for quote, piece in pieces):
        raise Fail("A quote or comment in the query is not closed, so no input can be written into it.")
    statement = "".join(_fill(piece, quote, inputs, others, in_trino=in_trino) for quote, piece in pieces)
    if len(statement.encode()) > _LONGEST:
        raise Fail(f"The query has {len(statement.encode())} bytes with its inputs; Athena takes {_LONGEST}.")
    return statement


def _without_comments(text: str) -> str:
    return "".join(piece for quote, piece in _pieces(text) if quote not in ("-", "/"))


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """The text in pieces, each with the character that opens it: empty for what is bare."""
    at = 0
    for quoted in _QUOTED.finditer(text):
        yield "", text[at : quoted.start()]
        yield quoted[0][0], quoted[0]
        at = quoted.end()
    yield "", text[at:]


def _fill(piece: str, quote: str, inputs: Mapping[str, Any], others: Mapping[str, str], *, in_trino: bool) -> str:
    if not PLACEHOLDER.search(piece) or quote in ("-", "/"):
        return piece
    write = _literal if not quote else _inside(quote)

    def checked(name: str, value: Any) -> str:
        if not in_trino and not _PLAIN.match(text_of(value)):  # Hive's quotes know a second way out: a backslash
            raise Fail(
                f"inputs.{name}: a statement like this one takes no input with quotes, backslashes, semicolons or "
                "line breaks.",
            )
        return write(name, value)

    return render(piece, inputs, others, checked)


def _inside(quote: str) -> Callable[[str, Any], str]:
    def write(name: str, value: Any) -> str:
        text = _text(name, value)
        return text.replace(quote, quote * 2)

    return write


def _text(name: str, value: Any) -> str:
    match value:
        case None:
            raise Fail(f"inputs.{name}: None cannot stand between quotes; take the quotes away and it becomes NULL.")
        case datetime():
            return _moment(value)
    return text_of(value)


def _literal(name: str, value: Any) -> str:
    """A value as a literal of Trino's SQL.

    >>> _literal("x", ["a", None]), _literal("x", datetime(2024, 1, 2, tzinfo=UTC))
    ("ARRAY['a', NULL]", "TIMESTAMP '2024-01-02 00:00:00.000000'")
    """
    match value:
        case None:
            return "NULL"
        case bool() | int() | float() | Decimal():
            return _number(name, value)
        case bytes():
            return f"X'{value.hex()}'"
        case datetime():
            return f"TIMESTAMP '{_moment(value)}'"
        case date():
            return f"DATE '{value.isoformat()}'"
        case timedelta():
            return f"INTERVAL '{value.total_seconds():f}' SECOND"
        case list() | tuple():
            return f"ARRAY[{', '.join(_literal(f'{name}[{at}]', one) for at, one in enumerate(value))}]"
        case str() | File() | Directory() | StructuredDataset():
            return _quoted(str(to_json(value)))
    return f"JSON {_quoted(text_of(value))}"


def _number(name: str, value: float | Decimal) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, float):
        return str(value) if value >= 0 else f"({value})"
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN is the only one
        raise ConversionError(f"inputs.{name}", f"{value} has no literal in SQL")
    return f"DOUBLE '{value!r}'"


def _moment(value: datetime) -> str:
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return aware.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
