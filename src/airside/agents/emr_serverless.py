"""`emr_serverless`: a task that is a job run of Amazon EMR Serverless; `EMRServerlessTask` writes one.

The task's key is the request's token, so EMR Serverless itself starts one run for an attempt, whatever dies in between.
Tasks of flytekit's plugin for EMR Serverless run as they are.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airside.agents import emr_serverless_entry
from airside.agents.aws import AccountOptions, check_region, console
from airside.agents.aws_agent import AWSAgent, listed, pages, picked
from airside.agents.cloudwatch_logs import log_link
from airside.agents.emr_serverless_application import prepared
from airside.agents.emr_serverless_logs import group_of, log_lines
from airside.agents.emr_serverless_request import asked_of
from airside.agents.emr_serverless_states import ACTIVE, facts, phase_of, reason_of
from airside.agents.emr_serverless_task import (
    EMRServerless,
    EMRServerlessHiveJobDriver,
    EMRServerlessSparkJobDriver,
    EMRServerlessTask,
)
from airside.agents.s3_outputs import error_at, read_outputs
from airside.model import (
    Call,
    ConversionError,
    Fail,
    LogLine,
    LogLink,
    OutputsAt,
    Phase,
    Resource,
    Task,
)

_PAGE, _MOST_PAGES = 50, 10


@dataclass(frozen=True, slots=True)
class EMRRun:
    """What finds the run again, where it leaves its outputs, and what they are to be."""

    application: str
    id: str
    region: str
    place: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)


class EMRServerlessAgent(AWSAgent[EMRRun]):
    """Runs Spark and Hive jobs on Amazon EMR Serverless."""

    name = "emr_serverless"
    task_type = "emr_serverless"
    service = "emr-serverless"
    poll_interval = 10.0
    create_is_idempotent = True  # a request of the same token is the same run

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options(AccountOptions):
        """What tasks may do, and whose account is used.

        create_applications: whether a task that names an application which is not there gets one made.
        application_prefix: with which the name of every application begins that is made.

        The rest, as for every agent of AWS: `region`, `profile`, `endpoint_url`, `allowed_hosts`.
        """

        create_applications: bool = False
        application_prefix: str = ""

    def open(self, options: Options) -> None:
        super().open(options)
        self._options = options

    def probe(self) -> str:
        """Ask EMR Serverless for an application."""
        self._ask(Call(), "", lambda client: client.list_applications(maxResults=1), creating=True)
        return "EMR Serverless answers"

    def create(self, task: Task) -> EMRRun:
        asked = asked_of(task)
        named = check_region(asked.region)

        def prepare(client: Any) -> tuple[str, str]:
            may_make, prefix = self._options.create_applications, self._options.application_prefix
            return prepared(client, asked, may_make=may_make, prefix=prefix), client.meta.region_name

        application, region = self._ask(task, named, prepare, creating=True)
        if asked.entry:
            self._upload(task, region, asked.entry)
        request = {"applicationId": application, "clientToken": task.key, **asked.run}
        run_id = self._ask(task, region, lambda client: client.start_job_run(**request)["jobRunId"], creating=True)
        return EMRRun(application, run_id, region, asked.place, asked.outputs)

    def get_many(self, jobs: Sequence[EMRRun], call: Call) -> Sequence[Resource | Exception]:
        """One list for many runs of an application; what it does not show as active is asked for by itself."""
        places = [((job.region, job.application), job.id) for job in jobs]
        known = listed(places, lambda group, ids: self._list(group[1], ids, group[0], call))
        return [self._answer(job, known.get(place), call) for job, place in zip(jobs, places, strict=True)]

    def delete(self, job: EMRRun, call: Call) -> None:
        names = {"applicationId": job.application, "jobRunId": job.id}

        def cancel(client: Any) -> None:
            try:
                client.cancel_job_run(**names)
            except client.exceptions.ValidationException:  # so it says of a run that is over
                if not phase_of(client.get_job_run(**names)["jobRun"]["state"]).is_terminal:
                    raise

        self._ask(call, job.region, cancel)

    def links(self, job: EMRRun) -> Sequence[LogLink]:
        place = f"serverless/{job.application}/jobs/{job.id}"
        return (LogLink(f"{console(job.region)}/emr/home?region={job.region}#/{place}", "EMR Serverless Console"),)

    def logs(self, job: EMRRun, *, after: str, limit: int, call: Call) -> Iterator[LogLine]:
        """What the driver prints: as it comes from CloudWatch, or from S3 when the run is over."""
        return log_lines(
            self._aws,
            call,
            job.region,
            lambda: self._describe(job, call),
            after=after,
            limit=limit,
        )

    def read_handle(self, data: bytes) -> EMRRun | None:
        """A run that flytekit's own connector started."""
        try:
            told = json.loads(data)
            application, run_id, region = told["application_id"], told["job_run_id"], check_region(told["region"])
        except (ValueError, KeyError, TypeError, Fail):
            return None
        return EMRRun(application, run_id, region) if application and run_id else None

    # -- what is made of an answer ----------------------------------------------------------------------------------

    def _judge(self, job: EMRRun, run: Mapping[str, Any], call: Call) -> Resource:
        phase, info, group = phase_of(str(run["state"])), facts(run, job.region), group_of(run)
        links = (*self.links(job), *([log_link(job.region, group)] if group else []))
        if not phase.is_terminal:
            return Resource(phase, message=str(run.get("stateDetails") or ""), links=links, info=info)
        if not phase.is_success:
            reason, document = reason_of(run), error_at(self._aws, call, job.region, job.place)
            return Resource(
                reason.phase, message=reason.message, code=reason.code, outputs=document, links=links, info=info
            )
        try:
            outputs = self._outputs(job, call)
        except ConversionError as exc:
            return Resource(Phase.FAILED, message=str(exc), code="OutputConversionError", links=links, info=info)
        return Resource(phase, outputs=outputs, links=links, info=info)

    def _outputs(self, job: EMRRun, call: Call) -> Mapping[str, Any] | OutputsAt:
        if job.outputs:
            return read_outputs(self._aws, call, job.region, job.place, job.outputs)
        return OutputsAt(job.place) if job.place else {}

    # -- asking EMR Serverless --------------------------------------------------------------------------------------

    def _upload(self, task: Task, region: str, entry: str) -> None:
        """Put the file there with which the driver begins."""
        bucket, _, key = entry.removeprefix("s3://").partition("/")
        body = Path(emr_serverless_entry.__file__).read_bytes()
        self._aws.ask(
            task, "s3", region, lambda client: client.put_object(Bucket=bucket, Key=key, Body=body), creating=True
        )

    def _describe(self, job: EMRRun, call: Call) -> Mapping[str, Any]:
        found = self._ask(
            call,
            job.region,
            lambda client: client.get_job_run(applicationId=job.application, jobRunId=job.id),
        )
        run: Mapping[str, Any] = found["jobRun"]
        return run

    def _list(self, application: str, ids: Collection[str], region: str, call: Call) -> dict[str, Mapping[str, Any]]:
        """Those of the runs that the first pages show as active. Never more calls than runs."""
        asked, most = {"applicationId": application, "states": ACTIVE, "maxResults": _PAGE}, min(_MOST_PAGES, len(ids))

        def look(client: Any) -> dict[str, Mapping[str, Any]]:
            return picked(pages(client.list_job_runs, "jobRuns", "nextToken", most, **asked), "id", ids)

        return self._ask(call, region, look)

    @staticmethod
    def _is_missing(code: str, _message: str, /) -> bool:
        return code == "ResourceNotFoundException"


__all__ = (
    "EMRRun",
    "EMRServerless",
    "EMRServerlessAgent",
    "EMRServerlessHiveJobDriver",
    "EMRServerlessSparkJobDriver",
    "EMRServerlessTask",
)
