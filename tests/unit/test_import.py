"""What `import airside` brings: every promised name, and nobody else's library."""

from __future__ import annotations

import subprocess
import sys

import pytest

import airside

# A new process, since pytest's own plugins have long imported what must not be there.
_THIRD_PARTY = """
import sys
before = set(sys.modules)
{statement}
roots = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(roots - sys.stdlib_module_names - {{"airside"}}))
"""


_AUTHORS_FILE = (
    "from airside import AgentRegistry, AsyncAgent, Fail, Phase, Resource, SyncAgent, Task, TaskTemplate, kwtypes"
)


@pytest.mark.parametrize("statement", ["import airside", _AUTHORS_FILE])
def test_import_loads_no_third_party_library(statement: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _THIRD_PARTY.format(statement=statement)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", airside.__all__)
def test_every_promised_name_is_there(name: str) -> None:
    assert getattr(airside, name) is not None
    assert name in dir(airside)


def test_unknown_name_is_an_attribute_error() -> None:
    name = "nothing_of_ours"
    with pytest.raises(AttributeError, match=name):
        getattr(airside, name)
