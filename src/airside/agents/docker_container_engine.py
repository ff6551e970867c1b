"""Calls of the Docker engine API, which Podman speaks too, and what their refusals mean."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from airside.model import Fail, NotFound, Retry, UsageError
from airside.model.redaction import redact

_TIMEOUT = 60.0  # seconds for an answer
_REMOVABLE = ("created", "configured", "initialized", "exited", "stopped", "dead")
_TAIL = 20  # lines looked through for the last words
_LONGEST = 500  # characters of a message
_NO_IMAGE = ("manifest unknown", "name unknown", "not found", "no such image", "does not exist", "statuscode: 404")
_NO_ACCESS = ("denied", "unauthorized", "authentication required", "forbidden")
_NO_SUCH_PROGRAM = ("executable file", "no such file or directory", "not found in $path", "permission denied")


class Refused(Exception):
    """There is a container of this name."""


class Engine:
    """One engine on this machine. Raises `UsageError` for an address that is none."""

    def __init__(self, url: str) -> None:
        self._docker: Any = import_module("docker")
        self._requests: Any = import_module("requests")
        if url and not url.startswith("unix://"):
            raise UsageError(
                f"url: {url!r} is not the address of an engine on this machine, such as unix:///run/docker.sock"
            )
        address = url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        socket = address.removeprefix("unix://")
        if socket != address and not Path(socket).is_socket():  # Docker's library would leave its own end open
            raise UsageError(f"the container engine does not answer: there is no socket {socket}")
        try:
            if url:
                self._client = self._docker.DockerClient(base_url=url, timeout=_TIMEOUT, version="auto")
            else:
                self._client = self._docker.from_env(timeout=_TIMEOUT, version="auto")
        except self._docker.errors.DockerException as exc:
            raise UsageError(f"the container engine does not answer: {_words(exc)}") from exc
        self._api: Any = self._client.api

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def version(self) -> str:
        """The engine and its version."""
        told = self._ask("The engine does not tell its version", self._api.version)
        components = told.get("Components") or [{"Name": "Engine", "Version": told.get("Version", "")}]
        return f"{components[0]['Name']} {components[0]['Version']} answers"

    def create(self, name: str, settings: Mapping[str, Any], *, pull: str) -> None:
        """Make the container, with its image fetched if need be. `Refused` if one of this name is there."""
        image = settings["image"]
        if pull == "always":
            self._pull(image)
        try:
            self._create(name, settings)
        except NotFound:
            if pull == "never":
                raise Fail(f"The image {image} is not on this machine.", code="ImageNotFound") from None
            self._pull(image)
            self._create(name, settings)

    def start(self, name: str) -> None:
        """Start the container; nothing if it has been started. `Fail` if its program cannot be."""
        if self.inspect(name)["State"]["Status"] not in ("created", "configured", "initialized"):
            return
        try:
            self._ask("The container cannot be started", self._api.start, name)
        except (Retry, NotFound, Fail) as exc:
            words = exc.message.lower()
            if isinstance(exc, Fail) or any(one in words for one in _NO_SUCH_PROGRAM):
                self._ask("The container cannot be removed", self._api.remove_container, name, force=True)
                raise Fail(exc.message, code="CannotStart") from exc
            raise

    def check_key(self, name: str, label: str, key: str) -> None:
        """`Fail` unless the container of this name is that of this key."""
        if (self.inspect(name)["Config"].get("Labels") or {}).get(label) != key:
            raise Fail(f"There is a container {name} that is not Airside's.", code="Conflict")

    def inspect(self, name: str) -> Mapping[str, Any]:
        """All that the engine knows of the container. `NotFound` if there is none."""
        told: Mapping[str, Any] = self._ask(f"The container {name}", self._api.inspect_container, name)
        return told

    def states(self, label: str) -> Mapping[str, str]:
        """The state of every container with this label, by name."""
        listed = self._ask(
            "The containers cannot be listed", self._api.containers, all=True, filters={"label": [label]}
        )
        return {one["Names"][0].removeprefix("/"): str(one["State"]).lower() for one in listed if one.get("Names")}

    def stop(self, name: str, grace: float) -> None:
        """TERM, then KILL after so many seconds; one that is paused is woken for it."""
        if self.inspect(name)["State"]["Status"] == "paused":
            with suppress(Refused):  # woken meanwhile
                self._ask("The container cannot be woken", self._api.unpause, name)
        self._ask("The container cannot be stopped", self._api.stop, name, timeout=int(grace))

    def log(self, name: str, since: int) -> Generator[bytes]:
        """The log from a time on, each line with its time, as it grows."""
        options: dict[str, Any] = {"since": since} if since else {}
        stream = self._ask(
            "The log cannot be read", self._api.logs, name, stream=True, follow=True, timestamps=True, **options
        )
        try:
            is_whole = True
            for piece in stream:  # a line that came in pieces has its time before each of them
                yield piece if is_whole else piece.partition(b" ")[2]
                is_whole = piece.endswith(b"\n")
        except self._requests.exceptions.RequestException as exc:
            raise Retry(f"The log broke off: {_words(exc)}") from exc
        finally:
            stream.close()
            stream._response.close()  # closing the stream ends the connection, but leaves its file open

    def last_words(self, name: str) -> str:
        """The last line of the log that says something; empty if it cannot be had."""
        try:
            data: bytes = self._ask("The log cannot be read", self._api.logs, name, tail=_TAIL)
        except (Retry, NotFound, Fail):
            return ""
        lines = data.decode("utf-8", errors="replace").splitlines()
        return next((line.strip()[:_LONGEST] for line in reversed(lines) if line.strip()), "")

    def prune(self, label: str, seconds: float) -> None:
        """Remove the containers with this label that ended longer ago than this, or were never started.

        The engine's own pruning goes by when a container was made: it would take a long job's result at its end.
        """
        since = time.time() - seconds
        listed = self._ask(
            "The containers cannot be listed", self._api.containers, all=True, filters={"label": [label]}
        )
        for one in listed:
            if float(one["Created"]) < since and str(one["State"]).lower() in _REMOVABLE:
                with suppress(NotFound, Refused):
                    self._remove_if_old(one["Id"], since)

    def _remove_if_old(self, container: str, since: float) -> None:
        ended = str(self.inspect(container)["State"].get("FinishedAt") or "")
        if not ended.startswith("0001-") and datetime.fromisoformat(ended).timestamp() >= since:
            return
        self._ask("An old container cannot be removed", self._api.remove_container, container)

    def _create(self, name: str, settings: Mapping[str, Any]) -> None:
        self._ask("The container was not accepted", self._client.containers.create, name=name, **settings)

    def _pull(self, image: str) -> None:
        """Fetch the image. What goes wrong once the answer has begun is told in it, not by its status."""
        doing = f"The image {image} cannot be pulled"
        repository, tag = self._docker.utils.parse_repository_tag(image)
        try:
            told = self._ask(
                doing, lambda: list(self._api.pull(repository, tag=tag or "latest", stream=True, decode=True))
            )
        except NotFound as exc:
            raise Fail(exc.message, code="ImageNotFound") from exc
        error = next((str(one["error"]) for one in told if one.get("error")), "")
        if error:
            raise _not_pulled(f"{doing}: {_words(error)}")

    def _ask(self, doing: str, method: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        errors = self._docker.errors
        try:
            return method(*arguments, **more)
        except errors.NotFound as exc:
            raise NotFound(f"{doing}: {_words(exc)}") from exc
        except errors.APIError as exc:
            raise _explained(doing, exc) from exc
        except (errors.DockerException, self._requests.exceptions.RequestException, OSError) as exc:
            raise Retry(f"The container engine does not answer: {_words(exc)}") from exc


def _not_pulled(message: str) -> Exception:
    words = message.lower()
    if any(one in words for one in _NO_ACCESS):
        return Fail(message, code="Forbidden")
    return Fail(message, code="ImageNotFound") if any(one in words for one in _NO_IMAGE) else Retry(message)


def _explained(doing: str, exc: Any) -> Exception:
    message = f"{doing}: {_words(exc)}"
    status = exc.status_code or 500
    if status == 409 or "already in use" in message:
        return Refused(message)
    if status in (401, 403) or "denied" in message:
        return Fail(message, code="Forbidden")
    if status == 400 or "invalid reference format" in message:
        return Fail(message, code="InvalidRequest")
    return Retry(message)


def _words(exc: Any) -> str:
    return redact(" ".join(str(getattr(exc, "explanation", None) or exc).split()))[:_LONGEST]
