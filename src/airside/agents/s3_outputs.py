"""Outputs that a job of AWS leaves in S3: `outputs.json`, which any script can write, else Flyte's own `outputs.pb`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from airside.agents.aws import Aws, code_of
from airside.agents.json_values import OUTPUTS, Kind, from_json, is_optional
from airside.model import AirsideError, Call, ConversionError, Fail, NotFound, OutputsAt, Retry, Task

_LONGEST = 4 * 1024 * 1024  # bytes
_PLACE = re.compile(r"s3a?://([^/]+)/(.*)\Z")
_PROTOBUF, _ERROR = "outputs.pb", "error.pb"
_GONE = ("NoSuchKey", "NoSuchBucket", "404")
_HIDDEN = ("AccessDenied", "403")  # what is not there, too, without the right to list the bucket


def place_in_s3(task: Task) -> str:
    """Where the job of a task is to leave its outputs; empty if it has none. `Fail` if that is not in S3.

    >>> from airside.model import Interface, TaskType
    >>> place_in_s3(Task(type=TaskType("a"), interface=Interface(outputs={"n": int}), output_prefix="s3://runs/0/"))
    's3://runs/0'
    """
    if not task.interface.outputs:
        return ""
    if not _PLACE.match(task.output_prefix):
        raise Fail(
            f"The task has outputs, and its job can leave them in S3 only, not in {task.output_prefix!r}: run it with "
            "--outputs s3://bucket/prefix.",
            code="OutputsNotReachable",
        )
    return task.output_prefix.rstrip("/")


def read_outputs(
    aws: Aws, call: Call, region: str, place: str, declared: Mapping[str, Kind]
) -> Mapping[str, Any] | OutputsAt:
    """The outputs in `outputs.json`; if it is not there, the place of `outputs.pb`.

    Raises `ConversionError` for what is no output, and if neither is there.
    """
    found = _PLACE.match(place)
    if not declared or found is None:
        return {}
    bucket, key = found[1], f"{found[2]}/{OUTPUTS}"

    def fetch(client: Any) -> bytes:
        with client.get_object(Bucket=bucket, Key=key)["Body"] as body:
            return bytes(body.read(_LONGEST + 1))

    try:
        data = aws.ask(call, "s3", region, fetch, is_missing=lambda code, _message: code in (*_GONE, *_HIDDEN))
    except NotFound:
        if _is_there(aws, call, region, f"{place}/{_PROTOBUF}", hidden=True):
            return OutputsAt(place)
        if all(is_optional(kind) for kind in declared.values()):
            return dict.fromkeys(declared)
        raise ConversionError("outputs", f"the job left neither {OUTPUTS} nor {_PROTOBUF} in {place}") from None
    return _typed(data, declared, place)


def container_outputs(
    aws: Aws, call: Call, region: str, place: str, declared: Mapping[str, Kind]
) -> Mapping[str, Any] | OutputsAt:
    """The outputs of a container: none without a place, `outputs.json` if it may have left that, else `outputs.pb`.

    Raises `ConversionError` for what is no output.
    """
    if not place:
        return {}
    if not declared or not _PLACE.match(place):
        return OutputsAt(place)
    return read_outputs(aws, call, region, place, declared)


def error_at(aws: Aws, call: Call, region: str, place: str) -> OutputsAt | None:
    """Where a job that failed has left `error.pb`; None if it has not, or if that cannot be told."""
    try:
        return OutputsAt(place) if place and _is_there(aws, call, region, f"{place}/{_ERROR}", hidden=False) else None
    except AirsideError:
        return None


def _is_there(aws: Aws, call: Call, region: str, uri: str, *, hidden: bool) -> bool:
    """True if the file is there; `hidden` if that may not be looked at."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    try:
        aws.ask(
            call,
            "s3",
            region,
            lambda client: client.head_object(Bucket=bucket, Key=key),
            is_missing=lambda code, _message: code in (_GONE if hidden else (*_GONE, *_HIDDEN)),
        )
    except NotFound:
        return False
    except Retry as exc:
        if hidden and code_of(exc.__cause__ or exc) in _HIDDEN:
            return True
        raise
    return True


def _typed(data: bytes, declared: Mapping[str, Kind], place: str) -> dict[str, Any]:
    if len(data) > _LONGEST:
        raise ConversionError("outputs", f"{place}/{OUTPUTS} has more than {_LONGEST} bytes; leave files by their uri")
    try:
        told = json.loads(data)
    except ValueError as exc:
        raise ConversionError("outputs", f"{place}/{OUTPUTS} is not JSON: {exc}") from exc
    if not isinstance(told, dict):
        raise ConversionError("outputs", f"{place}/{OUTPUTS} must hold an object of outputs by name")
    made = {}
    for name, kind in declared.items():
        if name in told:
            made[name] = from_json(told[name], kind, f"outputs.{name}")
        elif not is_optional(kind):
            raise ConversionError(f"outputs.{name}", f"not in {OUTPUTS} (there is: {', '.join(told) or 'nothing'})")
        else:
            made[name] = None
    return made
