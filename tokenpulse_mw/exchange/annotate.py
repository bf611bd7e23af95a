"""What only the application knows of an exchange, and what other parts say of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from msgspec.structs import astuple
from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..usage import TokenUsage
from ..usage.tokens import MOST
from .recorder import SCOPE_KEY, Recorder
from .scope import truncate_with_hash


def annotate(
    request_or_scope: HTTPConnection | Scope,
    *,
    provider: str | None = None,
    tenant: str | None = None,
    api_key: str | None = None,
    credential: str | None = None,
    model: str | None = None,
    usage: TokenUsage | None = None,
) -> None:
    """Tell what only the application knows of the exchange in progress.

    Call it any number of times; what is None leaves things as they are. It may be called before
    the exchange begins, by a middleware that stands outside of ours. After the answer has ended it
    does nothing. What is longer than 256 characters is known by these and a hash.

    Args:
        request_or_scope: The request (or its ASGI scope) that is being answered.
        provider: Whose model answers. It goes before every other sign; a provider that is not
            declared is counted as `other`.
        tenant: The tenant.
        api_key: Which of the tenant's API keys was used: its id or a hash, never the secret.
        credential: Which upstream API key was used: its id or a hash, never the secret. No
            credential of another provider may have the same.
        model: The model that answers.
        usage: The tokens used, where the answer itself does not tell; it overrides the meter.

    What cannot be told, such as tokens below 0, is logged and counted as the component
    `annotate` in `tokenpulse_self_errors_total`; the request goes on.
    """
    scope = request_or_scope
    listener = _target(scope.scope if isinstance(scope, HTTPConnection) else scope)
    if listener is None:
        return
    facts = {
        "provider": provider,
        "tenant": tenant,
        "api_key": api_key,
        "credential": credential,
        "model": model,
    }
    try:
        listener.annotate(
            **{name: _text(fact) for name, fact in facts.items() if fact not in (None, "")}
        )
        if usage is not None:
            listener.annotate(usage=_check_usage(usage), usage_source="reported")
    except Exception as error:  # noqa: BLE001 - what cannot be told must not fail the request
        listener.report_error(error)


def _target(scope: Scope) -> Recorder | PendingAnnotations | None:
    """Who takes down what is said: the tap, or who stands in for it as long as there is none."""
    if SCOPE_KEY in scope:
        return recorder_of(scope)
    early: PendingAnnotations = scope.setdefault(PENDING_KEY, PendingAnnotations())
    return early


def _text(fact: object) -> str:
    """`fact` as text: ids are often numbers, and names members of an Enum."""
    return truncate_with_hash(str(fact.value if isinstance(fact, Enum) else fact))


def _check_usage(usage: TokenUsage) -> TokenUsage:
    counts = astuple(usage) if isinstance(usage, TokenUsage) else ("none",)
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError(f"usage must be a TokenUsage of whole numbers from 0 on, got {usage!r}")
    if not usage.is_plausible:
        raise ValueError(
            f"usage must be that of one response, at most {MOST} tokens in total, got {usage!r}"
        )
    return usage


def drop_exchange(scope: Scope) -> None:
    """Keep this request out of metrics, alert statistics and logs: it is a probe or a scrape."""
    tap = recorder_of(scope)
    if tap is not None:
        tap.drop()


def annotations_of(scope: Scope) -> Mapping[str, Any] | None:
    """What was said of the exchange that goes on, or is about to; None where nobody listens."""
    listener: Recorder | PendingAnnotations | None = scope.get(SCOPE_KEY) or scope.get(PENDING_KEY)
    return None if listener is None else listener.annotations


def recorder_of(scope: Scope) -> Recorder | None:
    """The tap on this request, where there is one."""
    tap: Recorder | None = scope.get(SCOPE_KEY)
    return tap


PENDING_KEY = "tokenpulse_mw.said_early"


class PendingAnnotations:
    """Keeps facts in the place of a tap, until there is one.

    A middleware that authenticates may be the outermost of all; what it has found out is known
    to limits and to the exchange all the same.
    """

    __slots__ = ("_failure", "annotations")

    def __init__(self) -> None:
        self.annotations: Mapping[str, Any] = {}
        self._failure: Exception | None = None

    def annotate(self, **facts: Any) -> None:
        """Note what is known; later words override earlier ones."""
        self.annotations = {**self.annotations, **facts}

    def report_error(self, failure: Exception) -> None:
        """Note that something could not be told."""
        self._failure = failure

    def transfer_to(self, tap: Recorder) -> None:
        """Tell `tap` all of it."""
        tap.annotations = self.annotations
        if self._failure is not None:
            tap.report_error(self._failure)
