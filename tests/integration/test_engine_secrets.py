"""What agents say with a secret in it is kept without."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from airside import Engine, LogLink, Phase, Resource, Retry, TaskTemplate, secret
from airside.sdk.agent import AgentSettings
from airside.testing.scripted import ScriptedAgent

VALUE = "s3cret-of-the-bank"


async def test_no_secret_reaches_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_BANK_TOKEN", VALUE)
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path))
    told = f"asked with {secret('bank_token')}"
    agent = ScriptedAgent(
        settings=AgentSettings(poll_interval=0.02),
        create=b"job-1",
        get=[
            Resource(Phase.RUNNING, message=told, links=(LogLink(f"https://example.org/?t={VALUE}", "console"),)),
            Retry(told),
            Resource(Phase.RETRYABLE_FAILED, message=told),
            Resource(Phase.FAILED, message=told, code="Bank"),
        ],
    )
    async with asyncio.timeout(20), Engine(tmp_path / "engine.db", agents=[agent]) as engine:
        job = await engine.submit(TaskTemplate(name="work", task_type="scripted"), retries=1)
        outcome = await engine.wait(job)
        events = await engine.events(job)
        files = {path.name: await asyncio.to_thread(path.read_bytes) for path in tmp_path.glob("engine.db*")}
    assert (outcome.code, outcome.message) == ("Bank", "asked with ***")
    assert [event.message for event in events if event.phase is Phase.RUNNING][:1] == ["asked with ***"]
    assert any("asked with ***" in event.note for event in events)
    assert files
    assert not [name for name, data in files.items() if VALUE.encode() in data]
