"""Limiter whose rate depends on the key, such as the plan of a tenant."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from functools import lru_cache
from inspect import iscoroutinefunction
from typing import Any, cast

from anyio import fail_after

from ...exchange import ErrorReporter
from ...validation import check_choice, check_seconds
from .decision import Decision
from .limiter import Limiter
from .rate import Rate, parse_rate
from .strategy import Strategy, create_strategy

# Returns the rate of a key, such as "100/minute", or None if the key is not limited.
RateOf = Callable[[Any], str | None] | Callable[[Any], Awaitable[str | None]]

_STRATEGIES = ("fixed-window", "gcra")  # their states do not depend on the rate
_MAX_RATES = 1024  # different rates in use; a rate that was removed is parsed again
_RETRY = 5.0  # seconds until an async function that failed for a key is called again

_parse = lru_cache(maxsize=_MAX_RATES)(parse_rate)


@lru_cache(maxsize=_MAX_RATES)
def _strategy(name: str, rate: Rate) -> Strategy:
    return create_strategy(name, limit=rate.amount, window=rate.seconds)


class PlanLimiter(Limiter):
    """Limiter whose rate is a function of the key.

    All keys are in one bounded table. If the rate of a key changes, what it used in its current
    window still counts; the end of that window stays.

    A plain function is called on every request, so it must be quick. The result of an async one is
    cached. Until `load` is called, keys of an async function have the rate `default`.

    Args:
        rate_of: Function of the key that returns a rate such as "100/minute", or None if the key
            is not limited. It may be async.
        default: Rate of keys whose rate is not known, because `rate_of` failed or exceeded
            `timeout`. Without it, such requests are not limited. A key of an async function keeps
            its last rate instead.
        ttl: Seconds for which the rates of an async function are cached.
        timeout: Seconds that a request may wait for an async function.
        max_keys: Size of the table of keys, and of the cache.
        strategy: "fixed-window" or "gcra".
        clock: Monotonic seconds.

    Attributes:
        is_async: True if `rate_of` is async.

    Raises:
        ValueError: An argument is malformed.
    """

    def __init__(
        self,
        rate_of: RateOf,
        *,
        default: str | None = None,
        ttl: float = 60.0,
        timeout: float = 0.5,
        max_keys: int = 5000,
        strategy: str = "fixed-window",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not callable(rate_of):
            raise ValueError(
                "rate_of must be a function of the key that returns a rate such as '100/minute', "
                f"got {rate_of!r}"
            )
        check_seconds("ttl", ttl)
        check_seconds("timeout", timeout)
        check_choice("strategy", strategy, _STRATEGIES)
        super().__init__(
            "1/second" if default is None else default,
            max_keys=max_keys,
            strategy=strategy,
            clock=clock,
        )
        self.is_async = iscoroutinefunction(rate_of) or iscoroutinefunction(
            getattr(rate_of, "__call__", None)  # noqa: B004 - of an object that acts as a function
        )
        self._rate_of = rate_of
        self._default = None if default is None else parse_rate(default)
        self._name, self._ttl, self._timeout = strategy, ttl, timeout
        self._rates: OrderedDict[Hashable, tuple[Rate | None, float]] = OrderedDict()
        self._failures = ErrorReporter()
        self._component = f"rate function {getattr(rate_of, '__name__', type(rate_of).__name__)}"

    def is_limited(self, key: Hashable) -> bool:
        """Return True unless the rate of `key` is None.

        Raises:
            Exception: The rate is not known.
        """
        return self._rate(key) is not None

    async def load(self, key: Hashable) -> None:
        """Call an async function for the rate of `key`, unless the cache has it."""
        rate, expires = self._rates.get(key, (self._default, None))
        now = self.clock()
        if expires is not None:
            if now < expires:
                return
            self._store(key, rate, now + self._timeout)  # meanwhile, others use the last rate
        try:
            with fail_after(self._timeout):
                rate = _rate(await cast(Callable[[Any], Awaitable[str | None]], self._rate_of)(key))
        except Exception as error:  # noqa: BLE001 - the key keeps its last rate, or the default
            self._failures.log(self._component, error)
            if expires is not None or self._default is not None:
                self._store(key, rate, now + _RETRY)
        else:
            self._store(key, rate, self.clock() + self._ttl)

    def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Count a request of `cost` for `key` if it is within the limit of the key.

        Raises:
            Exception: `cost` is not an integer of at least 0, or the rate is not known.
        """
        self._select(key)
        return super().hit(key, cost)._replace(window=self.window)

    def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Return what `hit` would decide, without counting.

        Raises:
            Exception: `cost` is not an integer of at least 0, or the rate is not known.
        """
        self._select(key)
        return super().peek(key, cost)._replace(window=self.window)

    def has_room(self, key: Hashable, cost: int) -> bool:
        """Return True if `hit` would allow a valid `cost`.

        Raises:
            Exception: The rate is not known.
        """
        self._select(key)
        return super().has_room(key, cost)

    def charge(self, key: Hashable, amount: int, *, since: float | None = None) -> None:
        """Correct the cost of a hit, unless the key is no longer limited or its rate not known."""
        try:
            rate = self._rate(key)
        except Exception as error:  # noqa: BLE001 - other charges of the request are corrected
            self._failures.log(self._component, error)
            return
        if rate is not None:
            self._use(rate)
            super().charge(key, amount, since=since)

    def clear(self) -> None:
        """Remove the usage and the cached rates of all keys."""
        super().clear()
        self._rates.clear()

    def _select(self, key: Hashable) -> None:
        """Let the inherited methods use the rate of `key`."""
        rate = self._rate(key)
        if rate is None:
            raise ValueError(f"key must have a limit, got {key!r}, whose rate is None")
        self._use(rate)

    def _use(self, rate: Rate) -> None:
        """Let the inherited methods use `rate`: a state does not depend on it."""
        self.limit, self.window = rate
        self._strategy = _strategy(self._name, rate)
        self._consume = self._strategy.consume

    def _rate(self, key: Hashable) -> Rate | None:
        if self.is_async:
            if key in self._rates:
                return self._rates[key][0]
            if self._default is None:
                raise LookupError(f"the rate is not known, since {self._component} failed")
            return self._default
        try:
            return _rate(cast(Callable[[Any], str | None], self._rate_of)(key))
        except Exception as error:
            if self._default is None:
                raise
            self._failures.log(self._component, error)
            return self._default

    def _store(self, key: Hashable, rate: Rate | None, expires: float) -> None:
        self._rates[key] = rate, expires
        self._rates.move_to_end(key)
        if len(self._rates) > self.max_keys:
            self._rates.popitem(last=False)


def _rate(text: str | None) -> Rate | None:
    return None if text is None else _parse(text)
