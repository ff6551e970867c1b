"""What the exit code of every command means."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of `airside`. A signal adds 128 and its number, as shells count: 130 is Ctrl-C, 143 SIGTERM."""

    OK = 0
    FAILED = 1
    """The task failed, or a check did not pass."""
    USAGE = 2
    """A flag, a value, a file or a setting is wrong; nothing was started."""
    UNREACHABLE = 3
    """Nothing answers at the endpoint."""
    INTERNAL = 70
    """A mistake in Airside itself."""
    INTERRUPTED = 130
