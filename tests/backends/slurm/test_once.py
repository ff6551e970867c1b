"""One job per key on a real cluster, whatever dies, and the real states and the real plugin."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from flyteidl2.core import tasks_pb2
from tests.backends.conftest import AIRSIDE

from airside.agents.slurm import SlurmAgent
from airside.agents.slurm_states import PHASES
from airside.model import Call, Phase
from airside.sdk.adapt import adapt
from airside.sdk.options import read_options
from airside.testing import harness
from airside.testing.client import literal_map

Options = Mapping[str, Any]
ShellTask = Callable[..., Any]

pytestmark = pytest.mark.may_block


class Slurm(SlurmAgent):
    """The same, asked more often than a cluster of many users should be."""

    poll_interval = 0.2


async def test_the_loop_is_not_blocked_from_create_to_log(options: Options, shell_task: ShellTask) -> None:
    async with harness(Slurm(), options=options) as h:
        job = await h.create(task=shell_task("echo hello"))
        assert (await h.finish(job, timeout=60)).phase is Phase.SUCCEEDED
        assert [line.message async for line in h.logs(job)] == ["hello"]


_LONGER = [pytest.param(moment, marks=pytest.mark.backend) for moment in (0.0, 0.05, 0.2, 0.4)]


@pytest.mark.parametrize("moment", [0.1, *_LONGER])
async def test_a_service_killed_in_a_create_leaves_one_job(
    moment: float, options: Options, shell_task: ShellTask, jobs_of: Callable[[str], list[str]]
) -> None:
    task = shell_task("sleep 1")
    async with harness(SlurmAgent, process=True, options=options) as h:
        warm = await h.create(task=task)
        creating = asyncio.create_task(h.create(task=task, output_prefix=f"{warm.output_prefix}-killed"))
        await asyncio.sleep(moment)
        await h.kill()
        await asyncio.gather(creating, return_exceptions=True)
        await h.restart()
        job = await h.create(task=task, output_prefix=f"{warm.output_prefix}-killed")
        assert (await h.finish(job, timeout=60)).phase is Phase.SUCCEEDED
    assert len(jobs_of(job.task.key)) == 1


async def test_processes_that_create_at_once_make_one_job(
    options: Options, shell_task: ShellTask, jobs_of: Callable[[str], list[str]]
) -> None:
    agents = [adapt(SlurmAgent()) for _ in range(5)]
    chosen = read_options(agents[0].options_type, options, "agents.slurm")
    async with harness(SlurmAgent(), options=options) as h:
        task = h.task(task=shell_task("true"))
        try:
            for agent in agents:
                await agent.open(chosen)
            metas = await asyncio.gather(*(agent.create(task, Call()) for agent in agents))
            found = await agents[0].find(task, task.key, Call())
        finally:
            for agent in agents:
                await agent.close()
    assert {found} == set(metas)
    assert len(jobs_of(task.key)) == 1


@pytest.mark.backend  # the controller takes seconds to forget
@pytest.mark.parametrize("keeps", ["its folder", "the accounting"])
async def test_a_job_that_the_controller_forgot_is_found(
    keeps: str, options: Options, shell_task: ShellTask, cluster: Any, work: Path, jobs_of: Callable[[str], list[str]]
) -> None:
    task = shell_task("echo the end; exit 3", sbatch={"output": "my-%x-%j.log"})
    async with harness(Slurm(), options=options) as h:
        job = await h.create(task=task)
        assert (await h.finish(job, timeout=60)).phase is Phase.RETRYABLE_FAILED
        [number] = jobs_of(job.task.key)
        await _accounted(cluster, number)
        if keeps == "the accounting":
            shutil.rmtree(cluster.folder / "xdg/airside/slurm/jobs" / job.task.key)
        else:  # not every accounting keeps comments
            cluster.run("sacctmgr", "-i", "modify", "job", f"jobid={number}", "set", "comment=")
        cluster.forget_jobs()
        assert jobs_of(job.task.key) == []
        again = await h.create(task=task, output_prefix=job.output_prefix)
        await h.restart()
        resource = await h.finish(job, timeout=60)
        assert resource.message.startswith("FAILED: exited with 3: the end (")
        assert (await h.finish(again)).message == resource.message
        assert [line.message async for line in h.logs(job)] == ["the end"]
        assert jobs_of(job.task.key) == []


async def _accounted(cluster: Any, number: str) -> None:
    """Wait until the accounting has it all: it is told of a job in pieces, seconds after the controller knows."""
    async with asyncio.timeout(90):
        while True:
            told = cluster.run("sacct", "-XnP", "-j", number, "-o", "State,ExitCode,JobName,WorkDir,Comment")
            if re.match(r"FAILED\|3:0\|job\|/.*\|airside:", told):
                return
            await asyncio.sleep(0.1)


def test_every_state_of_this_slurm_is_in_the_table(cluster: Any) -> None:
    asked = subprocess.run(
        ["squeue", "-h", "-t", "NO_SUCH_STATE"], env=cluster.env, capture_output=True, text=True, check=False
    )
    [listed] = re.findall(r"Valid job states include: (\S+)", asked.stderr)
    assert len(listed.split(",")) > 20
    assert set(listed.split(",")) <= set(PHASES)


PLUGIN = """
import json, sys
from flytekit import task
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.tools.translator import get_serializable
from flytekitplugins.slurm import (
    SlurmConfig, SlurmFunctionConfig, SlurmScriptConfig, SlurmShellTask, SlurmTask,
)
where = json.loads(sys.argv[1])
ssh, sbatch = where["ssh_config"], where["sbatch_config"]
script = SlurmTask(name="script", task_config=SlurmScriptConfig(
    ssh_config=ssh, sbatch_config=sbatch, batch_script_path=where["path"], batch_script_args=["a", "b"]))
shell = SlurmShellTask(name="shell", script="#!/bin/bash\\necho from the shell\\n", task_config=SlurmConfig(
    ssh_config=ssh, sbatch_config=sbatch))

def plus_one(x: int) -> int:
    return x + 1

plus_one.__module__ = "made"
sys.modules["made"] = sys.modules["__main__"]
function = task(plus_one, task_config=SlurmFunctionConfig(
    ssh_config=ssh, sbatch_config=sbatch, script="#!/bin/bash\\necho '{task.fn}'\\n"), container_image="img:1")
settings = SerializationSettings(project="p", domain="d", version="v", image_config=ImageConfig(Image("x", "img", "1")))
for one in (script, shell, function):
    spec = get_serializable({}, settings, one)
    print(spec.template.to_flyte_idl().SerializeToString().hex())
"""


async def test_tasks_of_flytekits_plugin_run_as_they_are(
    options: Options, cluster: Any, work: Path, environment: Callable[..., Path]
) -> None:
    venv = environment("flytekit-slurm", "flytekitplugins-slurm==1.16.*", "setuptools<81")
    script = work / "args.slurm"
    script.write_text('#!/bin/bash\necho "args: $@"\n')
    config = work / "ssh_config"
    config.write_text(f"Host login\n  HostName 127.0.0.1\n  Port {cluster.ports['ssh']}\n")
    where = {
        "ssh_config": {"host": "login", "username": "root"},
        "sbatch_config": {"partition": "main", "job-name": "tiny", "chdir": str(work)},
        "path": str(script),
    }
    made = work / "made.py"
    made.write_text(PLUGIN)
    printed = await asyncio.to_thread(
        subprocess.run,
        [str(venv / "bin/python"), str(made), json.dumps(where)],
        capture_output=True, text=True, check=True, cwd=work,
    )  # fmt: skip
    templates = [tasks_pb2.TaskTemplate.FromString(bytes.fromhex(line)) for line in printed.stdout.split()]
    assert [template.type for template in templates] == ["slurm", "slurm", "slurm_fn"]
    given = {**options, "allowed_hosts": ["login"], "host": "", "port": 0, "ssh_config_file": str(config)}
    told = []
    async with harness(Slurm(), options=given) as h:
        for template in templates:
            prefix = str(work / template.id.name)
            inputs = {"x": 1} if template.type == "slurm_fn" else {}
            meta = await h.client.create(template.type, template=template, inputs=inputs, prefix=prefix)
            await _ended(h.client, meta, template.type)
            bodies = [message.body async for message in h.client.logs(meta, template.type, lines=10)]
            told.append([line.message for body in bodies for line in body.lines])
    assert told[0] == ["args: a b"]
    assert told[1] == ["from the shell"]
    assert told[2][0].startswith("pyflyte-execute --inputs")


async def _ended(client: Any, meta: bytes, task_type: str) -> Any:
    async with asyncio.timeout(100):
        while True:
            resource = await client.get(meta, task_type)
            if Phase(resource.phase).is_terminal:
                return resource
            await asyncio.sleep(0.2)


FUNCTION = """
import os, sys
from flytekit import task
from flytekitplugins.slurm import SlurmFunctionConfig

@task(
    task_config=SlurmFunctionConfig(
        ssh_config={"host": "127.0.0.1", "username": "root"},
        sbatch_config={"partition": "main"},
        script="#!/bin/bash\\n"
        f"cd {os.path.dirname(__file__)}; PATH={sys.prefix}/bin:$PATH PYTHONPATH=. {{task.fn}}\\n",
    ),
    container_image="img:1",
)
def plus_one(x: int) -> int:
    if x < 0:
        raise ValueError("no negative numbers")
    return x + 1
"""
SERIALISE = """
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.tools.translator import get_serializable
from made import plus_one
settings = SerializationSettings(project="p", domain="d", version="v", image_config=ImageConfig(Image("x", "img", "1")))
print(get_serializable({}, settings, plus_one).template.to_flyte_idl().SerializeToString().hex())
"""


@pytest.mark.backend  # it starts flytekit twice
async def test_a_function_of_flytekit_runs_and_its_result_or_its_error_comes_back(
    options: Options, work: Path, environment: Callable[..., Path]
) -> None:
    venv = environment("flytekit-slurm", "flytekitplugins-slurm==1.16.*", "setuptools<81")
    (work / "made.py").write_text(FUNCTION)
    printed = await asyncio.to_thread(
        subprocess.run,
        [str(venv / "bin/python"), "-c", SERIALISE],
        capture_output=True, text=True, check=True, cwd=work,
    )  # fmt: skip
    ends = {}
    async with harness(Slurm(), wire="v1", options=options) as h:
        for x in (41, -1):
            template = tasks_pb2.TaskTemplate.FromString(bytes.fromhex(printed.stdout.strip()))
            inputs, prefix = work / f"{x}.pb", work / f"out{x}"
            inputs.write_bytes(literal_map({"x": x}).SerializeToString())
            places = {
                "{{.input}}": str(inputs),
                "{{.outputPrefix}}": str(prefix),
                "{{.rawOutputDataPrefix}}": str(work / "raw"),
                "{{.checkpointOutputPrefix}}": str(work / "checkpoint"),
                "{{.prevCheckpointPrefix}}": '""',
            }
            arguments = [places.get(word, word) for word in template.container.args]  # as Flyte's engines fill them in
            del template.container.args[:]
            template.container.args.extend(arguments)
            meta = await h.client.create("slurm_fn", template=template, inputs={"x": x}, prefix=str(prefix))
            ends[x] = await _ended(h.client, meta, "slurm_fn")
    assert Phase(ends[41].phase) is Phase.SUCCEEDED, ends[41].message
    assert ends[41].outputs.literals["o0"].scalar.primitive.integer == 42
    assert Phase(ends[-1].phase).is_failure
    assert "no negative numbers" in ends[-1].message


def test_the_example_of_the_documentation_runs(cluster: Any, options: Options, work: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "agents" / "slurm.md").read_text()
    [example] = re.findall(r"```python file=wf\.py\n(.*?)```", page, re.DOTALL)
    [settings] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    here = {"login.example.org": "127.0.0.1", '"me"': '"root"', '"short"': '"main"', "/data/": f"{work}/"}
    for theirs, ours in here.items():
        assert theirs in example + settings
        example, settings = example.replace(theirs, ours), settings.replace(theirs, ours)
    keys = f'known_hosts = "{options["known_hosts"]}"\nport = {options["port"]}\n'
    settings = settings.replace("~/.ssh/id_ed25519", options["client_keys"][0]) + keys
    (tmp_path / "wf.py").write_text(example)
    (tmp_path / "airside.toml").write_text(settings)
    (work / "words").write_text("sea\nsky\nseal\n")
    argv = [AIRSIDE, "run", "--json", "wf.py", "count", "--path", str(work / "words"), "--word", "sea"]
    env = {**os.environ, "AIRSIDE_STATE": str(tmp_path / "state")}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)["outputs"]
    assert outputs["n"] == 2
    assert (work / "lines-sea.txt").read_text() == "sea\nseal\n"
