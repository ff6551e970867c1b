"""One standalone Spark cluster: its master's REST server and web interface, and the logs at its workers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from airside.agents.http_answer import HttpAnswer
from airside.agents.http_api import HttpApi
from airside.agents.http_status import error_of_status
from airside.agents.spark_submit_submission import ATTEMPT, told_master
from airside.model import AgentError, Fail, NotFound, Retry

_HEAD = re.compile(r"==== Bytes (\d+)-(\d+) of (\d+) of [^\n]* ====\n")
_LAUNCHED = re.compile(r"^Launch Command: (.*)$", re.MULTILINE)
_KEY = re.compile(rf'"-D{re.escape(ATTEMPT)}=([0-9a-f]+)"')
_COMMAND = 256 * 1024  # bytes at the begin of a log in which the command of its driver is
_AT_ONCE = 8
_MOST_KEYS = 5000
_OVER = ("FINISHED", "KILLED", "FAILED", "ERROR")
_LONGEST = 500  # characters of what Spark says


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A standalone cluster.

    address: the master's REST server, `http://spark-master:6066`. ui: its web interface, `http://spark-master:8080`.
    reverse_proxy: whether workers are reached through the master's web interface (`spark.ui.reverseProxy`).
    ui_link: where people reach the web interface; empty: as `ui`.
    """

    address: str = ""
    ui: str = ""
    reverse_proxy: bool = False
    ui_link: str = ""

    def __post_init__(self) -> None:
        if bool(self.address) != bool(self.ui):
            raise ValueError("a cluster has an address and a ui")


@dataclass(slots=True)
class Seen:
    """What was learnt of a cluster: its name, the web interfaces of its workers, and the keys of its drivers by id.

    A driver that is not Airside's has an empty key; one that was not looked at has none.
    """

    url: str = ""
    uis: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Driver:
    """What the master tells of a driver. `worker` is the id of its worker, or empty."""

    id: str
    state: str
    worker: str = ""
    main_class: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a log: its text, from which byte to which, and how many there are."""

    text: str
    begin: int
    end: int
    total: int


class Master:
    """Calls to one cluster, with the headers of one identity."""

    def __init__(self, http: HttpApi, cluster: Cluster, seen: Seen, headers: Mapping[str, str]) -> None:
        self._http = http
        self._cluster = cluster
        self._rest = f"{cluster.address.rstrip('/')}/v1/submissions"
        self._seen = seen
        self._headers = headers

    async def submit(self, body: Mapping[str, Any], key: str) -> str:
        """The id of the new driver. It is `find` that learns the master's name, which the driver must be told."""
        told = await self._ask("POST", "/create", told_master(body, self._seen.url))
        driver = told.get("submissionId")
        if not told.get("success") or not isinstance(driver, str):
            raise Fail(f"Spark did not take the application: {_line(told.get('message'))}", code="InvalidRequest")
        self._seen.keys[driver] = key
        return driver

    async def status(self, driver: str) -> Driver:
        """The state of one driver."""
        told = await self._ask("GET", f"/status/{quote(driver, safe='')}", polling=True)
        if not told.get("success") or not told.get("driverState"):
            raise NotFound(f"The master does not know {driver}.")
        return Driver(
            driver, str(told["driverState"]), str(told.get("workerId") or ""), message=str(told.get("message") or "")
        )

    async def kill(self, driver: str) -> bool:
        """Kill a driver. False if it is over, or not known."""
        return bool((await self._ask("POST", f"/kill/{quote(driver, safe='')}")).get("success"))

    async def drivers(self) -> Mapping[str, Driver]:
        """Every driver that the master knows, by id."""
        url = f"{self._cluster.ui.rstrip('/')}/json/"
        answer = await self._http.ask("GET", url, headers=self._headers)
        if answer.status != 200:
            raise _error(answer, polling=True)
        told = self._http.read(answer)
        self._seen.url = str(told.get("url") or "")
        for worker in told.get("workers") or ():
            if self._cluster.reverse_proxy:
                self._seen.uis[worker["id"]] = f"{self._cluster.ui.rstrip('/')}/proxy/{quote(worker['id'], safe='')}"
            else:
                self._seen.uis[worker["id"]] = str(worker.get("webuiaddress") or "").rstrip("/")
        found = [_driver(one) for name in ("activedrivers", "completeddrivers") for one in told.get(name) or ()]
        drivers = {one.id: one for one in found}
        if len(self._seen.keys) > _MOST_KEYS:
            self._seen.keys = {name: key for name, key in self._seen.keys.items() if name in drivers}
        return drivers

    async def find(self, key: str, main_class: str) -> str | None:
        """The first driver of this key that is known; `Retry` while that cannot be told.

        The master does not tell the properties of drivers. They are in the command with which a driver was launched,
        the first line of its log. A driver that still waits for a worker has none.
        """
        drivers = [one for one in (await self.drivers()).values() if one.main_class == main_class]
        new = [
            one for one in drivers if one.id not in self._seen.keys and not (one.state in _OVER and not self._ui(one))
        ]
        slots = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._look_at(one, slots) for one in new))
        found = sorted(one.id for one in drivers if self._seen.keys.get(one.id) == key)
        if found:
            return found[0]
        unclear = [one.id for one in drivers if one.id not in self._seen.keys and one.state not in _OVER]
        if unclear:
            raise Retry(f"{len(unclear)} drivers wait for workers ahead of this one, and do not show whose they are.")
        return None

    async def log(self, driver: Driver, name: str, *, begin: int | None, length: int) -> Piece | None:
        """A part of a driver's stdout or stderr, the end of it if `begin` is None. None if it is not there."""
        ui = await self._ui_of(driver)
        if not ui:
            return None
        query = {"driverId": driver.id, "logType": name, "byteLength": length}
        if begin is not None:
            query["offset"] = begin
        headers = self._headers if self._cluster.reverse_proxy else {}  # the master's token is not the workers'
        answer = await self._http.ask("GET", f"{ui}/log/?{urlencode(query)}", headers=headers)
        if answer.status != 200:
            raise _error(answer, polling=True)
        head = _HEAD.match(answer.text or "")
        if head is None:
            raise Retry("A worker of Spark did not answer with a log.")
        text = (answer.text or "")[head.end() :]
        if text.startswith("Error: invalid log directory"):
            return None
        return Piece(text, int(head[1]), int(head[2]), int(head[3]))

    async def page(self, driver: Driver) -> str:
        """The page with a driver's log, or nothing while it has none."""
        try:
            ui = await self._ui_of(driver)
        except AgentError:  # its state is known all the same
            return ""
        return f"{ui}/logPage/?{urlencode({'driverId': driver.id, 'logType': 'stdout'})}" if ui else ""

    async def _ui_of(self, driver: Driver) -> str:
        if driver.worker and driver.worker not in self._seen.uis:
            await self.drivers()
            self._seen.uis.setdefault(driver.worker, "")  # a worker that is lost is not asked for again
        return self._ui(driver)

    def _ui(self, driver: Driver) -> str:
        return self._seen.uis.get(driver.worker, "")

    async def _look_at(self, driver: Driver, slots: asyncio.Semaphore) -> None:
        """Note whose a driver is, if that shows."""
        async with slots:
            piece = await self.log(driver, "stderr", begin=0, length=_COMMAND) if driver.worker else None
        command = _LAUNCHED.search(piece.text) if piece is not None else None
        if command is not None:
            key = _KEY.search(command[1])
            self._seen.keys[driver.id] = key[1] if key else ""

    async def _ask(self, method: str, path: str, body: Any = None, *, polling: bool = False) -> Mapping[str, Any]:
        answer = await self._http.ask(method, self._rest + path, headers=self._headers, body=body)
        if answer.status != 200:
            raise _error(answer, polling=polling)
        told = self._http.read(answer)
        if not isinstance(told, Mapping):
            raise Retry("Spark answered with something else than an object.")
        return told


def _driver(told: Mapping[str, Any]) -> Driver:
    worker = str(told.get("worker") or "")
    return Driver(
        str(told.get("id")),
        str(told.get("state")),
        "" if worker == "None" else worker,
        str(told.get("mainclass") or ""),
    )


def _line(message: Any) -> str:
    """What Spark says, without the trace that follows."""
    lines = [line for line in str(message or "").splitlines() if line.strip()]
    return lines[0].strip()[:_LONGEST] if lines else "no reason given"


def _error(answer: HttpAnswer, *, polling: bool = False) -> AgentError:
    words = re.search(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', answer.text or "")
    said = words[1].replace("\\n", "\n").replace("\\t", " ") if words else re.sub(r"<[^>]*>", " ", answer.text or "")
    text = f"Spark answered {answer.status}: {_line(said)}"
    return error_of_status(answer.status, text, answer.headers, polling=polling)
