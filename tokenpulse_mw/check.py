"""Checks of a running gateway, with exit codes for scripts and container runtimes."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector

OK, WARNING, UNKNOWN = 0, 1, 3  # exit codes of Nagios plugins

_MAX_BYTES = 65536
_MAX_TIMEOUT = 86400.0  # seconds; sockets cannot wait much longer
_HEALTHY = ("ok", "pass", "up", "warn")


class Status(NamedTuple):
    """An exit code, and one line with the reason."""

    code: int
    line: str


def health_status(status: int, body: bytes) -> Status:
    """Return the status for a response of `/health` or a path below."""
    try:
        status_text = _object(body)["status"]
    except (ValueError, KeyError) as error:
        if status == 503:
            return Status(WARNING, "WARNING: the service responded with 503")
        why = "has no status" if isinstance(error, KeyError) else error
        return Status(UNKNOWN, f"UNKNOWN: the response ({status}) {why}")
    if status == 200 and status_text in _HEALTHY:
        return Status(OK, f"OK: the status is {status_text}")
    if status in (200, 503):
        return Status(
            WARNING, f"WARNING: the service responded with {status}, status {_shown(status_text)}"
        )
    return Status(UNKNOWN, f"UNKNOWN: the service responded with {status}")


def credentials_status(status: int, body: bytes) -> Status:
    """Return the status for a response of `/api/credentials/status`."""
    if status != 200:
        return Status(UNKNOWN, f"UNKNOWN: the service responded with {status}")
    try:
        providers = _object(body)
    except ValueError as error:
        return Status(UNKNOWN, f"UNKNOWN: the response {error}")
    if not providers or not all(isinstance(active, bool) for active in providers.values()):
        return Status(UNKNOWN, "UNKNOWN: the response does not map each provider to true or false")
    inactive = [_shown(name) for name, active in providers.items() if not active]
    if not inactive:
        return Status(OK, f"OK: all providers are active ({len(providers)})")
    verb = "providers are" if len(providers) > 1 else "provider is"
    count = f"{len(inactive)} of {len(providers)} {verb} inactive"
    return Status(WARNING, f"WARNING: {count}: {', '.join(inactive)}")


class Subject(NamedTuple):
    """An endpoint that can be checked: its path, and the function that returns its status."""

    path: str
    status_of: Callable[[int, bytes], Status]


SUBJECTS = {
    "health": Subject("/health/ready", health_status),
    "credentials": Subject("/api/credentials/status", credentials_status),
}


def endpoint(url: str, subject: Subject) -> str:
    """Return `url`, with the path of the subject if it has none.

    Raises:
        ValueError: It is not an HTTP URL, or has a user or password, which are not shown.
    """
    parts = _parts(url)
    if parts is None:
        # The text before an @ may be a password.
        got = "one with an @: leave out user and password" if "@" in url else repr(url)
        raise ValueError(f"expected a URL such as http://127.0.0.1:8000, got {got}")
    return urlunsplit(parts._replace(path=subject.path)) if parts.path in ("", "/") else url


def check(subject: Subject, url: str, *, timeout: float) -> Status:
    """Request `url` and return the status of its response.

    Args:
        subject: The endpoint at `url`.
        url: Requested as it is, without a proxy and without following redirects.
        timeout: Seconds for the whole request, including name resolution; a day at most.
    """
    timeout = min(timeout, _MAX_TIMEOUT)
    responses: queue.SimpleQueue[tuple[int, bytes] | Exception] = queue.SimpleQueue()
    # A thread, because name resolution and slow servers have no deadline of their own.
    threading.Thread(target=_request, args=(url, timeout, responses), daemon=True).start()
    try:
        response = responses.get(timeout=timeout)
    except queue.Empty:
        return Status(UNKNOWN, f"UNKNOWN: no response within {timeout:g} s")
    if isinstance(response, Exception):
        why = getattr(response, "reason", None) or response
        return Status(UNKNOWN, f"UNKNOWN: no response: {_shown(str(why))}")
    status, body = response
    if len(body) > _MAX_BYTES:
        return Status(UNKNOWN, f"UNKNOWN: the response is longer than {_MAX_BYTES} bytes")
    return subject.status_of(status, body)


def _parts(url: str) -> SplitResult | None:
    """Return the parts of an HTTP URL, or None for any other."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # its text contains parts of the URL
        return None
    return parts if known and "@" not in parts.netloc else None


def _request(
    url: str, timeout: float, responses: queue.SimpleQueue[tuple[int, bytes] | Exception]
) -> None:
    opener = OpenerDirector()  # without redirects and proxies
    for handler in (HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    try:
        with opener.open(url, timeout=timeout) as response:
            responses.put((response.status, response.read(_MAX_BYTES + 1)))
    except (OSError, HTTPException, ValueError) as error:
        responses.put(error)


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object")
    return document


def _shown(value: object) -> str:
    """Return `value` on one line, without control characters."""
    return str(value).encode("unicode_escape").decode()
