"""`airside doctor` in a process of its own: what it finds here, in Flyte's configuration, and at services."""

from __future__ import annotations

import datetime as dt
import json
import socket
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.acceptance.commands import Call, serving
from tests.acceptance.test_cli_secure import self_signed

from airside.engine.database import FILE_NAME, Database

TOKEN = "0123456789abcdef0123456789abcdef"
Doctor = Callable[..., tuple[int, list[Mapping[str, str]]]]
SETTINGS = """
[serve]
port = 0
metrics_port = -1
"""


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="module")
def one(services: Path) -> Iterator[str]:
    with serving(services, "--agent", "echo", "--agent", "sleep") as address:
        yield address


@pytest.fixture(scope="module")
def two(services: Path) -> Iterator[str]:
    with serving(services, "--agent", "echo") as address:
        yield address


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the doctor looks; nothing in it is wrong."""
    monkeypatch.delenv("AIRSIDE_SETTINGS", raising=False)
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    (tmp_path / "airside.toml").write_text(SETTINGS)
    return tmp_path


@pytest.fixture
def doctor(call: Call) -> Doctor:
    """The exit code, and the findings that are no `ok`."""

    def run(*flags: str, **env: str) -> tuple[int, list[Mapping[str, str]]]:
        done = call("doctor", "--json", *flags, **env)
        assert done.returncode in (0, 1), done.stderr
        told = json.loads(done.stdout)
        bad = [one for one in told["findings"] if one["status"] != "ok"]
        counts = [sum(one["status"] == status for one in bad) for status in ("problem", "warning")]
        assert counts == [told["problems"], told["warnings"]]
        assert done.returncode == (1 if told["problems"] else 0)
        assert all(one["do"].endswith(".") for one in bad if one["status"] == "problem")
        return done.returncode, bad

    return run


def finding(found: list[Mapping[str, str]], what: str, text: str) -> str:
    """The status of the one finding that is about `what` and says `text`."""
    (one,) = [one for one in found if what in one["what"] and text in one["found"]]
    return one["status"]


def pair(folder: Path, begin: dt.timedelta, end: dt.timedelta) -> None:
    """A certificate that is valid between these times from now, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "airside")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now + begin).not_valid_after(now + end)
    certificate = made.sign(key, hashes.SHA256())
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def install(folder: Path, name: str, text: str) -> dict[str, str]:
    """A plugin package in `folder`, as pip would put it there; the environment that finds it."""
    (folder / f"{name}.py").write_text(text)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[airside.agents]\n{name} = {name}:Mine\n")
    return {"PYTHONPATH": str(folder)}


# -- here --------------------------------------------------------------------------------------------------------------


def test_where_nothing_is_wrong_every_line_is_ok_and_nothing_is_changed(folder: Path, state: Path, call: Call) -> None:
    done = call("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "no problems, no warnings."
    assert all(line.startswith("ok ") for line in lines), done.stdout
    for text in ("python: 3.", "grpcio 1.", "flyteidl2 2.", "settings: airside.toml", "served here: ", "can be made"):
        assert text in done.stdout
    assert sorted(folder.iterdir()) == [folder / "airside.toml"]
    assert not state.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[serve", {"settings": "not valid TOML"}),
        ("[agent.echo]", {"settings": "unknown table"}),
        (
            "[serve]\nprot = 1\n[agents.nobodys]\n[agents.webhook]\ncolour = 'blue'\n[agents.echo]\nx = 1\n"
            "[connections.ours]\ntask_types = ['nobodys']",
            {
                "serve": "serve.prot: unknown key",
                "settings": "agents.nobodys: no such agent",
                "agent webhook": "agents.webhook.colour: unknown key",
                "agent echo": "agents.echo: this agent has no options",
                "connections.ours": "no agent here has nobodys",
                "connections": "they need a signing key",
            },
        ),
        (
            f"{SETTINGS}\nmodules = ['none_such', 'wf.py']\nagents = ['nobodys']\ntls_cert = 'none.crt'\n"
            "tls_key = 'none.key'\ntoken_file = 'none'\nsigning = {keys = 'none', current = 'k1'}",
            {
                "serve.agents": "There is no agent 'nobodys' to serve",
                "serve.modules": "Module 'none_such' cannot be imported",
                "serve.tls_cert": "none.crt or none.key cannot be read",
                "serve.token_file": "none cannot be read",
                "serve.signing": "signing keys in none cannot be read",
            },
        ),
        ("[serve]\nport = 70000", {"serve": "serve.port: expected 0 to 65535"}),
        (f"{SETTINGS}\nhost = '0.0.0.0'", {"serve.host": "Listening on 0.0.0.0 without TLS needs --insecure"}),
        (
            f"{SETTINGS}\n[isolate.echo]\npython = '/none/python'\n[isolate.sleep]\nq = 1",
            {"isolate.echo": "there is no program /none/python", "isolate.sleep": "q: unknown key"},
        ),
    ],
)
def test_settings_that_are_wrong_are_told_of_all_at_once(
    text: str, told: Mapping[str, str], folder: Path, doctor: Doctor
) -> None:
    (folder / "airside.toml").write_text(text)
    code, found = doctor()
    assert code == 1
    for what, said in told.items():
        assert [one["status"] for one in found if one["what"] == what and said in one["found"]] == ["problem"], what


def test_secrets_are_not_told(folder: Path, call: Call) -> None:
    (folder / "my.toml").write_text("[agents.webhook]\ncredentials = 'hunter2-hunter2'\n")
    done = call("doctor", "--settings", "my.toml")
    assert done.returncode == 1
    assert "my.toml: agents.webhook.credentials: expected" in done.stdout
    assert "'***'" in done.stdout
    assert "hunter2" not in done.stdout


def test_settings_that_are_named_must_be_there(doctor: Doctor) -> None:
    for flags, env in ((("--settings", "none.toml"), {}), ((), {"AIRSIDE_SETTINGS": "none.toml"})):
        code, told = doctor(*flags, **env)
        assert code == 1
        assert finding(told, "settings", "none.toml does not exist") == "problem"


def test_a_broken_plugin_and_a_task_type_that_two_claim(folder: Path, doctor: Doctor) -> None:
    env = install(folder, "zz_broken", "import nothing_of_this_name")
    install(folder, "zz_echo", "from airside.agents.echo import EchoAgent\nclass Mine(EchoAgent): name = 'zz'\n")
    code, told = doctor(**env)
    assert code == 1
    assert finding(told, "plugin", "entry point zz_broken = zz_broken:Mine: ModuleNotFoundError") == "problem"
    claim = "Task type echo is already served by echo (entry point echo = airside.agents.echo:EchoAgent); zz ("
    assert finding(told, "task type", claim) == "problem"
    (folder / "airside.toml").write_text(SETTINGS + "agents = ['sleep']\n")
    code, told = doctor(**env)
    assert (code, finding(told, "plugin", "zz_broken")) == (0, "warning")


def test_libraries_that_do_not_go_together(folder: Path, doctor: Doctor) -> None:
    (folder / "flyteidl2").mkdir()
    (folder / "flyteidl2" / "__init__.py").write_text("raise ImportError('made for another protobuf')")
    code, told = doctor("--endpoint", "localhost:1", PYTHONPATH=str(folder))
    assert (code, finding(told, "versions", "ImportError: made for another protobuf")) == (1, "problem")


def test_a_library_is_missing_only_for_an_agent_that_is_named(folder: Path, doctor: Doctor) -> None:
    text = (
        "from airside.agents.echo import EchoAgent\n"
        "class Mine(EchoAgent):\n    name = task_type = 'far'\n    requires = {'far_away_sdk': 'far'}\n"
        "Mine.__module__ = 'airside.agents.far'\n"
    )
    env = install(folder, "far", text)
    assert doctor(**env) == (0, [])
    (folder / "airside.toml").write_text(SETTINGS + "[agents.far]\n")
    code, told = doctor(**env)
    assert (code, finding(told, "agent far", "pip install 'airside[far]'")) == (1, "problem")


def test_a_module_that_takes_a_task_type_is_told_of(folder: Path, doctor: Doctor) -> None:
    (folder / "mine.py").write_text(
        "from airside import AgentRegistry\nfrom airside.agents.echo import EchoAgent\n"
        "class Mine(EchoAgent): name = 'mine'\nAgentRegistry.register(Mine())\n"
    )
    (folder / "airside.toml").write_text(SETTINGS + "modules = ['mine']\n")
    code, told = doctor()
    assert (code, finding(told, "task type echo", "mine (mine:Mine) takes it from echo (entry point echo")) == (
        0,
        "warning",
    )


def test_the_name_of_an_isolated_agent_is_no_mistake(folder: Path, doctor: Doctor) -> None:
    text = SETTINGS + "agents = ['echo']\n[agents.echo]\n[isolate.echo]\n"
    (folder / "airside.toml").write_text(text)
    assert doctor() == (0, [])


@pytest.mark.parametrize(
    ("begin", "end", "found", "status"),
    [
        (-20, -10, "expired on 20", "problem"),
        (10, 20, "valid only from 20", "problem"),
        (-80, 10, "expires on 20", "warning"),
        (-1, 1, "valid until 20", "ok"),  # a short life is no mistake
        (-1, 365 * 60, "valid until 20", "ok"),
    ],
)
def test_a_certificate(begin: int, end: int, found: str, status: str, folder: Path, call: Call) -> None:
    pair(folder, dt.timedelta(days=begin), dt.timedelta(days=end))
    (folder / "airside.toml").write_text(SETTINGS + "tls_cert = 'tls.crt'\ntls_key = 'tls.key'\nhost = '127.0.0.1'\n")
    done = call("doctor", "--json")
    told = json.loads(done.stdout)["findings"]
    assert finding(told, "certificate tls.crt", found) == status
    assert done.returncode == (1 if status == "problem" else 0)


def test_keys_and_tokens_that_are_there(folder: Path, call: Call) -> None:
    (folder / "keys").mkdir()
    (folder / "keys" / "k1").write_text("a key of at least thirty-two bytes")
    (folder / "tokens").write_text(TOKEN)
    text = "token_file = 'tokens'\n[serve.signing]\nkeys = 'keys'\ncurrent = 'k1'\n"
    (folder / "airside.toml").write_text(SETTINGS + text)
    done = call("doctor")
    assert done.returncode == 0, done.stdout
    assert "ok       serve.token_file: tokens" in done.stdout
    assert "ok       serve.signing: k1 in keys signs" in done.stdout
    assert TOKEN not in done.stdout


def test_a_port_that_is_taken(folder: Path, doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (folder / "airside.toml").write_text(f"[serve]\nport = {port}\nmetrics_port = -1\n")
        code, told = doctor()
        assert (code, finding(told, "serve.port", f"{port} on 127.0.0.1 is taken")) == (0, "warning")


def test_a_store_that_is_well_is_left_as_it_is(state: Path, call: Call, doctor: Doctor) -> None:
    Database(state / FILE_NAME).close()
    before = {one: (one.read_bytes(), one.stat().st_mtime_ns) for one in state.iterdir()}
    assert "engine.db: version 3, 0 jobs\n" in call("doctor").stdout
    assert {one: (one.read_bytes(), one.stat().st_mtime_ns) for one in state.iterdir()} == before
    with Database(state / FILE_NAME):  # while another process has it open
        assert doctor() == (0, [])


def test_a_store_that_is_not(state: Path, doctor: Doctor) -> None:
    state.mkdir()
    store = state / FILE_NAME
    store.write_bytes(b"no database at all, in more than a hundred bytes" * 100)
    assert finding(doctor()[1], "store", "is no store of Airside's") == "problem"
    store.unlink()
    with sqlite3.connect(store) as other:
        other.execute("CREATE TABLE birds (name TEXT)")
    other.close()
    assert finding(doctor()[1], "store", "is no store of Airside's") == "problem"
    store.unlink()
    Database(store).close()
    with sqlite3.connect(store) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    assert finding(doctor()[1], "store", "was written by a newer Airside") == "problem"


def test_a_store_with_a_damaged_page(state: Path, doctor: Doctor) -> None:
    Database(state / FILE_NAME).close()
    content = bytearray((state / FILE_NAME).read_bytes())
    content[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    (state / FILE_NAME).write_bytes(content)
    code, told = doctor()
    assert (code, finding(told, "store", "is damaged")) == (1, "problem")


def test_a_state_folder_that_cannot_be(folder: Path, doctor: Doctor) -> None:
    code, told = doctor(AIRSIDE_STATE=str(folder / "airside.toml" / "state"))
    assert (code, finding(told, "state", "cannot be written")) == (1, "problem")


# -- a service ---------------------------------------------------------------------------------------------------------


def test_a_service(one: str, call: Call) -> None:
    done = call("doctor", "--endpoint", one)
    assert done.returncode == 0, done.stdout
    assert f"ok       {one}: SERVING, speaks Flyte 1 and Flyte 2, lists 2 task types in " in done.stdout
    assert f"ok       {one}: task types: echo, sleep\n" in done.stdout


def test_a_dead_endpoint(doctor: Doctor) -> None:
    with socket.socket() as bound:  # nobody else gets the port, and nobody listens on it
        bound.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{bound.getsockname()[1]}"
        code, told = doctor("--endpoint", dead)
    assert code == 1
    assert told == [
        {
            "status": "problem",
            "what": dead,
            "found": f"No agent service answers at {dead}: Connection refused.",
            "do": "Start the service, or correct the address; names of a cluster are known inside it only.",
        }
    ]


def test_an_endpoint_that_accepts_and_says_nothing(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, told = doctor("--endpoint", f"127.0.0.1:{silent.getsockname()[1]}")
    assert (code, len(told), told[0]["status"]) == (1, 1, "problem")
    assert told[0]["what"] in told[0]["found"]
    assert told[0]["found"].endswith(" within 5 s.")


def test_a_service_that_wants_tls_and_a_token(folder: Path, doctor: Doctor) -> None:
    certificate, key = self_signed()
    (folder / "tls.crt").write_bytes(certificate)
    (folder / "tls.key").write_bytes(key)
    (folder / "tokens").write_text(TOKEN)
    flags = ("--host", "127.0.0.1", "--tls-cert", "tls.crt", "--tls-key", "tls.key", "--token-file", "tokens")
    with serving(folder, *flags, "--agent", "echo") as address:
        trusted = ("--endpoint", address, "--tls-ca", "tls.crt")
        assert doctor(*trusted, "--token-file", "tokens") == (0, [])
        code, told = doctor(*trusted)
        assert (code, finding(told, address, "wants a token")) == (1, "problem")
        code, told = doctor("--endpoint", address, "--tls")
        assert (code, finding(told, address, "its certificate cannot be verified")) == (1, "problem")
        code, told = doctor("--endpoint", address)
        assert (code, len(told), "--tls" in told[0]["do"]) == (1, 1, True)
        (folder / "flyte.yaml").write_text(config("agent-service", default(address, insecure=False)))
        code, told = doctor("--config", "flyte.yaml", SSL_CERT_FILE=str(folder / "tls.crt"))
        (wrong,) = [one for one in told if "wants a token" in one["found"]]
        assert "Flyte's engines, which send no token" in wrong["do"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--endpoint", "nowhere"), "'nowhere' is no endpoint: write HOST:PORT"),
        (("--tls",), "--tls is for calls to a service"),
        (("--endpoint", "localhost:1", "--tls-ca", "none"), "none cannot be read"),
        (("--colour",), "No such option"),
    ],
)
def test_wrong_usage(flags: tuple[str, ...], said: str, call: Call) -> None:
    done = call("doctor", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


# -- the configuration of a Flyte engine -------------------------------------------------------------------------------


def default(address: str, **more: Any) -> dict[str, Any]:
    return {"endpoint": address, "insecure": True, "defaultTimeout": "20s", **more}


def config(kind: str, default: dict[str, Any] | None, tasks: Any = None, **more: Any) -> str:
    """A configuration as JSON, which is YAML."""
    noun = kind.removesuffix("-service")
    section = {**({f"default{noun.title()}": default} if default else {}), **more}
    return json.dumps({"tasks": {"task-plugins": tasks or {}}, "plugins": {kind: section}})


def test_routes_that_are_well(folder: Path, one: str, call: Call) -> None:
    routes = {"default-for-task-types": [{"sleep": "agent-service"}, {"container": "container"}]}
    text = config("agent-service", default(one), routes, supportedTaskTypes=["echo"])
    (folder / "flyte.yaml").write_text(text)
    done = call("doctor", "--config", "flyte.yaml")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert lines[-1] == "no problems, no warnings."
    assert f"ok       agent-service/(default): {one}, plaintext: SERVING, speaks Flyte 1 and Flyte 2" in done.stdout
    assert "ok       to agent-service/(default) (discovery): echo, sleep" in lines


def test_a_typo_a_type_that_is_not_listed_and_a_dead_service(folder: Path, one: str, two: str, doctor: Doctor) -> None:
    text = config(
        "agent-service",
        default(one),
        {"default-for-task-types": {"nobodys": "agent-service", "lost": "connector-service", "boxed": "k8s-array"}},
        supportedTaskTypes=["echo", "sleep"],
        pollIntervall="5s",
        agents={"two": default(two), "dead": default("localhost:1")},
        agentForTaskTypes=[{"sleep": "two"}],
    )
    (folder / "flyte.yaml").write_text(text)
    code, told = doctor("--config", "flyte.yaml")
    assert code == 1
    assert finding(told, "config", "plugins.agent-service.pollintervall is not known and is ignored") == "warning"
    assert finding(told, "agent-service/dead", "No agent service answers at localhost:1: ") == "problem"
    lists = "goes to agent-service/two (a pin), which does not list it (it lists: echo)"
    assert finding(told, "task type sleep", lists) == "problem"
    assert finding(told, "task type nobodys", "goes to agent-service/(default) (the default deployment)") == "problem"
    assert finding(told, "task type lost", "goes to connector-service, of which nothing is told") == "problem"
    assert finding(told, "task type echo", "listed by agent-service/two and agent-service/(default)") == "warning"
    assert not [one for one in told if "boxed" in one["what"]]


def test_two_named_services_list_one_type(folder: Path, one: str, two: str, doctor: Doctor) -> None:
    named = {"one": default(one), "two": default(two)}
    for pins, status in (([], "problem"), ([{"echo": "one"}], None)):
        text = config(
            "connector-service", None, connectors=named, connectorForTaskTypes=pins, supportedTaskTypes=["sleep"]
        )
        (folder / "flyte.yaml").write_text(text)
        _, told = doctor("--config", "flyte.yaml")
        assert [one["status"] for one in told if one["what"] == "task type echo" and "takes now" in one["found"]] == (
            [status] if status else []
        )


def test_a_type_that_goes_to_one_domain_only(folder: Path, one: str, doctor: Doctor) -> None:
    text = config(
        "connector-service",
        None,
        connectors={"p": default(one, domain="production")},
        supportedTaskTypes=["echo", "no"],
    )
    (folder / "flyte.yaml").write_text(text)
    _, told = doctor("--config", "flyte.yaml")
    assert finding(told, "task type no", "no agent lists it, and there is no default") == "problem"
    assert not [one for one in told if one["what"] == "task type echo"]


def test_deadlines_that_flyte_drops_or_that_are_too_short(folder: Path, one: str, doctor: Doctor) -> None:
    agents = {
        "Capital": default(one, timeouts=[{"gettask": "5s"}, {"CreateTask": "50ms"}, {"ListConnectors": "5s"}]),
        "unbound": {"endpoint": one, "insecure": True},
    }
    text = config(
        "agent-service",
        default(one, timeouts={"GetTask": "5s"}, defaultTimeout="1us"),
        agents=agents,
        agentForTaskTypes=[{"echo": "Capital"}],
        supportedTaskTypes=["echo", "sleep"],
    )
    (folder / "flyte.yaml").write_text(text)
    code, told = doctor("--config", "flyte.yaml")
    assert code == 1
    section = "plugins.agent-service"
    assert finding(told, f"{section}.defaultAgent.timeouts", "a mapping, whose keys Flyte puts into") == "problem"
    assert finding(told, "agent-service/(default)", "listing took ") == "problem"
    assert finding(told, f"{section}.agents.Capital.timeouts.gettask", "does not look it up") == "problem"
    assert finding(told, f"{section}.agents.Capital.timeouts.ListConnectors", "does not look it up") == "problem"
    assert finding(told, f"{section}.agents.Capital", "short deadlines: CreateTask 50ms;") == "warning"
    assert (
        finding(told, f"{section}.agents.unbound", "CreateTask, GetTask, DeleteTask, ListAgents have no") == "warning"
    )
    assert finding(told, f"{section}.agentForTaskTypes.echo", "Flyte puts the id Capital into lower case") == "problem"


def test_types_that_end_flytes_engine_at_its_start(folder: Path, one: str, doctor: Doctor) -> None:
    both: dict[str, Any] = {
        "agent-service": {"defaultAgent": default(one), "supportedTaskTypes": ["echo", "sleep"]},
        "connector-service": {"defaultConnector": default(one), "supportedTaskTypes": ["echo"]},
    }
    (folder / "flyte.yaml").write_text(json.dumps({"plugins": both}))
    assert finding(doctor("--config", "flyte.yaml")[1], "task type echo", "supportedTaskTypes of both") == "problem"
    both["connector-service"]["supportedTaskTypes"] = []
    (folder / "flyte.yaml").write_text(json.dumps({"plugins": both}))
    assert finding(doctor("--config", "flyte.yaml")[1], "supportedTaskTypes", "is empty") == "problem"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plugins: [", "is no YAML"),
        ("plugins: {}", "has neither plugins.agent-service nor plugins.connector-service"),
        ("plugins: {agent-service: {pollInterval: soon}}", "pollInterval: expected a duration"),
        (None, "flyte.yaml cannot be read"),
    ],
)
def test_a_configuration_that_cannot_be_read(text: str | None, found: str, folder: Path, doctor: Doctor) -> None:
    if text is not None:
        (folder / "flyte.yaml").write_text(text)
    code, told = doctor("--config", "flyte.yaml")
    assert (code, [one["status"] for one in told]) == (1, ["problem"])
    assert found in told[0]["found"]
