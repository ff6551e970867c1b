"""BigQuery for tests: the emulator `local-bigquery`, and a client that looks at it from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.bigquery import Client

PROJECT = "flights"
DOGECOIN = "bigquery-public-data.crypto_dogecoin"
_EXTENSIONS = ("icu", "ducklake", "spatial")
_INSTALL_EXTENSIONS = f"""
import os, sys
os.makedirs(sys.prefix + "/home", exist_ok=True)
os.environ["HOME"] = sys.prefix + "/home"
from duckdb_extensions import import_extension
for name in {_EXTENSIONS!r}: import_extension(name)
"""


@pytest.fixture(scope="session")
def emulator(
    environment: Callable[..., Path],
    start_process: Callable[..., Any],
    free_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The address of a BigQuery that holds `bigquery-public-data.crypto_dogecoin.transactions`."""
    # It asks for a DuckDB whose extensions must be downloaded from elsewhere; this one has them as packages.
    duckdb = ["duckdb==1.5.5", "duckdb-extensions==1.5.5"]
    folder = environment(
        "local-bigquery",
        "local-bigquery==0.4.0",
        python="3.13",
        then=[
            ("-m", "ensurepip"),
            ("-m", "pip", "install", "--quiet", *duckdb, *(f"duckdb-extension-{one}==1.5.5" for one in _EXTENSIONS)),
            ("-c", _INSTALL_EXTENSIONS),
        ],
    )
    port, data = free_port(), tmp_path_factory.mktemp("bigquery")
    ports = ["--host", "127.0.0.1", "--port", str(port), "--grpc-port", str(free_port())]
    start_process(
        [str(folder / "bin" / "local-bigquery"), *ports, "--project", PROJECT, "--data-dir", str(data), "serve"],
        port=port,
        env={"HOME": str(folder / "home")},
    )
    address = f"http://127.0.0.1:{port}"
    client = connect(address)
    client.create_dataset(DOGECOIN)
    client.create_dataset(f"{PROJECT}.trips")
    client.query(
        f"CREATE TABLE `{DOGECOIN}.transactions` AS "  # noqa: S608 - no input of anybody
        "SELECT FORMAT('%03d', n) AS `hash`, IF(MOD(n, 2) = 0, 1, 10) AS version, n * 1000 AS size "
        "FROM UNNEST(GENERATE_ARRAY(1, 40)) AS n"
    ).result()
    return address


def connect(address: str) -> Client:
    """A client of the emulator."""
    options = ClientOptions(api_endpoint=address)
    return Client(project=PROJECT, credentials=AnonymousCredentials(), client_options=options)


@pytest.fixture
def bigquery(emulator: str, monkeypatch: pytest.MonkeyPatch) -> Client:
    """The emulator as another user sees it; the agent under test is led there too."""
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", emulator)
    return connect(emulator)
