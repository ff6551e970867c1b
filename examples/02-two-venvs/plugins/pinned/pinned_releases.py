"""An agent that needs semver 2: `VersionInfo.isvalid` is gone from semver 3."""

from __future__ import annotations

import semver

from airside import Phase, Resource, SyncAgent, Task


class IsRelease(SyncAgent):
    """Tells whether a text is a version number."""

    task_type = "is_release"

    def do(self, task: Task) -> Resource:
        valid = semver.VersionInfo.isvalid(task.inputs["text"])
        return Resource(Phase.SUCCEEDED, outputs={"valid": valid, "semver": semver.__version__})
