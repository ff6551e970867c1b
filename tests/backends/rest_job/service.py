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
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
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


@app.get("/test/asked")
def tell() -> Any:
    told, asked[:] = list(asked), []
    return jsonify(asked=told, jobs=list(jobs.values()))


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), threaded=True)
