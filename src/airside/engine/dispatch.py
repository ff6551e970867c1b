"""Which agents a job is for: those of a configuration that its submitter named, else those that the engine has."""

from __future__ import annotations

import asyncio
from typing import Any

from airside.engine.attempt import told
from airside.engine.database import Record
from airside.engine.driver import Driver
from airside.engine.drivers import AgentSource, Choose, MissingAgent
from airside.engine.routes import RoutedAgents


class Dispatch:
    """The drivers of jobs by what was said of each when it was submitted.

    A job with an `endpoint` goes there, and one with a `config` (a YAML file) where that says: the file is read, and
    its services are asked, when the first such job comes. `routes` is for all others; without it `chosen` is.
    """

    def __init__(
        self, chosen: AgentSource, routes: RoutedAgents | None = None, containers: Choose | None = None
    ) -> None:
        self._chosen = chosen
        self._routes = routes
        self._containers = containers
        self._tables: dict[str, RoutedAgents] = {}
        self._opening = asyncio.Lock()

    def key(self, record: Record) -> Any:
        """Jobs of the same key have the same driver."""
        config = record.source.get("config")
        source = self._tables.get(config) if config else self._source_of(record)
        return config, record.task_type, None if source is None else source.key(record)

    async def find(self, record: Record) -> Driver:
        """The driver of a job; one that only tells what is wrong if it has none."""
        config = record.source.get("config")
        if not config:
            return await self._source_of(record).find(record)
        try:
            async with self._opening:
                if config not in self._tables:
                    self._tables[config] = await self._opened(config)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is for those who wait for the job
            return Driver(MissingAgent(told(exc)), lost=asyncio.get_running_loop().time())
        return await self._tables[config].find(record)

    async def open(self) -> None:
        """Learn what the services of the engine's own routes serve."""
        await self._chosen.open()
        if self._routes is not None:
            await self._routes.open()

    async def close(self) -> None:
        """Close every agent that was opened."""
        for source in (self._chosen, *([self._routes] if self._routes else ()), *self._tables.values()):
            await source.close()

    def _source_of(self, record: Record) -> AgentSource:
        if self._routes is None or record.source.get("endpoint"):
            return self._chosen
        return self._routes

    async def _opened(self, config: str) -> RoutedAgents:
        from airside.engine.flyteconfig import load_config

        table = RoutedAgents(await asyncio.to_thread(load_config, config), containers=self._containers)
        await table.open()
        return table
