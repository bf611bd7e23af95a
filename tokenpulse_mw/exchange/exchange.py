"""The record of one request and its response."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from ..usage import Source, TokenUsage

CostSource = Literal["reported", "estimated", "missing"]
ModelSource = Literal["response", "request", "annotation"]
Fault = Literal["client", "policy", "gateway", "provider", "network"]
Outcome = Literal["complete", "client_disconnect", "error", "truncated"]
QuotaUnit = Literal["requests", "tokens"]

# RFC 9110, section 9, with PATCH (RFC 5789) and QUERY. Other methods are not used as label
# values, because a client could create any number of time series (CVE-2023-45142).
METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY")
)
OTHER_METHOD = "_OTHER"
SWITCHING_PROTOCOLS = 101  # of an accepted WebSocket, and of each response of a model over it


def method_label(method: str) -> str:
    """Return `method` if it is known, else `_OTHER`."""
    return method if method in METHODS else OTHER_METHOD


def upstream_failed(*, method: str, status: int, outcome: str, limited: bool) -> bool | None:
    """Return True if an exchange shows a failure of its upstream, False if it shows a success.

    None if it shows neither: a rejection by our own limit, a preflight, a client that left, a
    redirect or a client error.
    """
    if limited or method == "OPTIONS" or outcome == "client_disconnect":
        return None
    if status >= 500 or outcome != "complete":
        return True
    return False if status < 300 else None


class UpstreamQuota(NamedTuple):
    """State of one of a provider's rate limits, as its response reports it.

    Attributes:
        unit: `requests` or `tokens`.
        remaining: What is left, from 0 to the limit.
        limit: The limit, or None if the response does not have it.
        reset_after: Seconds after the response in which the whole limit is available again, or None
            if the response does not have it.
    """

    unit: QuotaUnit
    remaining: int
    limit: int | None
    reset_after: float | None


class Exchange(msgspec.Struct, eq=False):
    """One finished request and its response, or one response of a model over a WebSocket.

    Of the latter, `status` is 101, and the times begin with the first message of the response.

    Attributes:
        method: An HTTP method of RFC 9110, PATCH or QUERY; `_OTHER` for anything else.
        route: Template of the matched route with the prefixes of mounts and includes;
            `__unmatched__` if no route matched.
        status: Status code of the response; 499 if the client left before the headers, 500 if the
            application failed before them.
        provider: A declared provider, `other`, or `unknown`.
        outcome: `complete`; `client_disconnect`; `error` (an exception, or an error event in a
            stream that began with 200); `truncated` (the application returned early).
        limited: True if a rate limit rejected the request.
        fault: Whose fault a failure is: `client`; `policy` (a limit of this gateway); `gateway`
            (the application, or its credential); `provider` (its response); `network` (no response
            of the provider, or an incomplete one). None if the exchange did not fail.
        started: Arrival of the request, in seconds of the middleware's clock.
        duration: Seconds until the last byte of the body, without background tasks.
        time_to_first_byte: Seconds until the first byte of the body; None without a body.
        time_to_first_token: Seconds until the first output of the model in a stream, or None.
        usage: Token usage of the response, or None.
        usage_source: `reported`, `partial` (cut short, not final, or doubtful), `missing` (a model
            responded without usage), or None if no model responded.
        usage_doubtful: True if the usage may be wrong and must not lower a charge: the media type
            is not that of a model, or the last count was implausible.
        events: Decoded events of a stream; 0 for a single document. Counted for token limits, and
            may be 0 without one.
        model: Name of the model: in `annotate()`, else in the response, else in the request, if it
            is read; or None.
        model_source: `annotation`, `response`, `request`, or None without a model.
        cost_nanos: Cost of the response in nano-dollars (billionths of a US dollar), or None if it
            is unknown.
        cost_source: `reported` by the vendor, `estimated` from prices, `missing` (a model
            responded, and its price is unknown), or None if no model responded.
        cost_is_minimum: True if a part of the response has no known price, such as a search, or is
            not counted.
        upstream: What the response says is left of the provider's rate limits.
        tenant: Id of the tenant, if annotated.
        tenant_name: Readable name of the tenant, if annotated.
        api_key: Id of the tenant's API key, if annotated; never the secret.
        credential: Id of the upstream API key, if annotated; never the secret.
        credential_group: Readable name of the group of that key, if annotated.
    """

    method: str
    started: float
    route: str = ""
    status: int = 0
    provider: str = ""
    outcome: Outcome = "complete"
    limited: bool = False
    fault: Fault | None = None
    duration: float = 0.0
    time_to_first_byte: float | None = None
    time_to_first_token: float | None = None
    usage: TokenUsage | None = None
    usage_source: Source | None = None
    usage_doubtful: bool = False
    events: int = 0
    model: str | None = None
    model_source: ModelSource | None = None
    cost_nanos: int | None = None
    cost_source: CostSource | None = None
    cost_is_minimum: bool = False
    upstream: tuple[UpstreamQuota, ...] = ()
    tenant: str | None = None
    tenant_name: str | None = None
    api_key: str | None = None
    credential: str | None = None
    credential_group: str | None = None
