"""Files in an object store: the real client against an S3 server of its own process."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import requests

from airside import Retry, UsageError
from airside.wire import storage


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(address, server)
            requests.put(f"{address}/bucket", timeout=10).raise_for_status()
            yield address
        finally:
            server.terminate()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    storage._store.cache_clear()
    yield "s3://bucket"
    storage._store.cache_clear()


def test_write_then_read(s3: str) -> None:
    uri = storage.join(f"{s3}/run é/0", "outputs.pb")
    storage.write(uri, b"\x00\xffpayload")
    assert storage.read(uri) == b"\x00\xffpayload"


def test_what_goes_wrong_is_said_in_one_line(s3: str) -> None:
    with pytest.raises(storage.FileMissing, match=r"^s3://bucket/none does not exist\.$"):
        storage.read(f"{s3}/none")
    storage.write(f"{s3}/big", b"x" * 3_000_000)
    with pytest.raises(UsageError, match=r"^s3://bucket/big is too large to be read: 2\.9 MiB, where 1 MiB"):
        storage.read(f"{s3}/big", limit=1_048_576)


def test_a_store_that_does_not_answer_may_answer_later(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage._store.cache_clear()
    with pytest.raises(Retry, match=r"^s3://bucket/x cannot be read: .*after 3 retries") as caught:
        storage.read(f"{s3}/x")
    assert "\n" not in str(caught.value)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None, "the S3 server ended"
        try:
            requests.get(f"{address}/moto-api/", timeout=10)
        except requests.ConnectionError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("the S3 server did not start")
