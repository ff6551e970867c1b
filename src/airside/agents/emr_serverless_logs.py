"""What the driver of a run of EMR Serverless prints: from CloudWatch Logs, or from the files that EMR leaves in S3."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from airside.agents.aws import Aws
from airside.agents.cloudwatch_logs import LogPlace, lines_of, streams_of
from airside.agents.emr_serverless_states import phase_of
from airside.model import Call, Fail, LogLine, NotFound

_GROUP = "/aws/emr-serverless"
_LOOK_EVERY = 6.0  # seconds
_CHUNK = 64 * 1024  # bytes
_LONGEST = 64 * 1024  # characters of a line; the rest of it is left out

Run = Mapping[str, Any]


def group_of(run: Run) -> str:
    """The group of CloudWatch Logs that a run writes to; empty if it writes to none."""
    told = _monitoring(run).get("cloudWatchLoggingConfiguration") or {}
    return str(told.get("logGroupName") or _GROUP) if told.get("enabled") else ""


def log_lines(
    aws: Aws, call: Call, region: str, describe: Callable[[], Run], *, after: str, limit: int
) -> Iterator[LogLine]:
    """The lines of the driver's output after a cursor. `describe` tells of the run."""
    run = describe()
    if group_of(run):
        yield from lines_of(aws, call, region, lambda: _stream(aws, call, region, describe()), after=after, limit=limit)
        return
    uri = str((_monitoring(run).get("s3MonitoringConfiguration") or {}).get("logUri") or "")
    if not uri.startswith("s3://"):
        raise Fail(
            "The run writes its log neither to CloudWatch nor to S3: set monitoringConfiguration in the task's "
            "configuration_overrides.",
            code="NoLogs",
        )
    if after and not after.isdecimal():
        raise Fail(f"{after!r} is no place in this log; take the token of the page before.", code="BadToken")
    while not phase_of(str(run["state"])).is_terminal:
        time.sleep(_LOOK_EVERY)
        run = describe()
    begin = int(after or 0)
    for number, line in enumerate(_lines(_pieces(aws, call, region, f"{uri.rstrip('/')}/{_folder(run)}", run)), 1):
        if begin < number <= begin + limit:
            yield LogLine(line[:_LONGEST], originator="user", cursor=str(number))
        if number >= begin + limit:
            return


def _monitoring(run: Run) -> Mapping[str, Any]:
    return (run.get("configurationOverrides") or {}).get("monitoringConfiguration") or {}


def _folder(run: Run) -> str:
    return f"applications/{run['applicationId']}/jobs/{run['jobRunId']}"


def _stream(aws: Aws, call: Call, region: str, run: Run) -> LogPlace:
    """The driver's stream, under whichever name it has: it is there once the driver has printed something."""
    told = _monitoring(run)["cloudWatchLoggingConfiguration"]
    prefix, group = str(told.get("logStreamNamePrefix") or "").rstrip("/"), group_of(run)
    begins = f"{prefix}/{_folder(run)}/" if prefix else f"{_folder(run)}/"
    names = streams_of(aws, call, region, group, begins)
    stream = next((name for name in names if "DRIVER" in name and name.endswith("stdout")), "")
    ended = run.get("endedAt") or run.get("updatedAt")
    is_over = phase_of(str(run["state"])).is_terminal and ended is not None
    return LogPlace(group, stream, ended.timestamp() if is_over and ended is not None else None)


def _pieces(aws: Aws, call: Call, region: str, folder: str, run: Run) -> Iterator[bytes]:
    """The driver's output in S3, unpacked as it is read."""
    driver = "HIVE_DRIVER" if "hive" in (run.get("jobDriver") or {}) else "SPARK_DRIVER"
    bucket, _, key = f"{folder}/{driver}/stdout.gz".removeprefix("s3://").partition("/")
    try:
        body = aws.ask(
            call,
            "s3",
            region,
            lambda client: client.get_object(Bucket=bucket, Key=key)["Body"],
            is_missing=lambda code, _: code in ("NoSuchKey", "404"),
        )
    except NotFound:  # it printed nothing
        return
    with body:
        unpack = zlib.decompressobj(wbits=31)
        for chunk in body.iter_chunks(_CHUNK):
            packed = chunk
            while packed:  # one piece after the other, so that little can become no more than a little
                yield unpack.decompress(packed, _CHUNK)
                packed = unpack.unconsumed_tail


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        rest = rest[: _LONGEST * 4]
        yield from (line.decode("utf-8", errors="replace").rstrip("\r") for line in lines)
    if rest:
        yield rest.decode("utf-8", errors="replace")
