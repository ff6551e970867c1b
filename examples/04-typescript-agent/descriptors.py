"""Write Flyte's service definitions to a descriptor set that proto-loader reads: `python descriptors.py FILE`.

They are taken from the installed package flyteidl (`pip install flyteidl`), so nothing is downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flyteidl.service import agent_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

_ONLY_FOR_HTTP = "google/api/"  # annotations for a gateway that no engine uses


def main() -> None:
    """Write `flyteidl/service/agent.proto` and all that it imports."""
    files = FileDescriptorSet()
    seen: set[str] = set()

    def add(descriptor: object) -> None:
        if descriptor.name in seen or descriptor.name.startswith(_ONLY_FOR_HTTP):
            return
        seen.add(descriptor.name)
        for dependency in descriptor.dependencies:
            add(dependency)
        file = files.file.add()
        descriptor.CopyToProto(file)
        kept = [name for name in file.dependency if not name.startswith(_ONLY_FOR_HTTP)]
        del file.dependency[:]
        file.dependency.extend(kept)
        for service in file.service:
            for method in service.method:
                method.ClearField("options")

    add(agent_pb2.DESCRIPTOR)
    Path(sys.argv[1]).write_bytes(files.SerializeToString())


main()
