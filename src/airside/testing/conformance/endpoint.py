"""Run the conformance cases against a service at an address, in whatever language it is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio
from flyteidl2.core import tasks_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from airside.engine.endpoint import Tls
from airside.model import Connection, Fail, TaskTemplate, TaskType, UsageError
from airside.model.redaction import hide
from airside.testing.assignment import annotation_of
from airside.testing.client import WIRES, RawClient, Wire
from airside.testing.conformance.case import Specimen
from airside.testing.conformance.remote import RemoteService, nothing_answers, unreachable
from airside.testing.conformance.report import Report, Result
from airside.testing.conformance.suite import known_cases, outside_any_loop, run_cases
from airside.wire.literal_map import pack
from airside.wire.template import write_template
from airside.wire.types import to_annotation

_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_GENERATION = {"v1": "Flyte 1", "v2": "Flyte 2"}


@dataclass(frozen=True, slots=True)
class Template:
    """A task template as protobuf, and its declared inputs as Python types."""

    message: tasks_pb2.TaskTemplate
    inputs: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The task's name, or that of its type."""
        return str(self.message.id.name or self.message.type)

    @property
    def task_type(self) -> TaskType:
        """What picks its agent."""
        return TaskType(self.message.type, self.message.task_type_version)


@dataclass(frozen=True, slots=True)
class _Announced:
    """What one family announces: an entry for each agent; None if it does not tell."""

    wire: Wire
    listed: tuple[Any, ...] | None

    @property
    def entries(self) -> tuple[Any, ...]:
        return self.listed or ()

    @property
    def task_types(self) -> tuple[TaskType, ...]:
        return tuple(dict.fromkeys(one for entry in self.entries for one in _types_of(entry)))

    def entry(self, task_type: TaskType) -> Any:
        return next((entry for entry in self.entries if task_type in _types_of(entry)), None)


def check_endpoint(
    target: str,
    *,
    task_type: str | TaskType | None = None,
    task: TaskTemplate | Template | None = None,
    inputs: Mapping[str, Any] | bytes | None = None,
    bad_inputs: Mapping[str, Any] | None = None,
    connection: Connection | None = None,
    prefix: str = "",
    wires: Sequence[Wire] = WIRES,
    only: Collection[str] = (),
    timeout: float = 30.0,
    slow: bool = False,
    tls: Tls | None = None,
    token: str = "",
    command: Sequence[str] = (),
    watch: Callable[[Result], None] | None = None,
) -> Report:
    """Try the conformance cases on the service at `HOST:PORT`, in any language, on each family that it speaks.

    `task` says what to run (without it, a bare task of `task_type`, or of the only type that is announced), `inputs`
    with which values, or a serialised literal map. `bad_inputs` are those that differ so that the task fails; the
    cases about failures need them. Real jobs are created, about ten for each family, and deleted afterwards. Their
    output prefixes begin with `prefix`, a folder of this machine by default. With `command` the check starts the
    service itself, restarts it, reads what it prints, and stops it. The rest is as for `check_agent`.

    Raises `Retry` if nothing answers, `UsageError` for a service or a task type that cannot be tried,
    `ConversionError` if an input does not fit.
    """
    known_cases(only)
    for value in (token, *(connection.secrets if connection else {}).values()):
        hide(value)

    async def check(folder: Path) -> tuple[Result, ...]:
        service = RemoteService(target, folder / "log", tls=tls, token=token, command=command)
        await service.start()
        try:
            spoken = await _families(service, wires, timeout)
            wanted = _wanted(service.name, spoken, task, task_type)
            serving = [one for one in spoken if one.listed is None or one.entry(wanted) is not None]
            specimen = _specimen(wanted, serving, task, inputs, bad_inputs, connection, prefix or str(folder))
            return await run_cases(
                service,
                specimen,
                wires=[one.wire for one in serving],
                only=only,
                timeout=timeout,
                slow=slow,
                watch=watch,
                revive=service.revive,
            )
        finally:
            await service.stop()

    with TemporaryDirectory(prefix="airside-check-") as folder:
        return Report(target, outside_any_loop(lambda: check(Path(folder))))


def read_template_file(path: str) -> Template:
    """The task template in a file: serialised protobuf, or its JSON form in a file whose name ends in `.json`."""
    message = tasks_pb2.TaskTemplate()
    try:
        data = Path(path).read_bytes()
        if path.endswith(".json"):
            json_format.Parse(data, message)
        else:
            message.ParseFromString(data)
    except OSError as exc:
        raise UsageError(f"Template file {path} cannot be read: {exc.strerror}.") from None
    except (DecodeError, json_format.ParseError, UnicodeDecodeError) as exc:
        raise UsageError(f"Template file {path} is no task template: {' '.join(str(exc).split())}.") from None
    if not message.type:
        raise UsageError(f"Template file {path} is no task template: it has no type.")
    variables = message.interface.inputs.variables
    return Template(message, {one.key: to_annotation(one.value.type, f"inputs.{one.key}") for one in variables})


async def _families(service: RemoteService, wires: Sequence[Wire], timeout: float) -> list[_Announced]:
    """What the service announces in each of these families that it speaks."""
    why = await unreachable(service.channel, timeout)
    if why:
        raise nothing_answers(service.name, why)
    spoken = [one for wire in wires if (one := await _announced(service, wire, timeout)) is not None]
    if spoken:
        return spoken
    what = " and ".join(_GENERATION[wire] for wire in wires)
    raise UsageError(f"{service.name} answers, but it serves no agents to {what}: its async service is missing.")


async def _announced(service: RemoteService, wire: Wire, timeout: float) -> _Announced | None:
    client = RawClient(service.channel, wire, timeout=timeout)
    try:
        return _Announced(wire, tuple(await client.list()))
    except grpc.aio.AioRpcError as exc:
        if exc.code() in _REFUSED:
            raise Fail(f"{service.name} refuses the check: {exc.code().name} {exc.details()}.") from None
        if exc.code() is not grpc.StatusCode.UNIMPLEMENTED:
            return _Announced(wire, None)
    try:
        await client.get(b"", "")
    except grpc.aio.AioRpcError as exc:
        if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
            return None
    return _Announced(wire, None)


def _wanted(
    name: str,
    spoken: Sequence[_Announced],
    task: TaskTemplate | Template | None,
    asked: str | TaskType | None,
) -> TaskType:
    """The task type to try: that of the task, the one asked for, or the only one there is."""
    served = tuple(dict.fromkeys(one for family in spoken for one in family.task_types))
    there = f"it serves {', '.join(map(str, served)) or 'none'}"
    if task is not None:
        wanted = task.type if isinstance(task, TaskTemplate) else task.task_type
        if asked is not None and asked not in (wanted, wanted.name):
            raise UsageError(f"The task has the type {wanted}, not {asked}.")
    elif asked is None:
        if len(served) != 1:
            raise UsageError(f"Say which task type to try on {name}: {there}.")
        return served[0]
    elif isinstance(asked, str):
        versions = sorted(one for one in served if one.name == asked)
        wanted = versions[0] if versions else TaskType(asked)
    else:
        wanted = asked
    if wanted not in served and all(family.listed is not None for family in spoken):
        raise UsageError(f"{name} does not serve the task type {wanted} ({there}).")
    return wanted


def _specimen(
    task_type: TaskType,
    serving: Sequence[_Announced],
    task: TaskTemplate | Template | None,
    inputs: Mapping[str, Any] | bytes | None,
    bad_inputs: Mapping[str, Any] | None,
    connection: Connection | None,
    prefix: str,
) -> Specimen:
    values = {} if isinstance(inputs, bytes) else dict(inputs or {})
    if task is None:
        kinds = {key: annotation_of(value) for key, value in values.items()}
        task = TaskTemplate(
            name=f"conformance.{task_type.name}",
            task_type=task_type.name,
            task_type_version=task_type.version,
            inputs=kinds,
        )
    template = write_template(task) if isinstance(task, TaskTemplate) else task.message
    if isinstance(task, TaskTemplate) and not isinstance(inputs, bytes):
        values = dict(task.complete(values))
    declared = {one.key: one.value.type for one in template.interface.inputs.variables}
    good = inputs if isinstance(inputs, bytes) else pack(values, declared, where="inputs").data
    bad = None if bad_inputs is None else pack({**values, **bad_inputs}, declared, where="inputs").data
    entries = [entry for one in serving if (entry := one.entry(task_type)) is not None]
    return Specimen(
        task_type=task_type,
        template=template.SerializeToString(),
        inputs=good,
        bad_inputs=bad,
        has_inputs=bool(declared),
        outputs=frozenset(one.key for one in template.interface.outputs.variables),
        connection=connection,
        prefix=prefix,
        is_sync=any(getattr(entry, "is_sync", False) for entry in entries),
        task_types=_types_of(entries[0]) if entries else (task_type,),
    )


def _types_of(entry: Any) -> tuple[TaskType, ...]:
    """The task types of an entry; agents before Flyte 1.11 name them without a version."""
    types = [TaskType(one.name, one.version) for one in entry.supported_task_categories]
    return tuple(dict.fromkeys([*types, *(TaskType(name) for name in _old_types(entry, types))]))


def _old_types(entry: Any, known: Sequence[TaskType]) -> list[str]:
    names = {one.name for one in known}
    return [name for name in getattr(entry, "supported_task_types", ()) if name not in names]
