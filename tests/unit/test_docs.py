"""The documentation is true as far as a machine can tell: links lead somewhere, examples run, copies match.

Fenced blocks take these marks after their language:
- `python run`        runs; blocks of one page share their names
- `python file=NAME`  is written to NAME in the page's folder
- `console run`       each `$ command` runs there; the lines below it are its output, `...` stands for anything
- `console fails`     the same, and the command must not succeed
"""

from __future__ import annotations

import ast
import doctest
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import click
import pytest
import yaml

import airside as public
from airside import Phase
from airside.cli.exits import Exit
from airside.cli.main import COMMANDS, airside
from airside.cli.serve import ServeOptions
from airside.sdk.agent import AgentSettings
from airside.server.handle import MAX_BYTES
from airside.wire import limits
from airside.wire.status import TABLE

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(?P<mark>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (?P<text>.+)$", re.MULTILINE)
MACHINE_PATHS = re.compile(r"(?<![\w.])(/work/|/root\b|/tmp/|/home/(?!airside\b)|/Users/)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page: its language, its mark, its text."""

    page: Path
    language: str
    mark: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    for match in FENCE.finditer(page.read_text()):
        language, _, mark = match["mark"].partition(" ")
        yield Block(page, language, mark.strip(), match["text"])


def links(page: Path) -> list[str]:
    prose = re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text()))
    return [match["target"] for match in LINK.finditer(prose)]


def anchors(page: Path) -> set[str]:
    texts = (match["text"] for match in HEADING.finditer(FENCE.sub("", page.read_text())))
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in texts}


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def ids(block: Block) -> str:
    return f"{name_of(block.page)}-{block.text.splitlines()[0][:40]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(there), f"{target}: no such heading"


def test_every_page_is_found_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached = {index}
    ahead = [index]
    while ahead:
        page = ahead.pop()
        nearby = {(page.parent / target.partition("#")[0]).resolve() for target in links(page)}
        found = {path for path in nearby if path.suffix == ".md" and path.exists()} - reached
        reached |= found
        ahead += found
    assert sorted(name_of(page) for page in set(PAGES) - reached if name_of(page).startswith("docs/")) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_path_of_one_machine(page: Path) -> None:
    assert MACHINE_PATHS.findall(page.read_text()) == []


@pytest.mark.parametrize("block", all_blocks("python"), ids=ids)
def test_python_parses(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", all_blocks("toml", "yaml"), ids=ids)
def test_settings_parse(block: Block) -> None:
    if block.language == "toml":
        assert tomllib.loads(block.text) is not None
        return
    assert list(yaml.safe_load_all(block.text))


def test_the_bounds_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "howto" / "secure.md").read_text()
    kib, mib = limits.KIB, limits.MIB
    for row in (
        f"| a request | {limits.REQUEST // mib} MiB,",
        f"has offloaded | {limits.FILE // mib} MiB, {limits.OFFLOADED // mib} MiB |",
        f"| outputs in an answer | {limits.OUTPUTS / mib:g} MiB;",
        f"| a handle | {MAX_BYTES // kib} KiB |",
        f"a line of a log | {limits.MESSAGE // kib} KiB, {limits.DETAILS // kib} KiB, {limits.LOG_LINE // kib} KiB;",
        f"| links, `info` | {limits.LINKS_COUNT} of {limits.LINK // kib} KiB, {limits.INFO // kib} KiB |",
        f"| calls at once | `max_calls`, {ServeOptions().max_calls:,},",
        f"`max_answer_bytes`, {ServeOptions().max_answer_bytes // mib} MiB,",
    ):
        assert row in page, row


COPIES = [block for block in all_blocks("yaml", "dockerfile") if block.text.startswith("# deploy/")]


@pytest.mark.parametrize("block", COPIES, ids=ids)
def test_a_copied_file_is_the_file(block: Block) -> None:
    first, _, copy = block.text.partition("\n")
    assert copy == (ROOT / first.removeprefix("# ")).read_text()


def test_files_are_copied_into_the_docs() -> None:
    assert COPIES


# --- examples --------------------------------------------------------------------------------------------------------


def is_runnable(block: Block) -> bool:
    return block.mark in {"run", "fails"} or block.mark.startswith("file=")


RUNNABLE = [page for page in PAGES if any(is_runnable(block) for block in blocks(page))]


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("__page__")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    with patch.dict(os.environ):  # what a block sets there is undone
        for block in filter(is_runnable, blocks(page)):
            if block.mark.startswith("file="):
                path = tmp_path / block.mark.removeprefix("file=")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            elif block.language == "python":
                exec(compile(block.text, name_of(page), "exec", dont_inherit=True), vars(module))  # noqa: S102 - our own documentation
            else:
                try_commands(block, tmp_path)


def try_commands(block: Block, cwd: Path) -> None:
    for command, expected in commands(block.text):
        code, got = run(command, cwd)
        assert (code != 0) == (block.mark == "fails"), f"$ {command}\nexited with {code}:\n{got}"
        assert matches(expected, got), f"$ {command}\nexpected:\n{expected}\ngot:\n{got}"


def commands(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        while command.endswith("\\"):
            more, _, expected = expected.partition("\n")
            command = f"{command[:-1]}{more.strip()}"
        yield command, expected


def run(command: str, cwd: Path) -> tuple[int, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1", "XDG_STATE_HOME": str(cwd / ".state")}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=env,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


def matches(expected: str, got: str) -> bool:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return not expected.strip() or doctest.OutputChecker().check_output(expected.strip(), got.strip(), flags)


def test_the_first_agent_is_run() -> None:
    assert ROOT / "docs" / "tutorial" / "first-agent.md" in RUNNABLE


# --- the architecture page -------------------------------------------------------------------------------------------


def test_the_architecture_page_names_files_that_exist() -> None:
    named = re.findall(r"`([\w/]+\.py|[a-z]+/)`", (ROOT / "ARCHITECTURE.md").read_text())
    assert len(named) > 8
    assert [path for path in named if not (ROOT / "src" / "airside" / path).exists()] == []


def test_the_architecture_page_gives_the_layers_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    line = "`" + "` > `".join(layer.replace("airside.", "") for layer in layers) + "`"
    assert line in " ".join((ROOT / "ARCHITECTURE.md").read_text().split())


# --- reference -------------------------------------------------------------------------------------------------------


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the tables under a heading, without backticks."""
    text = (ROOT / "docs" / "reference" / page).read_text()
    section = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_setting_of_serve_is_listed_with_its_default() -> None:
    listed = {key: default for key, default, *_ in rows("settings.md", "`[serve]`")}
    assert listed.keys() == {field.name for field in fields(ServeOptions)}
    for field in fields(ServeOptions):
        if field.default not in ("", None):
            assert listed[field.name] == shown(field.default)


def test_every_setting_of_an_agent_is_listed_with_its_default() -> None:
    listed = {key: default for key, default, *_ in rows("settings.md", "On an agent class")}
    for field in fields(AgentSettings):
        assert listed[field.name] == shown(field.default)


def shown(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default).lower()


def test_the_table_of_errors_is_the_one_that_the_service_uses() -> None:
    listed = [row for row in rows("errors.md", "On the wire") if len(row) == 4]
    assert listed == [[row.error.__name__, row.status.name, row.code, row.phase.name] for row in TABLE]


def test_exit_codes() -> None:
    assert [int(code) for code, _ in rows("errors.md", "Exit codes")] == [code.value for code in Exit]


def test_every_phase_is_explained() -> None:
    text = (ROOT / "docs" / "explain" / "phases.md").read_text()
    assert {f"`{phase.name}` {phase.value}" for phase in Phase if phase} <= set(re.findall(r"`[A-Z_]+` \d", text))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_listed_with_its_flags(name: str) -> None:
    command = airside.get_command(click.Context(airside), name)
    assert command is not None
    known = {flag for param in command.params for flag in param.opts if flag.startswith("--")}
    listed = {flag for first, *_ in rows("cli.md", f"airside {name}") for flag in re.findall(r"--[\w-]+", first)}
    assert listed == known


def test_no_command_is_listed_that_is_not_there() -> None:
    headings = re.findall(r"^## airside (\w+)$", (ROOT / "docs" / "reference" / "cli.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(set(public.__all__) - {"AgentRegistry"}))
def test_every_public_name_has_an_example_and_is_in_the_documentation(name: str) -> None:
    example = inspect.getdoc(getattr(public, name)) or ""
    assert ">>> " in example
    assert any(re.search(rf"\b{name}\b", page.read_text()) for page in PAGES)
