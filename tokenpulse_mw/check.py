"""What a health endpoint says, as a verdict that scripts and container runtimes understand."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector

OK, WARNING, UNKNOWN = 0, 1, 3  # exit codes, as Nagios and its heirs have them

_MOST_BYTES = 65536
_LONGEST = 86400.0  # seconds; no socket can wait for longer than some weeks
_HEALTHY = ("ok", "pass", "up", "warn")


class Status(NamedTuple):
    """An exit code, and one line that says why."""

    code: int
    line: str


def judge_health(status: int, body: bytes) -> Status:
    """What an answer of `/health` or one of those below it says."""
    try:
        told = _object(body)["status"]
    except (ValueError, KeyError) as error:
        if status == 503:
            return Status(WARNING, "WARNING: the service answered 503")
        why = "has no status" if isinstance(error, KeyError) else error
        return Status(UNKNOWN, f"UNKNOWN: the answer ({status}) {why}")
    if status == 200 and told in _HEALTHY:
        return Status(OK, f"OK: the status is {told}")
    if status in (200, 503):
        return Status(WARNING, f"WARNING: the service answered {status}, status {_shown(told)}")
    return Status(UNKNOWN, f"UNKNOWN: the service answered {status}")


def judge_credentials(status: int, body: bytes) -> Status:
    """What an answer of `/api/credentials/status` says."""
    if status != 200:
        return Status(UNKNOWN, f"UNKNOWN: the service answered {status}")
    try:
        told = _object(body)
    except ValueError as error:
        return Status(UNKNOWN, f"UNKNOWN: the answer {error}")
    if not told or not all(isinstance(active, bool) for active in told.values()):
        return Status(UNKNOWN, "UNKNOWN: the answer does not say of each provider true or false")
    inactive = [_shown(name) for name, active in told.items() if not active]
    if not inactive:
        return Status(OK, f"OK: all providers are active ({len(told)})")
    count = f"{len(inactive)} of {len(told)} provider{'s are' if len(told) > 1 else ' is'} inactive"
    return Status(WARNING, f"WARNING: {count}: {', '.join(inactive)}")


class Subject(NamedTuple):
    """What can be checked: where it is found below a service's URL, and how it is judged."""

    path: str
    judge: Callable[[int, bytes], Status]


SUBJECTS = {
    "health": Subject("/health/ready", judge_health),
    "credentials": Subject("/api/credentials/status", judge_credentials),
}


def endpoint(url: str, subject: Subject) -> str:
    """`url`, with the subject's own path where it has none.

    Raises:
        ValueError: It is no URL of HTTP, or one with a user or a password; these are not repeated.
    """
    parts = _parts(url)
    if parts is None:
        # Wherever it stands, what is before an @ may be a password.
        got = "one with an @: leave out user and password" if "@" in url else repr(url)
        raise ValueError(f"expected a URL such as http://127.0.0.1:8000, got {got}")
    return urlunsplit(parts._replace(path=subject.path)) if parts.path in ("", "/") else url


def check(subject: Subject, url: str, *, timeout: float) -> Status:
    """Ask `url`, an endpoint, and judge its answer.

    Args:
        subject: What is found there.
        url: Is asked as it is: through no proxy, and following no redirect.
        timeout: Seconds that all of it may take, also looking up the host's name; a day at most.
    """
    timeout = min(timeout, _LONGEST)
    answers: queue.SimpleQueue[tuple[int, bytes] | Exception] = queue.SimpleQueue()
    # A thread, as there is no deadline for a look-up, nor for a server that sends byte by byte.
    threading.Thread(target=_ask, args=(url, timeout, answers), daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        return Status(UNKNOWN, f"UNKNOWN: no answer within {timeout:g} s")
    if isinstance(answer, Exception):
        why = getattr(answer, "reason", None) or answer
        return Status(UNKNOWN, f"UNKNOWN: no answer: {_shown(str(why))}")
    status, body = answer
    if len(body) > _MOST_BYTES:
        return Status(UNKNOWN, f"UNKNOWN: the answer is longer than {_MOST_BYTES} bytes")
    return subject.judge(status, body)


def _parts(url: str) -> SplitResult | None:
    """The parts of a URL that can be asked; None of any other."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # whose text repeats some of it
        return None
    return parts if known and "@" not in parts.netloc else None


def _ask(
    url: str, timeout: float, answers: queue.SimpleQueue[tuple[int, bytes] | Exception]
) -> None:
    opener = OpenerDirector()  # with nothing that follows redirects or knows of proxies
    for handler in (HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    try:
        with opener.open(url, timeout=timeout) as answer:
            answers.put((answer.status, answer.read(_MOST_BYTES + 1)))
    except (OSError, HTTPException, ValueError) as error:
        answers.put(error)


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(told, dict):
        raise ValueError("is not a JSON object")
    return told


def _shown(value: object) -> str:
    """`value` on one line, with nothing in it that a terminal would obey."""
    return str(value).encode("unicode_escape").decode()
