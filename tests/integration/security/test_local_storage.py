"""Local paths from callers: a service that others can reach reads and writes no file because a request named it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flyteidl2.core import literals_pb2

from airside import OutputsAt, Phase, Resource, Task
from airside.model import Fail
from airside.sdk.agent import AgentSettings
from airside.server.settings import ServerSettings
from airside.server.transfer import storage_of
from airside.testing.client import RawClient, Wire
from airside.testing.scripted import ScriptedAgent
from airside.wire.literal_map import pack
from airside.wire.storage import EVERYWHERE, PathNotAllowed, Storage

from .conftest import SETTINGS

LARGE = "x" * (4 << 20)
CLOSED = replace(SETTINGS, local_storage=())
SECRET = "what a file on this machine holds"


def offloaded(path: Path) -> bytes:
    """Inputs whose one value is in this file."""
    inputs = literals_pb2.LiteralMap()
    inputs.literals["x"].offloaded_metadata.uri = str(path)
    return inputs.SerializeToString()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that holds a literal, as every file may that a caller can get at."""
    path = tmp_path / "private" / "value.pb"
    path.parent.mkdir()
    literal = literals_pb2.LiteralMap.FromString(pack({"x": SECRET}).data).literals["x"]
    path.write_bytes(literal.SerializeToString())
    return path


def repeats(x: Any = None) -> ScriptedAgent:
    """Says what it was given; what it answers is large if it was given nothing."""
    return ScriptedAgent(
        create=lambda task: str(task.inputs["x"]).encode() if task.inputs else b"large",
        get=lambda meta: Resource(Phase.SUCCEEDED, outputs={"o": LARGE if meta == b"large" else meta.decode()}),
    )


async def outcome(client: RawClient, **request: Any) -> Any:
    handle = await client.create(outputs={"o": str}, **request)
    return await client.get(handle)


async def test_an_offloaded_input_is_not_read_from_a_local_path(
    start: Any, connect: Any, wire: Wire, file: Path
) -> None:
    agent = repeats()
    server = await start(agent, settings=CLOSED)
    client = RawClient(connect(server.address, tls=False), wire)
    for uri in (str(file), f"file://{file}", f"FILE://{file}", f"{file.parent}/../private/{file.name}"):
        resource = await outcome(client, inputs=offloaded(Path(uri)) if "://" not in uri else _uri(uri), prefix=uri)
        assert Phase(resource.phase) is Phase.FAILED
        assert "is a path on the service's machine, which callers may not name" in resource.message
        assert SECRET not in str(resource)
    assert agent.calls("create") == []


def _uri(uri: str) -> bytes:
    inputs = literals_pb2.LiteralMap()
    inputs.literals["x"].offloaded_metadata.uri = uri
    return inputs.SerializeToString()


async def test_large_outputs_are_not_written_to_a_local_path(
    start: Any, connect: Any, wire: Wire, tmp_path: Path
) -> None:
    server = await start(repeats(), settings=CLOSED)
    client = RawClient(connect(server.address, tls=False), wire)
    for prefix in (f"{tmp_path}/out", f"file://{tmp_path}/out"):
        resource = await outcome(client, prefix=prefix)
        assert Phase(resource.phase) is Phase.FAILED
        assert f"{prefix}/outputs.pb is a path on the service's machine" in resource.message
        assert "[serve] local_storage" in resource.message
    assert not (tmp_path / "out").exists()


async def test_a_sync_result_is_not_written_there_either(start: Any, connect: Any, tmp_path: Path) -> None:
    agent = ScriptedAgent(is_sync=True, do=Resource(Phase.SUCCEEDED, outputs={"o": "x" * 100_000}))
    server = await start(agent, settings=CLOSED)
    resource = await outcome(RawClient(connect(server.address, tls=False), "v2"), prefix=str(tmp_path / "out"))
    assert Phase(resource.phase) is Phase.FAILED
    assert "which callers may not name" in resource.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED])
async def test_outputs_are_not_read_from_a_path_that_the_caller_named(
    start: Any, connect: Any, wire: Wire, tmp_path: Path, phase: Phase
) -> None:
    """Agents say where the outputs are by what the caller gave as prefix."""
    (tmp_path / "outputs.pb").write_bytes(pack({"o": SECRET}).data)
    places: dict[bytes, str] = {}

    def create(task: Task) -> bytes:
        places[b"job"] = task.output_prefix
        return b"job"

    agent = ScriptedAgent(create=create, get=lambda meta: Resource(phase, outputs=OutputsAt(places[meta])))
    server = await start(agent, settings=CLOSED)
    resource = await outcome(RawClient(connect(server.address, tls=False), wire), prefix=str(tmp_path))
    assert Phase(resource.phase) is Phase.FAILED
    assert "which callers may not name" in resource.message
    assert SECRET not in str(resource)


async def test_an_agent_with_access_to_this_host_keeps_its_own_folders(
    start: Any, connect: Any, wire: Wire, tmp_path: Path
) -> None:
    (tmp_path / "outputs.pb").write_bytes(pack({"o": "from its folder"}).data)
    agent = ScriptedAgent(
        settings=AgentSettings(host_access=True),
        create=b"job",
        get=Resource(Phase.SUCCEEDED, outputs=OutputsAt(str(tmp_path))),
    )
    server = await start(agent, settings=CLOSED)
    resource = await outcome(RawClient(connect(server.address, tls=False), wire), prefix="s3://bucket/run")
    assert Phase(resource.phase) is Phase.SUCCEEDED
    assert "from its folder" in str(resource.outputs)


async def test_a_listed_folder_may_be_named_and_nothing_beside_it(
    start: Any, connect: Any, wire: Wire, file: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "value.pb").write_bytes(file.read_bytes())
    (shared / "link.pb").symlink_to(file)
    server = await start(repeats(), settings=replace(SETTINGS, local_storage=(str(shared),)))
    client = RawClient(connect(server.address, tls=False), wire)
    resource = await outcome(client, inputs=offloaded(shared / "value.pb"), prefix="a")
    assert Phase(resource.phase) is Phase.SUCCEEDED
    assert SECRET in str(resource.outputs)
    resource = await outcome(client, prefix=str(shared / "out"))
    assert Phase(resource.phase) is Phase.SUCCEEDED
    assert (shared / "out" / "outputs.pb").stat().st_size > len(LARGE)
    for number, path in enumerate([shared / "link.pb", shared / ".." / "private" / "value.pb", tmp_path / "shared2"]):
        resource = await outcome(client, inputs=offloaded(path), prefix=f"b/{number}")
        assert Phase(resource.phase) is Phase.FAILED
        assert "which callers may not name" in resource.message


@pytest.mark.parametrize(
    ("settings", "folders"),
    [
        (ServerSettings(), None),
        (ServerSettings(host="::1"), None),
        (ServerSettings(host="::"), ()),
        (ServerSettings(host="10.0.0.7"), ()),
        (ServerSettings(host="::", local_storage=("/srv",)), (Path("/srv"),)),
        (ServerSettings(local_storage=()), ()),
    ],
)
def test_callers_elsewhere_name_no_local_path_by_default(settings: ServerSettings, folders: Any) -> None:
    assert storage_of(settings)._folders == folders


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "file:///etc/passwd", "\0", "", "a/../../b", "~/x"])
@pytest.mark.parametrize("act", [lambda s, uri: s.read(uri), lambda s, uri: s.write(uri, b"")])
def test_no_spelling_leaves_the_folder(tmp_path: Path, name: str, act: Callable[[Storage, str], Any]) -> None:
    folder = tmp_path / "allowed"
    folder.mkdir()
    with pytest.raises(Fail) as refused:
        act(Storage([folder]), name if name.startswith(("/", "file")) else f"{folder}/../{name}")
    assert refused.value.code == "PathNotAllowed"
    assert list(tmp_path.iterdir()) == [folder]


def test_object_stores_are_not_local() -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the store says
        Storage(()).read("s3://")
    assert not isinstance(caught.value, PathNotAllowed)
    assert EVERYWHERE.read(__file__)
