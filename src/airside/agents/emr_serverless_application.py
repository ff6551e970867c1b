"""The application of EMR Serverless that a run needs: found by its id or name, or made, and ready to take the run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from airside.agents.aws_agent import pages
from airside.agents.emr_serverless_request import Asked
from airside.model import Fail, Retry

_ID = re.compile(r"[0-9a-z]+\Z")
_STOPPED, _OVER = ("CREATED", "STOPPED"), ("TERMINATED",)
_LIVING = ("CREATING", "CREATED", "STARTING", "STARTED", "STOPPING", "STOPPED")
_PAGE, _MOST_PAGES = 50, 200
_STARTS_WITHIN = 10.0  # seconds, after which an application that starts is looked at again


def prepared(client: Any, asked: Asked, *, may_make: bool, prefix: str) -> str:
    """The id of the application, which is ready to take the run. Raises `Retry` while it is not.

    may_make: whether one that is only named is made if it is not there. prefix: of the names of those.
    """
    told = _application(client, asked, may_make=may_make, prefix=prefix)
    application, state = str(told["applicationId"]), str(told["state"])
    if state in _OVER:
        raise Fail(f"The application {application} is {state.lower()}.", code="ResourceNotFound")
    if state == "CREATING":
        raise Retry(f"The application {application} is being made", after=_STARTS_WITHIN)
    if asked.image and told.get("imageConfiguration", {}).get("imageUri", "") != asked.image:
        _set_image(client, application, state, asked.image)
    starts_itself = told.get("autoStartConfiguration", {}).get("enabled", True)
    if state == "STARTED" or starts_itself:
        return application
    if state in _STOPPED:
        client.start_application(applicationId=application)
    raise Retry(f"The application {application} is starting", after=_STARTS_WITHIN)


def _application(client: Any, asked: Asked, *, may_make: bool, prefix: str) -> Mapping[str, Any]:
    """The application; what is not known as an id may be a name."""
    known: dict[str, Any]
    if _ID.match(asked.application):
        try:
            known = client.get_application(applicationId=asked.application)
        except client.exceptions.ResourceNotFoundException:
            pass
        else:
            return dict(known["application"])
    names = [asked.application] if asked.application else _names(asked.application_name, prefix if may_make else "")
    found = next((one for name in names if (one := _by_name(client, name))), "")
    if not found and (asked.application or not may_make):
        wanted = asked.application or asked.application_name
        raise Fail(f"There is no application named {wanted!r}: make one, or name its id.", code="ResourceNotFound")
    known = client.get_application(applicationId=found or _made(client, names[-1], asked.making))
    return dict(known["application"])


def _names(name: str, prefix: str) -> list[str]:
    """The names that an application may have which a task names so; the last is that of one that is made."""
    return [name] if name.startswith(prefix) else [name, f"{prefix}{name}"]


def _by_name(client: Any, name: str) -> str:
    """The id of the application of this name; empty if there is none."""
    shown = pages(client.list_applications, "applications", "nextToken", _MOST_PAGES, states=_LIVING, maxResults=_PAGE)
    return next((str(one["id"]) for page in shown for one in page if one.get("name") == name), "")


def _made(client: Any, name: str, making: Mapping[str, Any]) -> str:
    """The id of a new application. Who asks for the same at the same time gets the same."""
    request = {"name": name, **making}
    token = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]
    return str(client.create_application(clientToken=token, **request)["applicationId"])


def _set_image(client: Any, application: str, state: str, image: str) -> None:
    if state not in _STOPPED:
        raise Fail(
            f"The application {application} has another image than the task's, {image}, and gets that only while it is "
            "stopped: stop it, or set sync_image=False.",
            code="ImageDiffers",
        )
    client.update_application(applicationId=application, imageConfiguration={"imageUri": image})
