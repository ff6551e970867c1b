"""A real PostgreSQL, made for the tests and gone with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

PASSWORD = "pass-of-etl"


@dataclass(frozen=True)
class Postgres:
    """A running server, and a way in that is not the agent's."""

    port: int

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://etl@127.0.0.1:{self.port}/postgres"

    def run(self, statement: str) -> Any:
        way = f"host=127.0.0.1 port={self.port} user=etl password={PASSWORD} dbname=postgres"
        with psycopg.connect(way, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="session")
def postgres(start_process: Callable[..., Any], free_port: Callable[[], int]) -> Iterator[Postgres]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = str(programs[-1]) if programs else shutil.which("initdb")
    if found is None:
        pytest.skip("PostgreSQL: no initdb; on Debian: apt-get install --no-install-recommends postgresql")
    folder, port = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp")), free_port()
    try:
        (folder / "password").write_text(PASSWORD)
        account = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(folder, "postgres", "postgres")
            (folder / "password").chmod(0o644)
            account = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        made = ["-D", f"{folder}/data", "-U", "etl", "-A", "scram-sha-256", f"--pwfile={folder}/password", "--no-sync"]
        subprocess.run([*account, found, *made], check=True, capture_output=True, cwd="/")
        server = [str(Path(found).with_name("postgres")), "-D", f"{folder}/data", "-p", str(port), "-k", str(folder)]
        process = start_process([*account, *server, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"], port=port)
        process.wait_for(lambda: _is_ready(Postgres(port)))
        yield Postgres(port)
        process.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_ready(server: Postgres) -> bool:
    try:
        server.run("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
