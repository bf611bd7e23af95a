"""Limit of the wrong tokens that a client may send to guarded endpoints."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable
from hashlib import blake2b
from secrets import token_bytes
from typing import Any, Protocol

from starlette.requests import Request
from starlette.types import Scope

from .auth import Authorize, Person, call, person_of
from .problems import ProblemError

_SCOPE_KEY = "tokenpulse_mw.guess_limit"
_MAX_ACCEPTED = 1000
_REJECTIONS = (401, 403)
# In names of headers; HTTP/2 has `:authority` instead of `host`.
_CREDENTIAL = re.compile(rb"auth(?!ority)|cookie|jwt|key|password|secret|token")


class GuessCounter(Protocol):
    """Limiter of the wrong tokens of a client, such as `Limiter("10/minute")`."""

    def hit(self, key: Hashable, cost: int = 1, /) -> Any:
        """Count a wrong token, and return a decision with `allowed` and `retry_after`."""
        ...

    def charge(self, key: Hashable, amount: int, /) -> None:
        """Undo a hit with the amount -1."""
        ...


class GuessLimit:
    """Function `authorize` that limits the wrong tokens of each client.

    A request that is not admitted counts as a wrong token if it has a header that can hold
    credentials, even if the function raises an error or is cancelled. Once a client has sent too
    many, its further tokens are rejected with 429 and not checked. Credentials that this process
    has accepted from the same client are still checked, and count only if they are rejected:
    otherwise a client, or an outage, could lock out operators behind the same address. Of accepted
    credentials, only a keyed hash is stored.

    Args:
        authorize: The function that checks a request.
        counter: Limiter of wrong tokens.
        client_of: Function of the scope that returns the key of the client.
    """

    def __init__(
        self, authorize: Authorize, *, counter: GuessCounter, client_of: Callable[[Scope], Hashable]
    ) -> None:
        self._authorize, self._counter, self._client_of = authorize, counter, client_of
        self._secret = token_bytes(16)
        self._accepted: OrderedDict[tuple[Hashable, bytes], None] = OrderedDict()

    async def __call__(self, request: Request) -> Any:
        """Return the caller, or the result of the function if it does not admit the request.

        A request that is checked again, such as by an inner layer, counts once.

        Raises:
            ProblemError: The client has sent too many wrong tokens, or the function raised an
                HTTPException.
        """
        scope = request.scope
        owner, outcome = scope.get(_SCOPE_KEY, (None, None))
        if owner is not self:
            outcome = None
        if isinstance(outcome, Person):
            return outcome
        if isinstance(outcome, ProblemError):
            raise outcome
        credentials = self._credentials(request)
        if credentials is None:
            return await call(self._authorize, request)
        client = self._client_of(scope)
        is_known = (client, credentials) in self._accepted
        is_counted = outcome is not None
        if not is_known and not is_counted:
            # Before the check, so that concurrent requests cannot send more.
            self._count(scope, client)
            is_counted = True
        try:
            allowed = await call(self._authorize, request)
        except ProblemError as problem:
            if not is_counted and problem.status in _REJECTIONS:
                self._count(scope, client)
            raise
        person = person_of(allowed)
        if person is None:
            if not is_counted:
                self._count(scope, client)
            return allowed
        if is_counted:
            self._counter.charge(client, -1)
        self._accept(client, credentials)
        scope[_SCOPE_KEY] = self, person
        return person

    def _count(self, scope: Scope, client: Hashable) -> None:
        """Count a wrong token, or reject the request if there were too many."""
        decision = self._counter.hit(client)
        if not decision.allowed:
            seconds = max(math.ceil(decision.retry_after), 1)
            problem = ProblemError(
                429,
                f"Too many wrong tokens from this address: retry in {seconds} s.",
                headers={"retry-after": str(seconds)},
            )
            scope[_SCOPE_KEY] = self, problem
            raise problem
        scope[_SCOPE_KEY] = self, "counted"

    def _accept(self, client: Hashable, credentials: bytes) -> None:
        """Store accepted credentials instead of those that were used least recently."""
        self._accepted[client, credentials] = None
        self._accepted.move_to_end((client, credentials))
        if len(self._accepted) > _MAX_ACCEPTED:
            self._accepted.popitem(last=False)

    def _credentials(self, request: Request) -> bytes | None:
        """Return a keyed hash of the headers that can hold credentials; None without them."""
        hashed = None
        for name, value in request.headers.raw:
            if may_be_credential(name):
                if hashed is None:
                    hashed = blake2b(key=self._secret, digest_size=16)
                hashed.update(b"%d:%b%d:%b" % (len(name), name.lower(), len(value), value))
        return None if hashed is None else hashed.digest()


def may_be_credential(name: bytes) -> bool:
    """Return True if the header `name` can hold credentials."""
    return _CREDENTIAL.search(name.lower()) is not None
