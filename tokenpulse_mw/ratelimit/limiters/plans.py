"""Limiter whose rate depends on the key, such as the plan of a tenant."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import suppress
from functools import lru_cache
from inspect import iscoroutinefunction
from typing import Any, cast

from anyio import fail_after

from ...exchange import ErrorReporter
from ...validation import check_choice, check_seconds
from .blocked import Blocked
from .calendar import CalendarClock
from .decision import Decision
from .limiter import Limiter
from .money import CURRENCY
from .rate import Rate, parse_change, parse_rate
from .strategy import Strategy, create_strategy

# Returns the rate of a key, such as "100/minute", or None if the key is not limited.
RateOf = Callable[[Any], str | None] | Callable[[Any], Awaitable[str | None]]
RateTable = Mapping[Any, str | None]  # rates by key, or by plan

_STRATEGIES = ("fixed-window", "gcra")  # their states do not depend on the rate
_MAX_RATES = 1024  # different rates in use; a rate that was removed is parsed again
_RETRY = 5.0  # seconds until an async function that failed for a key is called again

_parse = lru_cache(maxsize=_MAX_RATES)(parse_rate)


@lru_cache(maxsize=_MAX_RATES)
def _strategy(name: str, rate: Rate, clock: CalendarClock | None) -> Strategy:
    strategy = create_strategy(name, limit=max(rate.amount, 1), window=rate.seconds, clock=clock)
    return strategy if rate.amount else Blocked(strategy)


class PlanLimiter(Limiter):
    """Limiter whose rate is a function of the key, or a table of the keys or their plans.

    All keys are in one bounded table. If the rate of a key changes, what it used in its current
    window still counts; the end of that window stays.

    A plain function is called on every request, so it must be quick. The result of an async one is
    cached. Until `load` is called, keys of an async function have the rate `default`.

    Args:
        rate_of: Function of the key that returns a rate such as "100/minute", or None if the key
            is not limited. It may be async. Or a mapping of keys to rates, which is copied.
        plan_of: Function of the key that returns the plan, if `rate_of` is a mapping of plans.
        default: Rate of keys whose rate is not known, because the mapping lacks it, or a function
            failed or exceeded `timeout`. Without it, such requests are not limited. A key of an
            async function keeps its last rate instead.
        currency: "USD" if the rates are amounts of money, as those of a mapping show.
        ttl: Seconds for which the rates of an async function are cached.
        timeout: Seconds that a request may wait for an async function.
        max_keys: Size of the table of keys, and of the cache.
        strategy: "fixed-window" or "gcra".
        clock: Monotonic seconds; not used for calendar windows.
        timezone: Time zone of calendar windows; UTC when None.
        wall_clock: Seconds since the epoch, for calendar windows.

    All rates have the same currency and calendar period: those of `default`, or of the first rate
    in the mapping.

    Attributes:
        is_async: True if `rate_of` is async.
        rates: Present rates of the mapping; None with a function.
        default: The argument `default`.
        configured: The argument `rate_of`.

    Raises:
        ValueError: An argument is malformed.
    """

    def __init__(
        self,
        rate_of: RateOf | RateTable,
        *,
        plan_of: Callable[[Any], Hashable] | None = None,
        default: str | None = None,
        currency: str | None = None,
        ttl: float = 60.0,
        timeout: float = 0.5,
        max_keys: int = 5000,
        strategy: str = "fixed-window",
        clock: Callable[[], float] = time.monotonic,
        timezone: str | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if not (callable(rate_of) or isinstance(rate_of, Mapping)):
            raise ValueError(
                "rate_of must be a function of the key that returns a rate such as '100/minute', "
                f"or a mapping of keys to rates, got {rate_of!r}"
            )
        if not (plan_of is None or callable(plan_of)):
            raise ValueError(
                f"plan_of must be a function of the key that returns its plan, got {plan_of!r}"
            )
        check_choice("currency", currency, (None, CURRENCY))
        rates = rate_of.values() if isinstance(rate_of, Mapping) else ()
        first = next((rate for rate in (default, *rates) if rate is not None), None)
        if first is None:
            first = "1/second" if currency is None else f"1 {currency}/second"
        check_seconds("ttl", ttl)
        check_seconds("timeout", timeout)
        check_choice("strategy", strategy, _STRATEGIES)
        super().__init__(
            first,
            max_keys=max_keys,
            strategy=strategy,
            clock=clock,
            timezone=timezone,
            wall_clock=wall_clock,
        )
        self._plan_of = plan_of
        self._blocked: float | None = None  # until this time
        self._example = self.rate
        self.default = default
        self._default = None if default is None else parse_rate(default)
        self._name, self._ttl, self._timeout = strategy, ttl, timeout
        self._rates: OrderedDict[Hashable, tuple[Rate | None, float]] = OrderedDict()
        self._failures = ErrorReporter()
        self.rates: RateTable | None = None
        self.is_async = _is_async(rate_of)
        self.set_rates(rate_of)
        self.configured = rate_of if self.rates is None else self.rates

    def set_rates(self, rate_of: RateOf | RateTable) -> None:
        """Replace the function or the mapping of the rates, and end a block by `set_limit`.

        The usage of all keys and the ends of their windows stay.

        Raises:
            ValueError: A rate of the mapping is not valid, the mapping has the rates of plans
                without `plan_of`, or only one of both functions is async.
        """
        self.check_rates(rate_of)
        self.rates, self._blocked = dict(rate_of) if isinstance(rate_of, Mapping) else None, None
        self._rate_of = rate_of if callable(rate_of) else self._lookup(dict(rate_of))
        self._rates.clear()
        self._component = f"rate function {getattr(rate_of, '__name__', type(rate_of).__name__)}"

    def set_limit(self, limit: str, *, seconds: float | None = None) -> None:
        """Block all keys with "0"; their rates return with `set_rates`, or after `seconds`.

        Raises:
            ValueError: `limit` is not 0, or `seconds` is not a number above 0.
        """
        self.check_limit(limit, seconds=seconds)
        self._blocked = math.inf if seconds is None else self.clock() + seconds

    def check_limit(self, limit: str, *, seconds: float | None = None) -> None:
        """Check that `set_limit` would accept a change.

        Raises:
            ValueError: As `set_limit`.
        """
        if parse_change(limit, self._example, seconds) is not None:
            raise ValueError(
                f"limit must be '0' for a limiter of plans, got {limit!r}: change the rates of the "
                "plans with a mapping"
            )

    def blocked_for(self) -> float | None:
        """Return the seconds until a block ends, infinite if that is not known; None without."""
        left = 0.0 if self._blocked is None else self._blocked - self.clock()
        return left if left > 0 else None

    def check_rates(self, rate_of: RateOf | RateTable) -> None:
        """Check that `set_rates` would accept a change.

        Raises:
            ValueError: As `set_rates`.
        """
        if isinstance(rate_of, Mapping):
            for rate in rate_of.values():
                self._checked(_rate(rate))
        elif not callable(rate_of) or self._plan_of is not None:
            raise ValueError(
                f"rates must be a mapping of plans to rates, or a function without plan_of, "
                f"got {rate_of!r}"
            )
        if _is_async(rate_of) != self.is_async:
            raise ValueError(
                f"rates must be {'async' if self.is_async else 'not async'} as before, "
                f"got {rate_of!r}"
            )

    def _is_saved(self) -> bool:
        return True  # plans may have windows of different lengths

    def _fresh(self, key: Hashable, now: float) -> Any:
        with suppress(Exception):  # its rate is not known now: any window of the limiter
            self._select(key)
        return super()._fresh(key, now)

    def _lookup(self, rates: RateTable) -> Callable[[Any], str | None]:
        """Return a function of the key that returns its rate in a mapping."""
        plan_of, default = self._plan_of, self.default

        def rate_of(key: Any) -> str | None:
            plan = key if plan_of is None else plan_of(key)
            if default is None and plan not in rates:
                raise LookupError("the table of rates must have each key or plan, or a default")
            return rates.get(plan, default)

        return rate_of

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
        rate_of, lasts = self._rate_of, self._ttl
        try:
            with fail_after(self._timeout):
                function = cast(Callable[[Any], Awaitable[str | None]], rate_of)
                rate = self._checked(_rate(await function(key)))
        except Exception as error:  # noqa: BLE001 - the key keeps its last rate, or the default
            self._failures.log(self._component, error)
            if expires is None and self._default is None:
                return
            lasts = _RETRY
        if rate_of is not self._rate_of:  # the next request calls the new function
            lasts = 0.0
        self._store(key, rate, self.clock() + lasts)

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
            self._use_rate(rate)
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
        self._use_rate(rate)

    def _use_rate(self, rate: Rate) -> None:
        """Let the inherited methods use `rate`: a state does not depend on it."""
        strategy = _strategy(self._name, rate, self._calendar_clock)
        if self._blocked is not None:
            until = self._blocked
            if self.clock() < until:
                strategy = Blocked(strategy, None if until == math.inf else until)
            else:
                self._blocked = None
        self.limit, self.window = strategy.limit, strategy.window
        self._strategy, self._consume = strategy, strategy.consume

    def _rate(self, key: Hashable) -> Rate | None:
        if self.is_async:
            if key in self._rates:
                return self._rates[key][0]
            if self._default is None:
                raise LookupError(f"the rate is not known, since {self._component} failed")
            return self._default
        try:
            return self._checked(_rate(cast(Callable[[Any], str | None], self._rate_of)(key)))
        except Exception as error:
            if self._default is None:
                raise
            self._failures.log(self._component, error)
            return self._default

    def _checked(self, rate: Rate | None) -> Rate | None:
        """Return `rate` if it has the currency and the calendar period of the limiter."""
        if rate is not None and (rate.currency, rate.period) != (self.currency, self.period):
            raise ValueError(
                f"rates of plans must all have the same currency and calendar period, got "
                f"'{rate}' next to '{self._example}'"
            )
        return rate

    def _store(self, key: Hashable, rate: Rate | None, expires: float) -> None:
        self._rates[key] = rate, expires
        self._rates.move_to_end(key)
        if len(self._rates) > self.max_keys:
            self._rates.popitem(last=False)


def _is_async(rate_of: object) -> bool:
    return iscoroutinefunction(rate_of) or iscoroutinefunction(
        getattr(rate_of, "__call__", None)  # noqa: B004 - of an object that acts as a function
    )


def _rate(text: str | None) -> Rate | None:
    if text is None:
        return None
    return _parse(text) if isinstance(text, str) else parse_rate(text)  # which raises
