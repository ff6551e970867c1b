"""What a run hands to its agent: the task of each attempt, made as Flyte's engines make it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airside.engine.arguments import render
from airside.engine.rundir import RunDir
from airside.model import Execution, Retry, Task, TaskTemplate, UsageError
from airside.wire import storage
from airside.wire.literal_map import LiteralValues, pack
from airside.wire.template import create_request, key_of, read_request, write_template
from airside.wire.types import to_literal_type

PROJECT = DOMAIN = "local"


class Submission:
    """A task with its inputs, converted once. `task` gives the task of an attempt.

    Raises `ConversionError` if an input is missing, undeclared or does not fit, or if a type or a config value is
    none that Flyte knows; `UsageError` for settings that make no sense.
    """

    def __init__(self, template: TaskTemplate, inputs: Mapping[str, Any]) -> None:
        self.template = template
        self.declared_outputs = _types(template.outputs, "outputs")
        self._message = write_template(template)
        declared = _types(template.inputs, "inputs")
        self._inputs = pack(template.complete(inputs), declared, where="inputs").data
        self._values = LiteralValues(self._inputs, declared, where="inputs", fetch=storage.read)

    def write_inputs(self, folder: RunDir) -> None:
        """Make the run's folder and write `inputs.pb`. Blocks. Raises `UsageError` if it takes no files."""
        folder.make()
        try:
            storage.write(folder.inputs, self._inputs)
        except Retry as exc:
            raise UsageError(str(exc)) from exc

    def task(self, folder: RunDir, attempt: int) -> Task:
        """The task of an attempt (counted from 0), as an agent behind a service would receive it. Blocks.

        A container's arguments are filled in; raises `Fail` if they use what nothing fills in.
        """
        prefix = folder.output_prefix(attempt)
        message = self._message
        if self.template.container is not None and self.template.container.args:
            message = type(message)()
            message.CopyFrom(self._message)
            message.container.args[:] = render(self.template.container.args, self._values, _paths(folder, attempt))
        execution = Execution(
            project=PROJECT, domain=DOMAIN, name=folder.run_id, node_id=self.template.name, attempt=attempt
        )
        request = create_request(message, self._inputs, prefix, execution)
        return read_request(request, key=key_of(request))


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
        "perretryuniquekey": f"{folder.run_id}-{attempt}",
        "namespace": "",
        "prevcheckpointprefix": '""' if attempt == 0 else f"{folder.output_prefix(attempt - 1)}/checkpoint",
        "checkpointoutputprefix": f"{prefix}/checkpoint",
    }
