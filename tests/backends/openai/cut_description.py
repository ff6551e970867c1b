"""Cut what the agents use out of OpenAI's own description of its API (github.com/openai/openai-openapi).

`python cut_description.py openapi.json > description.json`. What is said for people is left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

USED = {
    "/files": ("post",),
    "/files/{file_id}/content": ("get",),
    "/batches": ("get", "post"),
    "/batches/{batch_id}": ("get",),
    "/batches/{batch_id}/cancel": ("post",),
    "/models": ("get",),
    "/chat/completions": ("post",),
}
_WORDS = ("description", "title", "example", "examples", "externalDocs", "summary", "tags", "deprecated", "default")


def cut(description: Any) -> Any:
    """The operations that are used, with the schemas that they need."""
    paths = {
        path: {method: _operation(description["paths"][path][method]) for method in methods}
        for path, methods in USED.items()
    }
    schemas: dict[str, Any] = {}
    ahead = list(_references(paths))
    while ahead:
        name = ahead.pop()
        if name not in schemas:
            schemas[name] = _plain(description["components"]["schemas"][name])
            ahead += _references(schemas[name])
    version = {name: description["info"][name] for name in ("title", "version")}
    return {"info": version, "paths": paths, "components": {"schemas": dict(sorted(schemas.items()))}}


def _operation(operation: Any) -> Any:
    wanted = ("parameters", "requestBody")
    answers = {status: answer for status, answer in operation["responses"].items() if status.startswith("2")}
    return _plain({**{name: operation[name] for name in wanted if name in operation}, "responses": answers})


def _plain(value: Any, names: bool = False) -> Any:
    """Without words for people; the names of properties may be such words themselves."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {name: one for name, one in value.items() if names or (name not in _WORDS and not name.startswith("x-"))}
    return {name: _plain(one, names=name == "properties") for name, one in kept.items()}


def _references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(name)}:
            yield name.rpartition("/")[2]
        case dict():
            for one in value.values():
                yield from _references(one)
        case list():
            for one in value:
                yield from _references(one)


if __name__ == "__main__":
    print(json.dumps(cut(json.loads(Path(sys.argv[1]).read_text())), indent=1))
