"""Rows that a transaction will write, gathered so that one statement writes many.

Each statement makes SQLite's caller wait for the interpreter lock; a few large ones leave it to the loop.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

AT_ONCE = (64, 8, 1)
"""How many rows a statement may have: few sizes, so that prepared statements are used again."""

_ROW = re.compile(r"\(\?(?:,\s*\?)*\)")


class Rows:
    """Rows by the name of their statement, written in the order of the names; of one key the last row counts.

    >>> rows = Rows({"put": "INSERT INTO t VALUES (?, ?);"})
    >>> for key in ("a", "b", "a"):
    ...     rows.put("put", key, (key, len(rows)))
    >>> with sqlite3.connect(":memory:") as connection:
    ...     _ = connection.execute("CREATE TABLE t (x, y)")
    ...     rows.write(connection)
    ...     connection.execute("SELECT * FROM t").fetchall(), len(rows)
    ([('a', 2), ('b', 1)], 0)
    """

    def __init__(self, statements: Mapping[str, str]) -> None:
        self._statements = statements
        self._rows: dict[str, dict[Any, Sequence[Any]]] = {name: {} for name in statements}

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def put(self, name: str, key: Any, row: Sequence[Any]) -> None:
        """Have a row written. A `key` of None is like no other."""
        rows = self._rows[name]
        rows[len(rows) if key is None else key] = row

    def write(self, connection: sqlite3.Connection) -> None:
        """Write all that was gathered."""
        for name, rows in self._rows.items():
            if rows:
                _write(connection, self._statements[name], list(rows.values()))
                rows.clear()

    def clear(self) -> None:
        """Forget all that was gathered."""
        for rows in self._rows.values():
            rows.clear()


def _write(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    start = 0
    for count in AT_ONCE:
        while len(rows) - start >= count:
            values = tuple(chain.from_iterable(rows[start : start + count]))
            connection.execute(_repeated(statement, count), values)
            start += count


@cache
def _repeated(statement: str, count: int) -> str:
    """The statement with its row of question marks so many times."""
    return _ROW.sub(lambda found: ", ".join([found[0]] * count), statement)
