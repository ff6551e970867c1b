"""Snowflake for tests: the emulator `fakesnow` behind a door that adds what it lacks, and a session from outside."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import snowflake.connector
from snowflake.connector import SnowflakeConnection

PLACE: dict[str, Any] = {"account": "org-fake", "user": "etl", "database": "DB1", "schema": "S1", "warehouse": "WH"}


@pytest.fixture(scope="session")
def emulator(environment: Callable[..., Path], start_process: Callable[..., Any], free_port: Callable[[], int]) -> int:
    """The port of a Snowflake with the table `trips`."""
    folder = environment("fakesnow", "fakesnow[server]==0.12.1", "snowflake-connector-python<5")
    port = free_port()
    start_process([str(folder / "bin" / "fakesnow"), "-s", "-p", str(port), "--host", "127.0.0.1"], port=port)
    upstream, port = port, free_port()
    script = Path(__file__).with_name("door.py")
    start_process([sys.executable, str(script), str(port), str(upstream)], port=port)
    with connect(port) as session, session.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE TABLE trips (id INT, tail VARCHAR, delay FLOAT)")
        cursor.execute("INSERT INTO trips VALUES (1, 'D-AIRS', 1.5), (2, 'D-AIRT', 20.0), (3, 'D-AIRU', 30.0)")
    return port


def queries(port: int) -> list[dict[str, str]]:
    """Every query with a tag that was run: id, tag, sql, session."""
    with urlopen(f"http://127.0.0.1:{port}/-/queries", timeout=30) as answer:
        told: list[dict[str, str]] = json.loads(answer.read())
    return told


def connect(port: int) -> SnowflakeConnection:
    """A session of its own."""
    return snowflake.connector.connect(
        **PLACE, password="p", host="localhost", port=port, protocol="http", session_parameters=QUIET
    )


QUIET = {"CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False, "CLIENT_TELEMETRY_ENABLED": False}


@pytest.fixture
def door(emulator: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options of an agent that is led to the emulator; it has a password."""
    monkeypatch.setenv("_FSEC_SNOWFLAKE_PASSWORD", "pass-of-etl")
    return {"host": "localhost", "port": emulator, "protocol": "http"}


@pytest.fixture
def outside(emulator: int) -> Iterator[SnowflakeConnection]:
    """Another user's session."""
    with connect(emulator) as session:
        yield session
