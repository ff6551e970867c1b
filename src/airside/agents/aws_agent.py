"""What agents of AWS have in common: the account that is used, and lists of many runs in few calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from airside.agents.aws import AccountOptions, Aws
from airside.model import AirsideError, NotFound
from airside.sdk.agent import AsyncAgent
from airside.sdk.declare import missing_extra

M = TypeVar("M")
G = TypeVar("G", bound=Hashable)

Found = Mapping[str, Any] | Exception
"""A run as AWS describes it, or why that cannot be told."""

SINGLE_GETS = 2
"""So many runs of one group are asked for one by one: a list would cost as much."""


class AWSAgent(AsyncAgent[M]):
    """An agent of the AWS service that botocore calls `service`."""

    service: ClassVar[str]
    requires = MappingProxyType({"boto3": "aws"})
    Options = AccountOptions

    def open(self, options: AccountOptions) -> None:
        if (missing := missing_extra(self)) is not None:
            raise missing
        self._aws = Aws(options.place, self.service)

    def close(self) -> None:
        self._aws.close()

    def check_credentials(self) -> str:
        """Whose credentials there are for tasks that bring none."""
        return self._aws.identity()


def listed(
    places: Iterable[tuple[G, str]], look: Callable[[G, set[str]], Mapping[str, Found]]
) -> dict[tuple[G, str], Found]:
    """What `look(group, ids)` finds of the runs of each group that has more than a few; each run's place is its group
    and its id. A group that cannot be listed costs the others nothing.

    >>> listed([("a", "1"), ("a", "2"), ("a", "3"), ("b", "4")], lambda group, ids: {"2": {"state": "DONE"}})
    {('a', '2'): {'state': 'DONE'}}
    """
    groups: dict[G, set[str]] = defaultdict(set)
    for group, run in places:
        groups[group].add(run)
    known: dict[tuple[G, str], Found] = {}
    for group, ids in groups.items():
        if len(ids) <= SINGLE_GETS:
            continue
        try:
            found = look(group, ids)
        except NotFound:  # of the group; each run is to say so
            continue
        except AirsideError as exc:
            found = dict.fromkeys(ids, exc)
        known |= {(group, run): one for run, one in found.items()}
    return known
