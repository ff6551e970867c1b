"""The key of a task attempt."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from airside.model import attempt_key

ID = ("1", "p", "d", "job", "v1", "org")
words = st.text(alphabet="ab1", max_size=3)
arguments = st.tuples(words, st.integers(0, 3), st.tuples(words, words, words), words.map(lambda word: f"/{word}"))


def test_the_key_is_pinned() -> None:
    """A service of the next version must give the same attempt the same key, or one attempt becomes two jobs."""
    assert attempt_key("spark", 2, ID, "s3://b/run/0") == "a02aabf34979118488f5971088ff11f2"


@given(arguments, arguments)
def test_other_arguments_give_another_key(
    first: tuple[str, int, tuple[str, ...], str], second: tuple[str, int, tuple[str, ...], str]
) -> None:
    assert (attempt_key(*first) == attempt_key(*second)) == (first == second)
    assert re.fullmatch("[0-9a-f]{32}", attempt_key(*first))


def test_parts_do_not_run_into_each_other() -> None:
    assert attempt_key("a", 0, ("b", ""), "/x") != attempt_key("a", 0, ("", "b"), "/x")
    assert attempt_key("a", 0, ("b",), "/x") != attempt_key("a", 0, ("b", ""), "/x")


def test_without_an_output_prefix_no_two_keys_are_alike() -> None:
    keys = {attempt_key("spark", 0, ID, "") for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", key) for key in keys)
