"""Paths to a value that does not fit, and how much of the value is shown."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from airside.model.redaction import hide
from airside.wire.misfit import Misfit, shown


@pytest.mark.parametrize(
    ("steps", "path"),
    [
        (["y", 3, "x"], "inputs.x[3].y"),
        ([], "inputs"),
        (["not a name"], "inputs['not a name']"),
        ([""], "inputs['']"),
        (["naïve"], "inputs.naïve"),
        (["\ud800"], r"inputs['\ud800']"),
        ([(1, 2)], "inputs[(1, 2)]"),
        (["k" * 500], f"inputs['{'k' * 76}...]"),
    ],
)
def test_a_path_grows_from_the_inside(steps: list[object], path: str) -> None:
    misfit = Misfit("missing")
    for step in steps:
        misfit.under(step)
    error = misfit.at("inputs")
    assert (error.path, error.problem, str(error)) == (path, "missing", f"{path}: missing")


@dataclass
class Login:
    user: str
    token: str


def test_secrets_are_replaced_before_anything_is_cut() -> None:
    secret = "-----BEGIN KEY-----\n" + "'\"\\x" * 2000
    hide(secret)
    for value in (secret, [secret], {"key": secret}, {secret: 1}, ("a" * 60 + secret,)):
        text = shown(value)
        assert "***" in text
        assert "BEGIN" not in text
    hide("tok_123456")
    assert str(Misfit("missing").under("tok_123456").at("inputs")) == "inputs.***: missing"
    assert shown(Login("me", "tok_123456")) == "Login(user='me', token='***')"


def test_at_most_80_characters() -> None:
    class Long:
        def __repr__(self) -> str:
            return "y" * 100_000

    for value in ("x" * 1000, ["x" * 1000], Long(), [Long()], list(range(1000)), {n: n for n in range(1000)}, 10**5000):
        assert len(shown(value)) <= 80


def test_values_whose_repr_fails() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError

    assert shown(Broken()) == "<Broken>"
    assert shown([Broken()]) == "<list>"
