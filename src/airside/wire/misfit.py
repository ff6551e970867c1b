"""A value that does not fit, and how it is shown.

Inside a conversion the path is not known yet: each list and map adds its step while the error travels
outwards, so that values that do fit cost nothing.
"""

from __future__ import annotations

import reprlib
from typing import Any

from airside.model import ConversionError
from airside.model.redaction import redact

MAX_DEPTH = 64
_SHOWN = 80


class Misfit(Exception):
    """A value does not fit its type; `steps` lead to it, innermost first."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps: list[str] = []

    def under(self, key: object) -> Misfit:
        """This misfit, seen from the list or map that holds the value under `key`."""
        self.steps.append(_step(key))
        return self

    def at(self, path: str) -> ConversionError:
        """The public error, its path beginning with `path`."""
        return ConversionError(path + "".join(reversed(self.steps)), self.problem)


def expected(what: str, value: object) -> Misfit:
    """The misfit of a value of the wrong type.

    >>> str(expected("int", "abc"))
    "expected int, got 'abc'"
    """
    return Misfit(f"expected {what}, got {shown(value)}")


def too_deep() -> Misfit:
    """The misfit of a value nested beyond what readers accept."""
    return Misfit(f"nested deeper than {MAX_DEPTH}")


def shown(value: object) -> str:
    """A value in at most 80 characters, with known secrets replaced.

    >>> shown("x" * 200)[-6:]
    'xxx...'
    """
    try:
        text = _SHORT.repr(value)
    except Exception:  # noqa: BLE001 - an author's own class may raise anything
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


class _Short(reprlib.Repr):
    """Hides secrets before anything is cut or escaped: half a secret would no longer be recognised."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxother = 10_000

    def repr_str(self, x: str, _level: int) -> str:
        return repr(redact(x)[:_SHOWN])

    def repr_bytes(self, x: bytes, _level: int) -> str:
        return f"{len(x)} bytes"

    def repr_instance(self, x: Any, _level: int) -> str:
        return redact(repr(x))


_SHORT = _Short()


def _step(key: object) -> str:
    if isinstance(key, str):
        return f".{redact(key)}" if key.isidentifier() and len(key) <= _SHOWN else f"[{shown(key)}]"
    return f"[{shown(key)}]"
