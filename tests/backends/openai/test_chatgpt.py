"""The chatgpt agent against llmock, and against answers in the shape of OpenAI's own."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from airside import Fail, Phase, Retry, UsageError
from airside.agents.chatgpt import ChatGPTAgent, ChatGPTTask
from airside.testing import harness

TASK = ChatGPTTask(
    name="ask",
    chatgpt_config={"model": "gpt-4o-mini", "messages": [{"role": "system", "content": "Answer in French."}]},
)


def options(door: Any, **more: Any) -> dict[str, Any]:
    return {"base_url": f"{door.url}/v1", **more}


def answer(content: str | None, reason: str = "stop", **message: Any) -> dict[str, Any]:
    told = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "finish_reason": reason,
                "logprobs": None,
                "message": {"role": "assistant", "content": content, "refusal": None, **message},
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
    }
    ChatCompletion.model_validate(told)
    return told


async def test_a_question_is_answered(door: Any, wire: Any) -> None:
    async with harness(ChatGPTAgent, wire=wire, options=options(door)) as h:
        done = await h.do(task=TASK, inputs={"message": "hello"})
        assert "sk-0123456789abcdef" not in h.log
    assert done.phase is Phase.SUCCEEDED, done
    assert isinstance(dict(done.outputs or {})["o0"], str)
    assert done.info["usage"]["output_tokens"] > 0
    asked, *_ = door.calls("/chat/completions")  # a client that is kept waiting asks again
    assert [one["role"] for one in asked.body["messages"]] == ["system", "user"]
    assert asked.authorization == "Bearer sk-0123456789abcdef"


async def test_an_answer_without_text_is_a_failure(door: Any) -> None:
    door.answer("/chat/completions", answer(None, refusal="I cannot help with that."))
    async with harness(ChatGPTAgent, wire="v1", options=options(door)) as h:
        done = await h.do(task=TASK, inputs={"message": "hello"})
    assert (done.phase, done.code) == (Phase.FAILED, "NoText")
    assert done.message.startswith("OpenAI answered without text: I cannot help with that. (id ")
    assert done.info["usage"] == {"input_tokens": 12, "output_tokens": 3}


async def test_a_busy_model_is_asked_again(door: Any) -> None:
    for _ in range(2):
        door.answer("/chat/completions", {"error": {"message": "busy"}}, 503, Retry_After_Ms="5")
    async with harness(ChatGPTAgent, wire="v1", options=options(door)) as h:
        done = await h.do(task=TASK, inputs={"message": "hello"})
    assert done.phase is Phase.SUCCEEDED
    assert len(door.calls("/chat/completions")) == 3


async def test_a_model_that_stays_busy_may_work_later(door: Any) -> None:
    door.answer("/chat/completions", {"error": {"message": "too many"}}, 429)
    async with harness(ChatGPTAgent, wire="v1", options=options(door, request_retries=0)) as h:
        with pytest.raises(Retry, match="OpenAI: too many"):
            await h.do(task=TASK, inputs={"message": "hello"})


@pytest.mark.parametrize(
    ("config", "inputs", "says"),
    [
        ({}, {"message": "x"}, "must be an object with a model"),
        ({"model": "m", "stream": True}, {"message": "x"}, "comes as a whole"),
        ({"model": "m", "temprature": 1}, {"message": "x"}, "chatgpt_config: .*temprature"),
        ({"model": "m"}, {"x": 1}, "needs the input message"),
        ({"model": "m", "messages": 3}, {"message": "x"}, "messages must be a list"),
    ],
)
async def test_a_mistake_is_told_in_one_sentence(
    door: Any, config: dict[str, Any], inputs: dict[str, Any], says: str
) -> None:
    async with harness(ChatGPTAgent, wire="v1", options=options(door)) as h:
        try:
            done = await h.do(inputs=inputs, config={"chatgpt_config": config})
        except Fail as exc:
            assert_says(exc.message, says)
        else:
            assert done.phase is Phase.FAILED
            assert_says(done.message, says)
    assert not door.asked


def assert_says(message: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        raise ValueError(message)


def test_a_task_names_its_model() -> None:
    with pytest.raises(UsageError, match="needs a model"):
        ChatGPTTask(name="x")
