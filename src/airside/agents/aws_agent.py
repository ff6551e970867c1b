"""What agents of AWS have in common: whose account is used, and how many jobs are asked for in few calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from airside.agents.aws import AccountOptions, Aws
from airside.model import AirsideError, Call, NotFound, Resource, Retry, Task
from airside.sdk.agent import AsyncAgent

M = TypeVar("M")
T = TypeVar("T")
G = TypeVar("G", bound=Hashable)

Described = Mapping[str, Any]
"""A job as AWS describes it."""

SINGLE_GETS = 2
"""So many jobs of one group are asked for one by one: a list would cost as much."""


class AWSAgent(AsyncAgent[M]):
    """An agent of the AWS service that botocore calls `service`.

    least_time: seconds of a call without which no further job is asked for.
    """

    service: ClassVar[str]
    requires = MappingProxyType({"boto3": "aws"})
    least_time: ClassVar[float] = 1.0
    Options = AccountOptions

    def open(self, options: Any) -> None:
        self._aws = Aws(options.place, self.service)

    def close(self) -> None:
        self._aws.close()

    def check_credentials(self) -> str:
        """Whose credentials there are for tasks that bring none."""
        return self._aws.identity()

    def get(self, job: M, call: Call) -> Resource:
        return self._judge(job, self._describe(job, call), call)

    def _describe(self, job: M, call: Call) -> Described:
        """The job as AWS describes it now. Raises `NotFound` or `Retry`."""
        raise NotImplementedError

    def _judge(self, job: M, told: Described, call: Call, /) -> Resource:
        """What is known of a job that is described so."""
        raise NotImplementedError

    def _answer(self, job: M, told: Described | Exception | None, call: Call) -> Resource | Exception:
        """One answer of `get_many`: what a list has not told of is asked for by itself, while there is time."""
        if isinstance(told, Exception):
            return told
        if told is None and call.remaining is not None and call.remaining < self.least_time:
            return Retry("there was no time left to ask for this job")
        try:
            return self.get(job, call) if told is None else self._judge(job, told, call)
        except AirsideError as exc:
            return exc

    def _ask(self, call: Call | Task, region: str, question: Callable[[Any], T], *, creating: bool = False) -> T:
        """What the service answers: `Retry`, `Fail` or `NotFound` for an error, `Fail` only while creating."""
        return self._aws.ask(call, self.service, region, question, creating=creating, is_missing=self._is_missing)

    @staticmethod
    def _is_missing(code: str, message: str, /) -> bool:
        """True for the service's own way to say that it does not know a job."""
        raise NotImplementedError


def listed(
    places: Iterable[tuple[G, str]],
    look: Callable[[G, Collection[str]], Mapping[str, Described | Exception]],
    *,
    single: int = SINGLE_GETS,
    at_once: int = 0,
) -> dict[tuple[G, str], Described | Exception]:
    """What `look(group, ids)` finds of the jobs of each group that has more than a few; a job's place is its group and
    its id. A group that cannot be looked at costs the others nothing.

    single: up to so many jobs of a group are left to be asked for by themselves.
    at_once: how many ids one look may take; 0 is any number.

    >>> listed([("a", "1"), ("a", "2"), ("a", "3"), ("b", "4")], lambda group, ids: {"2": {"state": "DONE"}})
    {('a', '2'): {'state': 'DONE'}}
    """
    groups: dict[G, dict[str, None]] = defaultdict(dict)
    for group, job in places:
        groups[group][job] = None
    known: dict[tuple[G, str], Described | Exception] = {}
    for group, ids in groups.items():
        if len(ids) <= single:
            continue
        for some in _parts(list(ids), at_once or len(ids)):
            known |= {(group, job): told for job, told in _found(group, dict.fromkeys(some), look).items()}
    return known


def pages(ask: Callable[..., Any], items: str, token: str, most: int, **asked: Any) -> Iterator[Sequence[Any]]:
    """The items of a list, page by page; `token` names where a page begins, in request and answer.

    >>> answers = {"": {"Jobs": [1], "NextToken": "a"}, "a": {"Jobs": [2]}}
    >>> list(pages(lambda NextToken="": answers[NextToken], "Jobs", "NextToken", most=9))
    [[1], [2]]
    """
    more: dict[str, Any] = {}
    for _ in range(most):
        page = ask(**asked, **more)
        yield page.get(items) or ()
        if not page.get(token):
            return
        more = {token: page[token]}


def picked(found: Iterable[Sequence[Any]], name: str, ids: Collection[str]) -> dict[str, Any]:
    """The items with these ids in their field `name`, by id. No page is read after the last of them.

    >>> picked([[{"Id": "a"}, {"Id": "b"}], [{"Id": "c"}]], "Id", {"b"})
    {'b': {'Id': 'b'}}
    """
    shown: dict[str, Any] = {}
    for page in found:
        shown |= {one[name]: one for one in page if one[name] in ids}
        if len(shown) == len(ids):
            break
    return shown


def _parts(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[at : at + size] for at in range(0, len(ids), size))


def _found(
    group: G, ids: Collection[str], look: Callable[[G, Collection[str]], Mapping[str, Described | Exception]]
) -> Mapping[str, Described | Exception]:
    try:
        return look(group, ids)
    except NotFound:  # of the group; each job is to say so
        return {}
    except AirsideError as exc:
        return dict.fromkeys(ids, exc)
