"""What the agents for OpenAI share: the vendor, and how a client is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airside.agents.api_accounts import Account, Vendor

if TYPE_CHECKING:
    import openai

OPENAI = Vendor(
    name="OpenAI",
    hosts=("api.openai.com", "*.api.openai.com", "*.openai.azure.com"),
    base_url="https://api.openai.com/v1",
    key_secret="FLYTE_OPENAI_API_KEY",  # noqa: S106 - a name
    connection_keys=("openai_api_key", "api_key"),
)
REQUEST_SECONDS = 20.0
"""One ordinary request."""


def make_client(account: Account) -> openai.OpenAI:
    """A client that never repeats a call by itself: whoever drives the agent does, and heeds Retry-After."""
    import openai

    try:
        return openai.OpenAI(
            api_key=account.api_key or None,
            base_url=account.base_url,
            organization=account.organization or None,
            project=account.project or None,
            max_retries=0,
            timeout=REQUEST_SECONDS,
        )
    except openai.OpenAIError:  # it found no key either
        raise OPENAI.no_key() from None
