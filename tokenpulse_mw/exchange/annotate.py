"""What only the application knows of an exchange, and what other parts say of it."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..usage import TokenUsage
from .tap import SCOPE_KEY, Tap


def annotate(
    request_or_scope: HTTPConnection | Scope,
    *,
    provider: str | None = None,
    master: str | None = None,
    key: str | None = None,
    credential: str | None = None,
    model: str | None = None,
    usage: TokenUsage | None = None,
) -> None:
    """Tell what only the application knows of the exchange in progress.

    Call it any number of times; what is None leaves things as they are. After the answer has
    ended, and without an `ExchangeMiddleware` around the application, it does nothing.

    Args:
        request_or_scope: The request (or its ASGI scope) that is being answered.
        provider: Whose model answers. It goes before every other sign; a provider that is not
            declared is counted as `other`.
        master: The tenant.
        key: Which of the tenant's API keys was used: its id or a hash, never the secret.
        credential: Which upstream API key was used: its id or a hash, never the secret. No
            credential of another provider may have the same.
        model: The model that answers.
        usage: The tokens used, where the answer itself does not tell; it overrides the meter.
    """
    scope = request_or_scope
    tap = tap_of(scope.scope if isinstance(scope, HTTPConnection) else scope)
    if tap is None:
        return
    facts = {
        "provider": provider,
        "master": master,
        "key": key,
        "credential": credential,
        "model": model,
    }
    # Ids are often numbers.
    tap.say(**{name: str(fact) for name, fact in facts.items() if fact is not None})
    if usage is not None:
        tap.say(usage=usage, usage_source="reported")


def drop_exchange(scope: Scope) -> None:
    """Keep this request out of metrics, alert statistics and logs: it is a probe or a scrape."""
    tap = tap_of(scope)
    if tap is not None:
        tap.drop()


def tap_of(scope: Scope) -> Tap | None:
    """The tap on this request, where there is one."""
    tap: Tap | None = scope.get(SCOPE_KEY)
    return tap
