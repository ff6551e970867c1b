"""Secrets of this process: from the environment, then from mounted files, as Flyte's own agents read them."""

from __future__ import annotations

import os
from pathlib import Path

from airside.model import UsageError
from airside.model.redaction import hide

ENV_PREFIX = "_FSEC_"
DEFAULT_DIR = "/etc/secrets"
DIR_VARIABLE = "FLYTE_SECRETS_DEFAULT_DIR"


def secret(name: str, group: str | None = None) -> str:
    """The value of a secret, hidden from now on in every log line, message and error.

    Looks for the environment variable `_FSEC_[GROUP_]NAME` in capitals, then for the file
    `/etc/secrets/[group/]name` in lower case (the folder can be moved with FLYTE_SECRETS_DEFAULT_DIR).
    Raises `UsageError`, naming both places, if it is in neither.

    >>> os.environ["_FSEC_BANK_TOKEN"] = "t0p-s3cr3t"
    >>> secret("token", group="bank")
    't0p-s3cr3t'
    """
    variable = ENV_PREFIX + "_".join(part for part in (group, name) if part).upper()
    path = Path(os.environ.get(DIR_VARIABLE, DEFAULT_DIR), *(part.lower() for part in (group, name) if part))
    value = os.environ.get(variable)
    if value is None:
        try:
            value = path.read_text(encoding="utf-8").strip()
        except OSError:
            raise UsageError(f"Secret {name!r} is missing: set {variable} or put it into the file {path}.") from None
    hide(value)
    return value
