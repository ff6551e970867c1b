"""Jobs that a command drives itself: a lock in the run's folder says that it still does.

The system lets go of the lock when the process ends, however it ends; from then on the store's engine takes the job up.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from airside.model import UsageError

LOCK_NAME = "attended.lock"


class Attendance:
    """The lock of one run. It must be taken before the job is in the store, so that no engine takes it up.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lock = Attendance(folder)
    ...     before, _ = is_attended(folder), lock.take()
    ...     during, _ = is_attended(folder), lock.release()
    ...     before, during, is_attended(folder)
    (False, True, False)
    """

    def __init__(self, root: str) -> None:
        self.path = Path(root) / LOCK_NAME
        self._file: IO[bytes] | None = None

    def take(self) -> None:
        """Take the lock; the folder must be there. Raises `UsageError` if it takes no files. Blocks."""
        try:
            self._file = self.path.open("wb")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise UsageError(f"{self.path} cannot be locked: {exc.strerror}.") from exc

    def release(self) -> None:
        """Let go of the lock."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


def is_attended(root: str) -> bool:
    """True while the command that submitted the run of this folder drives it itself. Blocks."""
    try:
        with (Path(root) / LOCK_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
