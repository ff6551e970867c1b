"""Amounts as Kubernetes writes them: "500m", "1.5", "64Mi"."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def amount(text: str) -> float:
    """A number, in thousandths if it ends with m. Raises `ValueError`.

    >>> amount("500m"), amount("2")
    (0.5, 2.0)
    """
    value = float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)
    if not 0 < value < 1e6:
        raise ValueError(f"{text!r} is no amount")
    return value


def size(text: str) -> int:
    """A number of bytes. Raises `ValueError`.

    >>> size("64Mi"), size("1G")
    (67108864, 1000000000)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]i?|Ki)?", text)
    if found is None:
        raise ValueError(f"{text!r} is no number of bytes")
    return int(float(found[1]) * _UNITS[found[2] or ""])
