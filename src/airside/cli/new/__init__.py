"""`airside new NAME`: a complete, tested, installable agent package to start from.

The files lie in `package/`, each with the ending `.tmpl` so that no tool takes them for Airside's own.
"""

from __future__ import annotations

import keyword
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from airside import __version__
from airside.model import UsageError

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_PLACE = re.compile(r"\{\{(\w+)\}\}")


@click.command()
@click.argument("name")
@click.option("--directory", "-d", metavar="DIR", help="Write the package here instead of ./NAME.")
def new(name: str, directory: str | None) -> None:
    """Write a complete, tested, installable agent package called NAME.

    It holds one agent that runs jobs on a small HTTP job service, that service, tests against it over real gRPC,
    an example task, a README and a Makefile. Replace the calls to the service by calls to yours. A folder that is
    not empty is never written to.

    \b
    Example:
      airside new my-warehouse

    Exit codes: 0 written, 2 NAME or the folder will not do.
    """
    places = places_for(name)
    target = Path(directory or name)
    write_package(target, places)
    click.echo(f"Wrote {target}/, an agent for the task type {places['module']!r}.")
    click.echo(f"Next: cd {target} && pip install --editable '.[test]' && pytest")
    click.echo("Then read its README.md: how to run a task, to serve the agent, and what to change first.")


def places_for(name: str) -> dict[str, str]:
    """What is filled into the files for a package of this name. Raises `UsageError` for a name that will not do.

    >>> places_for("my-warehouse")["class"]
    'MyWarehouseAgent'
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a package: use lower-case letters, digits and single dashes, "
            "beginning with a letter, as in my-warehouse."
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in ("airside", "tests", "tasks"):
        raise UsageError(f"{name!r} will not do as a package name: Python has a module {module!r} already.")
    words = [word.capitalize() for word in module.split("_")]
    agent_class = "".join(words if words[-1] == "Agent" else [*words, "Agent"])
    return {"name": name.replace("_", "-"), "module": module, "class": agent_class, "version": __version__}


def write_package(target: Path, places: Mapping[str, str]) -> None:
    """Write the package as a whole or not at all. Raises `UsageError` if `target` is there and not empty."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already; choose another name, or another folder with --directory.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as exc:
        raise UsageError(f"{target} cannot be written: {exc.strerror}.") from None
    try:
        _fill(files(__package__) / "package", draft, places)
        draft.chmod(0o755)
        draft.replace(target)
    except BaseException as exc:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(exc, OSError):
            raise UsageError(f"{target} cannot be written: {exc.strerror}.") from None
        raise


def _fill(source: Traversable, target: Path, places: Mapping[str, str]) -> None:
    for entry in source.iterdir():
        name = entry.name.removesuffix(".tmpl").replace("MODULE", places["module"])
        if entry.is_dir():
            (target / name).mkdir()
            _fill(entry, target / name, places)
        else:
            text = entry.read_text(encoding="utf-8")
            (target / name).write_text(_PLACE.sub(lambda match: places[match[1]], text), encoding="utf-8")
