"""Reserves from the request: its maximum of tokens, and their price."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Scope

from ..exchange import Providers, annotations_of, requested_tokens
from ..usage import Prices, TokenUsage
from ..validation import check_integer
from .callables import estimating_tokens, factory
from .keys.model import model_of
from .limiters import CENT, from_nanos


@factory
def reserve_from_request(
    prices: Prices, *, providers: Providers | None = None
) -> Callable[[Scope], int | None]:
    """Return a function for `reserve` of a policy: the price of the largest response to a request.

    That is the largest of `max_tokens`, `max_completion_tokens`, `max_output_tokens` and
    `maxOutputTokens` at the top level of the JSON body, at the rate of the output of the requested
    model; and at least a cent, which is the reserve without such a number. Of the body, the first
    64 KiB are read before the application reads it. The input is charged with the response. A
    request reserves at most the limit, so that it is allowed if nothing is used.

    `TokenPulse` uses it in each limit of money without a `reserve` that it evaluates in a
    middleware.

    Args:
        prices: Prices of the models. If that of a model is not known, the function returns None.
        providers: Providers of the requests, if the prices are by provider.

    Raises:
        ValueError: An argument is of another type.
    """
    if not isinstance(prices, Prices):
        raise ValueError(f"prices must be Prices(...), got {prices!r:.60}")
    if providers is not None and not isinstance(providers, Providers):
        raise ValueError(f"providers must be Providers(...), got {providers!r:.60}")
    resolver = Providers() if providers is None else providers

    def reserve(scope: Scope) -> int | None:
        model = model_of(scope)
        annotations = annotations_of(scope) or {}
        provider = resolver.resolve(scope, annotations.get("provider"), model)
        usage = TokenUsage(output=requested_tokens(scope) or 1)
        cost = prices.estimate(provider, model, usage)
        # The input has a price too, and is not known.
        return None if cost is None else max(from_nanos(cost.nanos), CENT)

    return estimating_tokens(reserve)


@factory
def tokens_from_request(default: int) -> Callable[[Scope], int]:
    """Return a function for `tokens` of a policy: the most tokens that a request allows.

    The number is that of `reserve_from_request`. A request reserves at most the limit.

    Args:
        default: Tokens of a request without such a number.

    Raises:
        ValueError: `default` is not an integer of at least 1.
    """
    check_integer("default", default)

    def tokens(scope: Scope) -> int:
        return requested_tokens(scope) or default

    return estimating_tokens(tokens)
