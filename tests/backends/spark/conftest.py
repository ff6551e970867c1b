"""One standalone Spark cluster for all tests here: a master with its REST server, and a worker."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

SPARK = ("pyspark[connect]==4.1.*", "flytekitplugins-spark==1.16.*", "setuptools")
_STARTS_WITHIN = 180.0


@dataclass(frozen=True)
class SparkCluster:
    """A running cluster: the master's ports, the Python of its workers, and a folder that they see."""

    rest: int
    ui: int
    port: int
    bin: Path
    folder: Path

    @property
    def options(self) -> Mapping[str, Any]:
        """The settings of an agent for it."""
        return {"address": f"http://127.0.0.1:{self.rest}", "ui": f"http://127.0.0.1:{self.ui}"}

    def told(self) -> Mapping[str, Any]:
        """What the master tells of itself."""
        with urlopen(f"http://127.0.0.1:{self.ui}/json/", timeout=30) as answer:
            found: Mapping[str, Any] = json.load(answer)
        return found

    def has_worker(self) -> bool:
        try:
            return bool(self.told()["aliveworkers"])
        except OSError:
            return False

    def drivers(self) -> list[Mapping[str, Any]]:
        """Every driver that the master knows."""
        told = self.told()
        return [*told["activedrivers"], *told["completeddrivers"]]

    def launch_command(self, driver: str) -> str:
        """The command of a driver that was launched."""
        return (self.folder / "work" / driver / "stderr").read_text().partition("\n")[0]

    def write(self, name: str, text: str) -> str:
        """The path of a new file that the workers see."""
        path = self.folder / name
        path.write_text(text)
        return str(path)


def java() -> str:
    """The path of Java; skips, and says what to install, where there is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None) or shutil.which("java")
    if found is None:
        pytest.skip("Spark: no Java; on Debian: apt-get install --no-install-recommends openjdk-17-jre-headless")
    return found


@pytest.fixture(scope="session")
def spark_home(environment: Callable[..., Path]) -> Path:
    """The folder of Spark's own programs."""
    java()
    folder = environment("spark", *SPARK)
    [home] = folder.glob("lib/python*/site-packages/pyspark")
    return home


@pytest.fixture(scope="session")
def spark(spark_home: Path, start_process: Callable[..., Any], free_port: Callable[[], int]) -> Iterator[SparkCluster]:
    python = spark_home.parents[3] / "bin"
    folder = Path(tempfile.mkdtemp(prefix="spark-", dir="/tmp"))
    one = SparkCluster(free_port(), free_port(), free_port(), python, folder)
    env = {
        "SPARK_HOME": str(spark_home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
        "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={folder}",  # a driver that is killed leaves files there
        "PATH": f"{python}:{os.environ['PATH']}",
    }
    rest = {"enabled": "true", "port": one.rest, "host": "127.0.0.1"}
    settings = [f"-Dspark.master.rest.{name}={value}" for name, value in rest.items()]
    launch, deploy = str(spark_home / "bin" / "spark-class"), "org.apache.spark.deploy"
    here = ["--host", "127.0.0.1"]
    try:
        master = start_process(
            [launch, *settings, f"{deploy}.master.Master", *here, "--port", str(one.port), "--webui-port", str(one.ui)],
            env=env,
        )
        worker = start_process(
            [launch, f"{deploy}.worker.Worker", *here, "--cores", "4", "--memory", "4g", "--webui-port",
             str(free_port()), "--work-dir", str(folder / "work"), f"spark://127.0.0.1:{one.port}"], env=env,
        )  # fmt: skip
        master.wait_for(one.has_worker, _STARTS_WITHIN)
        yield one
        worker.kill()  # and the drivers that it has started
        master.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
