"""Jobs that a command drives itself: a lock in the state folder says that it still does.

The system lets go of the lock when the process ends, however it ends; from then on the store's engine takes the job up.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from airside.model import UsageError

FOLDER = "attended"


class Attendance:
    """The lock of one job. It must be taken before the job is in the store, so that no engine takes it up.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as state:
    ...     lock = Attendance(state, "r1")
    ...     before, _ = is_attended(state, "r1"), lock.take()
    ...     during, _ = is_attended(state, "r1"), lock.release()
    ...     before, during, is_attended(state, "r1")
    (False, True, False)
    """

    def __init__(self, state: str | Path, job_id: str) -> None:
        self.path = _path(state, job_id)
        self._file: IO[bytes] | None = None

    def take(self) -> None:
        """Take the lock. Raises `UsageError` if the state folder takes no files. Blocks."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self.path.open("wb")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise UsageError(f"{self.path} cannot be locked: {exc.strerror}; set AIRSIDE_STATE.") from exc

    def release(self) -> None:
        """Let go of the lock."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


def is_attended(state: str | Path, job_id: str) -> bool:
    """True while the command that submitted the job drives it itself. Blocks."""
    try:
        with _path(state, job_id).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def forget(state: str | Path, job_id: str) -> None:
    """Remove what a killed command left. Blocks."""
    _path(state, job_id).unlink(missing_ok=True)


def _path(state: str | Path, job_id: str) -> Path:
    return Path(state) / FOLDER / f"{job_id}.lock"
