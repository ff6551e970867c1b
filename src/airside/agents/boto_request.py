"""The arguments of a boto3 call: `{inputs.x}`, `{images.x}` and `{idempotence_token}` filled in, in AWS's types."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from airside.agents.json_values import to_json
from airside.model import Fail

_PLACEHOLDER = re.compile(r"\{((?:inputs|images)\.[^{}\s]+)\}")
_TOKEN = "{idempotence_token}"  # noqa: S105 - a placeholder
_LONGEST_NAME = 63  # that SageMaker takes
_TRITON = "sagemaker-tritonserver"
# The accounts whose registries hold Amazon's image of Triton, by region.
_TRITON_ACCOUNTS = {
    "us-east-1": "785573368785",
    "us-east-2": "007439368137",
    "us-west-1": "710691900526",
    "us-west-2": "301217895009",
    "eu-west-1": "802834080501",
    "eu-west-2": "205493899709",
    "eu-west-3": "254080097072",
    "eu-north-1": "601324751636",
    "eu-south-1": "966458181534",
    "eu-central-1": "746233611703",
    "ap-east-1": "110948597952",
    "ap-south-1": "763008648453",
    "ap-northeast-1": "941853720454",
    "ap-northeast-2": "151534178276",
    "ap-southeast-1": "324986816169",
    "ap-southeast-2": "355873309152",
    "cn-northwest-1": "474822919863",
    "cn-north-1": "472730292857",
    "sa-east-1": "756306329178",
    "ca-central-1": "464438896020",
    "me-south-1": "836785723513",
    "af-south-1": "774647643957",
}


class Filled(NamedTuple):
    """Arguments without placeholders, and the token that stands in them; empty if none does."""

    arguments: dict[str, Any]
    token: str


def region_of(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """The region that a task names: as an input, else in its configuration."""
    return str(inputs.get("region") or config.get("region") or "")


def fill(arguments: Any, inputs: Mapping[str, Any], images: Any, *, service: str = "", region: str = "") -> Filled:
    """The arguments with what they ask for, in the way of flytekit's plugin: the same task has the same token.

    >>> fill({"EndpointName": "a-{idempotence_token}", "n": 3.0}, {}, None).arguments
    {'EndpointName': 'a-f02019c60b7d1db6', 'n': 3}
    """
    if not isinstance(arguments, Mapping):
        raise Fail(f"config.config must be an object with the arguments of the call, not {arguments!r}.")
    scope = {"inputs": {name: to_json(value) for name, value in inputs.items()}, "images": _images(images, region)}
    filled = _whole(_replace(copy.deepcopy(dict(arguments)), scope, service))
    if _TOKEN not in repr(filled):
        return Filled(filled, "")
    token = _hash(filled)
    return Filled(_insert(filled, token, service), token)


def _images(images: Any, region: str) -> dict[str, Any]:
    if images is None:
        return {}
    if not isinstance(images, Mapping):
        raise Fail("config.images must map names to images.")
    return {name: _image(str(image), region) for name, image in images.items()}


def _image(image: str, region: str) -> str:
    if _TRITON not in image or "{" not in image:
        return image
    if region not in _TRITON_ACCOUNTS:
        raise Fail(
            f"Amazon's image of Triton is not known for the region {region or '(none)'}; name the image in full."
        )
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    known = {"account_id": _TRITON_ACCOUNTS[region], "region": region, "base": domain}
    return re.sub(r"\{(account_id|region|base)\}", lambda found: known[found[1]], image)


def _replace(value: Any, scope: Mapping[str, Mapping[str, Any]], service: str) -> Any:
    match value:
        case str():
            whole = _PLACEHOLDER.fullmatch(value)
            if whole is not None:
                return _look_up(whole[1], scope)
            for name in _PLACEHOLDER.findall(value):
                value = _put(value, f"{{{name}}}", _text(_look_up(name, scope)), service)
            return value
        case list():
            return [_replace(one, scope, service) for one in value]
        case dict():
            return {name: _replace(one, scope, service) for name, one in value.items()}
    return value


def _insert(value: Any, token: str, service: str) -> Any:
    match value:
        case str():
            return _put(value, _TOKEN, token, service)
        case list():
            return [_insert(one, token, service) for one in value]
        case dict():
            return {name: _insert(one, token, service) for name, one in value.items()}
    return value


def _put(text: str, placeholder: str, value: str, service: str) -> str:
    """The text with the value in it; a token is cut so that a name of SageMaker is not too long."""
    made = text.replace(placeholder, value)
    if service == "sagemaker" and "idempotence_token" in placeholder and len(made) > _LONGEST_NAME:
        room = max(0, _LONGEST_NAME - len(text.replace(placeholder, "")))
        return text.replace(placeholder, value[:room])
    return made


def _look_up(name: str, scope: Mapping[str, Mapping[str, Any]]) -> Any:
    value: Any = scope
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise Fail(f"{{{name}}}: there is no {part!r} (there is: {', '.join(value) or 'nothing'}).")
        value = value[part]
    return value


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _whole(value: Any) -> Any:
    """Whole numbers as such: a template knows none."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(one) for one in value]
        case dict():
            return {name: _whole(one) for name, one in value.items()}
    return value


def _hash(value: Any) -> str:
    import xxhash

    return xxhash.xxh64(_sorted(value).encode()).hexdigest()


def _sorted(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{_sorted(name)}: {_sorted(one)}" for name, one in sorted(value.items())) + "}"
        case list():
            return "[" + ", ".join(_sorted(one) for one in value) + "]"
    return str(value)


def fit(value: Any, shape: Any) -> Any:
    """The arguments in the types of the operation: JSON where AWS takes a text, texts where it takes no number."""
    match shape.type_name:
        case "structure" if isinstance(value, dict):
            members = shape.members
            return {name: fit(one, members[name]) if name in members else one for name, one in value.items()}
        case "list" if isinstance(value, list):
            return [fit(one, shape.member) for one in value]
        case "map" if isinstance(value, dict):
            return {name: fit(one, shape.value) for name, one in value.items()}
        case "string" | "blob" if isinstance(value, dict | list):
            return json.dumps(value)
        case "string" if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    return value
