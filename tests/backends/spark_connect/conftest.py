"""Real Spark Connect servers, and a line before one that breaks or that speaks TLS."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.backends.conftest import answers
from tests.backends.spark.conftest import SPARK, java

TOKEN = "spark-connect-token-of-the-tests"
_STARTS_WITHIN = 180.0


@dataclass
class ConnectServer:
    """A server that asks for a token, its ports, and a folder that it writes to. It can be restarted."""

    port: int
    ui_port: int
    folder: Path
    start: Callable[[], Any]
    process: Any = None

    @property
    def ui(self) -> str:
        return f"http://127.0.0.1:{self.ui_port}"

    @property
    def options(self) -> Mapping[str, Any]:
        """The settings of an agent for it."""
        results = (self.folder / "results").as_uri()
        return {"server": f"sc://127.0.0.1:{self.port}", "ui": self.ui, "results": results}

    def run(self) -> None:
        self.process = self.start()
        self.process.wait_for(lambda: answers(self.port), _STARTS_WITHIN)

    def kill(self) -> None:
        self.process.kill()


@pytest.fixture(scope="session")
def spark_home(environment: Callable[..., Path]) -> Path:
    """The folder of Spark's own programs."""
    java()
    [home] = environment("spark", *SPARK).glob("lib/python*/site-packages/pyspark")
    return home


@pytest.fixture(scope="session")
def connect_server(
    spark_home: Path, start_process: Callable[..., Any], free_port: Callable[[], int]
) -> Iterator[Callable[..., ConnectServer]]:
    """Start a server with these properties."""
    folders: list[Path] = []
    servers: list[ConnectServer] = []

    def make(**properties: str) -> ConnectServer:
        folder = Path(tempfile.mkdtemp(prefix="spark-connect-", dir="/tmp"))
        folders.append(folder)
        port, ui_port = free_port(), free_port()
        told = {
            "spark.connect.grpc.binding.port": port,
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.ui.port": ui_port,
            "spark.sql.warehouse.dir": folder / "warehouse",
            "spark.sql.shuffle.partitions": 2,
            **{name.replace("_", "."): value for name, value in properties.items()},
        }
        env = {
            "SPARK_HOME": str(spark_home),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_NO_DAEMONIZE": "1",
            "SPARK_CONNECT_AUTHENTICATE_TOKEN": TOKEN,
            "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={folder}",
            "PATH": f"{spark_home.parents[3] / 'bin'}:{os.environ['PATH']}",
        }
        argv = [str(spark_home / "bin" / "spark-submit"), "--master", "local[2]", "--driver-memory", "512m"]
        argv += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
        argv += [word for name, value in told.items() for word in ("--conf", f"{name}={value}")]
        server = ConnectServer(port, ui_port, folder, lambda: start_process([*argv, "spark-internal"], env=env))
        server.run()
        servers.append(server)
        return server

    try:
        yield make
    finally:
        for server in servers:
            server.kill()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server(connect_server: Callable[..., ConnectServer]) -> ConnectServer:
    """The server of most tests."""
    return connect_server()


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_SPARK_CONNECT_TOKEN", TOKEN)


@dataclass
class Line:
    """A TCP line to a server. `hangs`: it takes connections and tells nothing. `cuts`: how long connections last."""

    upstream: int
    port: int = 0
    hangs: bool = False
    cuts: tuple[float, float] | None = None
    cut: int = 0
    random: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311 - to be repeatable
    ends: list[asyncio.StreamWriter] = field(default_factory=list)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ends.append(writer)
        if self.hangs:
            with suppress(OSError):
                await reader.read()
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.upstream)
        self.ends.append(back)
        ways = [asyncio.create_task(_copy(reader, back)), asyncio.create_task(_copy(there, writer))]
        limit = self.random.uniform(*self.cuts) if self.cuts else None
        _, open_still = await asyncio.wait(ways, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        self.cut += len(open_still) == 2
        for end in (writer, back):
            end.transport.abort()
        await asyncio.wait(ways)

    async def close(self) -> None:
        for end in self.ends:
            end.transport.abort()
        while any(task.get_coro().__qualname__ == "Line.carry" for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()


@asynccontextmanager
async def line_to(upstream: int, *, certificate: str = "", key: str = "", **rules: Any) -> AsyncIterator[Line]:
    """A line to a port, that speaks TLS if there is a certificate."""
    line, tls = Line(upstream, **rules), None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        tls.set_alpn_protocols(["h2"])
    listener = await asyncio.start_server(line.carry, "127.0.0.1", 0, ssl=tls)
    line.port = listener.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        listener.close()
        await line.close()
