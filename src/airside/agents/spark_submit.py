"""`spark_submit` and `spark`: tasks that are applications on a standalone Spark cluster, and `SparkSubmitTask`.

The master makes up the ids of drivers and takes no token, so a driver carries the key of its attempt as a property, and
is found again by the command with which it was launched. Tasks of flytekit's and Flyte 2's Spark plugins run on a
cluster that is there already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from airside.agents.http_api import HttpApi, bearer
from airside.agents.json_values import kind_of
from airside.agents.printed_outputs import said_in, with_printed
from airside.agents.spark_submit_cluster import Cluster, Driver, Master, Seen
from airside.agents.spark_submit_logs import stream
from airside.agents.spark_submit_states import last_words, resource_of
from airside.agents.spark_submit_submission import SPARK, SparkSubmitTask, body_of
from airside.model import (
    AgentError,
    Call,
    Connection,
    Fail,
    LogLine,
    LogLink,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Task,
    UsageError,
)
from airside.sdk.agent import AsyncAgent

_TOKEN = "spark_master_token"  # noqa: S105 - a name
_FEW = 3  # up to so many drivers are asked for one by one, more by the master's list
_TAIL = 64 * 1024  # bytes at the end of a log in which outputs and last words are looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkJob:
    """What finds a driver again, and where its outputs are. `outputs` are their kinds by name."""

    driver: str
    cluster: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    output_prefix: str = ""
    prints: bool = True


class SparkSubmitAgent(AsyncAgent[SparkJob]):
    """Submits applications to standalone Spark clusters over REST, watches and kills their drivers."""

    name = "spark_submit"
    task_types = ("spark_submit", SPARK)
    poll_interval = 5.0
    create_timeout = 21600.0  # a create waits for the drivers of others that wait for workers
    requires = MappingProxyType({"httpx2": "spark_submit"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which clusters there are. Tasks name them, never addresses.

        address: the REST server of the master of tasks that name no cluster, `http://spark-master:6066`.
        ui: that master's web interface, `http://spark-master:8080`.
        reverse_proxy: whether its workers are reached through its web interface (`spark.ui.reverseProxy`).
        ui_link: where people reach the web interface, for links. Default: `ui`.
        clusters: further clusters by name, with the same keys.
        timeout: seconds that one call may take.
        """

        address: str = ""
        ui: str = ""
        reverse_proxy: bool = False
        ui_link: str = ""
        clusters: dict[str, Cluster] = field(default_factory=dict)
        timeout: float = 25.0

        def __post_init__(self) -> None:
            if bool(self.address) != bool(self.ui):
                raise ValueError("address and ui belong together")
            if self.timeout <= 0:
                raise ValueError("timeout is a number of seconds above 0")

    async def open(self, options: Options) -> None:
        self._clusters = dict(options.clusters)
        if options.address:
            self._clusters[""] = Cluster(
                address=options.address, ui=options.ui, reverse_proxy=options.reverse_proxy, ui_link=options.ui_link
            )
        self._seen = {name: Seen() for name in self._clusters}
        self._http = HttpApi("Spark", timeout=options.timeout)

    async def close(self) -> None:
        await self._http.close()

    async def check_credentials(self) -> str:
        """Which credentials there are for tasks that bring none."""
        if not self._clusters:
            raise UsageError("no cluster is set: set address and ui")
        return f"the secret {_TOKEN}" if await bearer(_TOKEN, None) else "no token: the master must do without"

    async def probe(self) -> str:
        """Ask the master of tasks that name no cluster for its drivers."""
        if "" not in self._clusters:
            return "no cluster is set"
        await (await self._master("", None)).drivers()
        return f"Spark answers at {self._clusters[''].ui}"

    async def create(self, task: Task) -> SparkJob:
        job, master = await self._place(task)
        body = await asyncio.to_thread(body_of, task)
        driver = await master.find(task.key, body["mainClass"])
        return replace(job, driver=driver or await master.submit(body, task.key))

    async def find(self, task: Task, key: str) -> SparkJob | None:
        job, master = await self._place(task)
        body = await asyncio.to_thread(body_of, task)
        driver = await master.find(key, body["mainClass"])
        return None if driver is None else replace(job, driver=driver)

    async def get(self, job: SparkJob, call: Call) -> Resource:
        master = await self._master(job.cluster, call.connection)
        return await self._resource(job, await master.status(job.driver), master)

    async def get_many(self, jobs: Sequence[SparkJob], call: Call) -> Sequence[Resource | Exception]:
        """One list of the drivers of each cluster; only those that failed are asked for their reason."""
        if len(jobs) <= _FEW:
            return await asyncio.gather(*(self._one(job, None, call) for job in jobs))
        told: dict[str, Mapping[str, Driver] | Exception] = {}
        for name in {job.cluster for job in jobs}:
            try:
                told[name] = await (await self._master(name, call.connection)).drivers()
            except Exception as exc:  # noqa: BLE001 - the drivers of another cluster are not to suffer from it
                told[name] = exc
        return await asyncio.gather(*(self._one(job, told[job.cluster], call) for job in jobs))

    async def delete(self, job: SparkJob, call: Call) -> None:
        master = await self._master(job.cluster, call.connection)
        if not await master.kill(job.driver):
            await master.status(job.driver)  # `NotFound` unless it is over

    def links(self, job: SparkJob) -> Sequence[LogLink]:
        cluster = self._clusters.get(job.cluster)
        return () if cluster is None else (LogLink(cluster.ui_link or cluster.ui, "Spark master"),)

    async def logs(self, job: SparkJob, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        """What the driver writes to stdout and stderr, as it comes."""
        master = await self._master(job.cluster, call.connection)
        async with aclosing(stream(master, job.driver, after=after, limit=limit)) as lines:
            async for line in lines:
                yield line

    # -- what is known of drivers -----------------------------------------------------------------------------------

    async def _one(
        self, job: SparkJob, told: Mapping[str, Driver] | Exception | None, call: Call
    ) -> Resource | Exception:
        if isinstance(told, Exception):
            return told
        try:
            master = await self._master(job.cluster, call.connection)
            driver = told.get(job.driver) if told is not None else None
            if told is not None and driver is None:
                return NotFound(f"The master does not know {job.driver}.")
            if driver is None or driver.state in ("FAILED", "ERROR"):
                driver = await master.status(job.driver)
            return await self._resource(job, driver, master)
        except Exception as exc:  # noqa: BLE001 - the other drivers are not to suffer from it
            return exc

    async def _resource(self, job: SparkJob, driver: Driver, master: Master) -> Resource:
        resource = resource_of(driver.state, driver.message)
        page = await master.page(driver)
        links = [*self.links(job), *([LogLink(page, "Driver log")] if page else [])]
        info = {"driver": driver.id, "state": driver.state, "worker": driver.worker}
        resource = replace(resource, links=links, info={name: value for name, value in info.items() if value})
        if resource.phase is Phase.SUCCEEDED:
            said = said_in((await _tail(master, driver, "stdout")).splitlines()) if job.outputs and job.prints else None
            return with_printed(resource, job.outputs, said, job.output_prefix)
        if resource.code == "DriverFailed":
            words = await self._last_words(master, driver)
            resource = replace(resource, message=f"{resource.message}:\n{words}" if words else f"{resource.message}.")
        if resource.phase.is_failure and not job.prints and job.output_prefix:
            return replace(resource, outputs=OutputsAt(job.output_prefix))  # a function says in error.pb what it was
        return resource

    async def _last_words(self, master: Master, driver: Driver) -> str:
        """The ends of both logs: what Python writes to either comes out at stdout, Java's exceptions at stderr."""
        try:
            words = [last_words(await _tail(master, driver, name)) for name in ("stdout", "stderr")]
        except AgentError:  # the driver failed all the same
            return ""
        return "\n".join(filter(None, words))

    # -- which cluster ----------------------------------------------------------------------------------------------

    async def _place(self, task: Task) -> tuple[SparkJob, Master]:
        """The job of a task without its driver, and the master that it is for."""
        named = task.config.get("cluster") if task.type.name != SPARK else ""
        given = task.connection.configs.get("cluster", "") if task.connection is not None else ""
        cluster = named or given or ""
        if not isinstance(cluster, str) or cluster not in self._clusters:
            known = ", ".join(sorted(name for name in self._clusters if name)) or "none"
            raise Fail(f"There is no Spark cluster {cluster!r} in the service's settings (named: {known}).")
        job = SparkJob(
            driver="",
            cluster=cluster,
            outputs={name: kind_of(one) for name, one in task.interface.outputs.items()},
            output_prefix=task.output_prefix,
            prints=task.type.name != SPARK,
        )
        return job, await self._master(cluster, task.connection)

    async def _master(self, name: str, connection: Connection | None) -> Master:
        cluster = self._clusters.get(name)
        if cluster is None:
            raise Fail(f"There is no Spark cluster {name!r} in the service's settings any more.")
        return Master(self._http, cluster, self._seen[name], await bearer(_TOKEN, connection))


async def _tail(master: Master, driver: Driver, name: str) -> str:
    piece = await master.log(driver, name, begin=None, length=_TAIL)
    return piece.text if piece is not None else ""


__all__ = ("Cluster", "SparkJob", "SparkSubmitAgent", "SparkSubmitTask")
