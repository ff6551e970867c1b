"""AWS for tests: the emulators `ministack` (Athena, which runs SQL) and `moto` (the rest), and a door before Athena."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.loaders import Loader

REGION = "eu-west-1"
KEYS = {"aws_access_key_id": "AKIDTESTING", "aws_secret_access_key": "testing-secret-key"}
BUCKET = "flights"
# The fields in which operations take a token, and how they refuse one that came with something else.
TOKENS = {
    "StartQueryExecution": ("ClientRequestToken", "InvalidRequestException"),
    "RunTask": ("clientToken", "ConflictException"),
}
# The fields of names that can be given once.
NAMES = {
    "CreateEndpoint": "EndpointName",
    "CreateTrainingJob": "TrainingJobName",
    "CreateProcessingJob": "ProcessingJobName",
    "CreateTransformJob": "TransformJobName",
    "CreateHyperParameterTuningJob": "HyperParameterTuningJobName",
}


@pytest.fixture(scope="session", autouse=True)
def descriptions_are_read_once() -> Iterator[None]:
    """The SDK reads its descriptions of a service, some megabytes, once and not for each test's client."""
    loader = Loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", lambda _path=None: loader)
        yield


@pytest.fixture(autouse=True)
def clean_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account of the machine is used."""
    settings = {
        "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
    }
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def connect(service: str, endpoint: str) -> Any:
    """A client that looks at an emulator from outside."""
    return boto3.client(service, endpoint_url=endpoint, region_name=REGION, **KEYS)


def write_log(moto: int, group: str, stream: str, *lines: str) -> None:
    """Write lines to a stream of CloudWatch Logs, which is made for them with its group."""
    logs = connect("logs", f"http://127.0.0.1:{moto}")
    with suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    now = int(time.time() * 1000) - len(lines)
    events = [{"timestamp": now + at, "message": line} for at, line in enumerate(lines)]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def outputs_pb(**values: int) -> bytes:
    """What a container of Flyte's writes to `outputs.pb`."""
    from flyteidl.core.literals_pb2 import LiteralMap

    written = LiteralMap()
    for name, value in values.items():
        written.literals[name].scalar.primitive.integer = value
    return bytes(written.SerializeToString())


@pytest.fixture(scope="session")
def ministack(
    environment: Callable[..., Path],
    start_process: Callable[..., Any],
    free_port: Callable[[], int],
    tmp_path_factory: Any,
) -> int:
    """The port of an AWS with the bucket `flights`."""
    folder, port = environment("ministack", "ministack[full]==1.5.33"), free_port()
    settings = {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "IOT_MTLS_ENABLED": "0",
        "S3_DATA_DIR": str(tmp_path_factory.mktemp("ministack")),
    }
    process = start_process([str(folder / "bin" / "ministack")], port=port, env=settings)
    connect("s3", f"http://127.0.0.1:{port}").create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    yield port
    process.kill()  # it would take its time


@pytest.fixture(scope="session")
def moto(start_process: Callable[..., Any], free_port: Callable[[], int]) -> int:
    """The port of an AWS that keeps states and runs nothing."""
    port = free_port()
    start_process([str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)], port=port)
    settings = {"batch": {"use_docker": False}, "stepfunctions": {"execute_state_machine": True}}
    body, headers = json.dumps(settings).encode(), {"Content-Type": "application/json"}
    urlopen(Request(f"http://127.0.0.1:{port}/moto-api/config", data=body, headers=headers)).close()
    return port


@pytest.fixture(scope="session")
def batch_queue(moto: int) -> Any:
    """AWS Batch as another user sees it, with the queue `flights`."""
    ec2, iam, batch = (connect(service, f"http://127.0.0.1:{moto}") for service in ("ec2", "iam", "batch"))
    role = iam.create_role(RoleName="batch", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    subnets = [one["SubnetId"] for one in ec2.describe_subnets()["Subnets"]][:1]
    groups = [one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]][:1]
    resources = {"type": "FARGATE", "maxvCpus": 4, "subnets": subnets, "securityGroupIds": groups}
    made = batch.create_compute_environment(
        computeEnvironmentName="flights", type="MANAGED", serviceRole=role, computeResources=resources
    )
    order = [{"order": 1, "computeEnvironment": made["computeEnvironmentArn"]}]
    batch.create_job_queue(jobQueueName="flights", state="ENABLED", priority=1, computeEnvironmentOrder=order)
    return batch


D = TypeVar("D", bound="AwsDoor")


@dataclass
class AwsDoor:
    """A door before an emulator: every request is seen, and may be answered otherwise.

    `answers` are given instead of the emulator's, each once, by the name of the operation (a service of REST: its
    path); `rule`, if there is one, may answer anything, by its operation and region. What AWS does and the emulators
    leave out is done here: a request whose token was seen is answered as the first one was, and refused if it is
    another; a second endpoint or job of a name is refused.

    `lose(operation, count)`: so many answers never arrive. What was asked for is done, and who asked waits for ever.
    """

    upstream: int
    port: int = 0
    tokens: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    repeats: int = 0
    asked: list[tuple[str, Any]] = field(default_factory=list)
    answers: dict[str, list[tuple[int, Any, dict[str, str]]]] = field(default_factory=dict)
    rule: Callable[[str, str], tuple[int, Any, dict[str, str]] | None] | None = None
    signers: set[str] = field(default_factory=set)
    losing: str = ""
    to_lose: int = 0
    lock: Lock = field(default_factory=Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, operation: str, status: int, body: Any, **headers: str) -> None:
        self.answers.setdefault(operation, []).append((status, body, headers))

    def calls(self, operation: str) -> list[Any]:
        return [body for name, body in self.asked if name == operation]

    def lose(self, operation: str, count: int) -> None:
        self.losing, self.to_lose = operation, count

    def is_lost(self, operation: str) -> bool:
        with self.lock:
            if not self.to_lose or not re.search(self.losing, operation):
                return False
            self.to_lose -= 1
            return True

    def forget(self) -> None:
        """Begin anew, for a test that uses the door of another one."""
        self.asked.clear()
        self.answers.clear()

    def handle(self, call: Handler, operation: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        told = json.loads(body) if body.startswith(b"{") else body
        self.asked.append((operation, told))
        signer, region = signed_by(call)
        self.signers.add(signer)
        given = self.rule(operation, region) if self.rule is not None else None
        if self.answers.get(operation):
            given = self.answers[operation].pop(0)
        if given is not None:
            status, answer, more = given
            return status, json.dumps(answer).encode(), more
        if operation in NAMES:
            return self.create_named(call, operation, told[NAMES[operation]], body)
        if operation not in TOKENS:
            return *self.forward(call, body), {}
        with self.lock:
            field_of_token, refusal = TOKENS[operation]
            token = told[field_of_token]
            if token in self.tokens:
                first, answer = self.tokens[token]
                if json.loads(first) != told:
                    said = {"__type": refusal, "Message": "Idempotent parameters do not match"}
                    return 400, json.dumps(said).encode(), {}
                self.repeats += 1
                return 200, answer, {}
            status, answer = self.forward(call, body)
            if status == 200:
                self.tokens[token] = (body, answer)
            return status, answer, {}

    def create_named(self, call: Handler, operation: str, name: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        with self.lock:
            if name in self.tokens:
                self.repeats += 1
                is_endpoint = operation == "CreateEndpoint"
                refusal = already_there("endpoint", name) if is_endpoint else in_use(operation, name)
                return 400, json.dumps(refusal).encode(), {}
            status, answer = self.forward(call, body)
            if status == 200:
                self.tokens[name] = (body, answer)
            return status, answer, {}

    def forward(self, call: Handler, body: bytes) -> tuple[int, bytes]:
        kept = {name: value for name, value in call.headers.items() if name.lower() not in ("host", "content-length")}
        url = f"http://127.0.0.1:{self.upstream}{call.path}"
        try:
            with urlopen(Request(url, data=body or None, headers=kept, method=call.command), timeout=60) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()


def signed_by(call: Handler) -> tuple[str, str]:
    """Whose key has signed a request, and for which region."""
    found = re.search(r"Credential=([^/]+)/\d+/([^/]+)/", call.headers.get("Authorization", ""))
    return (found[1], found[2]) if found is not None else ("", "")


def refusal(kind: str, message: str = "said so", status: int = 400, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """An error as services of JSON and of REST tell it."""
    body = {"__type": kind, "code": kind, "message": message, "Message": message}
    return status, body, {"x_amzn_ErrorType": kind, **headers}


def already_there(what: str, name: str) -> dict[str, str]:
    """How SageMaker refuses what there is already."""
    arn = f"arn:aws:sagemaker:{REGION}:123456789012:{what}/{name}"
    return {"__type": "ValidationException", "message": f'Cannot create already existing {what} "{arn}".'}


def in_use(operation: str, name: str) -> dict[str, str]:
    """How SageMaker refuses a job of a name that it has seen."""
    what = operation.removeprefix("Create")
    return {"__type": "ResourceInUse", "message": f"{what} names must be unique, and {name} already exists."}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    door: AwsDoor

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2] or self.path
        status, answer, headers = self.door.handle(self, operation, body)
        if self.door.is_lost(operation):
            with suppress(ConnectionError):
                self.rfile.read(1)  # until whoever asked is gone
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Type": "application/x-amz-json-1.1", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        del format, args

    do_GET = do_HEAD = do_POST = do_DELETE = do_PATCH = handle_request


@contextmanager
def opened(door: D) -> Iterator[D]:
    """The door, open."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("DoorHandler", (Handler,), {"door": door}))
    server.daemon_threads = True
    door.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield door
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def athena_door(ministack: int) -> Iterator[AwsDoor]:
    with opened(AwsDoor(ministack)) as door:
        yield door


@pytest.fixture
def athena(ministack: int, athena_door: AwsDoor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Athena as another user sees it; the agent under test is led to the door before it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_ATHENA", athena_door.url)
    return connect("athena", f"http://127.0.0.1:{ministack}")


@pytest.fixture
def door(moto: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsDoor]:
    """A door before moto, to which the agent under test is led."""
    with opened(AwsDoor(moto)) as door:
        monkeypatch.setenv("AWS_ENDPOINT_URL", door.url)
        yield door
