"""`chatgpt`: a task that is one chat completion of OpenAI, and `ChatGPTTask` to write one.

Tasks of flytekit's `ChatGPTTask` run as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from airside.agents.api_accounts import Accounts
from airside.agents.config_keys import check_keys
from airside.agents.openai_account import OPENAI, make_client
from airside.model import Call, Fail, Phase, Resource, Task, TaskTemplate, UsageError
from airside.sdk.agent import SyncAgent


@dataclass(frozen=True, kw_only=True)
class ChatGPTTask(TaskTemplate):
    """One message to a model and its answer. The arguments are those of flytekit's `ChatGPTTask`.

    chatgpt_config: what `chat.completions.create` takes; `model` must be in it. Messages given there come before the
    input `message`.
    openai_organization: the organization that is billed.

    >>> ChatGPTTask(name="ask", chatgpt_config={"model": "gpt-4o-mini", "temperature": 0.7}).outputs
    {'o0': <class 'str'>}
    """

    task_type: str = "chatgpt"
    chatgpt_config: Mapping[str, Any] = field(default_factory=dict)
    openai_organization: str = ""
    inputs: Mapping[str, Any] = field(default_factory=lambda: {"message": str})
    outputs: Mapping[str, Any] = field(default_factory=lambda: {"o0": str})

    def __post_init__(self) -> None:
        if not self.chatgpt_config.get("model"):
            raise UsageError(f"Task {self.name!r} needs a model in chatgpt_config.")
        config: dict[str, Any] = {"chatgpt_config": dict(self.chatgpt_config)}
        if self.openai_organization:
            config["openai_organization"] = self.openai_organization
        object.__setattr__(self, "config", {**self.config, **config})
        super().__post_init__()


class ChatGPTAgent(SyncAgent):
    """Asks a model and answers with its answer."""

    name = "chatgpt"
    task_type = "chatgpt"
    requires = MappingProxyType({"openai": "openai"})
    create_timeout = 660.0

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Where OpenAI is, and how long an answer may take.

        base_url: the address of the API. Default: https://api.openai.com/v1
        allowed_hosts: hosts besides OpenAI's own that a connection's `base_url` may name.
        request_timeout: seconds for one request.
        request_retries: further requests after 408, 409, 429, 5xx and network errors; Retry-After is heeded.
        """

        base_url: str = ""
        allowed_hosts: tuple[str, ...] = ()
        request_timeout: float = 120.0
        request_retries: int = 2

    def open(self, options: Options) -> None:
        self._options = options
        hosts = options.allowed_hosts
        self._accounts = Accounts(OPENAI, base_url=options.base_url, allowed_hosts=hosts, make=make_client)

    def close(self) -> None:
        self._accounts.close()

    def check_credentials(self) -> str:
        """Whose key there is for tasks that bring none."""
        return self._accounts.whose()

    def probe(self) -> str:
        """Ask for the models."""
        import openai

        with self._accounts.session(None).calls(openai.OpenAIError) as client:
            client.models.list()
        return "OpenAI answers"

    def do(self, task: Task, call: Call) -> Resource:
        import openai

        config, messages = _request(task)
        session = self._accounts.session(call.connection, str(task.config.get("openai_organization") or ""))
        with session.calls(openai.OpenAIError) as client:
            options = self._options
            patient = client.with_options(timeout=options.request_timeout, max_retries=options.request_retries)
            try:
                answer = patient.chat.completions.create(messages=messages, **config)
            except TypeError as exc:  # a key that the SDK does not know
                raise Fail(f"chatgpt_config: {exc}") from None
        return _resource(answer, next(iter(task.interface.outputs), "o0"))


def _request(task: Task) -> tuple[dict[str, Any], list[Any]]:
    """What the request says besides its messages, and the messages."""
    check_keys(task.config, ("chatgpt_config", "openai_organization"), "chatgpt")
    config = task.config.get("chatgpt_config")
    if not isinstance(config, Mapping) or not config.get("model"):
        raise Fail("chatgpt_config must be an object with a model.")
    if config.get("stream"):
        raise Fail("chatgpt_config.stream: an answer comes as a whole; leave it out.")
    message = task.inputs.get("message")
    if not isinstance(message, str):
        raise Fail("A chatgpt task needs the input message, a text.")
    earlier = config.get("messages") or []
    if not isinstance(earlier, list):
        raise Fail("chatgpt_config.messages must be a list of messages.")
    others = {key: value for key, value in config.items() if key != "messages"}
    return others, [*earlier, {"role": "user", "content": message}]


def _resource(answer: Any, output: str) -> Resource:
    info: dict[str, Any] = {"id": answer.id, "model": answer.model}
    if answer.usage is not None:
        usage = answer.usage
        info["usage"] = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
    choice = answer.choices[0] if answer.choices else None
    info["finish_reason"] = choice.finish_reason if choice is not None else None
    text = choice.message.content if choice is not None else None
    if text is None:
        refusal = choice.message.refusal if choice is not None else None
        message = f"OpenAI answered without text: {refusal or info['finish_reason'] or 'no choice'}"
        return Resource(Phase.FAILED, message=message, code="NoText", info=info)
    return Resource(Phase.SUCCEEDED, outputs={output: text}, info=info)
