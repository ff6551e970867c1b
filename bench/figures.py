"""The figures: for each, what is measured, against whom, and the bound that it must keep."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.calls import ATTEMPT, DONE, RUNNING, Call, create_call, get_call
from bench.errors import BenchError
from bench.load import rate
from bench.measurement import Bound, Measurement, in_turns
from bench.services import (
    AIRSIDE,
    BARE,
    ENVIRONMENT,
    FLYTEKIT,
    FLYTEKIT_BIGQUERY,
    HERE,
    OURS,
    THEIRS,
    Memory,
    Service,
    serving,
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds of processes, rounds of load, seconds of load or jobs per sample."""

    cold_rounds: int = 7
    load_rounds: int = 9
    load_seconds: float = 1.5
    cycles: int = 3000


FULL = Effort()
SHORT = Effort(cold_rounds=3, load_rounds=3, load_seconds=1.0, cycles=600)
RESUMED = 10_000

Figure = Callable[[str, Effort], list[Measurement]]


def import_time(figure: str, effort: Effort) -> list[Measurement]:
    """`import airside`, and what an agent's file imports from it, against `import flytekit`, each in a new process."""
    authors_file = (
        "from airside import AgentRegistry, AsyncAgent, Phase, Resource, SyncAgent, Task, TaskTemplate, kwtypes"
    )
    sides = {
        "import airside": partial(_import_seconds, OURS, "import airside"),
        "names of an agent's file": partial(_import_seconds, OURS, authors_file),
        "flytekit": partial(_import_seconds, THEIRS, "import flytekit"),
    }
    seconds = _after_warm_up(effort.cold_rounds, sides)
    flytekit = seconds.pop("flytekit")
    times = [
        Measurement(figure, what, "import flytekit", "s", ours, flytekit, Bound(0.15), best=True)
        for what, ours in seconds.items()
    ]
    loaded = [[_loaded(OURS, "import airside")], [_loaded(THEIRS, "import flytekit")]]
    what = "of grpc, protobuf, click loaded"
    return [*times, Measurement(figure, what, "import flytekit", "modules", *loaded, Bound(0.0))]


def serve_start(figure: str, effort: Effort) -> list[Measurement]:
    """From the start of the command to health SERVING, and the memory it then holds.

    Airside serves BigQuery's tasks as it comes, flytekit with a plugin: it is measured without it and with it. The
    bound on resident memory is for the same agent on both sides (decision 11); the bare servicer shows how much of it
    is Python's and gRPC's, and private memory leaves out the pages of shared libraries.
    """
    services = (AIRSIDE, FLYTEKIT, FLYTEKIT_BIGQUERY, BARE)
    memory: dict[str, list[Memory]] = {service.name: [] for service in services}

    def start(service: Service) -> float:
        with serving(service) as served:
            time.sleep(0.5)
            memory[service.name].append(served.memory())
            return served.start_seconds

    starts = {service.name: partial(start, service) for service in services}
    seconds = _after_warm_up(effort.cold_rounds, starts)
    resident = {name: [one.resident for one in samples[1:]] for name, samples in memory.items()}
    private = {name: [one.private for one in samples[1:]] for name, samples in memory.items()}
    plain, same = (FLYTEKIT.name, "pyflyte serve agent"), (FLYTEKIT_BIGQUERY.name, "the same with its BigQuery agent")
    rows = (
        ("start to SERVING", "s", seconds, plain, Bound(0.5)),
        ("start to SERVING", "s", seconds, same, Bound(0.5)),
        ("resident memory", "MiB", resident, plain, None),
        ("resident memory", "MiB", resident, same, Bound(0.5)),
        ("resident memory", "MiB", resident, (BARE.name, "bare servicer"), None),
        ("private memory", "MiB", private, plain, None),
        ("private memory", "MiB", private, same, None),
    )
    return [
        Measurement(figure, what, told, unit, sides[AIRSIDE.name], sides[rival], bound)
        for what, unit, sides, (rival, told), bound in rows
    ]


def run_quick(figure: str, effort: Effort) -> list[Measurement]:
    """`airside run` of a task whose agent answers at once, against `pyflyte run` of the same.

    The bound is for an asynchronous agent, which both must ask again until its job is over; a synchronous one is told
    for information.
    """
    measurements = []
    for task, bound in (("echo", Bound(0.2)), ("sync_echo", None)):
        ours = (str(OURS / "airside"), "run", "echo_airside.py", task, "--x", "3")
        theirs = (str(THEIRS / "pyflyte"), "run", "echo_flytekit.py", task, "--x", "3")
        sides = {"airside": partial(_command_seconds, ours), "flytekit": partial(_command_seconds, theirs)}
        seconds = _after_warm_up(effort.cold_rounds, sides)
        measurements.append(
            Measurement(figure, f"run {task}", "pyflyte run", "s", seconds["airside"], seconds["flytekit"], bound)
        )
    return measurements


@dataclass(frozen=True, slots=True)
class Load:
    """A call repeated with 128 in flight: how to make it for a port and a task type, and the bound per rival."""

    what: str
    call: Callable[[int, str], Call]
    task_type: str
    bounds: Mapping[str, Bound | None]


_BARE, _FLYTEKIT = "bare grpc.aio", "flytekit"
_GET = {_BARE: Bound(0.8, least=True), _FLYTEKIT: Bound(1.3, least=True)}
_CREATE = {_BARE: Bound(0.65, least=True), _FLYTEKIT: Bound(1.3, least=True)}
_DEF = {_BARE: Bound(0.45, least=True)}

GET = (
    Load("GetTask, async def, running", partial(get_call, x=RUNNING), "bench_echo", _GET),
    Load("GetTask, async def, succeeded", partial(get_call, x=DONE), "bench_echo", _GET),
)
CREATE = (
    Load("CreateTask, async def", create_call, "bench_echo", _CREATE),
    Load(
        "CreateTask, async def, one attempt repeated",
        partial(create_call, output_prefix=ATTEMPT),
        "bench_echo",
        {_BARE: None, _FLYTEKIT: None},
    ),
)
DEF = (
    Load("GetTask, def, running", partial(get_call, x=RUNNING), "bench_thread_echo", _DEF),
    Load("CreateTask, def", create_call, "bench_thread_echo", _DEF),
)


def load(loads: tuple[Load, ...], figure: str, effort: Effort) -> list[Measurement]:
    """Calls per second of our echo agent, of the bare servicer and of flytekit's service, by h2load."""
    services = {
        "airside": AIRSIDE.with_modules("echo_airside"),
        _BARE: BARE,
        _FLYTEKIT: FLYTEKIT.with_modules("echo_flytekit"),
    }
    measurements = []
    with ExitStack() as stack:
        ports = {name: stack.enter_context(serving(service)).port for name, service in services.items()}
        for one in loads:
            calls = {
                name: one.call(ports[name], one.task_type if name == "airside" else "bench_echo")
                for name in ("airside", *one.bounds)
            }
            sides = {name: partial(rate, ports[name], call, effort.load_seconds) for name, call in calls.items()}
            rates = in_turns(effort.load_rounds, sides)
            ours = rates.pop("airside")
            measurements += [
                Measurement(figure, one.what, rival, "calls/s", ours, theirs, one.bounds[rival])
                for rival, theirs in rates.items()
            ]
    return measurements


def engine_cycles(figure: str, effort: Effort) -> list[Measurement]:
    """Full life cycles a second: the engine, each commit on the disk or none, against a loop that only makes the calls.

    Engine and service are processes of their own. The figures beside "the bound" are not relative, so they mean
    something on two processors that nobody else uses. All files are deleted at the end: for minutes after files were
    deleted, ext4 makes new ones slowly.
    """
    with TemporaryDirectory() as folder, serving(AIRSIDE.with_modules("echo_twice")) as served:
        place = served.port, folder
        sides = {side: partial(_cycles, side, effort.cycles, *place) for side in ("file", "memory", "bare")}
        rates = in_turns(effort.load_rounds, sides)
        resumed = [_cycles_seconds("resume", RESUMED, *place) for _ in range(effort.load_rounds)]
    bound = "the bound"
    half = Bound(0.5, least=True)
    return [
        Measurement(figure, "cycles, commits on the disk", "bare loop", "jobs/s", rates["file"], rates["bare"], half),
        Measurement(figure, "cycles, in memory", "bare loop", "jobs/s", rates["memory"], rates["bare"], half),
        Measurement(
            figure,
            "cycles, commits on the disk",
            bound,
            "jobs/s",
            rates["file"],
            [500.0] * effort.load_rounds,
            Bound(1.0, least=True),
        ),
        Measurement(figure, f"resume of {RESUMED} jobs", bound, "s", resumed, [3.0] * effort.load_rounds, Bound(1.0)),
    ]


FIGURES: dict[str, Figure] = {
    "import": import_time,
    "serve": serve_start,
    "run": run_quick,
    "get": partial(load, GET),
    "create": partial(load, CREATE),
    "def": partial(load, DEF),
    "engine": engine_cycles,
}


def _after_warm_up(rounds: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """The first sample of each side compiles its modules and fills the page cache, and is not counted."""
    return {name: samples[1:] for name, samples in in_turns(rounds + 1, sides).items()}


def _cycles(side: str, count: int, port: int, folder: str) -> float:
    return count / _cycles_seconds(side, count, port, folder)


def _cycles_seconds(side: str, count: int, port: int, folder: str) -> float:
    return float(_output((sys.executable, "cycles.py", side, str(port), str(count), folder)))


def _import_seconds(environment: Path, statement: str) -> float:
    code = f"import time; begun = time.perf_counter()\n{statement}\nprint(time.perf_counter() - begun)"
    return float(_output((str(environment / "python"), "-c", code)))


def _loaded(environment: Path, statement: str) -> float:
    """How many of the libraries that an agent's file must not bring in are there after the statement."""
    code = f"import sys\n{statement}\nprint(sum(name in sys.modules for name in ('grpc', 'google.protobuf', 'click')))"
    return float(_output((str(environment / "python"), "-c", code)))


def _command_seconds(command: tuple[str, ...]) -> float:
    begun = time.perf_counter()
    _output(command)
    return time.perf_counter() - begun


def _output(command: tuple[str, ...]) -> str:
    done = subprocess.run(
        command, cwd=HERE, env=ENVIRONMENT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise BenchError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout
