"""What all three agents drive: naps, jobs that last as long as they are told. Standard library only.

A nap is known by where it ends, and cancelled by a file, so that it goes on while the service is down.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

_CANCELLED = Path(os.environ.get("NAPS", tempfile.gettempdir()))


def end_of(seconds: float) -> float:
    """When a nap that begins now ends; a negative length stays what it is, and the nap fails later."""
    if seconds > 1e9:
        raise ValueError("nobody naps for a lifetime")
    return time.time() + seconds if seconds >= 0 else seconds


def state(nap: str, until: float) -> str:
    """`cancelled`, `done` or `napping`."""
    if _file(nap).exists():
        return "cancelled"
    return "done" if time.time() >= until else "napping"


def cancel(nap: str) -> None:
    """End the nap; no harm if it is over."""
    _file(nap).touch()


def _file(nap: str) -> Path:
    return _CANCELLED / f"nap-{nap}-cancelled"
