"""Take from this process the right to write files, but for a few directories, for good (Linux 5.13 and newer)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, the same on every processor
_VERSION, _PATH_BENEATH = 1, 1
_NO_NEW_PRIVILEGES = 38

_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_MAKE_AND_REMOVE = sum(1 << bit for bit in range(4, 13))
_REFER = 1 << 13  # to move or link a file into another directory


def write_only_below(places: Iterable[Path]) -> bool:
    """From now on, this thread and all that it starts may write at these places only.

    Returns False, and changes nothing, where the kernel offers no Landlock.
    """
    system = ctypes.CDLL(None, use_errno=True)
    version = system.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return False
    rights = _WRITE_FILE | _MAKE_AND_REMOVE | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("=Q", rights)
    ruleset = _check(system.syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for place in places:
            _allow(system, ruleset, place, rights)
        _check(system.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _check(system.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def _allow(system: ctypes.CDLL, ruleset: int, place: Path, rights: int) -> None:
    descriptor = os.open(place, os.O_PATH)
    try:
        here = rights if place.is_dir() else rights & (_WRITE_FILE | _TRUNCATE)
        _check(system.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", here, descriptor), 0))
    finally:
        os.close(descriptor)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
