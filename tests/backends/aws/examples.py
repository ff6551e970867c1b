"""The examples on the agents' pages, run as their readers run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_PAGES = Path(__file__).parents[3] / "docs" / "agents"
_AIRSIDE = str(Path(sys.executable).with_name("airside"))


def code_on(page: str, kind: str) -> str:
    """The one block of this kind on a page, such as "toml"."""
    (block,) = re.findall(rf"```{kind}\n(.*?)```", (_PAGES / f"{page}.md").read_text(), re.DOTALL)
    return str(block)


def run_example(page: str, folder: Path, *words: str, settings: str = "", **env: str) -> Any:
    """What `airside run --json WORDS` answers about the file on a page, with these settings in `airside.toml`."""
    (folder / "wf.py").write_text(code_on(page, r"python file=wf\.py"))
    (folder / "airside.toml").write_text(settings)
    argv, full = [_AIRSIDE, "run", "--json", *words], {**os.environ, **env, "AIRSIDE_STATE": str(folder / "state")}
    done = subprocess.run(argv, cwd=folder, env=full, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)
