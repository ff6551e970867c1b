"""`airside serve` as docs/howto/secure.md sets it up: TLS both ways, tokens, signed handles, a named connection."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airside.engine.endpoint import Tls
from airside.engine.ownership import owner_of
from airside.engine.remote import RemoteAgent
from airside.model import Call, Phase, Retry, Task, TaskType
from airside.server.handle import unseal
from airside.server.keys import read_keys

AIRSIDE = str(Path(sys.executable).with_name("airside"))
TOKEN = "0123456789abcdef0123456789abcdef"
MODULE = """
from airside import AgentRegistry, AsyncAgent, Phase, Resource

class Whose(AsyncAgent[str]):
    task_type = "whose"

    def create(self, task):
        return task.connection.name + " " + str(len(task.connection.secrets["token"]))

    def get(self, job):
        return Resource(Phase.RUNNING, message=job)

    def delete(self, job): ...

AgentRegistry.register(Whose())
"""
TASKS = """
from airside import TaskTemplate, kwtypes

hello = TaskTemplate(name="hello", task_type="echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int))
"""
ACCESS = ("--tls-ca", "tls.crt", "--tls-cert", "tls.crt", "--tls-key", "tls.key", "--token-file", "tokens")
SETTINGS = """
[serve]
host = "127.0.0.1"
tls_cert = "tls.crt"
tls_key = "tls.key"
client_ca = "tls.crt"
token_file = "tokens"

[serve.signing]
keys = "keys"
current = "k1"
require = true

[connections.ours]
task_types = ["whose"]
secrets = {token = "group/token"}
"""


def self_signed() -> tuple[bytes, bytes]:
    """A certificate that is its own authority, and its key, for both sides."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "airside")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM), pem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certificate, key = self_signed()
    for name, content in {
        "whose.py": MODULE.encode(),
        "wf.py": TASKS.encode(),
        "airside.toml": SETTINGS.encode(),
        "tls.crt": certificate,
        "tls.key": key,
        "tokens": TOKEN.encode(),
        "keys/k1": b"a key of at least thirty-two bytes",
        "secrets/group/token": b"four-and-twenty-letters.",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def command(*flags: str) -> list[str]:
    common = ["--port", "0", "--metrics-port", "-1", "--drain-delay", "0", "--log-format", "json", "--modules", "whose"]
    return [AIRSIDE, "serve", *common, *flags]


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    env = {"FLYTE_SECRETS_DEFAULT_DIR": str(folder / "secrets")}
    service = subprocess.Popen(command(), cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    assert service.stderr is not None
    try:
        for line in service.stderr:
            fields = json.loads(line) if line.startswith("{") else {}
            if "port" in fields:
                yield fields["port"]
                break
        else:
            pytest.fail("the service did not start")
    finally:
        service.send_signal(signal.SIGTERM)
        service.communicate(timeout=20)


async def test_it_is_served_to_whom_it_should_be(folder: Path, port: int) -> None:
    certificate, key = (folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes()
    both = Tls(roots=certificate, certificate=certificate, key=key)
    agent = RemoteAgent(f"localhost:{port}", task_type="whose", tls=both, token=TOKEN)
    await agent.open()
    try:
        handle = await agent.create(Task(type=TaskType("whose"), output_prefix="s3://b/r"), Call())
        resource = await agent.get(handle, Call())
    finally:
        await agent.close()
    assert (resource.phase, resource.message) == (Phase.RUNNING, "ours 24")
    assert unseal(handle, await asyncio.to_thread(read_keys, folder / "keys", "k1", require=True)).connection == "ours"
    for tls, token in ((both, "another-token-0123456789"), (Tls(roots=certificate), TOKEN), (None, TOKEN)):
        with pytest.raises(Retry):
            await RemoteAgent(f"localhost:{port}", task_type="whose", tls=tls, token=token).open()


def airside(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"AIRSIDE_STATE": str(folder / "state"), "PATH": str(Path(AIRSIDE).parent)}
    return subprocess.run(
        [AIRSIDE, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_commands_get_in_with_the_same_flags(folder: Path, port: int) -> None:
    at = ("--endpoint", f"localhost:{port}", *ACCESS)
    listed = airside(folder, "agents", *at)
    assert listed.returncode == 0, listed.stderr
    assert "whose" in listed.stdout
    ran = airside(folder, "run", *at, "wf.py", "hello", "--x", "3")
    assert (ran.returncode, ran.stdout) == (0, "x: 3\n"), ran.stderr
    detached = airside(folder, "run", *at, "--detach", "wf.py", "hello", "--x", "4")
    assert detached.returncode == 0, detached.stderr
    waited = airside(folder, "jobs", "wait", detached.stdout.strip())
    engine = owner_of(str(folder / "state" / "engine.db"))
    assert engine is not None
    os.kill(engine["pid"], signal.SIGKILL)
    assert (waited.returncode, waited.stdout) == (0, "x: 4\n"), waited.stderr


def test_the_check_gets_in_with_the_same_flags(folder: Path, port: int) -> None:
    task = ("--task", "wf.py:hello", "--input", "x=3")
    checked = airside(folder, "check", f"localhost:{port}", *ACCESS, *task)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
    assert " 0 failed" in checked.stdout
    assert "✓ S37 [v1]" in checked.stdout
    refused = airside(folder, "check", f"localhost:{port}", *ACCESS[:-2], *task)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: localhost:{port} refuses the check: UNAUTHENTICATED")
    needless = airside(folder, "check", "airside.agents.echo:EchoAgent", "--tls")
    assert needless.stderr == "Error: --tls is for calls to a service: say which, as HOST:PORT.\n"


@pytest.mark.parametrize("missing", ["--tls-ca", "--tls-cert", "--token-file"])
def test_a_command_that_lacks_something_is_not_let_in(folder: Path, port: int, missing: str) -> None:
    lacking = {flag: value for flag, value in zip(ACCESS[::2], ACCESS[1::2], strict=True) if flag != missing}
    if missing == "--tls-cert":
        del lacking["--tls-key"]
    at = [part for pair in lacking.items() for part in pair]
    done = airside(folder, "agents", "--endpoint", f"localhost:{port}", *at)
    assert done.returncode == 3
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("keys/k1", b"short"), "keys/k1 has 5 bytes; a signing key has at least 32"),
        (("airside.toml", b"[connections.a]\ntask_types = ['whose']"), "Named connections need a signing key"),
        (("airside.toml", SETTINGS.encode().replace(b'"whose"', b'"whoze"')), "no agent here has whoze"),
        (("airside.toml", SETTINGS.encode() + b"config = {}"), "connections.ours.config: unknown key"),
        (("secrets/group/token", None), "connections.ours: Secret 'token' is missing: set _FSEC_GROUP_TOKEN or put it"),
        (("tokens", b"short"), "tokens, line 1: a token has at least 16"),
        (("tls.key", b"no key"), "tls.crt and tls.key are no certificate and unencrypted key in PEM form"),
        (("airside.toml", b"[serve]\nhost = '0.0.0.0'"), "--tls-cert and --tls-key encrypt it"),
    ],
)
def test_a_mistake_ends_the_start_with_one_sentence(
    folder: Path, change: tuple[str, bytes | None], sentence: str
) -> None:
    name, content = change
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    env = {"FLYTE_SECRETS_DEFAULT_DIR": str(folder / "secrets")}
    done = subprocess.run(command(), cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert sentence in last
    assert "Traceback" not in done.stderr
