"""Limit of wrong tokens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Scope

from tokenpulse_mw import Limiter, Person
from tokenpulse_mw.web import guesses
from tokenpulse_mw.web.auth import bearer
from tokenpulse_mw.web.guesses import GuessLimit
from tokenpulse_mw.web.problems import ProblemError

from ..support.asgi import http_scope
from ..support.clock import FakeClock

pytestmark = pytest.mark.anyio

TOKEN = "s3cret"


def scope_of(token: str | None, client: str = "192.0.2.1", *more: tuple[bytes, bytes]) -> Scope:
    """Return a request with a token."""
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    return http_scope(headers=[*headers, *more], client=(client, 1))


class Guarded:
    """Limit of 3 wrong tokens a minute.

    Args:
        authorize: The function that checks a request.
    """

    def __init__(self, authorize: Callable[[Request], Any] | None = None) -> None:
        self.clock = FakeClock()
        self.counter = Limiter("3/minute", max_keys=10, clock=self.clock)
        self.limit = GuessLimit(
            authorize or bearer(TOKEN),
            counter=self.counter,
            client_of=lambda scope: scope["client"][0],
        )

    async def send(self, token: str | None = TOKEN, client: str = "192.0.2.1") -> str:
        """Return "admitted", "rejected" or the seconds after which to retry."""
        return await self.outcome(scope_of(token, client))

    async def outcome(self, scope: Scope) -> str:
        """Return the outcome of a request."""
        try:
            person = await self.limit(Request(scope))
        except ProblemError as problem:
            return problem.headers.get("retry-after", f"status {problem.status}")
        return "admitted" if isinstance(person, Person) else "rejected"

    def left(self, client: str = "192.0.2.1") -> int:
        """Return the number of wrong tokens that a client may still send."""
        return self.counter.peek(client, 0).remaining


async def test_wrong_tokens_are_rejected_unchecked_until_the_window_ends() -> None:
    """During that time, a correct token is not checked either, so it cannot be guessed."""
    guarded = Guarded()

    outcomes = [await guarded.send(f"guess-{number}") for number in range(5)]
    guarded.clock.advance(30)
    outcomes.append(await guarded.send())
    guarded.clock.advance(31)
    outcomes.append(await guarded.send())

    assert outcomes == ["rejected"] * 3 + ["60", "60", "30", "admitted"]


async def test_rejection_says_when_to_retry() -> None:
    """The status is 429, and the detail repeats the header in words."""
    guarded = Guarded()
    for number in range(3):
        await guarded.send(f"guess-{number}")

    with pytest.raises(ProblemError) as caught:
        await guarded.limit(Request(scope_of("guess")))

    assert (caught.value.status, caught.value.headers) == (429, {"retry-after": "60"})
    assert caught.value.detail == "Too many wrong tokens from this address: retry in 60 s."


async def test_known_token_of_the_same_client_is_still_accepted() -> None:
    """A client behind the address of an operator cannot lock the operator out."""
    guarded = Guarded()
    assert await guarded.send() == "admitted"

    for number in range(5):
        await guarded.send(f"guess-{number}")

    assert await guarded.send() == "admitted"
    assert await guarded.send("guess-9") == "60"


async def test_known_token_of_another_client_is_rejected() -> None:
    """A token that an operator uses elsewhere cannot be guessed faster."""
    guarded = Guarded()
    await guarded.send(client="198.51.100.7")

    for number in range(3):
        await guarded.send(f"guess-{number}")

    assert await guarded.send() == "60"
    assert await guarded.send(client="198.51.100.7") == "admitted"


async def test_accepted_requests_do_not_count() -> None:
    """Neither accepted tokens nor requests without credentials are wrong tokens."""
    guarded = Guarded()

    outcomes = [await guarded.send() for _ in range(5)]
    outcomes += [await guarded.send(None) for _ in range(5)]

    assert outcomes == ["admitted"] * 5 + ["rejected"] * 5
    assert guarded.left() == 3


async def test_other_header_with_credentials_counts() -> None:
    """A function may read another header than Authorization."""
    guarded = Guarded(lambda request: request.headers.get("x-api-key") == TOKEN)

    for number in range(3):
        key = (b"x-api-key", b"guess-%d" % number)
        assert await guarded.outcome(scope_of(None, "192.0.2.1", key)) == "rejected"

    right = (b"x-api-key", TOKEN.encode())
    assert await guarded.outcome(scope_of(None, "192.0.2.1", right)) == "60"


async def test_known_credentials_are_all_headers_together() -> None:
    """A known token with another cookie is a guess, since the function may read either."""
    guarded = Guarded()
    cookies = [(b"cookie", b"a=1"), (b"cookie", b"a=2")]
    await guarded.outcome(scope_of(TOKEN, "192.0.2.1", cookies[0]))
    for number in range(3):
        await guarded.send(f"guess-{number}")

    outcomes = [await guarded.outcome(scope_of(TOKEN, "192.0.2.1", cookie)) for cookie in cookies]

    assert outcomes == ["admitted", "60"]


async def test_request_checked_twice_counts_once() -> None:
    """The outer layer and the endpoint check the same request."""
    guarded = Guarded()
    scope = scope_of("guess")

    assert [await guarded.outcome(scope) for _ in range(3)] == ["rejected"] * 3
    assert guarded.left() == 2


async def test_request_over_the_limit_is_rejected_again() -> None:
    """The second check of the same request has the same outcome, and counts nothing."""
    guarded = Guarded()
    for number in range(3):
        await guarded.send(f"guess-{number}")
    scope = scope_of(TOKEN)

    assert [await guarded.outcome(scope) for _ in range(2)] == ["60", "60"]


async def test_admitted_request_is_checked_once() -> None:
    """The function, which may be slow, is called once for each request."""
    calls = list[int]()

    async def authorize(request: Request) -> str:
        calls.append(1)
        return "ada"

    guarded = Guarded(authorize)
    scope = scope_of("token")

    assert [await guarded.outcome(scope) for _ in range(2)] == ["admitted"] * 2
    assert len(calls) == 1


async def test_request_admitted_by_the_second_check_does_not_count() -> None:
    """A middleware between both checks may add what the function reads."""
    guarded = Guarded(lambda request: request.scope.get("user") == "ada")
    scope = scope_of("session")

    first = await guarded.outcome(scope)
    scope["user"] = "ada"

    assert (first, await guarded.outcome(scope), guarded.left()) == ("rejected", "admitted", 3)


async def test_concurrent_guesses_are_limited() -> None:
    """A slow check does not admit more guesses than the limit."""
    checks = list[str]()
    gate = anyio.Event()

    async def authorize(request: Request) -> bool:
        checks.append(request.headers["authorization"])
        await gate.wait()
        return False

    guarded = Guarded(authorize)
    async with anyio.create_task_group() as tasks:
        for number in range(9):
            tasks.start_soon(guarded.send, f"guess-{number}")
        await anyio.wait_all_tasks_blocked()
        gate.set()

    assert len(checks) == 3


async def test_revoked_token_counts() -> None:
    """A token that was accepted before is a wrong one when it is no longer accepted."""
    accepted = {TOKEN}
    guarded = Guarded(lambda request: request.headers["authorization"][7:] in accepted)
    await guarded.send()
    accepted.clear()

    assert [await guarded.send() for _ in range(4)] == ["rejected"] * 3 + ["60"]


@pytest.mark.parametrize("error", [HTTPException(401), HTTPException(503), KeyError("guess")])
async def test_token_for_which_the_function_raises_counts(error: Exception) -> None:
    """A function that raises for a wrong token cannot be used to guess."""
    users = {f"Bearer {TOKEN}": "ada"}

    def authorize(request: Request) -> str:
        name = users.get(request.headers["authorization"])
        if name is None:
            raise error
        return name

    guarded = Guarded(authorize)
    for number in range(3):
        with suppress(KeyError):
            await guarded.send(f"guess-{number}")

    assert await guarded.send() == "60"


@pytest.mark.parametrize(
    ("error", "left"),
    [(HTTPException(401), 2), (HTTPException(403), 2), (HTTPException(503), 3), (OSError(), 3)],
)
async def test_known_token_counts_only_if_it_is_rejected(error: Exception, left: int) -> None:
    """An outage does not lock out an operator, and a revoked token is a wrong one."""
    results: list[Any] = [error, True]

    def authorize(request: Request) -> bool:
        result = results.pop()
        if isinstance(result, Exception):
            raise result
        return True

    guarded = Guarded(authorize)
    await guarded.send()
    with suppress(OSError):
        await guarded.send()

    assert guarded.left() == left


async def test_attempt_that_is_cancelled_counts() -> None:
    """A check that never ends would otherwise be free."""

    async def authorize(request: Request) -> bool:
        await anyio.sleep_forever()
        return False

    guarded = Guarded(authorize)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guarded.send)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert guarded.left() == 2


async def test_number_of_known_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that was used least recently is no longer known."""
    monkeypatch.setattr(guesses, "_MAX_ACCEPTED", 2)
    guarded = Guarded(lambda request: "guess" not in request.headers["authorization"])
    for token in ("a", "b", "a", "c"):
        await guarded.send(token)
    for number in range(3):
        await guarded.send(f"guess-{number}")

    assert [await guarded.send(token) for token in ("a", "b", "c")] == [
        "admitted",
        "60",
        "admitted",
    ]


async def test_other_limit_checks_the_request_itself() -> None:
    """The outcome for the admin token is not that for the metrics token."""
    admin, scraper = Guarded(), Guarded(bearer("other"))
    scope = scope_of(TOKEN)

    assert [await admin.outcome(scope), await scraper.outcome(scope)] == ["admitted", "rejected"]
