"""A job service as many companies have one, in Flask: run as `service.py PORT`. It counts words, for `seconds`."""

from __future__ import annotations

import sys
import time
from typing import Any

from flask import Flask, Response, jsonify, request

TOKEN = "rest-0123456789abcdef"

app = Flask(__name__)
jobs: dict[str, dict[str, Any]] = {}
asked: list[str] = []


@app.before_request
def check() -> Any:
    if request.path.startswith("/test/"):
        return None
    asked.append(f"{request.method} {request.full_path.rstrip('?')}")
    given = request.authorization
    is_user = given is not None and given.type == "basic" and (given.username, given.password) == ("etl", TOKEN)
    if request.headers.get("Authorization") != f"Bearer {TOKEN}" and not is_user:
        return jsonify(error={"message": "who are you?"}), 401
    return None


@app.post("/v1/jobs")
def create() -> Any:
    told = request.get_json()
    if not isinstance(told.get("text"), str):
        return jsonify(error={"message": "text must be a text", "field": "text"}), 422
    key = request.headers.get("Idempotency-Key", "")
    known = next((job for job in jobs.values() if key and job["key"] == key), None)
    if known is not None:
        return jsonify(known), 200
    identity = f"job/{len(jobs) + 1}"  # an id that must be quoted in a path
    jobs[identity] = {
        "id": identity,
        "key": key,
        "label": told.get("label"),
        "text": told["text"],
        "until": time.time() + told.get("seconds", 0),
        "cancelled": False,
        "fails": told.get("fails", ""),
    }
    time.sleep(told.get("slowly", 0))
    if told.get("garbled"):
        return Response('{"id": "jo', mimetype="application/json"), 201
    return jsonify(jobs[identity]), 201


@app.put("/v1/jobs/<identity>")
def create_as(identity: str) -> Any:
    """A service whose callers name their jobs."""
    if identity in jobs:
        return jsonify(error={"message": "there is a job of this name"}), 409
    told = request.get_json()
    jobs[identity] = {
        "id": identity, "key": "", "label": None, "text": told["text"], "until": time.time(), "cancelled": False,
        "fails": "",
    }  # fmt: skip
    time.sleep(told.get("slowly", 0))
    return "", 201


def shown(job: dict[str, Any]) -> dict[str, Any]:
    state = "running" if time.time() < job["until"] else "error" if job["fails"] else "done"
    told = {"id": job["id"], "status": {"state": "cancelled" if job["cancelled"] else state}}
    if state == "error":
        told["status"]["reason"] = job["fails"]
    if state == "done":
        told["result"] = {"words": len(job["text"].split()), "file": "s3://bucket/words.txt", "took": 1.5}
    return told


@app.get("/v1/jobs")
def several() -> Any:
    ids, label = request.args.get("ids"), request.args.get("label")
    found = [job for job in jobs.values() if (job["id"] in ids.split(",") if ids else job["label"] == label)]
    return jsonify(jobs=[shown(job) for job in found])


@app.get("/v1/jobs/<path:identity>/log")
def log(identity: str) -> Any:
    return Response("".join(f"{word}\n" for word in jobs[identity]["text"].split()), mimetype="text/plain")


@app.get("/v1/jobs/<path:identity>/result")
def result(identity: str) -> Any:
    return jsonify(shown(jobs[identity])["result"])


@app.get("/v1/jobs/<path:identity>")
def get(identity: str) -> Any:
    if identity == "long":
        return "x" * 5_000_000, 503
    if identity == "busy":
        return jsonify(error={"message": "come back later"}), 503, {"Retry-After": "7"}
    if identity not in jobs:
        return jsonify(error={"message": f"no job {identity}"}), 404
    return jsonify(shown(jobs[identity]))


@app.delete("/v1/jobs/<path:identity>")
def delete(identity: str) -> Any:
    if identity not in jobs:
        return jsonify(error={"message": f"no job {identity}"}), 404
    jobs[identity]["cancelled"] = True
    return "", 204


films: dict[str, dict[str, Any]] = {}


@app.post("/api/v2/jobs")
def shrink() -> Any:
    """The service of the documentation's example."""
    told, key = request.get_json(), request.headers["Idempotency-Key"]
    return jsonify(films.setdefault(key, {"id": f"film-{len(films)}", "asked": told})), 201


@app.get("/api/v2/jobs/<identity>")
def film(identity: str) -> Any:
    found = next(one for one in films.values() if one["id"] == identity)
    url = found["asked"]["source"].replace("in.mov", f"{found['asked']['preset']}-{found['asked']['height']}.mp4")
    return jsonify(id=identity, state="done", result={"url": url, "duration": 1.5})


@app.get("/test/asked")
def tell() -> Any:
    told, asked[:] = list(asked), []
    return jsonify(asked=told, jobs=list(jobs.values()))


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), threaded=True)
