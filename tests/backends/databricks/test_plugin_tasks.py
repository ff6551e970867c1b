"""Tasks that the real plugins of flytekit and Flyte 2 serialised run unchanged, on both wire families.

`plugin_templates.json` is what `plugin_tasks.py` prints in an environment with the plugins; the heavy test makes it
anew, and runs a function of flytekit with Spark through all of it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flyteidl2.core import tasks_pb2
from flyteidl2.task import common_pb2

from airside import Connection, Phase
from airside.agents.databricks import DatabricksAgent
from airside.testing import RawClient, harness
from airside.testing.client import literal_map

HERE = Path(__file__).parent
PACKAGES = ("flytekit==1.16.31", "flytekitplugins-spark==1.16.31", "flyteplugins-databricks==2.12.1", "setuptools")
ENTRYPOINTS = {
    "flytekit triple": "/flytekitplugins/databricks/entrypoint.py",
    "flytekit serverless": "/flytekitplugins/databricks/entrypoint_serverless.py",
    "flytekit notebook": "/Shared/plugin",
    "flyte double": "/flyteplugins/databricks/entrypoint.py",
}
SAY = "import os, sys\nprint(*sys.argv[1:3], os.environ.get('FLYTE_FAIL_ON_ERROR'))\n"


def recorded() -> dict[str, tasks_pb2.TaskTemplate]:
    return read((HERE / "plugin_templates.json").read_text())


def read(printed: str) -> dict[str, tasks_pb2.TaskTemplate]:
    return {
        name: tasks_pb2.TaskTemplate.FromString(base64.b64decode(data)) for name, data in json.loads(printed).items()
    }


async def finished(client: RawClient, handle: bytes, prefix: str, connection: Connection | None = None) -> Any:
    while True:
        resource = await client.get(handle, "databricks", output_prefix=prefix, connection=connection)
        if Phase(resource.phase).is_terminal:
            return resource
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", ENTRYPOINTS)
async def test_a_template_of_a_plugin_runs(name: str, wire: Any, door: Any, tmp_path: Path) -> None:
    place = door.upload(ENTRYPOINTS[name], SAY)
    connection = Connection(secrets={"databricks_token": "dapi-flyte-2"}) if name.startswith("flyte ") else None
    template = recorded()[name]
    if connection is not None:
        template.custom["databricksInstance"] = door.url  # the workspace that it names is not here
    async with harness(DatabricksAgent, wire=wire, options={"host": door.url}) as h:
        sent = connection if wire == "v2" else None  # Flyte 1 sends none
        request = h.client.create_request(
            "databricks", template=template, inputs={"n": 2}, prefix=str(tmp_path), connection=sent
        )
        handle = (await h.client.call("CreateTask", request)).resource_meta
        resource = await finished(h.client, handle, str(tmp_path), sent)
    assert Phase(resource.phase) is Phase.SUCCEEDED, resource
    assert resource.log_links[0].name == "Databricks run"
    (submit,) = door.calls("/runs/submit")
    (one,) = submit.body["tasks"]
    ran = one.get("spark_python_task", {}).get("python_file") or one["notebook_task"]["notebook_path"]
    assert ran.lstrip("/") == place.lstrip("/")
    assert submit.authorization == ("Bearer dapi-flyte-2" if sent else "Bearer dapi-0123456789abcdef")
    if "triple" in name or "double" in name:
        assert one["new_cluster"]["num_workers"] == 2
        assert one["new_cluster"]["docker_image"]["url"].startswith("ghcr.io/example/flights")


@pytest.mark.backend
async def test_a_function_of_flytekit_runs_with_spark(
    environment: Callable[..., Path], door: Any, tmp_path: Path
) -> None:
    folder = environment("flyte-databricks", *PACKAGES)
    python = str(folder / "bin" / "python")
    made = await asyncio.to_thread(
        subprocess.run, [python, "plugin_tasks.py"], cwd=HERE, capture_output=True, text=True, check=True
    )
    templates = read(made.stdout)
    assert templates == recorded()
    template = templates["flytekit triple"]
    inputs, prefix = tmp_path / "inputs.pb", tmp_path / "0"
    inputs.write_bytes(literal_map({"n": 14}).SerializeToString())
    places = {
        "{{.input}}": str(inputs),
        "{{.outputPrefix}}": str(prefix),
        "{{.rawOutputDataPrefix}}": str(tmp_path / "raw"),
        "{{.checkpointOutputPrefix}}": str(tmp_path / "checkpoint"),
        "{{.prevCheckpointPrefix}}": '""',
    }
    arguments = [places.get(word, word) for word in template.container.args]  # as Flyte's engines fill them in
    del template.container.args[:]
    template.container.args.extend(arguments)
    program = str(folder / "bin" / "pyflyte-execute")
    search = os.pathsep.join((str(folder / "bin"), os.environ["PATH"]))
    door.upload(
        ENTRYPOINTS["flytekit triple"],
        "import os, sys\n"
        f"env = {{**os.environ, 'PYTHONPATH': {str(HERE)!r}, 'PATH': {search!r}, 'SPARK_LOCAL_IP': '127.0.0.1'}}\n"
        f"os.execve({python!r}, [{python!r}, {program!r}, *sys.argv[2:]], env)\n",
    )
    async with harness(DatabricksAgent, wire="v1", options={"host": door.url}) as h:
        request = h.client.create_request("databricks", template=template, inputs={"n": 14}, prefix=str(prefix))
        handle = (await h.client.call("CreateTask", request)).resource_meta
        resource = await finished(h.client, handle, str(prefix))
    assert Phase(resource.phase) is Phase.SUCCEEDED, resource.message
    outputs = common_pb2.Outputs.FromString((prefix / "outputs.pb").read_bytes())
    assert [(one.name, one.value.scalar.primitive.integer) for one in outputs.literals] == [("o0", 42)]
