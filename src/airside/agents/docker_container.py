"""`docker_container`: a task whose container runs on this machine, by Docker or Podman; `ContainerTask` writes one.

The container's name is made from the key of the attempt, so that the engine itself refuses a second one. It finds its
inputs in the file that `AIRSIDE_INPUTS` names and leaves its outputs in `AIRSIDE_OUTPUT_DIR`, as a process of
`local_process` does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from airside.agents.docker_container_engine import Engine, Refused
from airside.agents.docker_container_states import PHASES, resource_of
from airside.agents.faults import faults
from airside.agents.flyte_container import flyte_variables, kinds_of, place_of
from airside.agents.jobs import default_state_dir
from airside.agents.json_values import local_path, to_json
from airside.agents.placeholders import render
from airside.agents.quantities import amount, size
from airside.agents.stamped_lines import instant_of, lines_after
from airside.agents.supervised import output_directory, output_notes, outputs_of
from airside.model import (
    Container,
    ConversionError,
    Fail,
    LogLine,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Task,
    TaskTemplate,
    UsageError,
)
from airside.sdk.agent import AsyncAgent

KEY_LABEL = "airside.key"
_KEYS = ("pull",)
_CONNECTION_KEYS = ("secrets", "configs")  # Flyte 2 puts the connection into the same place
_PULL = ("missing", "always", "never")
_CLEAN_EVERY = 3600.0  # seconds
_INPUTS = "inputs.json"


@dataclass(frozen=True, kw_only=True)
class ContainerTask(TaskTemplate):
    """A task that runs its container on the machine of the service.

    pull: when its image is fetched: `missing`, `always` or `never`.

    `{{.inputs.NAME}}` in command, arguments and environment stands for an input, `{{.outputPrefix}}` for the output
    directory.

    >>> from airside import Container, kwtypes
    >>> task = ContainerTask(
    ...     name="count", container=Container(image="busybox:1", command=("wc", "-l", "{{.inputs.path}}")),
    ...     inputs=kwtypes(path=str), pull="never",
    ... )
    >>> task.config
    {'pull': 'never'}
    """

    task_type: str = "docker_container"
    pull: str = ""

    def __post_init__(self) -> None:
        if self.container is None or not self.container.image:
            raise UsageError(f"Task {self.name!r} needs a container with an image.")
        if self.pull not in ("", *_PULL):
            raise UsageError(f"Task {self.name!r}: pull is one of {', '.join(_PULL)}.")
        if self.pull:
            object.__setattr__(self, "config", {**self.config, "pull": self.pull})
        super().__post_init__()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerJob:
    """What finds a container again, and where its outputs are."""

    name: str
    notes: dict[str, Any] = field(default_factory=dict)


class DockerContainerAgent(AsyncAgent[ContainerJob]):
    """Runs the containers of tasks on this machine."""

    name = "docker_container"
    task_type = "docker_container"
    poll_interval = 2.0
    create_is_idempotent = True
    host_access = True
    requires = MappingProxyType({"docker": "docker_container"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which engine, and what containers may use.

        url: the engine's socket, `unix:///run/podman/podman.sock`; empty: DOCKER_HOST, else Docker's own.
        images: patterns of the images that may be run.
        pull: when images are fetched for tasks that do not say: `missing`, `always` or `never`.
        network, user: of every container; empty: the engine's and the image's own.
        cpus, memory: the most that a container may use ("2", "4Gi"); empty: no limit. pids: how many processes.
        volumes: folders of this machine that every container sees, by their places in it; read only unless the place
            ends with `:rw`.
        state_dir: where inputs and outputs are; empty: `$XDG_STATE_HOME/airside/jobs/docker_container`. The engine must
            see it.
        retention: seconds for which finished containers, with their logs, are kept.
        grace: seconds between TERM and KILL when a container is cancelled.
        """

        url: str = ""
        images: tuple[str, ...] = ("*",)
        pull: str = "missing"
        network: str = ""
        user: str = ""
        cpus: str = ""
        memory: str = ""
        pids: int = 4096
        volumes: dict[str, str] = field(default_factory=dict)
        state_dir: str = ""
        retention: float = 7 * 86400.0
        grace: float = 10.0

        def __post_init__(self) -> None:
            if self.pull not in _PULL:
                raise ValueError(f"pull is one of {', '.join(_PULL)}")
            if self.retention < 0 or self.grace < 0 or self.pids < 1:
                raise ValueError("retention and grace are numbers of seconds from 0, pids is a number from 1")
            amount(self.cpus or "1")
            size(self.memory or "1")

    def open(self, options: Options) -> None:
        self._options = options
        self._engine = Engine(options.url)
        self._folder = Path(options.state_dir).expanduser() if options.state_dir else default_state_dir(self.name)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._cleaned = 0.0

    def close(self) -> None:
        self._engine.close()

    def probe(self) -> str:
        """Ask the engine for its version."""
        return self._engine.version()

    def create(self, task: Task) -> ContainerJob:
        settings = self._settings(task)
        self._clean()
        job = self._job(task)
        try:
            self._engine.create(job.name, settings, pull=str(task.config.get("pull") or self._options.pull))
        except Refused:  # it is there: an earlier create may have been cut off before it was started
            self._engine.check_key(job.name, KEY_LABEL, task.key)
        self._engine.start(job.name)
        return job

    def find(self, task: Task, key: str) -> ContainerJob | None:
        job = self._job(replace(task, key=key))
        try:
            told = self._engine.inspect(job.name)
        except NotFound:
            return None
        return None if PHASES.get(told["State"]["Status"]) is Phase.QUEUED else job

    def get(self, job: ContainerJob) -> Resource:
        with faults():
            return self._resource(job, self._engine.inspect(_own(job)))

    def get_many(self, jobs: Sequence[ContainerJob]) -> Sequence[Resource | Exception]:
        """One list of the containers; only those that have ended are looked at one by one."""
        with faults():
            states = self._engine.states(KEY_LABEL)
        told: list[Resource | Exception] = []
        for job in jobs:
            state = states.get(job.name)
            try:
                if state is None:
                    told.append(NotFound(f"There is no container {job.name}."))
                elif PHASES.get(state, Phase.RUNNING) is Phase.RUNNING:
                    told.append(Resource(Phase.RUNNING, message=state))
                else:
                    told.append(self.get(job))
            except Exception as exc:  # noqa: BLE001 - the other containers are not to suffer from it
                told.append(exc)
        return told

    def delete(self, job: ContainerJob) -> None:
        """Stop the container: TERM, then KILL after the grace. It stays, with its log, until it is cleaned up."""
        with suppress(NotFound), faults():
            self._engine.stop(_own(job), self._options.grace)

    def logs(self, job: ContainerJob, *, after: str, limit: int) -> Iterator[LogLine]:
        """What the container prints, as it comes; the cursor is the time of a line."""
        since = int(instant_of(after).timestamp()) - 1 if after else 0
        chunks = self._engine.log(_own(job), since)
        try:
            for given, line in enumerate(lines_after(chunks, after), 1):
                yield line
                if given == limit:
                    return
        finally:
            chunks.close()

    def _resource(self, job: ContainerJob, told: Mapping[str, Any]) -> Resource:
        resource = resource_of(told)
        if resource.phase is Phase.SUCCEEDED:
            try:
                return replace(resource, outputs=_outputs_of(job.notes))
            except ConversionError as exc:
                return replace(resource, phase=Phase.FAILED, message=str(exc), code="OutputConversionError")
            except Fail as exc:
                return replace(resource, phase=Phase.FAILED, message=exc.message, code=exc.code)
        if not resource.phase.is_failure:
            return resource
        directory = Path(job.notes.get("output_dir", ""))
        place = str(directory) if (directory / "error.pb").exists() else job.notes.get("place", "")
        words = self._engine.last_words(job.name) if resource.code == "ContainerFailed" else ""
        message = f"{resource.message}: {words}" if words else resource.message
        return replace(resource, message=message, outputs=OutputsAt(place) if place else None)

    # -- what is asked of the engine --------------------------------------------------------------------------------

    def _job(self, task: Task) -> ContainerJob:
        notes = output_notes(task, output_directory(task, self._place(task.key)))
        return ContainerJob(name=f"airside-{task.key}", notes={**notes, "place": _far_place_of(task)})

    def _place(self, key: str) -> Path:
        return self._folder.absolute() / (key if key.isalnum() else hashlib.sha256(key.encode()).hexdigest()[:32])

    def _settings(self, task: Task) -> dict[str, Any]:
        """The container of a task in the engine's words. `Fail` names what is wrong with it."""
        container, options = _container_of(task), self._options
        if not any(fnmatchcase(container.image, pattern) for pattern in options.images):
            raise Fail(
                f"The image {container.image} may not be run here: an operator may add it to `images` in the settings "
                "of the agent.",
                code="Forbidden",
            )
        place = self._place(task.key)
        directory = output_directory(task, place)
        place.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir(parents=True, exist_ok=True)
        if directory.parent == place:
            directory.chmod(0o777)
        inputs = place / _INPUTS
        inputs.write_text(json.dumps({name: to_json(value) for name, value in task.inputs.items()}))
        others = {"outputprefix": str(directory), "perretryuniquekey": task.key}
        env = {name: render(value, task.inputs, others) for name, value in container.env.items()}
        words = [render(word, task.inputs, others) for word in container.command]
        arguments = [render(word, task.inputs, others) for word in container.args]
        if any("\0" in text for text in (*env.values(), *words, *arguments)):
            raise Fail("The container's command or environment has a NUL character; read it from AIRSIDE_INPUTS.")
        given = {**flyte_variables(task), **env, **task.execution.env}
        told = {"AIRSIDE_INPUTS": str(inputs), "AIRSIDE_OUTPUT_DIR": str(directory), "AIRSIDE_KEY": task.key}
        binds = {
            str(inputs): {"bind": str(inputs), "mode": "ro"},
            str(directory): {"bind": str(directory), "mode": "rw"},
        }
        for inside, outside in options.volumes.items():
            binds[outside] = {"bind": inside.removesuffix(":rw"), "mode": "rw" if inside.endswith(":rw") else "ro"}
        limits = _limits(container, options)
        asked = {
            "image": container.image,
            "entrypoint": words or None,
            "command": arguments or None,
            "environment": {**given, **told},
            "labels": {KEY_LABEL: task.key, "airside.task": task.execution.task_name[:200]},
            "volumes": binds,
            "network_mode": options.network or None,
            "user": options.user or None,
            "pids_limit": options.pids,
            "security_opt": ["no-new-privileges"],
            **limits,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def _clean(self) -> None:
        """Remove, now and then, what ended longer ago than the retention."""
        if time.monotonic() - self._cleaned < _CLEAN_EVERY and self._cleaned:
            return
        self._cleaned = time.monotonic()
        self._engine.prune(KEY_LABEL, self._options.retention)
        kept = self._engine.states(KEY_LABEL)
        for folder in self._folder.iterdir():
            with suppress(OSError):
                is_old = time.time() - folder.stat().st_mtime > self._options.retention
                if is_old and f"airside-{folder.name}" not in kept:
                    shutil.rmtree(folder)


def _own(job: ContainerJob) -> str:
    """The name of the container. `NotFound` for what is none of Airside's: handles come from outside."""
    if not (job.name.startswith("airside-") and job.name.removeprefix("airside-").isalnum()):
        raise NotFound(f"There is no container {job.name}.")
    return job.name


def _container_of(task: Task) -> Container:
    for key in task.config:
        if key not in (*_KEYS, *_CONNECTION_KEYS):
            raise Fail(f"config.{key}: a docker_container task knows no such key (known: {', '.join(_KEYS)}).")
    if task.config.get("pull", "missing") not in _PULL:
        raise Fail(f"config.pull is one of {', '.join(_PULL)}.")
    if task.container is None or not task.container.image:
        raise Fail("A docker_container task needs a container with an image.")
    return task.container


def _far_place_of(task: Task) -> str:
    """Where in an object store a container of flytekit leaves `outputs.pb` or `error.pb`; empty for all others."""
    words = [*task.container.command, *task.container.args] if task.container is not None else []
    place = "" if kinds_of(task, words) else place_of(task, words)
    return place if local_path(place) is None else ""


def _outputs_of(notes: Mapping[str, Any]) -> Mapping[str, Any] | OutputsAt:
    return OutputsAt(notes["place"]) if notes.get("place") else outputs_of(notes)


def _limits(container: Container, options: DockerContainerAgent.Options) -> dict[str, Any]:
    """What the container may use: what its task asks for, and no more than the operator allows."""
    limits: dict[str, Any] = {}
    try:
        cpus = [amount(text) for text in (container.limits.get("cpu"), options.cpus) if text]
        memory = [size(text) for text in (container.limits.get("memory"), options.memory) if text]
        gpus = [int(amount(text)) for text in (container.limits.get("gpu"),) if text]
    except ValueError as exc:
        raise Fail(f"The container's limits cannot be read: {exc}.") from exc
    if cpus:
        limits["nano_cpus"] = int(min(cpus) * 1e9)
    if memory:
        limits["mem_limit"] = limits["memswap_limit"] = min(memory)
    if gpus:
        limits["device_requests"] = [{"Driver": "", "Count": gpus[0], "Capabilities": [["gpu"]]}]
    return limits
