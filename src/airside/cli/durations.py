"""Durations as people write them: `1h30m`, `90s`, `90`, `PT1H30M`."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"\d+(?:\.\d+)?"
_SHORT = re.compile(rf"(?:{_NUMBER}(?:d|h|ms|m|s))+")
_PART = re.compile(rf"({_NUMBER})(d|h|ms|m|s)")
_ISO = re.compile(
    rf"P(?:(?P<w>{_NUMBER})W)?(?:(?P<d>{_NUMBER})D)?"
    rf"(?:T(?:(?P<h>{_NUMBER})H)?(?:(?P<m>{_NUMBER})M)?(?:(?P<s>{_NUMBER})S)?)?"
)
_ISO_UNITS = {**_UNITS, "w": 7 * 86400.0}


def read_duration(text: str) -> timedelta:
    """The duration that `text` says; `ValueError` if it says none. A bare number is seconds.

    >>> read_duration("1h30m") == read_duration("PT1H30M") == read_duration("5400")
    True
    >>> read_duration("1.5s").total_seconds(), read_duration("-2d").days
    (1.5, -2)
    """
    plain = text.strip().lower()
    sign, plain = (-1, plain[1:]) if plain.startswith("-") else (1, plain)
    if re.fullmatch(_NUMBER, plain):
        return sign * timedelta(seconds=float(plain))
    if _SHORT.fullmatch(plain):
        parts = _PART.findall(plain)
        return sign * timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    iso = _ISO.fullmatch(plain.upper())
    if iso and any(iso.groupdict().values()):
        given = {unit: float(number) for unit, number in iso.groupdict().items() if number}
        return sign * timedelta(seconds=sum(number * _ISO_UNITS[unit] for unit, number in given.items()))
    raise ValueError(f"expected a duration such as 1h30m, 90s or PT1H30M, got {text!r}")


def spell_duration(length: timedelta) -> str:
    """A duration in full, as `read_duration` reads it.

    >>> [spell_duration(timedelta(seconds=seconds)) for seconds in (5400, 90061, 0.25, -1.5, 0)]
    ['1h30m', '1d1h1m1s', '0.25s', '-1.5s', '0s']
    """
    rest, parts = abs(length), list[str]()
    for unit in ("d", "h", "m"):
        number, rest = divmod(rest, timedelta(seconds=_UNITS[unit]))
        parts.append(f"{number}{unit}" if number else "")
    if rest or not any(parts):
        parts.append(f"{rest.total_seconds():.6f}".rstrip("0").rstrip(".") + "s")
    return ("-" if length < timedelta(0) else "") + "".join(parts)


def write_duration(seconds: float) -> str:
    """A duration for a person: `5ms`, `0.3s`, `12s`, `3m05s`, `2h07m`.

    >>> [write_duration(seconds) for seconds in (0.005, 0.32, 12.9, 185, 7650)]
    ['5ms', '0.3s', '12s', '3m05s', '2h07m']
    """
    if seconds < 0.1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{int(seconds)}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
