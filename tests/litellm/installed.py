"""LiteLLM's proxy with all parts installed into its own application."""

from __future__ import annotations

from litellm.proxy.proxy_server import app

from tokenpulse_mw import Policy, Settings, TokenPulse, keys

TokenPulse(
    service="litellm",
    settings=Settings(admin_token="a-token-of-enough-characters"),
    policies=[Policy("60/minute", name="key", key=keys.header("authorization"))],
    exempt=["/health/liveliness", "/health/liveness", "/health/readiness"],
).install(app)
