"""A real Podman with storage of its own, serving the Docker engine API on a socket; its one image is a busybox."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

IMAGE = "localhost/busybox:1"
_DEBIAN = "podman runc busybox-static"
_APPLETS = (
    "cat",
    "dd",
    "echo",
    "env",
    "false",
    "head",
    "id",
    "ls",
    "printf",
    "sh",
    "sleep",
    "tail",
    "touch",
    "true",
    "wc",
)
_CONTAINERS = """\
[containers]
default_ulimits=["nofile=1024:1024","nproc=1000:1000"]
netns="host"
log_driver="k8s-file"
[engine]
runtime="runc"
cgroup_manager="cgroupfs"
events_logger="file"
"""
_STORAGE = """\
[storage]
driver="overlay"
graphroot="{folder}/graph"
runroot="{folder}/run"
"""


_REGISTRIES = """\
short-name-mode="permissive"
[[registry]]
location="127.0.0.1:{port}"
insecure=true
"""
_REGISTRY = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@dataclass(frozen=True)
class Podman:
    """The engine: its socket, and its own program for a second opinion."""

    folder: Path
    env: Mapping[str, str]
    registry_port: int

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/podman.sock"

    def run(self, *words: str) -> str:
        done = subprocess.run(
            ["podman", *words], env={**os.environ, **self.env}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def names(self) -> Sequence[str]:
        """The containers there are."""
        return self.run("ps", "--all", "--format", "{{.Names}}").split()


@pytest.fixture(scope="session")
def podman(start_process: Callable[..., Any], free_port: Callable[[], int]) -> Iterator[Podman]:
    busybox = shutil.which("busybox")
    missing = [name for name in ("podman", "runc") if shutil.which(name) is None] + ([] if busybox else ["busybox"])
    if missing:
        pytest.skip(f"Podman: no {missing[0]}; on Debian: apt-get install --no-install-recommends {_DEBIAN}")
    if os.getuid() != 0:
        pytest.skip("Podman: this engine of the test's own needs root")
    folder = Path(tempfile.mkdtemp(prefix="podman-", dir="/tmp"))  # short, for sockets
    (folder / "containers.conf").write_text(_CONTAINERS)
    (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
    port = free_port()
    (folder / "registries.conf").write_text(_REGISTRIES.format(port=port))
    one = Podman(folder, {f"CONTAINERS_{name}CONF": str(folder / file) for name, file in _FILES.items()}, port)
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    shutil.copy(str(busybox), root / "bin" / "busybox")
    for applet in _APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    subprocess.run(["tar", "-C", str(root), "-cf", str(folder / "root.tar"), "."], check=True)
    try:
        one.run("import", "--quiet", str(folder / "root.tar"), IMAGE)
        argv = ["env", "-C", str(folder), "podman", "system", "service", "--time=0", one.url]
        service = start_process(argv, env=one.env)  # from its own folder: its monitors leave files where they are
        service.wait_for((folder / "podman.sock").exists)
        yield one
        one.run("rm", "--all", "--force", "--time", "0")
        service.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(folder / "graph" / "overlay")], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


_FILES = {"": "containers.conf", "STORAGE_": "storage.conf", "REGISTRIES_": "registries.conf"}


@pytest.fixture(scope="session")
def registry(podman: Podman, start_process: Callable[..., Any]) -> str:
    """The address of a real registry that has the image `busybox:1`."""
    if shutil.which("docker-registry") is None:
        pytest.skip("no docker-registry; on Debian: apt-get install --no-install-recommends docker-registry")
    settings, address = podman.folder / "registry.yml", f"127.0.0.1:{podman.registry_port}"
    settings.write_text(_REGISTRY.format(folder=podman.folder, port=podman.registry_port))
    start_process(["docker-registry", "serve", str(settings)], port=podman.registry_port)
    podman.run("push", "--quiet", "--tls-verify=false", IMAGE, f"{address}/busybox:1")
    return address


@pytest.fixture
def options(podman: Podman, tmp_path: Path) -> Mapping[str, Any]:
    """The settings of an agent for this engine."""
    return {"url": podman.url, "state_dir": str(tmp_path / "state"), "grace": 1.0, "pull": "never"}
