"""Files in object stores: the real client against servers that check who asks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.backends.storage.conftest import Azure, Store
from tests.backends.storage.gcs import ACCOUNT, Door

from airside import Retry, UsageError
from airside.wire import storage
from airside.wire.bucket import open_bucket


@pytest.mark.parametrize("name", ["0/outputs.pb", "run é/a%20b/+&=.pb"])
def test_write_then_read(store: Store, name: str) -> None:
    uri = storage.join(store.root, name)
    storage.write(uri, b"first")
    storage.write(uri, b"\x00\xffpayload")
    storage.put(storage.join(store.root, f"{name}2"), b"")
    assert storage.read(uri) == b"\x00\xffpayload"
    assert storage.read(f"{uri}2") == b""


def test_what_goes_wrong_is_said_in_one_line(store: Store) -> None:
    root = re.escape(store.root)
    with pytest.raises(storage.FileMissing, match=rf"^{root}/none does not exist\.$"):
        storage.read(f"{store.root}/none")
    storage.write(f"{store.root}/big", b"x" * 3_000_000)
    with pytest.raises(UsageError, match=rf"^{root}/big is too large to be read: 2\.9 MiB, where 1 MiB"):
        storage.read(f"{store.root}/big", limit=1_048_576)
    there = f"{store.root.replace('bucket', 'no-such-bucket')}/x"
    with pytest.raises(UsageError, match=r"/x cannot be written: there is no bucket or container no-such-bucket") as at:
        storage.write(there, b"")
    assert not isinstance(at.value, storage.FileMissing)
    with pytest.raises(storage.FileMissing):
        storage.read(there)


def test_a_store_that_does_not_answer_may_answer_later(away: Store) -> None:
    with pytest.raises(Retry, match=rf"^{re.escape(away.root)}/x cannot be read: .*after 3 retries") as caught:
        storage.read(f"{away.root}/x")
    assert "\n" not in str(caught.value)


def test_a_large_file_is_copied_piece_by_piece(store: Store, tmp_path: Path) -> None:
    content = b"0123456789abcdef" * 1_500_000
    with (tmp_path / "between").open("w+b") as between:
        between.write(content)
        between.seek(0)
        storage.upload(f"{store.root}/large", between)
        between.seek(0)
        between.truncate()
        assert storage.download(f"{store.root}/large", between) == len(content)
        with pytest.raises(storage.FileMissing):
            storage.download(f"{store.root}/no-such-file", between)
    assert (tmp_path / "between").read_bytes() == content


def test_there_is_a_file_or_anything_below_it(store: Store) -> None:
    storage.write(f"{store.root}/day=1/part/0", b"")
    found = {path: storage.exists(f"{store.root}/{path}") for path in ("day=1/part/0", "day=1/part", "day=1/", "day=")}
    assert found == {"day=1/part/0": True, "day=1/part": True, "day=1/": True, "day=": False}


# -- who asks ------------------------------------------------------------------------------------------------------


def test_google_is_asked_as_the_service_account(
    google: Door, vendor_free: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    google.callers.clear()
    (tmp_path / "account.json").write_text(google.account())
    monkeypatch.setenv("GOOGLE_BASE_URL", google.url)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    storage.write("gs://bucket/mine", b"1")
    assert google.callers == {ACCOUNT}


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_an_emulator_of_google_needs_no_credentials(
    google: Door, vendor_free: None, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    google.callers.clear()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"{scheme}127.0.0.1:{google.port}")
    storage.write("gs://bucket/anyone", b"2")
    assert storage.read("gs://bucket/anyone") == b"2"
    assert google.callers == {"anonymous"}


def test_another_key_of_google_is_refused_for_good(
    google: Door, vendor_free: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "account.json").write_text(Door(0).account())
    monkeypatch.setenv("GOOGLE_BASE_URL", google.url)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    with pytest.raises(UsageError, match=r"^gs://bucket/mine cannot be read: .*AuthenticationRequired"):
        storage.read("gs://bucket/mine")


def test_azure_by_the_names_of_its_command_line(
    azure: Azure, vendor_free: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "airside")
    monkeypatch.setenv("AZURE_STORAGE_KEY", azure.key)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azure.url)
    storage.write("az://bucket/mine", b"3")
    for spelling in ("abfs://bucket", "abfss://bucket", "azure://bucket", "adl://bucket", "ABFS://bucket"):
        assert storage.read(f"{spelling}/mine") == b"3"


def test_another_key_of_azure_is_refused_for_good(
    azure: Azure, vendor_free: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f"AccountName=airside;AccountKey=bm90IGl0;BlobEndpoint={azure.url}"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", said)
    with pytest.raises(UsageError, match=r"^abfs://bucket/x cannot be read: .*AuthorizationFailure") as caught:
        storage.read("abfs://bucket/x")
    assert "bm90IGl0" not in str(caught.value)


@pytest.mark.parametrize(
    ("root", "env", "message"),
    [
        ("abfs://bucket", {}, r"^abfs://bucket/x cannot be reached: .*[Aa]ccount"),
        ("abfs://bucket", {"AZURE_STORAGE_CONNECTION_STRING": "no idea"}, r"is no connection string: it has parts"),
        ("gs://bucket", {"GOOGLE_APPLICATION_CREDENTIALS": "/none.json"}, r"^gs://bucket/x cannot be reached: .*none"),
    ],
)
def test_settings_that_make_no_sense(
    vendor_free: None, monkeypatch: pytest.MonkeyPatch, root: str, env: dict[str, str], message: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message) as caught:
        storage.read(f"{root}/x")
    assert "\n" not in str(caught.value)
    open_bucket.cache_clear()
