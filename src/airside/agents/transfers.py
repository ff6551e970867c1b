"""Files of tasks that pass through an agent on their way to or from its service, of any size, never whole in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from airside.model import Fail, File, UsageError
from airside.wire import storage


class Transfers:
    """Copies between storage and temporary files. Local files are in the folders that an operator allowed."""

    def __init__(self, allowed_directories: Sequence[str]) -> None:
        self._storage = storage.Storage([Path(one).expanduser().absolute() for one in allowed_directories])

    def fetch(self, uri: str) -> BinaryIO:
        """A temporary file with the content of this one, to be closed by the caller."""
        file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - handed on
        try:
            with _told_as_fail(uri):
                self._storage.download(uri, file)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def check(self, prefix: str, name: str) -> None:
        """Raise `Fail` if no file of this name may be written under the task's output prefix."""
        uri = _under(prefix, name)
        with _told_as_fail(uri):
            self._storage.check(uri)

    def exists(self, uri: str) -> bool:
        """True if there is a file or a folder, or anything below it."""
        with _told_as_fail(uri):
            return self._storage.exists(uri)

    def keep(self, pieces: Iterable[bytes], prefix: str, name: str) -> File:
        """Write these bytes to a file under the task's output prefix."""
        uri = _under(prefix, name)
        with tempfile.TemporaryFile() as file:
            for piece in pieces:
                file.write(piece)
            file.seek(0)
            with _told_as_fail(uri):
                self._storage.upload(uri, cast("BinaryIO", file))
        return File(uri, format=Path(name).suffix.removeprefix("."))


def _under(prefix: str, name: str) -> str:
    if not prefix:
        raise Fail(f"The output {name} is a file, but the task has no output prefix to write it to.")
    return storage.join(prefix, name)


@contextmanager
def _told_as_fail(uri: str) -> Iterator[None]:
    """A file that cannot be had fails the task: it is the task that named it."""
    try:
        yield
    except storage.PathNotAllowed as exc:
        raise Fail(
            f"{uri} is a path on the service's machine: an operator may add its folder to `allowed_directories` in "
            "the settings of the agent.",
            code="PathNotAllowed",
        ) from exc
    except storage.FileMissing as exc:
        raise Fail(str(exc), code="FileNotFound") from exc
    except UsageError as exc:
        raise Fail(str(exc), code="FileNotReadable") from exc
