"""An agent that needs semver 3: semver 2 has no `Version.is_compatible`."""

from __future__ import annotations

import semver

from airside import Fail, Phase, Resource, SyncAgent, Task


class FitsRelease(SyncAgent):
    """Tells whether a version may take the place of another."""

    task_type = "fits_release"

    def do(self, task: Task) -> Resource:
        try:
            old, new = (semver.Version.parse(task.inputs[name]) for name in ("old", "new"))
        except ValueError as exc:
            raise Fail(str(exc), code="NotAVersion") from exc
        return Resource(Phase.SUCCEEDED, outputs={"fits": old.is_compatible(new), "semver": semver.__version__})
