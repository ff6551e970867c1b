"""A job as `airside jobs show` draws it, and the log of an engine that nobody watches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airside import Phase, UsageError
from airside.cli.history import portrait, where_time_went
from airside.cli.logfile import LogFile
from airside.engine.database import Event, Record
from airside.engine.job import Job, Stage
from airside.model import LogLink, TaskType


def event(at: float, stage: Stage, phase: Phase = Phase.QUEUED, attempt: int = 0, **more: str) -> Event:
    return Event(job="a" * 16, at=1000.0 + at, attempt=attempt, stage=stage, phase=phase, **more)


STORY = [
    event(0, Stage.WAITING, note="submitted"),
    event(10, Stage.WAITING, Phase.WAITING_FOR_RESOURCES, message="The quota of 1 jobs at once is used up."),
    event(30, Stage.CREATING),
    event(31, Stage.WATCHING),
    event(32, Stage.WATCHING, Phase.RUNNING, message="3 of 7"),
    event(52, Stage.WAITING, attempt=1, note="attempt 1 failed (preempted); the next begins in 8.0 s"),
    event(60, Stage.CREATING, attempt=1),
    event(61, Stage.WATCHING, Phase.RUNNING, attempt=1),
    event(90, Stage.CANCELLING, Phase.RUNNING, attempt=1),
    event(95, Stage.CONFIRMING, Phase.RUNNING, attempt=1),
    event(100, Stage.OVER, Phase.ABORTED, attempt=1),
]
RECORD = Record(
    job=Job(
        id="a" * 16,
        queued_at=1000.0,
        finished_at=1100.0,
        stage=Stage.OVER,
        phase=Phase.ABORTED,
        attempt=1,
        retries=2,
        timeout=90.0,
        meta=b"x" * 300,
        links=(LogLink("https://example.org/1", "console"),),
    ),
    task="nap",
    task_type=TaskType("nap", 1),
    root="/state/runs/a",
    source={"endpoint": "localhost:8000"},
)


def test_one_sees_where_the_time_went() -> None:
    assert where_time_went(RECORD, STORY) == (
        "49s running (49%), 20s waiting for resources (20%), 18s waiting to begin (18%), 10s being cancelled (10%), "
        "2.0s being created (2%), 1.0s queued (1%)"
    )
    assert where_time_went(RECORD, []) == ""


def test_a_job_is_drawn() -> None:
    lines = list(portrait(RECORD, STORY))
    assert lines[0].startswith(f"{'a' * 16}  nap  ABORTED attempt 2")
    text = "\n".join(lines)
    for said in (
        "nap v1",
        "2 of at most 3",
        "for an attempt",
        "localhost:8000",
        "... (300 characters)",
        "console: http",
    ):
        assert said in text
    bars = [line for line in lines if "|" in line]
    assert len(bars) == len(STORY)
    drawn = [bar for line in bars if (bar := line.partition("|")[2].partition("|")[0].rstrip())]
    assert sum(bar.count("█") for bar in drawn) == pytest.approx(30, abs=2)
    begins = [len(bar) - len(bar.lstrip()) for bar in drawn]
    assert begins == sorted(begins)  # each begins where the last one ended


def test_a_log_begins_anew_when_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_text("of an earlier engine\n")
    log = LogFile(path, limit=200)
    for number in range(100):
        log.write(f"line {number} of what happened\n")
        log.flush()
    log.close()
    older = Path(f"{path}.1")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["engine.log", "engine.log.1"]
    assert path.stat().st_size <= older.stat().st_size < 230
    kept = (older.read_text() + path.read_text()).splitlines()
    assert kept == [f"line {number} of what happened" for number in range(100 - len(kept), 100)]
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        LogFile(tmp_path / "nowhere" / "engine.log")


def test_what_is_printed_goes_on_in_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    program = (
        "import os, sys\n"
        "from airside.cli.logfile import LogFile\n"
        "log = LogFile(sys.argv[1], limit=100)\n"
        "os.write(1, b'printed early\\n' * 10)\n"
        "log.write('logged\\n'); log.flush()\n"
        "os.write(1, b'printed late\\n'); os.write(2, b'on stderr\\n')\n"
    )
    with path.open("ab") as file:
        subprocess.run([sys.executable, "-c", program, str(path)], stdout=file, stderr=file, check=True, env=os.environ)
    assert Path(f"{path}.1").read_text() == "printed early\n" * 10
    assert path.read_text() == "logged\nprinted late\non stderr\n"
