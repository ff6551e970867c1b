"""The service is killed at random instants, in the middle of creates, with deadlines that pass and clients that vanish.

Two replicas, and an engine that repeats a create whose answer it never saw, or begins the next attempt. Counted at the
backend, apart for agents with a native token, with `find`, and with neither.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import chain

import grpc.aio
import pytest

from airside.model import Phase, TaskType
from airside.model.task import attempt_key
from airside.server.handle import Kind, unseal
from airside.testing.client import RawClient, task_template
from airside.testing.faulty import BackendJob, FaultyBackend
from airside.testing.replicas import Replica
from airside.wire.template import template_id

StartReplicas = Callable[..., Awaitable[list[Replica]]]
Figures = Callable[..., None]
TYPES = ("faulty_token", "faulty_find", "faulty_bare")
ENDLESS = 100_000.0
LOOKS_WITHIN = 2.0
"""Seconds in which a process has its job's id, has looked whose job is first, and has cancelled its own if need be."""
RECONNECT = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]


@dataclass
class Story:
    """One task: the handles of its attempts that reached the engine, by attempt."""

    task_type: str
    name: str
    handles: dict[int, list[bytes]] = field(default_factory=dict)
    attempt: int = 1  # as Flyte 2 counts
    asked: Counter[int] = field(default_factory=Counter)  # how often each attempt's create was sent

    def prefix(self, attempt: int) -> str:
        return f"s3://bucket/{self.name}/n0/data/{attempt}"

    def key(self, attempt: int) -> str:
        named = TaskType(self.task_type)
        return attempt_key(named.name, named.version, template_id(task_template(named.name)), self.prefix(attempt))


class Engine:
    """Creates endless jobs at two replicas that die under it."""

    def __init__(self, replicas: list[Replica], chance: random.Random) -> None:
        self._clients = [
            RawClient(grpc.aio.insecure_channel(replica.address, options=RECONNECT)) for replica in replicas
        ]
        self._chance = chance
        self.lost = self.creates = self.vanished = self.given_up = 0
        self.is_calm = False

    async def calm_down(self) -> None:
        """From now on nobody dies, and every poll must be answered."""
        for client in self._clients:
            await client.channel.channel_ready()
        self.is_calm = True

    async def close(self) -> None:
        for client in self._clients:
            await client.channel.close(None)

    async def tell(self, story: Story) -> None:
        """Create until an attempt's handle has come. An error begins the next attempt; only an engine that died itself
        asks for the same attempt again, once it is back."""
        while story.attempt not in story.handles:
            answered = await self.create(story)
            if answered is None:
                await asyncio.sleep(1.0)
            elif not answered:
                story.attempt += 1
        for _ in range(self._chance.choice((0, 0, 1))):
            await asyncio.sleep(1.0)
            await self.create(story)  # the engine died, has lost the answer, and asks again

    async def create(self, story: Story) -> bool | None:
        """True if a handle came, False if an error did, None if the engine was gone by then."""
        attempt, client = story.attempt, self._pick()
        template = task_template(story.task_type)
        request = client.create_request(template=template, prefix=story.prefix(attempt), attempt=attempt)
        deadline = self._chance.choice((0.05, 0.3, 3.0))
        vanish = self._chance.choice((None, None, 0.02, 0.15))
        self.creates += 1
        story.asked[attempt] += 1
        call = asyncio.create_task(client.call("CreateTask", request, timeout=deadline))
        try:
            answer = await asyncio.wait_for(call, vanish)
        except TimeoutError:
            self.vanished += 1
            return None
        except grpc.aio.AioRpcError:
            self.lost += 1
            await asyncio.sleep(self._chance.uniform(0.2, 0.6))
        else:
            story.handles.setdefault(attempt, []).append(bytes(answer.resource_meta))
            return True
        return False

    def _pick(self) -> RawClient:
        """One that is there, as round_robin picks, if there is one."""
        states = [client.channel.get_state(try_to_connect=True) for client in self._clients]
        ready = grpc.ChannelConnectivity.READY
        there = [client for client, state in zip(self._clients, states, strict=True) if state is ready]
        return self._chance.choice(there or self._clients)

    async def poll(self, stories: list[Story]) -> None:
        """Ask both replicas for every task, by as many workers as Flyte's engine has; a failed one is tried anew."""
        left = iter(stories)

        async def work() -> None:
            for story in left:
                phases = {await self.ask(client, story) for client in self._clients}
                if Phase.RETRYABLE_FAILED in phases:
                    self.given_up += 1
                    story.attempt += 1
                    await self.tell(story)

        await asyncio.gather(*(work() for _ in range(10)))

    async def ask(self, client: RawClient, story: Story) -> Phase | None:
        request = client.job_request("GetTaskRequest", story.handles[story.attempt][0], story.task_type)
        try:
            return Phase((await client.call("GetTask", request)).resource.phase)
        except grpc.aio.AioRpcError as exc:
            if self.is_calm or exc.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None  # it has just been killed

    async def poll_meanwhile(self, stories: list[Story], backend: FaultyBackend, done: asyncio.Event) -> None:
        """Ask every second for the tasks that have a handle but no job yet."""
        while not done.is_set():
            await self.poll([one for one in lost_of(stories, backend) if one.attempt in one.handles])
            await asyncio.sleep(1.0)


async def killer(replicas: list[Replica], kills: int, chance: random.Random, done: asyncio.Event) -> None:
    """Kill one replica or the other at random instants; the other one serves meanwhile."""
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(0.02, 0.4))
        victim = chance.choice(replicas)
        await victim.kill()
        await victim.start()
    done.set()


def listed_by(replica: Replica) -> set[str]:
    """The keys of the jobs that the service has said may be running. Its page dies with it, its log does not."""
    lines = map(json.loads, replica.log_file.read_text().splitlines())
    keys = (
        [line["key"]] if line["message"].startswith("a job may be running") else line.get("keys", ()) for line in lines
    )
    return set(chain.from_iterable(keys))


def held(story: Story, job: BackendJob) -> bool:
    """True if the engine has a handle of the story's last attempt that leads to this job."""
    for handle in map(unseal, story.handles.get(story.attempt, [])):
        if handle.kind is Kind.JOB and json.loads(handle.meta)["id"] == job.id:
            return True
        if handle.kind is Kind.PENDING and handle.key == job.key:
            return True
    return False


def died_at_it(job: BackendJob, deaths: dict[int, float]) -> bool:
    """True if the process that made a job was killed before it could look for another one and cancel this."""
    return deaths.get(job.maker, float("inf")) - job.made_at < LOOKS_WITHIN


def lost_of(stories: list[Story], backend: FaultyBackend) -> list[Story]:
    """The tasks without a live job that they have a handle of."""
    live: dict[str, list[BackendJob]] = {}
    for job in backend.live():
        live.setdefault(job.key, []).append(job)
    return [one for one in stories if not any(held(one, job) for job in live.get(one.key(one.attempt), ()))]


@pytest.mark.parametrize(
    ("kills", "settle"),
    [pytest.param(10, 3.0, id="short"), pytest.param(500, 75.0, id="full", marks=pytest.mark.faults)],
)
async def test_killed_at_random_instants(replicas: StartReplicas, figures: Figures, kills: int, settle: float) -> None:
    chance = random.Random(kills)  # noqa: S311 - repeatable
    stories: list[Story] = []
    async with FaultyBackend(latency=(0.01, 0.3), seed=3) as backend:
        pair = await replicas(backend.url, count=2, seconds=ENDLESS)
        engine, done = Engine(pair, chance), asyncio.Event()
        killing = asyncio.create_task(killer(pair, kills, chance, done))

        async def customer(number: int) -> None:
            while not done.is_set():
                story = Story(TYPES[number % 3], f"story{len(stories)}")
                stories.append(story)
                await engine.tell(story)

        polling = engine.poll_meanwhile(stories, backend, done)
        await asyncio.gather(*(customer(number) for number in range(12)), killing, polling)
        ended, asked = time.monotonic(), stories
        await engine.calm_down()
        while asked or time.monotonic() < ended + settle:
            assert time.monotonic() < ended + settle + 60.0, asked
            await engine.poll(asked)
            await asyncio.sleep(1.0)
            asked = lost_of(stories, backend)
        listed = set().union(*map(listed_by, pair))
        await engine.close()
        deaths = pair[0].deaths | pair[1].deaths
        report(figures, stories, backend, listed, engine, deaths, is_settled=settle > 60)


def report(
    figures: Figures,
    stories: list[Story],
    backend: FaultyBackend,
    listed: set[str],
    engine: Engine,
    deaths: dict[int, float],
    *,
    is_settled: bool,
) -> None:
    """Print the figures of each kind of agent, and check what was promised."""
    figures(
        "killed",
        times=len(deaths),
        tasks=len(stories),
        creates=engine.creates,
        lost=engine.lost,
        vanished=engine.vanished,
        failed_after_create_timeout=engine.given_up,
    )
    for task_type in TYPES:
        mine = [one for one in stories if one.task_type == task_type]
        keys = {one.key(attempt): one for one in mine for attempt in range(1, one.attempt + 1)}
        jobs = [job for job in backend.jobs.values() if job.key in keys]
        made = Counter(job.key for job in jobs)
        live = [job for job in jobs if job.is_live]
        live_of = Counter(job.key for job in live)
        twice = [key for key, count in live_of.items() if count > 1]
        lost = lost_of(mine, backend)
        orphans = [job for job in live if not held(keys[job.key], job)]
        figures(
            task_type,
            tasks=len(mine),
            jobs=len(jobs),
            most_jobs_of_one_attempt=max(made.values(), default=0),
            attempts_with_two_live_jobs=len(twice),
            tasks_whose_job_was_lost_or_deleted=len(lost),
            live_jobs_of_nobody=len(orphans),
            of_them_listed=sum(job.key in listed for job in orphans),
        )
        assert not lost, lost
        if task_type == "faulty_token":
            assert max(made.values(), default=1) == 1
        if task_type == "faulty_find":
            # Known: a process makes the job while another does so too, and dies before it looks whose was first.
            alone = [job for job in orphans if job.key in twice and not died_at_it(job, deaths)]
            assert not alone, alone
            assert all(sum(job.key == key for job in orphans) < live_of[key] for key in twice)
        if task_type == "faulty_bare":  # one in each process that was asked: the service repeats no create by itself
            assert not [one for one in mine for n in one.asked if made[one.key(n)] > one.asked[n]]
        unlisted = [job for job in orphans if job.key not in listed]
        if is_settled or task_type == "faulty_bare":
            assert not unlisted, unlisted
