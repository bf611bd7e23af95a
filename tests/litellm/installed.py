"""LiteLLM's proxy with all parts installed into its own application."""

from __future__ import annotations

from litellm.proxy.proxy_server import app
from litellm_proxy import LiteLLMHeaders, litellm_key

from tokenpulse_mw import Policy, Settings, TokenPulse

app.add_middleware(LiteLLMHeaders)
TokenPulse(
    service="litellm",
    providers=["openai", "anthropic"],
    settings=Settings(admin_token="a-token-of-enough-characters"),
    policies=[Policy("60/minute", name="key", key=litellm_key)],
).install(app)
