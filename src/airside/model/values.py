"""Values that name data kept elsewhere: a file, a directory, a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class File:
    """One file somewhere: a Flyte blob of one part. `format` is its kind ("csv"), or empty.

    >>> File("s3://bucket/trips.csv", format="csv").uri
    's3://bucket/trips.csv'
    """

    uri: str
    format: str = ""


@dataclass(frozen=True, slots=True)
class Directory:
    """A folder somewhere: a Flyte blob of many parts.

    >>> Directory("s3://bucket/trips").uri
    's3://bucket/trips'
    """

    uri: str
    format: str = ""


@dataclass(frozen=True, slots=True)
class StructuredDataset:
    """A table somewhere: where it lies, how it is stored, and the columns if they are known.

    `columns` maps a column's name to a Python type.

    >>> StructuredDataset("s3://bucket/out.parquet").format
    'parquet'
    """

    uri: str
    format: str = "parquet"
    columns: dict[str, Any] = field(default_factory=dict)


def kwtypes(**types: Any) -> dict[str, Any]:
    """The names and types of a task's inputs or outputs, written as keyword arguments.

    >>> kwtypes(version=int, names=list[str])
    {'version': <class 'int'>, 'names': list[str]}
    """
    return dict(types)
