"""What a newcomer meets first: Ctrl-C cancels the jobs of the agents that the README and the tutorial show."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TASK = """
from airside import AgentRegistry, TaskTemplate, kwtypes

AgentRegistry.register(FileArrives())
wait = TaskTemplate(name="wait", task_type="file_arrives", inputs=kwtypes(path=str), outputs=kwtypes(size=int))
"""


def block(page: str, mark: str) -> str:
    found = re.search(rf"^```{re.escape(mark)}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no block {mark}"
    return found[1]


@pytest.mark.parametrize(
    ("page", "mark", "rest"),
    [("README.md", "python run", TASK), ("docs/tutorial/first-agent.md", "python file=first.py", "")],
    ids=["readme", "tutorial"],
)
def test_control_c_cancels_the_first_task_and_knows_that_it_is_over(
    page: str, mark: str, rest: str, tmp_path: Path
) -> None:
    (tmp_path / "first.py").write_text(block(page, mark) + rest)
    env = {**os.environ, "AIRSIDE_STATE": str(tmp_path / "state")}
    command = [sys.executable, "-m", "airside", "run", "first.py", "wait", "--path", "nowhere.txt"]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "waiting for nowhere.txt" in line:
                process.send_signal(signal.SIGINT)
                break
        said += process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "was cancelled" in said
    assert "not known to be over" not in said
