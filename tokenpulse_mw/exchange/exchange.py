"""The record of one observed request: what was asked, who answered, how it went, what it cost."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..usage import Source, TokenUsage

Outcome = Literal["complete", "client_disconnect", "error", "truncated"]

# RFC 9110, section 9, with PATCH (RFC 5789) and QUERY. A method is whatever the client wrote, and
# as a label value anything else would let it create series at will (CVE-2023-45142).
METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY")
)
OTHER_METHOD = "_OTHER"


def method_label(method: str) -> str:
    """`method` if it is one of the known ones, else `_OTHER`."""
    return method if method in METHODS else OTHER_METHOD


class Exchange(msgspec.Struct, eq=False):
    """One request and its answer, as observers are given it when it is over.

    Attributes:
        method: An HTTP method of RFC 9110, PATCH or QUERY; `_OTHER` for anything else.
        route: Template of the route that answered, mount and include prefixes with it;
            `__unmatched__` where none did.
        status: Status code that the application sent; 499 when the client left before there was
            one, 500 when the application failed before there was one.
        provider: A declared provider, `other`, or `unknown`.
        outcome: `complete`; `client_disconnect`; `error` (an exception, or an error event in a
            stream that began with 200); `truncated` (the application stopped half-way).
        limited: A rate limit answered instead of the application.
        started: When the request came in, in seconds of the middleware's clock.
        duration: Seconds until the last byte of the body, background tasks not included.
        time_to_first_byte: Seconds until the first byte of the body; None where there is none.
        time_to_first_token: Seconds until the model's first words in a stream, or None.
        usage: Token usage of the answer, or None.
        usage_source: `reported`, `partial` (cut short, not final, or doubtful), `missing` (a model
            answered and no usage was found), or None where no model answered.
        usage_doubtful: The usage may be wrong, and so must not lower a charge: the media type does
            not say that a model responds, or the last count was implausible.
        events: Events of a stream that were decoded, whatever its coding; 0 for one document. They
            are counted for token limits, and may be 0 without one.
        model: The model that says it answered, or None.
        tenant: The tenant, where the application annotated one.
        api_key: The tenant's API key (its id, not the secret), where annotated.
        credential: The upstream API key used (its id), where annotated.
    """

    method: str
    started: float
    route: str = ""
    status: int = 0
    provider: str = ""
    outcome: Outcome = "complete"
    limited: bool = False
    duration: float = 0.0
    time_to_first_byte: float | None = None
    time_to_first_token: float | None = None
    usage: TokenUsage | None = None
    usage_source: Source | None = None
    usage_doubtful: bool = False
    events: int = 0
    model: str | None = None
    tenant: str | None = None
    api_key: str | None = None
    credential: str | None = None
