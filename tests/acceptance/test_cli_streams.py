"""Commands whose standard streams are closed, full or gone, and whose disk is full: a sentence, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

AIRSIDE = str(Path(sys.executable).with_name("airside"))
TASKS = """
from airside import TaskTemplate, kwtypes
hi = TaskTemplate(name="hi", task_type="echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path / "state"))
    return tmp_path


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", "-c", line.replace("airside", AIRSIDE, 1)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("airside run tasks.py hi --x 1 >&-", 0, "", "hi succeeded"),
        ("airside agents >&-", 0, "", ""),
        ("airside run tasks.py hi --x 1 2>&-", 0, "x: 1\n", ""),
        ("airside run tasks.py hi --inputs-file - <&-", 2, "", "Inputs file - is not JSON"),
        ("airside run tasks.py hi --x 1 >/dev/full", 1, "", "Error: The output cannot be written: No space left"),
        ("airside agents --json >/dev/full", 1, "", "Error: The output cannot be written: No space left"),
        ("airside --help >/dev/full", 1, "", "Error: The output cannot be written: No space left"),
    ],
)
def test_streams_that_are_closed_or_full(line: str, code: int, out: str, err: str) -> None:
    done = shell(line)
    assert (done.returncode, done.stdout) == (code, out), done.stderr
    assert err in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error_worth_a_word() -> None:
    done = shell("airside agents --json | true; exit ${PIPESTATUS[0]}")
    assert done.stderr == ""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small file system")
def test_new_on_a_full_disk_leaves_nothing(folder: Path) -> None:
    place = folder / "tiny"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        done = shell(f"airside new my-agents --directory {place}/my-agents")
        assert (done.returncode, list(place.iterdir())) == (2, [])
        assert done.stderr == f"Error: {place}/my-agents cannot be written: No space left on device.\n"
    finally:
        subprocess.run(["umount", place], check=True)
