"""A resource says its phase, or says at once that it does not."""

from __future__ import annotations

from typing import Any

import pytest

from airside import Phase, Resource


def test_a_phase_may_be_flyte_s_number() -> None:
    phase: Any = 3
    assert Resource(phase).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("phase", ["SUCCEEDED", 77, None, True, Phase])
def test_what_is_no_phase_is_refused_where_it_is_made(phase: Any) -> None:
    with pytest.raises(TypeError, match=r"^phase must be a Phase, such as Phase\.RUNNING, not "):
        Resource(phase)


def test_a_time_that_is_no_number_is_refused_where_it_is_made() -> None:
    with pytest.raises(TypeError, match="poll_after must be a number of seconds or None, not 'soon'"):
        Resource(Phase.RUNNING, poll_after="soon")  # type: ignore[arg-type]  # the mistake
