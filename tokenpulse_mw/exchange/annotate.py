"""Annotations: facts that the application adds to an exchange."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from msgspec.structs import astuple
from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..usage import Price, TokenUsage, check_cost
from ..usage.tokens import MOST
from ..validation import check_choice
from .exchange import Fault
from .fault import FAULTS
from .recorder import SCOPE_KEY, Recorder
from .scope import truncate_with_hash


def annotate(
    request_or_scope: HTTPConnection | Scope,
    *,
    provider: str | None = None,
    tenant: str | None = None,
    tenant_name: str | None = None,
    api_key: str | None = None,
    credential: str | None = None,
    credential_group: str | None = None,
    model: str | None = None,
    usage: TokenUsage | None = None,
    cost: Price | None = None,
    fault: Fault | None = None,
) -> None:
    """Add facts to the exchange in progress.

    Can be called repeatedly; None leaves a fact unchanged. An outer middleware may call it before
    the exchange begins. After the end of the response, calls are ignored. Texts longer than 256
    characters are truncated and get a hash.

    Invalid facts, such as negative tokens, are logged and counted as the component `annotate` in
    `tokenpulse_internal_errors_total`; the request continues.

    Args:
        request_or_scope: The request or its ASGI scope.
        provider: The provider of the model. It overrides every other source; an undeclared
            provider is counted as `other`.
        tenant: Id of the tenant.
        tenant_name: Readable name of the tenant.
        api_key: Id or hash of the tenant's API key, never the secret.
        credential: Id or hash of the upstream API key, never the secret. It must be unique over
            all providers.
        credential_group: Readable name of the group or label of the upstream API key, such as
            "claude-prod".
        model: The model that responds, or was requested. It names the provider, if no provider is
            given.
        usage: The tokens used; it overrides the metered usage.
        cost: Cost of the response in US dollars, at most 10,000; it overrides every other source.
            Give a string or a `Decimal` for an exact number.
        fault: Whose fault it is if the exchange fails: "client", "policy", "gateway", "provider" or
            "network"; it overrides what the response and the exception show.
    """
    scope = request_or_scope
    target = _target(scope.scope if isinstance(scope, HTTPConnection) else scope)
    if target is None:
        return
    facts = {
        "provider": provider,
        "tenant": tenant,
        "tenant_name": tenant_name,
        "api_key": api_key,
        "credential": credential,
        "credential_group": credential_group,
        "model": model,
    }
    try:
        target.annotate(
            **{name: _text(fact) for name, fact in facts.items() if fact not in (None, "")}
        )
        if facts["model"]:
            target.annotate(model_source="annotation")
        if usage is not None:
            target.annotate(usage=_check_usage(usage), usage_source="reported")
        if cost is not None:
            target.annotate(cost_nanos=check_cost(cost), cost_source="reported")
        if fault is not None:
            target.annotate(fault=check_choice("fault", fault, FAULTS))
    except Exception as error:  # noqa: BLE001 - an invalid fact must not fail the request
        target.report_error(error)


def _target(scope: Scope) -> Recorder | PendingAnnotations | None:
    """Return the recorder, or pending annotations until there is one."""
    if SCOPE_KEY in scope:
        return recorder_of(scope)
    pending: PendingAnnotations = scope.setdefault(PENDING_KEY, PendingAnnotations())
    return pending


def _text(fact: object) -> str:
    """Return `fact` as text: ids are often numbers, and names are Enum members."""
    return truncate_with_hash(str(fact.value if isinstance(fact, Enum) else fact))


def _check_usage(usage: TokenUsage) -> TokenUsage:
    counts = astuple(usage) if isinstance(usage, TokenUsage) else ("none",)
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError(f"usage must be a TokenUsage of integers of at least 0, got {usage!r}")
    if not usage.is_plausible:
        raise ValueError(
            f"usage must be of one response, at most {MOST} tokens in total, got {usage!r}"
        )
    return usage


def drop_exchange(scope: Scope) -> None:
    """Keep this request, such as a probe, out of metrics, alert statistics and logs."""
    recorder = recorder_of(scope)
    if recorder is not None:
        recorder.drop()


def annotations_of(scope: Scope) -> Mapping[str, Any] | None:
    """Return the annotations of the current or coming exchange, or None."""
    target: Recorder | PendingAnnotations | None = scope.get(SCOPE_KEY) or scope.get(PENDING_KEY)
    return None if target is None else target.annotations


def recorder_of(scope: Scope) -> Recorder | None:
    """Return the recorder of this request, or None."""
    recorder: Recorder | None = scope.get(SCOPE_KEY)
    return recorder


PENDING_KEY = "tokenpulse_mw.pending_annotations"


class PendingAnnotations:
    """Annotations added before the recorder exists, such as by an outer authentication."""

    __slots__ = ("_error", "annotations")

    def __init__(self) -> None:
        self.annotations: Mapping[str, Any] = {}
        self._error: Exception | None = None

    def annotate(self, **facts: Any) -> None:
        """Add facts; later ones override earlier ones."""
        self.annotations = {**self.annotations, **facts}

    def report_error(self, error: Exception) -> None:
        """Store the error of an invalid fact."""
        self._error = error

    def transfer_to(self, recorder: Recorder) -> None:
        """Copy annotations and error to `recorder`."""
        recorder.annotations = self.annotations
        if self._error is not None:
            recorder.report_error(self._error)
