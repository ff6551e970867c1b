"""Where runs keep their files: one folder per run, one below it per attempt."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airside.model import UsageError
from airside.wire.storage import OBJECT_STORES

VARIABLE = "AIRSIDE_STATE"


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder of one run. As on a cluster, `inputs.pb` lies one level above the output prefixes.

    >>> RunDir("r1", "/tmp/state/runs/r1").output_prefix(0)
    '/tmp/state/runs/r1/0'
    """

    run_id: str
    root: str

    @property
    def inputs(self) -> str:
        """The URI of the serialised inputs."""
        return f"{self.root}/inputs.pb"

    @property
    def template(self) -> str:
        """The URI of the serialised template."""
        return f"{self.root}/task.pb"

    def make(self) -> None:
        """Make the folder, unless it is in an object store. Blocks. Raises `UsageError` if it cannot be written."""
        if not self.root.startswith("/"):
            return
        try:
            os.mkdir(self.root, 0o700)  # noqa: PTH102 - inputs may be private; a Path takes longer than the call
        except OSError:
            self._make_all()

    def _make_all(self) -> None:
        """The same for a folder that is there, or whose parents are not."""
        root = Path(self.root)
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as exc:
            raise UsageError(
                f"{root.parent} cannot be written ({exc.strerror}); set {VARIABLE} to another folder."
            ) from exc

    def output_prefix(self, attempt: int) -> str:
        """Where the outputs of an attempt go; attempts count from 0."""
        return f"{self.root}/{attempt}"


def state_dir(env: Mapping[str, str] = os.environ, *, named: str | None = None) -> Path:
    """The folder for everything that outlives a command: `named`, else AIRSIDE_STATE, else `airside` in the XDG state
    folder. Raises `UsageError` for `:memory:`, where nothing outlives a command.

    >>> str(state_dir({"XDG_STATE_HOME": "/var/state"}))
    '/var/state/airside'
    """
    named = env.get(VARIABLE) if named is None else named
    if named == ":memory:":
        raise UsageError(
            f"{named} keeps no job, so there must be a folder here: --state DIR or {VARIABLE}. "
            f"Only `airside run --state {named}` needs none."
        )
    if named:
        return Path(named).expanduser().absolute()
    home = env.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "airside"


def new_run(state: Path | None = None, outputs: str | None = None) -> RunDir:
    """The folder of a new run, whose id is random: under `outputs`, a path or a URI, or else in the state folder.

    It is not made yet. Raises `UsageError` for a URI of no store that is known.

    >>> new_run(outputs="s3://bucket/runs/").root.rpartition("/")[0]
    's3://bucket/runs'
    """
    run_id = secrets.token_hex(8)
    if outputs is None:
        return RunDir(run_id, f"{state or state_dir()}/runs/{run_id}")
    scheme, separator, rest = outputs.partition("://")
    if not separator:
        return RunDir(run_id, str(Path(outputs).expanduser().absolute() / run_id))
    if scheme.lower() not in OBJECT_STORES or not rest.strip("/"):
        known = ", ".join(f"{name}://BUCKET/PATH" for name in OBJECT_STORES)
        raise UsageError(f"{outputs} is no place for outputs: write a folder, or one of {known}.")
    return RunDir(run_id, f"{outputs.rstrip('/')}/{run_id}")
