"""A real Kubernetes: etcd, API server, controllers and scheduler, and for some tests a node.

Without the node, pods are made and counted by the real controllers, and what a kubelet would report of them is written
by the test.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
BUILD = Path(__file__).with_name("build.sh")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "airside" / "kubernetes"
_KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:{port}", insecure-skip-tls-verify: true}}}}]
users: [{{name: {user}, user: {{token: {user}-token}}}}]
contexts: [{{name: x, context: {{cluster: c, user: {user}}}}}]
current-context: x
"""


@dataclass
class ControlPlane:
    """A running control plane, and the kubelet that the test plays."""

    folder: Path
    port: int
    api: Any

    @property
    def core(self) -> Any:
        from kubernetes import client

        return client.CoreV1Api(self.api)

    @property
    def batch(self) -> Any:
        from kubernetes import client

        return client.BatchV1Api(self.api)

    @property
    def rbac(self) -> Any:
        from kubernetes import client

        return client.RbacAuthorizationV1Api(self.api)

    @property
    def kubeconfig(self) -> str:
        return str(self.folder / "admin.conf")

    @property
    def authority(self) -> str:
        """The PEM of the API server's own certificate."""
        return (self.folder / "apiserver" / "apiserver.crt").read_text()

    def namespace(self) -> str:
        """A new namespace."""
        name = f"test-{time.time_ns()}"
        self.core.create_namespace({"metadata": {"name": name}})
        return name

    def pod_of(self, namespace: str, within: float = 60.0) -> Any:
        """The pod that the Job controller has made."""
        until = time.monotonic() + within
        while not (pods := self.core.list_namespaced_pod(namespace).items):
            assert time.monotonic() < until, "no pod was made"
            time.sleep(0.05)
        return pods[-1]

    def report(self, namespace: str, status: Mapping[str, Any]) -> None:
        """Write what a kubelet would report of the pod."""
        pod = self.pod_of(namespace)
        self.core.patch_namespaced_pod_status(pod.metadata.name, namespace, {"status": dict(status)})

    def ended(self, namespace: str, code: int, **more: Any) -> None:
        """Write that the pod's container has ended."""
        now = datetime.now(UTC).isoformat()
        terminated = {"exitCode": code, "startedAt": now, "finishedAt": now, **more}
        self.report(
            namespace,
            {"phase": "Failed" if code else "Succeeded", "containerStatuses": [container(terminated=terminated)]},
        )


def container(**state: Any) -> Mapping[str, Any]:
    """The status of the main container."""
    return {"name": "main", "image": "img", "imageID": "", "ready": False, "restartCount": 0, "state": state}


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of Kubernetes's programs; built on request, else the test is skipped."""
    folder = Path(os.environ.get("AIRSIDE_KUBERNETES") or CACHE / "bin")
    if not all((folder / name).exists() for name in PROGRAMS):
        if "k8s_job" not in os.environ.get("AIRSIDE_BUILD", "").split():
            pytest.skip(f"Kubernetes: no programs in {folder}; `make backend-k8s_job` builds them, in some minutes")
        subprocess.run([str(BUILD), str(CACHE)], check=True)
        folder = CACHE / "bin"
    if shutil.which("etcd") is None:
        pytest.skip("Kubernetes: no etcd; on Debian: apt-get install --no-install-recommends etcd-server")
    return folder


@pytest.fixture(scope="session")
def plane(
    programs: Path,
    start_process: Callable[..., Any],
    free_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ControlPlane]:
    from kubernetes import client, config

    folder = tmp_path_factory.mktemp("k8s")
    ports = {name: free_port() for name in ("etcd", "peers", "api", "controllers", "scheduler")}
    etcd, peers = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "peers"))
    start_process(
        ["etcd", "--name=e", f"--data-dir={folder}/etcd", f"--listen-client-urls={etcd}",
         f"--advertise-client-urls={etcd}", f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}",
         f"--initial-cluster=e={peers}", "--unsafe-no-fsync"], port=ports["etcd"],
    )  # fmt: skip
    for argv in (["genrsa", "-out", "sa.key", "2048"], ["rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"]):
        subprocess.run(["openssl", *argv], cwd=folder, check=True, capture_output=True)
    (folder / "tokens.csv").write_text('admin-token,admin,uid-admin,"system:masters"\nplain-token,plain,uid-plain\n')
    for user in ("admin", "plain"):
        (folder / f"{user}.conf").write_text(_KUBECONFIG.format(port=ports["api"], user=user))
    start_process(
        [str(programs / "kube-apiserver"), f"--etcd-servers={etcd}", "--bind-address=127.0.0.1",
         "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none", f"--secure-port={ports['api']}",
         f"--cert-dir={folder}/apiserver", f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=RBAC",
         "--service-cluster-ip-range=10.222.0.0/24", "--service-account-issuer=https://kubernetes.default.svc",
         f"--service-account-signing-key-file={folder}/sa.key", f"--service-account-key-file={folder}/sa.pub",
         "--disable-admission-plugins=ServiceAccount", "--kubelet-preferred-address-types=Hostname",
         "--feature-gates=TTLAfterFinished=true"],
        port=ports["api"],
    )  # fmt: skip
    api = config.new_client_from_config(str(folder / "admin.conf"))
    _wait(lambda: client.CoreV1Api(api).read_namespace("default"))
    common = [f"--kubeconfig={folder}/admin.conf", "--leader-elect=false", "--bind-address=127.0.0.1", "--port=0"]
    start_process(
        [str(programs / "kube-controller-manager"), *common, f"--secure-port={ports['controllers']}",
         f"--cert-dir={folder}/controllers", "--feature-gates=TTLAfterFinished=true",
         "--controllers=job,nodelifecycle,namespace,garbagecollector,ttl-after-finished,podgc,resourcequota"],
        port=ports["controllers"],
    )  # fmt: skip
    start_process(
        [str(programs / "kube-scheduler"), *common, f"--secure-port={ports['scheduler']}",
         f"--cert-dir={folder}/scheduler"], port=ports["scheduler"],
    )  # fmt: skip
    yield ControlPlane(folder, ports["api"], api)
    api.close()


def _wait(ready: Callable[[], Any], within: float = 60.0) -> None:
    until = time.monotonic() + within
    while True:
        try:
            ready()
        except Exception:
            assert time.monotonic() < until
            time.sleep(0.1)
        else:
            return


@pytest.fixture(scope="session")
def node(
    plane: ControlPlane, programs: Path, start_process: Callable[..., Any], free_port: Callable[[], int]
) -> Iterator[str]:
    """A real node: kubelet, containerd and runc, whose containers end with the test. Returns the image that it has."""
    missing = [name for name in ("containerd", "ctr", "runc", "busybox") if shutil.which(name) is None]
    if missing:
        packages = "containerd runc busybox-static"
        pytest.skip(f"Kubernetes: no {missing[0]}; on Debian: apt-get install --no-install-recommends {packages}")
    spec = importlib.util.spec_from_file_location("k8s_node", Path(__file__).with_name("node.py"))
    assert spec is not None
    assert spec.loader is not None
    parts: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parts)
    folder, busybox = Path(tempfile.mkdtemp(prefix="node-", dir="/tmp")), Path(str(shutil.which("busybox")))
    (folder / "containerd.toml").write_text(parts.CONTAINERD.format(folder=folder))
    (folder / "cni").mkdir()
    (folder / "cni" / "10-none.conflist").write_text(parts.NETWORK)
    (folder / "kubelet.yaml").write_text(parts.KUBELET.format(port=free_port()))
    ctr = ["ctr", "-a", str(folder / "c.sock"), "-n", "k8s.io"]
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    engine = start_process([*apart, "containerd", "-c", str(folder / "containerd.toml")])
    try:
        engine.wait_for(lambda: subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0)
        for number, (name, entrypoint) in enumerate(
            ((parts.IMAGE, ()), (parts.PAUSE, ("/bin/busybox", "sleep", "2000000000")))
        ):
            parts.write_image(folder / f"{number}.tar", busybox, name, entrypoint)
            subprocess.run([*ctr, "images", "import", str(folder / f"{number}.tar")], check=True, capture_output=True)
        kubelet = start_process(
            ["unshare", "--mount", str(programs / "kubelet"), f"--kubeconfig={plane.kubeconfig}",
             f"--config={folder}/kubelet.yaml",
             f"--root-dir={folder}/kubelet", f"--cert-dir={folder}/certificates", "--container-runtime=remote",
             f"--container-runtime-endpoint=unix://{folder}/c.sock", "--hostname-override=localhost",
             "--feature-gates=LocalStorageCapacityIsolation=false"]
        )  # fmt: skip
        kubelet.wait_for(lambda: _is_ready(plane))
        yield parts.IMAGE
        for one in plane.core.list_namespace().items:
            if one.metadata.name.startswith("test-"):
                plane.core.delete_collection_namespaced_pod(one.metadata.name, grace_period_seconds=0)
        kubelet.stop()
    finally:
        engine.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _is_ready(plane: ControlPlane) -> bool:
    nodes = plane.core.list_node().items
    conditions = nodes[0].status.conditions or () if nodes else ()
    return any(one.type == "Ready" and one.status == "True" for one in conditions)


@pytest.fixture
def namespace(plane: ControlPlane) -> str:
    return plane.namespace()


@pytest.fixture
def options(plane: ControlPlane, namespace: str) -> Mapping[str, Any]:
    """The settings of an agent for this cluster."""
    return {"kubeconfig": plane.kubeconfig, "namespace": namespace}
