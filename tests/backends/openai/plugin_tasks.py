"""Tasks made with flytekit's own plugin for OpenAI; run in an environment of its own.

`python plugin_tasks.py` prints each template, as flytekit serialises it, in base64.
"""

from __future__ import annotations

import base64
import json


def made() -> dict[str, bytes]:
    from flytekit.configuration import Image, ImageConfig, SerializationSettings
    from flytekit.tools.translator import get_serializable
    from flytekitplugins.openai import BatchEndpointTask, ChatGPTTask

    batch = BatchEndpointTask(
        name="label", openai_organization="org-1", config={"completion_window": "24h", "metadata": {"team": "a"}}
    )
    chat = ChatGPTTask(name="ask", chatgpt_config={"model": "gpt-4o-mini", "temperature": 0.7, "max_tokens": 40})
    images = ImageConfig(default_image=Image("default", "ghcr.io/example/flights", "v1"))
    settings = SerializationSettings(project="flights", domain="development", version="v1", image_config=images)
    return {
        one.task_type: get_serializable({}, settings, one).template.to_flyte_idl().SerializeToString(deterministic=True)
        for one in (batch, chat)
    }


if __name__ == "__main__":
    print(json.dumps({name: base64.b64encode(data).decode() for name, data in made().items()}, indent=1))
