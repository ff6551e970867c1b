"""Only the tests of the examples are collected: an example's agent registers itself when it is imported."""

from __future__ import annotations

from pathlib import Path


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out Python files that are no tests; None leaves the choice to pytest."""
    is_other = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return True if is_other else None
