"""Write Flyte's message definitions to a descriptor set that protoc reads: `python descriptors.py FILE`.

They are taken from the installed package flyteidl (`pip install flyteidl`), so nothing is downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flyteidl.admin import agent_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet


def main() -> None:
    """Write `flyteidl/admin/agent.proto` and all that it imports, and print the names of Flyte's own files."""
    files = FileDescriptorSet()
    seen: set[str] = set()

    def add(descriptor: object) -> None:
        if descriptor.name in seen:
            return
        seen.add(descriptor.name)
        for dependency in descriptor.dependencies:
            add(dependency)
        descriptor.CopyToProto(files.file.add())

    add(agent_pb2.DESCRIPTOR)
    Path(sys.argv[1]).write_bytes(files.SerializeToString())
    print(*(one.name for one in files.file if one.name.startswith("flyteidl/")))


main()
