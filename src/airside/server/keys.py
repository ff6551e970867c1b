"""The keys that sign handles, read from a folder: one key a file, the file's name is the key's."""

from __future__ import annotations

import re
from pathlib import Path

from airside.model import UsageError
from airside.model.redaction import hide
from airside.server.handle import SigningKeys

MIN_BYTES = 32
"""A key shorter than what HMAC-SHA-256 puts out would be its weakest part."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


def read_keys(folder: Path, current: str, *, require: bool = False) -> SigningKeys:
    """The keys in a folder: `current` signs, all of them verify. Blocks.

    Files whose names begin with a dot, and folders, are left out. White space around a key is not part of it.
    Raises `UsageError` if a key is too short, or if there is no `current` one.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
        contents = {path.name: path.read_bytes().strip() for path in files}
    except OSError as exc:
        raise UsageError(f"The signing keys in {folder} cannot be read: {exc.strerror}.") from None
    for name, key in contents.items():
        if not _NAME.match(name):
            raise UsageError(f"{folder / name}: a signing key is named with letters, digits, dots, dashes only.")
        if len(key) < MIN_BYTES:
            raise UsageError(
                f"{folder / name} has {len(key)} bytes; a signing key has at least {MIN_BYTES}, "
                "such as `openssl rand -hex 32` makes."
            )
        hide(key.decode("utf-8", "replace"))
    if current not in contents:
        known = ", ".join(contents) or "none"
        raise UsageError(f"serve.signing.current: there is no key {current!r} in {folder} (keys: {known}).")
    return SigningKeys(current, contents, require)
