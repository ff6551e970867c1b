"""Files on this machine: what is read and written, and what a person is told."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from airside import MissingExtra, Retry, UsageError
from airside.wire import storage
from airside.wire.bucket import open_bucket


@pytest.mark.parametrize("form", ["plain", "file"])
def test_write_then_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a b" / "0" / "outputs.pb"
    uri = str(path) if form == "plain" else path.as_uri()
    storage.write(uri, b"first")
    storage.write(uri, b"second")
    assert storage.read(uri) == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["outputs.pb"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_an_interrupted_write_leaves_the_old_content_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "outputs.pb")
    storage.write(uri, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            storage.write(uri, b"new")
    assert storage.read(uri) == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["outputs.pb"]


def test_put_makes_the_folder_and_replaces_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "run" / "0" / "outputs.pb"
    for uri, data in ((str(path), b"first"), (str(path), b"second, and longer"), (path.as_uri(), b"3")):
        storage.put(uri, data)
        assert path.read_bytes() == data
    assert [entry.name for entry in path.parent.iterdir()] == ["outputs.pb"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    storage.put(str(tmp_path / "empty"), b"")
    assert (tmp_path / "empty").read_bytes() == b""


def test_put_goes_on_after_a_short_write_and_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, write, room = str(tmp_path / "outputs.pb"), os.write, 10

    def a_little(file: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        room -= 1
        return write(file, data[:1])

    monkeypatch.setattr(os, "write", a_little)
    storage.put(uri, b"12345678")
    assert storage.read(uri) == b"12345678"
    with pytest.raises(Retry, match=r"other cannot be written: No space left on device\.$"):
        storage.put(str(tmp_path / "other"), b"123")
    assert [entry.name for entry in tmp_path.iterdir()] == ["outputs.pb"]


def test_a_missing_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(storage.FileMissing, match=r"/none\.pb does not exist\.$"):
        storage.read(str(tmp_path / "none.pb"))


def test_the_size_limit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * 2_097_153)
    assert len(storage.read(str(path), limit=2_097_153)) == 2_097_153
    with pytest.raises(UsageError, match=r"big is too large to be read: 2\.0 MiB, where 1 MiB is the limit\.$"):
        storage.read(str(path), limit=1_048_576)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", r"^A file has no URI\.$"),
        ("ftp://host/x", r"^ftp://host/x cannot be read or written: use a local path, file://, or one of s3://"),
        ("s3://bucket", r"^s3://bucket names no file: write s3://BUCKET/PATH\.$"),
        ("/\0", r"cannot be read: embedded null byte\.$"),
        ("/", r"^/ cannot be read: Is a directory\.$"),
        ("/dev/null/x", r"^/dev/null/x cannot be read: Not a directory\.$"),
    ],
)
def test_what_cannot_be_read(uri: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        storage.read(uri)


def test_a_folder_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"file/outputs\.pb cannot be written: "):
        storage.write(str(tmp_path / "file" / "outputs.pb"), b"")


def test_object_stores_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    open_bucket.cache_clear()
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingExtra, match=r"s3:// files needs an optional library: pip install 'airside\[storage\]'$"):
        storage.read("s3://bucket/key")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _interrupted(_: int) -> None:
    raise KeyboardInterrupt


def test_a_large_file_is_copied_piece_by_piece(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out" / "copy"
    source.write_bytes(b"0123456789abcdef" * 200_000)
    with (tmp_path / "between").open("w+b") as between:
        assert storage.download(source.as_uri(), between) == 3_200_000
        between.seek(0)
        storage.upload(str(target), between)
    assert target.read_bytes() == source.read_bytes()
    assert [entry.name for entry in target.parent.iterdir()] == ["copy"]


def test_a_copy_is_refused_like_a_read(tmp_path: Path) -> None:
    allowed = storage.Storage([tmp_path / "data"])
    with (tmp_path / "between").open("w+b") as between:
        with pytest.raises(storage.PathNotAllowed):
            allowed.download("/etc/hostname", between)
        with pytest.raises(storage.PathNotAllowed):
            allowed.upload(str(tmp_path / "data" / ".." / "x"), between)
        with pytest.raises(storage.FileMissing):
            storage.download(str(tmp_path / "none"), between)
