"""From `airside new` to a tested agent of one's own: the package in a fresh environment, as a stranger has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def ran(*command: str | Path, cwd: Path) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new package, installed in an environment of its own."""
    folder = tmp_path_factory.mktemp("new")
    ran(BIN / "airside", "new", "my-warehouse", cwd=folder)
    package = folder / "my-warehouse"
    ran(BIN / "uv", "venv", "--quiet", "--python", sys.executable, ".venv", cwd=package)
    install = ("pip", "install", "--quiet", "--python", ".venv/bin/python")  # what `make install` does, sooner
    ran(BIN / "uv", *install, "--editable", str(ROOT), "--editable", ".[test]", cwd=package)
    return package


def test_it_passes_strict_types_lint_and_format(package: Path) -> None:
    ruff = (sys.executable, "-m", "ruff")
    select = ("--isolated", "--line-length=120", "--select=E,F,W,I,UP,B,RUF,SIM,PTH")
    ran(*ruff, "check", *select, ".", cwd=package)
    ran(*ruff, "format", "--isolated", "--line-length=120", "--check", ".", cwd=package)
    ran(sys.executable, "-m", "mypy", "--strict", f"--config-file={ROOT / 'pyproject.toml'}", "src", cwd=package)


def test_its_tests_pass(package: Path) -> None:
    said = ran(".venv/bin/python", "-m", "pytest", "-q", cwd=package)
    assert "13 passed" in said
    assert "warn" not in said.lower()
    assert "python -m pip install --quiet --editable '.[test]'\npython -m pytest" in ran(
        "make", "-n", "test", cwd=package
    )


def test_it_is_found_and_runs_a_task(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path / "state"))
    assert "entry point my_warehouse = my_warehouse:MyWarehouseAgent" in ran(".venv/bin/airside", "agents", cwd=package)
    service = subprocess.Popen(
        [".venv/bin/python", "-u", "tests/job_service.py", "0"], cwd=package, stdout=subprocess.PIPE, text=True
    )
    try:
        assert service.stdout is not None
        url = service.stdout.readline().split()[3].rstrip(";")
        (package / "airside.toml").write_text(f'[agents.my_warehouse]\nurl = "{url}"\n')
        run = (".venv/bin/airside", "run", "tasks.py", "shout", "--text", "hello", "--seconds", "0.1")
        assert ran(*run, cwd=package) == "result: HELLO\n"
    finally:
        service.kill()
        service.communicate()
