"""Attribution of failed exchanges: whose fault a failure is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from starlette.exceptions import HTTPException

from .exchange import Exchange, Fault

FAULTS: tuple[Fault, ...] = get_args(Fault)

_MAX_CHAIN = 10  # exceptions that are examined

# Exceptions of HTTP clients and vendors' SDKs, by the package and the name of a class or a base
# class. They are compared by name, because none of these packages needs to be installed.
_NETWORK = {
    "APIConnectionError": {"openai", "anthropic"},
    "ChunkedEncodingError": {"requests"},
    "ClientConnectionError": {"aiohttp"},
    "ClientPayloadError": {"aiohttp"},
    "ConnectionClosed": {"websockets"},
    "ConnectionError": {"builtins", "requests", "botocore"},
    "HTTPClientError": {"botocore"},
    "NetworkError": {"httpcore", "httpcore2"},
    "ProtocolError": {"httpcore", "httpcore2", "urllib3"},
    "SSLError": {"ssl"},
    "Timeout": {"requests"},
    "TimeoutError": {"builtins"},
    "TimeoutException": {"httpcore", "httpcore2"},
    "TransportError": {"httpx", "httpx2"},
    "gaierror": {"socket"},
}
# Errors about a response that are not connection errors, such as an error event of a stream, whose
# own status is 200.
_PROVIDER = {"APIError": {"openai", "anthropic"}}
# Of a gateway that has no response of a provider to pass on (RFC 9110, 15.6).
_OF_GATEWAY = (501, 505, 506, 507, 508, 510, 511)


def fault_of(
    exchange: Exchange,
    error: BaseException | None,
    *,
    is_text: bool,
    outer: BaseException | None = None,
) -> Fault | None:
    """Return whose fault the failure of an exchange is; None if it did not fail.

    Args:
        exchange: A finished exchange, with its credential and provider.
        error: The exception that the application was handling or raised at the end, if any.
        is_text: The response is plain text, as that of Starlette to an unhandled exception.
        outer: The exception that was handled before the exchange began, if any. It is the context
            of all exceptions that are raised meanwhile, and the cause of none.
    """
    status, outcome = exchange.status, exchange.outcome
    if exchange.limited:
        return "policy"
    if outcome == "client_disconnect":
        return "client"
    if status < 400 and outcome == "complete":
        return None
    if status >= 500 or outcome != "complete":
        fault = _fault_of_error(error, outer)
        if fault is not None:
            return fault
    if outcome == "truncated":
        return "network"
    if status < 400:
        return "provider"  # an error event in a stream
    if status < 500:
        return _fault_of_client_error(exchange)
    if status == 504:
        return "network"
    is_ours = status in _OF_GATEWAY or outcome == "error" or (status == 500 and is_text)
    return "gateway" if is_ours else "provider"


def _fault_of_client_error(exchange: Exchange) -> Fault:
    if exchange.status == 429:
        return "provider"  # limits of the gateway are `limited`
    # With a credential, a provider was called, and it rejected the gateway and not the client.
    return "gateway" if exchange.status in (401, 403) and exchange.credential else "client"


def _fault_of_error(error: BaseException | None, outer: BaseException | None) -> Fault | None:
    """Return whose fault an exception is; None if it is a deliberate response without a cause."""
    fault: Fault | None = None
    for cause in _chain(error, outer):
        if _is_one_of(_NETWORK, cause):
            return "network"
        status = _response_status(cause)
        if status is not None:
            return "gateway" if status in (401, 403) else "provider"
        if _is_one_of(_PROVIDER, cause):
            return "provider"
        if not isinstance(cause, HTTPException):
            fault = "gateway"
    return fault


def _chain(error: BaseException | None, outer: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, and what it was raised for, up to `outer`."""
    for _ in range(_MAX_CHAIN):
        if error is None or error is outer:
            return
        yield error
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        else:
            error = error.__cause__ or error.__context__


def _is_one_of(names: Mapping[str, set[str]], error: BaseException) -> bool:
    return any(_package(base) in names.get(base.__name__, ()) for base in type(error).__mro__)


def _response_status(error: BaseException) -> int | None:
    """Return the status of the response that an exception of an HTTP client is about."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        response = response.get("ResponseMetadata", {})
        status = response.get("HTTPStatusCode")
    elif _package(type(error)) == "aiohttp":
        status = getattr(error, "status", None)
    else:
        status = getattr(response, "status_code", None)
    return status if type(status) is int and 400 <= status <= 599 else None


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]
