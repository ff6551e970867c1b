"""One Slurm cluster for all tests here, and the ways to it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from airside.agents.slurm import SlurmConfig, SlurmShellTask


def _load_cluster() -> Any:
    spec = importlib.util.spec_from_file_location("slurm_cluster", Path(__file__).parent / "cluster.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cluster(start_process: Callable[..., Any], free_port: Callable[[], int]) -> Iterator[Any]:
    """A real Slurm; skips, and says what to install, where there can be none."""
    module = _load_cluster()
    lacking = module.lacking()
    if lacking:
        pytest.skip(f"Slurm: {lacking}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short, for sockets, and readable by every user
    one = module.Cluster(folder, start_process, free_port)
    try:
        one.up()
        yield one
    finally:
        for process in reversed(list(one.daemons.values())):
            process.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def options(cluster: Any) -> Mapping[str, Any]:
    """The settings of an agent for this cluster, over SSH."""
    return {
        "allowed_hosts": ["127.0.0.1"],
        "host": "127.0.0.1",
        "port": cluster.ports["ssh"],
        "username": "root",
        "client_keys": [str(cluster.folder / "client_key")],
        "known_hosts": str(cluster.folder / "known_hosts"),
    }


@pytest.fixture
def rest_options(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """The settings of an agent for this cluster, over slurmrestd."""
    monkeypatch.setenv("_FSEC_SLURM_JWT", cluster.token())
    address = f"http://127.0.0.1:{cluster.ports['rest']}"
    return {"allowed_hosts": [address], "rest_url": address, "username": "root"}


@pytest.fixture
def work(cluster: Any) -> Path:
    """A new folder that login node and nodes see."""
    folder = Path(tempfile.mkdtemp(dir=cluster.folder / "work"))
    folder.chmod(0o755)
    return folder


ShellTask = Callable[..., SlurmShellTask]


@pytest.fixture
def shell_task(work: Path) -> ShellTask:
    """A task that is a script for bash, in the test's own folder."""

    def make(script: str, *, sbatch: Mapping[str, Any] | None = None, **more: Any) -> SlurmShellTask:
        config = SlurmConfig(sbatch_config={"chdir": str(work), **(sbatch or {})}, **more.pop("config", {}))
        return SlurmShellTask(name="test.job", script=f"#!/bin/bash\n{script}\n", task_config=config, **more)

    return make


@pytest.fixture
def jobs_of(cluster: Any) -> Callable[[str], list[str]]:
    """The ids of the jobs with this key that Slurm knows."""

    def look(key: str) -> list[str]:
        lines = cluster.run("squeue", "-h", "-t", "all", "-O", "ArrayJobID:|,Comment:|").splitlines()
        return [line.partition("|")[0] for line in lines if f"|airside:{key}" in line]

    return look


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Wait until something is so."""

    def wait(so: Callable[[], Any], within: float = 30.0) -> Any:
        until = time.monotonic() + within
        while not (value := so()):
            assert time.monotonic() < until, "it did not come about"
            time.sleep(0.05)
        return value

    return wait
