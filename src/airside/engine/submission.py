"""What a run hands to its agent: the task of each attempt, made as Flyte's engines make it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Self

from flyteidl2.core.tasks_pb2 import TaskTemplate as TaskMessage

from airside.engine.arguments import render
from airside.engine.rundir import RunDir
from airside.model import Connection, Execution, Task, TaskTemplate
from airside.wire import storage
from airside.wire.literal_map import LiteralValues, pack
from airside.wire.template import create_request, key_of, read_interface, read_request, write_template
from airside.wire.types import to_literal_type

PROJECT = DOMAIN = "local"
SMALL = 16 * 1024
"""Bytes of inputs, or of a template, that are read so quickly that a thread would take longer."""

Types = Mapping[str, Any]


class Submission:
    """A task with its inputs, converted once. `task` gives the task of an attempt.

    Raises `ConversionError` if an input is missing, undeclared or does not fit, or if a type or a config value is
    none that Flyte knows; `UsageError` for settings that make no sense. `project` and `domain` are whose task it is.
    """

    def __init__(
        self, template: TaskTemplate, inputs: Mapping[str, Any], *, project: str = "", domain: str = ""
    ) -> None:
        self._message = write_template(template)
        self._message.id.project, self._message.id.domain = project, domain
        self._declared: Types = _types(template.inputs, "inputs")
        self.declared_outputs: Types = _types(template.outputs, "outputs")
        self.inputs = pack(template.complete(inputs), self._declared, where="inputs").data

    @classmethod
    def read(cls, template: bytes, inputs: bytes) -> Self:
        """A submission out of what `template` and `inputs` were. Templates that were read lately are not read again."""
        made = cls.__new__(cls)
        read = _read if len(template) <= SMALL else _read.__wrapped__
        made._message, made._declared, made.declared_outputs = read(template)
        made.inputs = inputs
        return made

    @property
    def template(self) -> bytes:
        """The serialised template."""
        data: bytes = self._message.SerializeToString()
        return data

    @property
    def is_quick(self) -> bool:
        """True if `task` neither blocks nor takes long."""
        return len(self.inputs) <= SMALL and not self._message.container.args

    @property
    def uses_template_file(self) -> bool:
        """True if the container's arguments name the file with the template."""
        return any("tasktemplatepath" in argument.lower() for argument in self._message.container.args)

    def task(self, folder: RunDir, attempt: int, connection: Connection | None = None) -> Task:
        """The task of an attempt (counted from 0), as an agent behind a service would receive it. Blocks.

        A container's arguments are filled in; raises `Fail` if they use what nothing fills in.
        """
        prefix = folder.output_prefix(attempt)
        message = self._message
        if message.WhichOneof("target") == "container" and message.container.args:
            message = type(message)()
            message.CopyFrom(self._message)
            values = LiteralValues(self.inputs, self._declared, where="inputs", fetch=storage.fetch)
            message.container.args[:] = render(self._message.container.args, values, _paths(folder, attempt))
        whose = self._message.id
        execution = Execution(
            project=whose.project or PROJECT,
            domain=whose.domain or DOMAIN,
            name=folder.run_id,
            node_id=whose.name,
            attempt=attempt,
        )
        request = create_request(message, self.inputs, prefix, execution, connection)
        return read_request(request, key=key_of(request))


@lru_cache(maxsize=256)
def _read(template: bytes) -> tuple[TaskMessage, Types, Types]:
    """A template with its inputs and outputs. Shared: nobody may change it."""
    message = TaskMessage.FromString(template)
    declared = read_interface(message)
    return message, declared.inputs or {}, declared.outputs or {}


def _types(annotations: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {name: to_literal_type(annotation, f"{where}.{name}") for name, annotation in annotations.items()}


def _paths(folder: RunDir, attempt: int) -> dict[str, str]:
    """What the engines fill in besides inputs, by name in lower case."""
    prefix = folder.output_prefix(attempt)
    return {
        "input": folder.inputs,
        "inputprefix": folder.root,
        "outputprefix": prefix,
        "rawoutputdataprefix": f"{prefix}/raw",
        "tasktemplatepath": folder.template,
        "perretryuniquekey": f"{folder.run_id}-{attempt}",
        "namespace": "",
        "prevcheckpointprefix": '""' if attempt == 0 else f"{folder.output_prefix(attempt - 1)}/checkpoint",
        "checkpointoutputprefix": f"{prefix}/checkpoint",
    }
