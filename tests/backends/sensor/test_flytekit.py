"""Sensors written with flytekit, its own and a user's, run unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from airside.agents.sensor import SensorAgent
from airside.model import Phase
from airside.testing.client import WIRES, RawClient

ROOT = Path(__file__).parents[3]
FLYTEKIT = "flytekit==1.16.*"
FILE = """
from datetime import timedelta
from flytekit.sensor import FileSensor

landed = FileSensor(name="landed", timeout=timedelta(seconds={seconds}))
"""
OWN = """
from dataclasses import asdict, dataclass
from pathlib import Path
import time

from flytekit.sensor.base_sensor import BaseSensor


@dataclass
class Wanted:
    suffix: str

    def to_dict(self):
        return asdict(self)

    @classmethod
    def from_dict(cls, told):
        return cls(**told)


class FilesSensor(BaseSensor):
    def __init__(self, name, config=None, **kwargs):
        super().__init__(name=name, sensor_config=config, **kwargs)
        self.wanted = Wanted.from_dict(config) if isinstance(config, dict) else config

    async def poke(self, folder: str, least: int) -> bool:
        time.sleep(0.2)  # a user's code may block
        return len(list(Path(folder).glob("*" + self.wanted.suffix))) >= least


NoneSensors = dict
enough = FilesSensor(name="enough", config=Wanted(suffix=".csv"))
"""

pytestmark = pytest.mark.may_block


async def finish(client: RawClient, handle: bytes) -> Any:
    async with asyncio.timeout(60):
        while not Phase((resource := await client.get(handle, "sensor")).phase).is_terminal:
            await asyncio.sleep(0.05)
    return resource


async def start(channel: grpc.aio.Channel, task: Any, folder: Path) -> list[tuple[RawClient, bytes]]:
    """The task, sent as each generation of Flyte does."""
    clients = [RawClient(channel, wire) for wire in WIRES]
    return [
        (one, await one.create("sensor", template=task.template, inputs=task.inputs, prefix=f"{folder}/{number}/0"))
        for number, one in enumerate(clients)
    ]


async def phases(jobs: list[tuple[RawClient, bytes]]) -> list[Phase]:
    return [Phase((await client.get(handle, "sensor")).phase) for client, handle in jobs]


async def test_the_file_sensor_of_flytekit_runs(
    start_service: Callable[..., Any], plugin_task: Callable[..., Any], tmp_path: Path
) -> None:
    options = {"allowed_directories": [str(tmp_path)], "least_poke_interval": 0.1, "poke_interval": 0.1}
    service = await start_service(SensorAgent(), options={"sensor": options})
    landed = plugin_task("flytekit", FILE.format(seconds=3600), "landed", FLYTEKIT, path=f"{tmp_path}/x")
    never = plugin_task("flytekit", FILE.format(seconds=1), "landed", FLYTEKIT, path=f"{tmp_path}/y")
    jobs = await start(service.channel, landed, tmp_path / "a")
    late = await start(service.channel, never, tmp_path / "b")
    assert await phases(jobs) == [Phase.RUNNING] * 2
    (tmp_path / "x").touch()
    assert [Phase((await finish(*one)).phase) for one in jobs] == [Phase.SUCCEEDED] * 2
    for one in late:  # the timeout that flytekit has put into the template
        resource = await finish(*one)
        assert Phase(resource.phase) is Phase.FAILED
        assert f"{tmp_path}/y is not there yet" in resource.message


async def test_a_users_sensor_runs_where_its_module_is_allowed(
    environment: Callable[..., Path],
    start_process: Callable[..., Any],
    free_port: Callable[[], int],
    plugin_task: Callable[..., Any],
    tmp_path: Path,
) -> None:
    packages = ("flytekitplugins-bigquery==1.16.*", "--editable", str(ROOT))
    airside = environment("flytekit-airside", *packages) / "bin" / "airside"
    (tmp_path / "wf.py").write_text(OWN)  # the module of the task, where the service runs
    (tmp_path / "csv").mkdir()
    task = plugin_task("flytekit", OWN, "enough", FLYTEKIT, folder=f"{tmp_path}/csv", least=2)
    port, settings = free_port(), tmp_path / "airside.toml"
    settings.write_text('[agents.sensor]\nmodules = ["wf"]\npoke_interval = 0.1\nleast_poke_interval = 0.1\n')
    argv = [airside, "serve", "--port", port, "--metrics-port", -1, "--settings", settings, "--agent", "sensor"]
    service = start_process([str(one) for one in argv], port=port, env={"PYTHONPATH": str(tmp_path)})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        jobs = await start(channel, task, tmp_path)
        (tmp_path / "csv" / "1.csv").touch()
        async with asyncio.timeout(60):
            while "FilesSensor is not met yet" not in (await jobs[0][0].get(jobs[0][1], "sensor")).message:
                await asyncio.sleep(0.1)
        (tmp_path / "csv" / "2.csv").touch()
        assert [Phase((await finish(*one)).phase) for one in jobs] == [Phase.SUCCEEDED] * 2
        other = task.template.replace(b"FilesSensor", b"NoneSensors")
        client = jobs[0][0]
        handle = await client.create("sensor", template=other, inputs=task.inputs, prefix=f"{tmp_path}/none/0")
        resource = await finish(client, handle)
        assert Phase(resource.phase) is Phase.FAILED
        assert "wf has no sensor NoneSensors: a subclass of flytekit's BaseSensor" in resource.message
    service.kill()  # a stop would wait for callers
