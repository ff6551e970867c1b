"""Read and write whole files: on this machine, and in object stores with the `storage` extra.

A URI is a local path, `file:///path`, or `s3://`, `gs://`, `abfs://` and the like. Every function blocks: call them
from a thread.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from airside.model import Fail, Retry, UsageError
from airside.model.redaction import redact
from airside.wire import limits
from airside.wire.bucket import open_bucket

OBJECT_STORES = ("s3", "s3a", "gs", "abfs", "abfss", "az", "adl", "azure")

_PIECE = 1024 * 1024

Fetch = Callable[[str], bytes]


class FileMissing(UsageError):
    """There is no file at that URI."""


class PathNotAllowed(Fail):
    """A path on this machine that whoever named it may not have read or written."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"{uri} is a path on the service's machine, which callers may not name; an operator may allow its folder "
            "in [serve] local_storage.",
            code="PathNotAllowed",
        )


class UnusableUri(UsageError, Fail):
    """No file can ever be read or written there."""

    def __init__(self, message: str) -> None:
        Fail.__init__(self, message, code="UnusableUri")


class FileTooLarge(UsageError):
    """The file is larger than the caller is ready to read."""


def read(uri: str, *, limit: int = limits.FILE) -> bytes:
    """The content of a file of at most `limit` bytes.

    Raises `FileMissing` if there is none, `FileTooLarge` if it is larger, `UsageError` if it may not be read
    (`UnusableUri` if it never can be),
    `Retry` if the store does not answer, `MissingExtra` for an object store without the `storage` extra.
    """
    scheme = _scheme(uri)
    if scheme in OBJECT_STORES:
        return _read_object(uri, limit)
    path = _local(uri, scheme)
    with _local_errors(uri, "read"), path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _too_large(uri, path.stat().st_size, limit)
    return data


def fetch(uri: str) -> bytes:
    """The content of an offloaded literal's file, which may be larger than others; see `read`."""
    return read(uri, limit=limits.OFFLOADED)


def write(uri: str, data: bytes, *, durable: bool = True) -> None:
    """Write a file as a whole: a reader sees the old content or all of the new, also after a crash.

    Folders are made as needed. Unless `durable`, a power failure may undo it: for what can be written again.
    Raises as `read` does.
    """
    scheme = _scheme(uri)
    if scheme in OBJECT_STORES:
        _write_object(uri, data)
        return
    with _local_errors(uri, "written"):
        _replace(_local(uri, scheme), data, durable=durable)


def put(uri: str, data: bytes) -> None:
    """Write a file that is not there yet, and that nobody looks for before this returns. Raises as `read` does.

    A crash may leave a part of it, to be written again; a file that is there already is replaced as by `write`. It is
    `write` in a third of the system calls, each of which would have a thread wait for the interpreter.
    """
    if _scheme(uri):
        write(uri, data, durable=False)
        return
    with _local_errors(uri, "written"):
        if not _put(uri, data):
            _replace(_local(uri, ""), data, durable=False)


def download(uri: str, into: BinaryIO) -> int:
    """Copy a file of any size into an open one, piece by piece; returns its size. Raises as `read` does."""
    scheme = _scheme(uri)
    if scheme in OBJECT_STORES:
        store, key = _object(uri)
        with _store_errors(uri, "read"):
            return sum(into.write(piece) for piece in store.get(key).stream(min_chunk_size=_PIECE))
    with _local_errors(uri, "read"), _local(uri, scheme).open("rb") as file:
        shutil.copyfileobj(file, into, _PIECE)
        return file.tell()


def exists(uri: str) -> bool:
    """True if there is a file, a folder or anything below it at that place. Raises as `read` does."""
    scheme = _scheme(uri)
    if scheme in OBJECT_STORES:
        return _object_exists(uri.rstrip("/"))
    with _local_errors(uri, "looked for"):
        try:
            _local(uri, scheme).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def upload(uri: str, source: BinaryIO) -> None:
    """Write a file of any size as a whole, piece by piece, from an open one. Raises as `read` does."""
    scheme = _scheme(uri)
    if scheme in OBJECT_STORES:
        store, key = _object(uri)
        with _store_errors(uri, "written"):
            store.put(key, source)
        return
    with _local_errors(uri, "written"):
        _replace(_local(uri, scheme), source, durable=False)


class Storage:
    """Files in object stores, and of this machine those in `folders`; None: everywhere.

    `read` and `write` are the functions of this module, and raise `PathNotAllowed` for another local path. A path is
    judged by where it leads, past `..` and links.
    """

    def __init__(self, folders: Sequence[Path] | None = None) -> None:
        self._folders = None if folders is None else tuple(folders)

    def check(self, uri: str) -> None:
        """Raise as `read` and `write` would, as far as can be told without asking a store."""
        self._check(uri)
        if is_remote(uri):
            _object(uri)

    def read(self, uri: str, *, limit: int = limits.FILE) -> bytes:
        """The content of a file; see `storage.read`."""
        self._check(uri)
        return read(uri, limit=limit)

    def fetch(self, uri: str) -> bytes:
        """The content of an offloaded literal's file; see `storage.fetch`."""
        self._check(uri)
        return fetch(uri)

    def write(self, uri: str, data: bytes) -> None:
        """Write a file; see `storage.write`."""
        self._check(uri)
        write(uri, data)

    def download(self, uri: str, into: BinaryIO) -> int:
        """Copy a file into an open one; see `storage.download`."""
        self._check(uri)
        return download(uri, into)

    def exists(self, uri: str) -> bool:
        """True if there is something at that place; see `storage.exists`."""
        self._check(uri)
        return exists(uri)

    def upload(self, uri: str, source: BinaryIO) -> None:
        """Write a file from an open one; see `storage.upload`."""
        self._check(uri)
        upload(uri, source)

    def _check(self, uri: str) -> None:
        scheme = _scheme(uri)
        if self._folders is None or scheme in OBJECT_STORES:
            return
        try:
            path = Path(os.path.realpath(_local(uri, scheme)))
        except (ValueError, OSError):
            raise PathNotAllowed(uri) from None
        if not any(path.is_relative_to(os.path.realpath(folder)) for folder in self._folders):
            raise PathNotAllowed(uri)


EVERYWHERE = Storage()


def join(prefix: str, name: str) -> str:
    """The URI of the file `name` under a prefix.

    >>> join("s3://bucket/run/0/", "outputs.pb"), join("/tmp/run", "outputs.pb")
    ('s3://bucket/run/0/outputs.pb', '/tmp/run/outputs.pb')
    """
    return f"{prefix.rstrip('/')}/{name}" if prefix.strip("/") else f"{prefix}{name}"


def is_remote(uri: str) -> bool:
    """True for a URI in an object store.

    >>> is_remote("s3://bucket/x"), is_remote("/tmp/x")
    (True, False)
    """
    return _scheme(uri) in OBJECT_STORES


def _scheme(uri: str) -> str:
    head, separator, _ = uri.partition("://")
    return head.lower() if separator else ""


def _local(uri: str, scheme: str) -> Path:
    if not uri:
        raise UnusableUri("A file has no URI.")
    if not scheme:
        return Path(uri)
    if scheme == "file":
        return Path(unquote(urlsplit(uri).path))
    known = ", ".join(f"{name}://" for name in OBJECT_STORES)
    raise UnusableUri(f"{uri} cannot be read or written: use a local path, file://, or one of {known}.")


def _put(path: str, data: bytes) -> bool:
    """Write a new file; False if there is one already."""
    try:
        file = _create(path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        _make_folder(os.path.dirname(path))  # noqa: PTH120 - a Path takes longer than the call
        file = _create(path)
    try:
        while data:
            data = data[os.write(file, data) :]
    except BaseException:
        os.unlink(path)  # noqa: PTH108 - as above
        raise
    finally:
        os.close(file)
    return True


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _make_folder(path: str) -> None:
    try:
        os.mkdir(path)  # noqa: PTH102 - as above
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)  # noqa: PTH103 - as above
    except FileExistsError:
        pass


def _replace(path: Path, data: bytes | BinaryIO, *, durable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                shutil.copyfileobj(data, file, _PIECE)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _local_errors(uri: str, done: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise FileMissing(f"{uri} does not exist.") from exc
    except (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError) as exc:
        raise UsageError(f"{uri} cannot be {done}: {exc.strerror}.") from exc
    except ValueError as exc:
        raise UsageError(f"{uri!r} cannot be {done}: {exc}.") from exc
    except OSError as exc:
        raise Retry(f"{uri} cannot be {done}: {exc.strerror or exc}.") from exc


def _read_object(uri: str, limit: int) -> bytes:
    store, key = _object(uri)
    with _store_errors(uri, "read"):
        found = store.get(key)
        size = int(found.meta["size"])
        if size > limit:
            raise _too_large(uri, size, limit)
        return bytes(found.bytes())


def _object_exists(uri: str) -> bool:
    store, key = _object(uri)
    with _store_errors(uri, "looked for"):
        try:
            store.head(key)
        except FileNotFoundError:
            return any(store.list(prefix=f"{key}/", chunk_size=1))
    return True


def _write_object(uri: str, data: bytes) -> None:
    store, key = _object(uri)
    with _store_errors(uri, "written"):
        store.put(key, data)


def _object(uri: str) -> tuple[Any, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not bucket or not key:
        raise UnusableUri(f"{uri} names no file: write {scheme}://BUCKET/PATH.")
    try:
        return open_bucket(f"{scheme.lower()}://{bucket}"), key
    except UsageError:
        raise
    except Exception as exc:  # nobody was asked yet, so it is the settings
        raise UsageError(f"{uri} cannot be reached: {_problem(exc)}") from exc


@contextmanager
def _store_errors(uri: str, done: str) -> Iterator[None]:
    try:
        yield
    except (UsageError, Retry):
        raise
    except FileNotFoundError as exc:
        if done == "written":
            bucket = uri.partition("://")[2].partition("/")[0]
            raise UsageError(f"{uri} cannot be written: there is no bucket or container {bucket}.") from exc
        raise FileMissing(f"{uri} does not exist.") from exc
    except Exception as exc:
        # obstore's errors share no ancestor that is importable without it
        if type(exc).__name__ in _FOR_GOOD:
            raise UsageError(f"{uri} cannot be {done}: {_problem(exc)}") from exc
        raise Retry(f"{uri} cannot be {done}: {_problem(exc)}") from exc


def _problem(error: Exception) -> str:
    """What a store or its client says is wrong, in one line and without secrets."""
    text = str(error).partition("Debug source:")[0]
    return limits.shorten(redact(" ".join(text.split())), limits.DETAILS)


_FOR_GOOD = frozenset(
    {
        "InvalidPathError",
        "NotSupportedError",
        "PermissionDeniedError",
        "UnauthenticatedError",
        "UnknownConfigurationKeyError",
        "ValueError",
        "TypeError",
    }
)


def _too_large(uri: str, size: int, limit: int) -> FileTooLarge:
    return FileTooLarge(
        f"{uri} is too large to be read: {size / limits.MIB:.1f} MiB, where {limit / limits.MIB:g} MiB is the limit."
    )
