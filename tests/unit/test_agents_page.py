"""The page that says what each agent can do says what the code does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from airside.cli.agents import once_of
from airside.cli.readiness import is_built_in
from airside.cli.registry import load_registry
from airside.sdk.agent import SyncAgent
from airside.sdk.registry import Registration

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "agents" / "index.md"
METHODS = {"find": "find", "batch get": "get_many", "cancel": "delete", "logs": "logs", "metrics": "metrics"}


@pytest.fixture(scope="module")
def rows() -> Mapping[str, Mapping[str, str]]:
    """The matrix: the cells of each agent by the head of their column."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    heads, _, *rest = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert len({cells[0] for cells in rest}) == len(rest), "an agent has two rows"
    named = (dict(zip(heads, cells, strict=True)) for cells in rest)
    return {re.sub(r"\[([^\]]+)\]\(.*\)", r"\1", row["agent"]): row for row in named}


@pytest.fixture(scope="module")
def entries() -> Mapping[str, Registration]:
    return {entry.name: entry for entry in load_registry() if is_built_in(entry)}


def test_every_agent_has_its_row_and_no_row_is_without_one(
    rows: Mapping[str, Mapping[str, str]], entries: Mapping[str, Registration]
) -> None:
    assert list(rows) == sorted(entries)


def test_the_page_says_what_each_agent_can_do(
    rows: Mapping[str, Mapping[str, str]], entries: Mapping[str, Registration]
) -> None:
    said = {name: {head: row[head] for head in ("task types", *METHODS)} for name, row in rows.items()}
    done = {
        agent: {
            "task types": ", ".join(f"`{task_type}`" for task_type in entry.task_types),
            **{head: "yes" if callable(getattr(entry.agent, name, None)) else "no" for head, name in METHODS.items()},
        }
        for agent, entry in entries.items()
    }
    assert said == done


def test_how_an_agent_keeps_to_one_job_is_proven_by_a_test(
    rows: Mapping[str, Mapping[str, str]], entries: Mapping[str, Registration]
) -> None:
    for name, row in rows.items():
        cell, agent = row["one job per attempt"], entries[name].agent
        if isinstance(agent, SyncAgent):
            assert cell == "sync", name
            continue
        how, _, proof = cell.partition(", ")
        assert how == once_of(agent), name
        link = re.fullmatch(r'\[proof\]\((.*) "(\w+)"\)', proof)
        assert link is not None, name
        assert f"def {link[2]}(" in (PAGE.parent / link[1]).read_text(), f"{name}: its proof is not there"


def test_each_page_has_every_option_and_what_else_a_page_has(
    rows: Mapping[str, Mapping[str, str]], entries: Mapping[str, Registration]
) -> None:
    for name, row in rows.items():
        link = re.fullmatch(r"\[[^\]]+\]\((\S+)\)", row["agent"])
        if link is None:  # told elsewhere
            continue
        page, options = (PAGE.parent / link[1]).read_text(), getattr(entries[name].agent, "Options", None)
        assert options is not None, name
        told = [field.name for field in fields(options)]
        assert [option for option in told if f"`{option}`" not in page] == [], name
        parts = ("```python", "east permissions\n", "\n## Limits\n", "ested\n")
        assert [part for part in parts if part not in page] == [], name


def test_what_an_agent_was_tested_against_is_what_its_tests_install(rows: Mapping[str, Mapping[str, str]]) -> None:
    files = [ROOT / "pyproject.toml", *(ROOT / "tests").rglob("*.py"), *(ROOT / "tests").rglob("*.sh")]
    installed = "\n".join(file.read_text() for file in files if file != Path(__file__))
    told = "\n".join(row["tested against"] for row in rows.values())
    for name in set(re.findall(r"([\w-]+)(?: \(|, an )emulator", told)):
        assert re.search(rf'"{name}(\[[\w,]+\])?[=>~<]=', installed), f"{name} is not what is installed"
    for program, version in set(re.findall(r"a real (\w+) ([\d.]+)", told)):
        named = rf"{program}.{{0,20}}[=v ]{re.escape(version)}"
        assert re.search(named, installed, re.IGNORECASE) or program in _OF_DEBIAN, f"{program} {version}"


_OF_DEBIAN = ("Podman", "PostgreSQL", "Slurm")  # of the version that the machine has


def test_nothing_is_left_out(rows: Mapping[str, Mapping[str, str]]) -> None:
    assert all(cell for row in rows.values() for cell in row.values())
