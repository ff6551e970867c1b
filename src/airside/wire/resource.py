"""What is known of a job, on the wire and in Python.

The bytes written here serve both families: Flyte 1's own fields (`state`, for engines before 1.10.7, and
`agent_error`) are unknown to Flyte 2, which ignores them.

Outputs in a file, or too large for an answer, need blocking I/O, so writing has two steps:

    try:
        data = None if needs_io(resource) else write_resource(resource, declared)
    except OutputsTooLarge:
        data = None
    if data is None:
        settled = await asyncio.to_thread(resolve, resource, declared, output_prefix)
        data = write_resource(settled, declared)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from flyteidl.admin import agent_pb2
from flyteidl.core import execution_pb2 as execution_v1_pb2
from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2, types_pb2
from google.protobuf.message import DecodeError

from airside.model import AirsideError, ConversionError, LogLink, OutputsAt, Phase, Resource, Retry
from airside.model.redaction import redact, redact_all
from airside.wire import limits, storage
from airside.wire.ending import ended, is_ended, without_code
from airside.wire.frame import frame
from airside.wire.literal_map import LiteralValues, pack
from airside.wire.storage import EVERYWHERE, Storage
from airside.wire.struct import StructValues, write_loosely

OUTPUTS_FILE = "outputs.pb"
ERROR_FILE = "error.pb"

CONVERSION_CODE = "OutputConversionError"
TOO_LARGE_CODE = "OutputsTooLarge"
NOT_FOUND_CODE = "OutputsNotFound"

Types = Mapping[str, types_pb2.LiteralType]

_log = logging.getLogger(__name__)

_STATES = {
    Phase.QUEUED: agent_pb2.PENDING,
    Phase.WAITING_FOR_RESOURCES: agent_pb2.PENDING,
    Phase.INITIALIZING: agent_pb2.PENDING,
    Phase.RUNNING: agent_pb2.RUNNING,
    Phase.SUCCEEDED: agent_pb2.SUCCEEDED,
    Phase.FAILED: agent_pb2.PERMANENT_FAILURE,
    Phase.ABORTED: agent_pb2.PERMANENT_FAILURE,
    Phase.RETRYABLE_FAILED: agent_pb2.RETRYABLE_FAILURE,
}
_PHASES = {  # how Flyte 1's engine reads a state
    agent_pb2.PENDING: Phase.INITIALIZING,
    agent_pb2.RUNNING: Phase.RUNNING,
    agent_pb2.SUCCEEDED: Phase.SUCCEEDED,
    agent_pb2.PERMANENT_FAILURE: Phase.FAILED,
    agent_pb2.RETRYABLE_FAILURE: Phase.RETRYABLE_FAILED,
}
_DEFAULT_CODES = {Phase.FAILED: "UserError", Phase.RETRYABLE_FAILED: "Retryable", Phase.ABORTED: "Aborted"}

_V1_FIELDS = {  # serialised once: the two fields of Flyte 1, `state` for every phase
    phase: agent_pb2.Resource(state=state).SerializeToString() for phase, state in _STATES.items()
}
_OUTPUTS = connector_pb2.Resource.OUTPUTS_FIELD_NUMBER


class OutputsTooLarge(AirsideError):
    """The outputs do not fit into an answer: `resolve` writes them to a file."""


class UnknownPhase(Retry):
    """An answer whose phase no Flyte knows."""


def needs_io(resource: Resource) -> bool:
    """True if `resolve` must come before `write_resource`: outputs are in a file, or must go to one."""
    outputs = resource.outputs
    if isinstance(outputs, OutputsAt):
        return resource.phase.is_terminal
    return isinstance(outputs, LiteralValues) and len(outputs.to_bytes()) > limits.OUTPUTS


def write_resource(
    resource: Resource, declared: Types | None, *, deleted: bool = False, job: str = "", shows_code: bool = False
) -> bytes:
    """A serialised `Resource` for both families.

    `declared` types the outputs (None: typed by their values). Outputs that do not fit make a FAILED resource
    with code `OutputConversionError`, the path and `job`. ABORTED goes out as FAILED with its message, since
    Flyte's engines drop the message of an aborted job, unless `deleted` says that we cancelled it. What is said of a
    failure ends with its code and with the id that `job`, the attempt's key, begins with; the code is left out if the
    reader `shows_code` anyway.
    Raises `ValueError` for a resource without a phase, `OutputsTooLarge` above 3.5 MiB.
    """
    phase = Phase(resource.phase)
    if phase is Phase.UNDEFINED:
        raise ValueError("The agent returned a resource without a phase.")
    code = _text(resource.code or _DEFAULT_CODES.get(phase, ""), limits.CODE)
    if phase is Phase.ABORTED and not deleted:
        phase = Phase.FAILED
    outputs = b""
    if phase.is_success and resource.outputs is not None:
        try:
            outputs = _write_outputs(resource.outputs, declared)
        except ConversionError as exc:
            return write_resource(_misfit(resource, exc, job), None, job=job, shows_code=shows_code)
    text = _text(resource.message, limits.MESSAGE)
    if job and phase.is_failure and phase is not Phase.ABORTED:
        text, told = ended(text, code, job, limits.MESSAGE), text
        if not is_ended(told):  # else whoever ended it has logged it
            _log.info("the job failed: %s", text, extra={"key": job})
    if shows_code:
        text = without_code(text, code)
    message = connector_pb2.Resource(phase=phase.value, message=text)
    for link in resource.links[: limits.LINKS_COUNT]:
        message.log_links.add(
            uri=_text(link.uri, limits.LINK), name=_text(link.name, limits.LINK), ShowWhilePending=True, ready=True
        )
    if resource.info is not None:
        message.custom_info.CopyFrom(_write_info(resource.info))
    return b"".join((message.SerializeToString(), _V1_FIELDS[phase], _write_error(phase, code), outputs))


def resolve(
    resource: Resource,
    declared: Types | None,
    output_prefix: str,
    *,
    job: str = "",
    source: Storage = EVERYWHERE,
    target: Storage = EVERYWHERE,
) -> Resource:
    """The resource with its outputs settled: read from their file, or written to `output_prefix/outputs.pb`. Blocks.

    Outputs are read from `source` and written to `target`; a place that these do not allow ends the job.
    A failed resource with `OutputsAt` takes code, message and whether to retry from `error.pb`, if it is there.
    Raises what `storage.read` and `storage.write` raise, except for files that are missing or too large: those
    end the job.
    """
    try:
        return _resolve(resource, declared, output_prefix, job, source, target)
    except (storage.PathNotAllowed, storage.UnusableUri) as exc:
        return replace(resource, phase=Phase.FAILED, outputs=None, code=exc.code, message=str(exc))


def read_resource(data: Any, declared: Types | None, *, family: Literal["v1", "v2"] = "v1") -> Resource:
    """The resource of an answer: a message of either family, or its bytes.

    Without a phase, Flyte 1's `state` says where the job stands, as its engines read it. Raises `Retry` for a phase
    that Flyte does not know (`UnknownPhase`), and for none at all in Flyte 2.
    """
    if not isinstance(data, bytes):
        data = data.SerializeToString()
    message = connector_pb2.Resource.FromString(data)
    text, code = message.message, ""
    if message.phase in _KNOWN_PHASES:
        phase = Phase(message.phase)
    elif message.phase == 0 and family == "v1":
        phase = _PHASES.get(agent_pb2.Resource.FromString(data).state, Phase.RETRYABLE_FAILED)
    else:
        raise UnknownPhase(
            f"The agent service answered with phase {message.phase}, which is no phase that Flyte knows."
        )
    if phase.is_failure:  # Flyte 2 has no field for the code, but our own services send it to both
        with suppress(DecodeError):
            code = agent_pb2.Resource.FromString(data).agent_error.code
    return Resource(
        phase,
        message=text,
        outputs=_read_values(message.outputs, declared) if message.HasField("outputs") else None,
        links=tuple(LogLink(link.uri, link.name) for link in message.log_links),
        info=dict(StructValues(message.custom_info)) if message.HasField("custom_info") else None,
        code=code,
    )


_KNOWN_PHASES = frozenset(phase.value for phase in Phase if phase is not Phase.UNDEFINED)


def _resolve(
    resource: Resource, declared: Types | None, output_prefix: str, job: str, source: Storage, target: Storage
) -> Resource:
    if resource.phase.is_failure:
        return _read_error(resource, source) if isinstance(resource.outputs, OutputsAt) else resource
    if not resource.phase.is_success or resource.outputs is None:
        return replace(resource, outputs=None)
    if isinstance(resource.outputs, OutputsAt):
        return _read_outputs(resource, declared, output_prefix, job, source, target)
    try:
        data = _pack(resource.outputs, declared)
    except ConversionError as exc:
        return _misfit(resource, exc, job)
    return _settle(resource, data, declared, output_prefix, target)


def _write_outputs(outputs: Any, declared: Types | None) -> bytes:
    """The field `outputs`, present even if it is empty."""
    data = _pack(outputs, declared)
    if len(data) > limits.OUTPUTS:
        raise OutputsTooLarge(f"The outputs are {len(data)} bytes, above {limits.OUTPUTS}.")
    return frame(_OUTPUTS, data)


def _pack(outputs: Any, declared: Types | None) -> bytes:
    if not isinstance(outputs, Mapping):
        raise ConversionError("outputs", f"expected values by name, got {type(outputs).__name__}")
    try:
        packed = pack(outputs, declared, where="outputs")
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise ConversionError("outputs", f"{type(exc).__name__}: {exc}") from exc
    if packed.dropped:
        _log.warning("outputs that the task does not declare were dropped: %s", ", ".join(packed.dropped))
    return packed.data


def _misfit(resource: Resource, exc: ConversionError, job: str) -> Resource:
    where = f" of job {job}" if job else ""
    said = f"; the job's message: {resource.message}" if resource.message else ""
    text = f"The outputs{where} do not fit the task's interface: {exc}{said}"
    return replace(resource, phase=Phase.FAILED, outputs=None, code=CONVERSION_CODE, message=text)


def _read_outputs(
    resource: Resource, declared: Types | None, output_prefix: str, job: str, source: Storage, target: Storage
) -> Resource:
    assert isinstance(resource.outputs, OutputsAt)  # noqa: S101 - the caller made sure
    uri = resource.outputs.uri
    in_place = uri.rstrip("/") == output_prefix.rstrip("/")
    try:
        data = source.read(storage.join(uri, OUTPUTS_FILE))
    except storage.FileMissing:
        return _without_file(resource, uri, declared, source)
    except storage.FileTooLarge as exc:
        if in_place:
            return replace(resource, outputs=None)  # the engine reads it there
        return replace(resource, phase=Phase.FAILED, outputs=None, code=TOO_LARGE_CODE, message=str(exc))
    if in_place and len(data) > limits.OUTPUTS:
        return replace(resource, outputs=None)
    try:
        packed = _pack(_read_values(data, declared, source), declared)
    except ConversionError as exc:
        return _misfit(resource, exc, job)
    return _settle(resource, packed, declared, output_prefix, target)


def _settle(resource: Resource, data: bytes, declared: Types | None, output_prefix: str, target: Storage) -> Resource:
    """The resource with these serialised outputs, in the answer or in a file."""
    if len(data) <= limits.OUTPUTS:
        return replace(resource, outputs=_read_values(data, declared, target))
    if not output_prefix:
        size = f"{len(data) / limits.MIB:.1f} MiB, above {limits.OUTPUTS / limits.MIB:g} MiB"
        text = f"The outputs are {size}, and the caller gave no output prefix to write them to."
        return replace(resource, phase=Phase.FAILED, outputs=None, code=TOO_LARGE_CODE, message=text)
    target.write(storage.join(output_prefix, OUTPUTS_FILE), data)
    return replace(resource, outputs=None)


def _without_file(resource: Resource, uri: str, declared: Types | None, source: Storage) -> Resource:
    """A job that succeeded but wrote no outputs: its `error.pb` tells why, unless there was nothing to write."""
    failed = replace(
        resource,
        phase=Phase.RETRYABLE_FAILED,
        outputs=OutputsAt(uri),
        code=NOT_FOUND_CODE,
        message=f"The job succeeded but wrote no {storage.join(uri, OUTPUTS_FILE)}.",
    )
    settled = _read_error(failed, source)
    if settled.code == NOT_FOUND_CODE and declared is not None and not declared:
        return replace(resource, outputs={})
    return settled


def _read_error(resource: Resource, source: Storage) -> Resource:
    assert isinstance(resource.outputs, OutputsAt)  # noqa: S101 - both callers made sure
    plain = replace(resource, outputs=None)
    try:
        data = source.read(storage.join(resource.outputs.uri, ERROR_FILE), limit=limits.MIB)
        error = execution_pb2.ErrorDocument.FromString(data).error
    except (storage.FileMissing, storage.FileTooLarge, storage.UnusableUri, DecodeError):
        return plain
    recoverable = error.kind == execution_pb2.ContainerError.RECOVERABLE
    said = [text for text in (error.message, resource.message) if text]
    return replace(
        plain,
        phase=Phase.RETRYABLE_FAILED if recoverable else Phase.FAILED,
        code=error.code or resource.code,
        message="\n".join(dict.fromkeys(said)),
    )


def _read_values(outputs: Any, declared: Types | None, source: Storage = EVERYWHERE) -> LiteralValues:
    return LiteralValues(outputs, declared, where="outputs", fetch=source.read)


def _write_info(info: Mapping[str, Any]) -> Any:
    message = write_loosely(redact_all(info))
    size = message.ByteSize()
    if size <= limits.INFO:
        return message
    return write_loosely({"left_out": f"info of {size} bytes, above {limits.INFO}"})


def _write_error(phase: Phase, code: str) -> bytes:
    if not phase.is_failure:
        return b""
    kind = agent_pb2.AgentError.RECOVERABLE if phase.is_retryable else agent_pb2.AgentError.NON_RECOVERABLE
    error = agent_pb2.AgentError(code=code, kind=kind, origin=execution_v1_pb2.ExecutionError.USER)
    data: bytes = agent_pb2.Resource(agent_error=error).SerializeToString()
    return data


def _text(text: Any, limit: int) -> str:
    """Authors pass exceptions and None as messages too; that must not hide how a job stands."""
    if not isinstance(text, str):
        text = "" if text is None else str(text)
    return limits.shorten(redact(text), limit)
