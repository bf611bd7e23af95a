"""A policy, and the charge of one request under it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from inspect import isclass
from typing import Any, Literal, NamedTuple, cast

from starlette.types import Scope

from ..validation import check_bool, check_choice, check_integer
from .callables import KeyFunction, check_function, check_name, reads_model, reads_tokens
from .keys import client_address
from .limiters import (
    CENT,
    CURRENCY,
    MAX_MICROS,
    Decision,
    InFlight,
    Limiter,
    PlanLimiter,
    Rate,
    RateOf,
    RateTable,
    StoredInFlight,
    StoredLimiter,
    blocked_decision,
    format_money,
    from_dollars,
    parse_money,
)
from .limiters.rate import MAX_SECONDS, parse_rate
from .weights import TokenWeights, Weight

AnyLimiter = Limiter | StoredLimiter | InFlight | StoredInFlight
Cost = int | Callable[[Scope], int]
Money = int | Decimal  # micro-dollars, or dollars
Reserve = str | Money | Callable[[Scope], Money | None]
OnMissingCost = Literal["reserve", "allow", "refuse"]

DEFAULT_NAME = "default"  # name of a decision that no policy has renamed

_NAME = Decision._fields.index("policy")
_NEVER = 2**53  # more than any limit

_new = tuple.__new__  # twice as fast as calling the class of a named tuple


class Policy:
    """A limit with a key, a cost and the requests it applies to.

    Args:
        limit: A rate such as "100/minute", "20 USD/day" or "1000/calendar day"; a mapping of keys
            to rates; a function of the key, async or not, that returns a rate, or None for no
            limit; or a limiter, such as `PlanLimiter`, `SharedLimiter`, `ZoneLimiter` or
            `InFlight`. A rate of 0 blocks.
        name: Name in headers, metrics and errors: letters, digits, `_`, `.`, `:` and `-`.
        key: Function of the scope that returns the client's key; the client's address when
            None. A request whose key is None is not limited.
        cost: Cost of a request: an integer, or a function of the scope that returns an integer.
        tokens: Limit tokens instead of requests. This number (or function of the scope) is
            reserved before a request and replaced by the reported usage when the response
            ends. If it covers the largest request, concurrent requests cannot exceed the limit.
        weights: With `tokens`: weight of each kind of token, such as
            `{"output": 4, "cache_read": 0.1}`; see `TokenWeights`.
        reserve: With a limit of money: amount that is reserved before a request and replaced by
            its cost when the response ends, such as "0.05 USD"; micro-dollars (int); dollars
            (Decimal); or a function of the scope that returns one of the last two, or None if the
            price is not known. "0.01 USD", or the limit if that is less, when None.
        on_missing_cost: With a limit of money: charge for a response whose cost is not known. Its
            reserve ("reserve"), or nothing ("allow"); "refuse" charges the reserve, and rejects
            requests for which the function `reserve` returns None.
        when: Condition on the scope, such as `requests_to("/v1/*")`; all when None.
        enforce: False counts and reports without rejecting (shadow mode).
        status: Status code of the response to a rejected request: 429 or 402.
        timezone: Time zone of the calendar windows of a rate, such as "Europe/Berlin"; UTC when
            None.

    Attributes:
        limiter: Limiter, made from `limit` if that is a rate.
        shared: True if the limiter counts in a storage, so that its hits are awaited.
        holds_slots: True if the limiter counts requests in progress, which release their slots.
        reads_model: True if the key, the cost or the condition needs the model of the request.
        reads_tokens: True if the cost is an estimate from the maximum of tokens of the request.
        has_reserve: True if the argument `reserve` was given.
        plans: The limiter if it is a `PlanLimiter`, else None.
        is_special: True if the policy is suspended, or keys are blocked; checked on each request.
        version: Number of changes by `set_rate`, or that of the process that made the last one.
        changed: Time and author of the last change, or None.
        unit: Unit of the limit: "requests", "tokens", "concurrent-requests", or "USD" for a limit
            of money, which counts micro-dollars.

    Raises:
        ValueError: An argument is malformed, or two are mutually exclusive.
    """

    def __init__(
        self,
        limit: str | RateOf | RateTable | AnyLimiter,
        *,
        name: str = DEFAULT_NAME,
        key: KeyFunction | None = None,
        cost: Cost = 1,
        tokens: Cost | None = None,
        weights: Mapping[str, Weight] | None = None,
        reserve: Reserve | None = None,
        on_missing_cost: OnMissingCost = "reserve",
        when: Callable[[Scope], bool] | None = None,
        enforce: bool = True,
        status: int = 429,
        timezone: str | None = None,
    ) -> None:
        self.limiter = _limiter(limit, timezone, has_reserve=reserve is not None)
        self.name = check_name("policy name", name)
        self.has_key = key is not None
        self.key = client_address() if key is None else key
        self.when = when
        self.enforce = check_bool("enforce", enforce)
        self.status = check_choice("status", status, (429, 402))
        self.on_missing_cost = check_choice(
            "on_missing_cost", on_missing_cost, ("reserve", "allow", "refuse")
        )
        self.is_special = self._suspended = False
        self._blocked_for: Callable[[Policy, Hashable], float | None] | None = None
        self.version = 0
        self.changed: tuple[datetime, str] | None = None
        self.shared = isinstance(self.limiter, StoredLimiter | StoredInFlight)
        self.holds_slots = isinstance(self.limiter, InFlight | StoredInFlight)
        self.local = cast(Limiter | InFlight, self.limiter)  # unless `shared`
        self.remote = cast(StoredLimiter | StoredInFlight, self.limiter)  # if `shared`
        self._timed = cast(Limiter | StoredLimiter, self.limiter)  # unless `holds_slots`
        self.plans = self.limiter if isinstance(self.limiter, PlanLimiter) else None
        self._has_override = False
        self._configured: str | RateOf | RateTable | None = None
        if self.plans is not None:
            self._configured = self.plans.configured
        elif self.rate is not None:
            self._configured = str(self.rate)
        # A subclass, such as `ZoneLimiter`, has its windows elsewhere.
        self.windows = self.limiter.fixed_windows if type(self.limiter) is Limiter else None
        self.window_of = None if self.windows is None else cast(Limiter, self.limiter).window_of
        self.unit = "concurrent-requests" if self.holds_slots else "requests"
        self.cost = cost
        if tokens is not None:
            self._count_tokens(tokens)
        if weights is not None and tokens is None:
            raise ValueError(f"weights need tokens, such as tokens=4000, got {weights!r} alone")
        self.weights = None if weights is None else TokenWeights(weights)
        self.price = 1  # if the function fails
        if getattr(self.limiter, "currency", None) is not None:
            self._count_money(reserve, has_tokens=tokens is not None)
        elif reserve is not None or on_missing_cost != "reserve":
            raise ValueError(
                "reserve and on_missing_cost need a limit of money, such as '20 USD/day', "
                f"got {reserve!r} and {on_missing_cost!r} with {limit!r}"
            )
        if isinstance(self.cost, int):
            self.price = self.cost
        self.has_reserve = reserve is not None
        self._read_request()
        self.is_plain = (
            not self.shared
            and self.plans is None
            and self.unit == "requests"
            and isinstance(self.cost, int)
        )
        for parameter, function in {"key": self.key, "when": when}.items():
            if function is not None:
                check_function(parameter, function)
        parameter = {"tokens": "tokens", CURRENCY: "reserve"}.get(self.unit, "cost")
        minimum = 0 if parameter == "cost" else 1
        if callable(self.cost):
            check_function(parameter, self.cost)
        else:
            maximum = None if self.plans is not None else self.limiter.limit or None
            try:
                check_integer(parameter, self.cost, minimum=minimum, maximum=maximum)
            except ValueError as error:
                text = str(error)
                if parameter == "reserve":
                    most = format_money(maximum or MAX_MICROS)
                    text = f"reserve must be from {format_money(1)} to {most}, got {reserve!r}"
                raise ValueError(f"{text}: a request cannot cost more than the limit") from None

    def key_or(self, default: KeyFunction | None) -> KeyFunction:
        """Return the key of this policy, or `default` if the policy has no key."""
        return self.key if self.has_key or default is None else default

    def cost_of(self, scope: Scope) -> int:
        """Return the cost of a request that the function of this policy computes.

        Raises:
            Exception: The function fails or returns an invalid cost.
        """
        # A reserve of 0 would limit nothing.
        minimum = 1 if self.unit in ("tokens", CURRENCY) else 0
        cost: object = cast(Callable[[Scope], object], self.cost)(scope)
        if self.unit == CURRENCY:
            if cost is None:  # the price is not known
                return _NEVER if self.on_missing_cost == "refuse" else self.price
            if isinstance(cost, Decimal):
                cost = from_dollars("reserve", cost)
            if type(cost) is not int:
                raise ValueError(
                    "reserve must return a Decimal of dollars, an integer of micro-dollars or "
                    f"None, got {cost!r}"
                )
        cost = max(check_integer("cost", cost, minimum=0), minimum)
        if self.reads_tokens and self.plans is None:  # an estimate must not reject every request
            cost = min(cost, max(self.limiter.limit, minimum))
        return cost

    def reserve_by(self, reserve: Callable[[Scope], Money | None]) -> None:
        """Set the reserve of a limit of money, before it is used."""
        self.cost = cast(Cost, reserve)
        self._read_request()

    def _read_request(self) -> None:
        self.reads_model = reads_model(self.key, self.cost, self.when)
        self.reads_tokens = reads_tokens(self.cost)

    @property
    def suspended(self) -> bool:
        """True to limit no request and count none, as tests of something else need it."""
        return self._suspended

    @suspended.setter
    def suspended(self, suspended: bool) -> None:
        self._suspended = suspended
        self.is_special = suspended or self._blocked_for is not None

    def block_keys(self, blocked_for: Callable[[Policy, Hashable], float | None] | None) -> None:
        """Reject blocked keys.

        Args:
            blocked_for: Returns the seconds until the block of a key of a policy ends, or None if
                it is not blocked. None if no key is blocked.
        """
        self._blocked_for = blocked_for
        self.is_special = self._suspended or blocked_for is not None

    def rejection_of(self, key: Hashable) -> Decision | None:
        """Return the rejection of a blocked key, or None."""
        seconds = None if self._blocked_for is None else self._blocked_for(self, key)
        return None if seconds is None else self.named(blocked_decision(1, seconds))

    def now(self) -> float:
        """Return the seconds of the limiter's clock."""
        return 0.0 if self.holds_slots else self._timed.clock()

    def named(self, decision: Decision) -> Decision:
        """Return `decision` with the name of this policy."""
        if self.name == DEFAULT_NAME:
            return decision
        # Four times as fast as `_replace`.
        return _new(Decision, (*decision[:_NAME], self.name, *decision[_NAME + 1 :]))

    def described(self, decision: Decision) -> Decision:
        """Return `decision` with the unit, the window and the status of this policy."""
        return decision._replace(
            window=decision.window or self.limiter.window,
            unit=self.unit,
            period=getattr(self.limiter, "period", None),
            status=self.status,
        )

    def set_rate(
        self,
        limit: str | RateOf | RateTable,
        *,
        until: datetime | None = None,
        by: str = "unknown",
    ) -> None:
        """Change the limit; what clients have used and the ends of their windows stay.

        It applies to this process, until it ends.

        Args:
            limit: A rate of the same unit and calendar period; "0" to block; a mapping or a
                function if the limit is one.
            until: For a limit of 0: time with a time zone at which the limit before returns, which
                `Retry-After` shows. Without it, clients are asked to retry after 60 s.
            by: Author, for the admin API.

        Raises:
            ValueError: `limit` is not such a rate or is less than the cost of a request, `until` is
                not in the future, or the limiter counts requests in progress.
        """
        seconds = self.check_rate(limit, until=until)
        limiter = cast(Limiter | StoredLimiter, self.limiter)
        if isinstance(limit, str):
            limiter.set_limit(limit, seconds=seconds)
        else:
            cast(PlanLimiter, limiter).set_rates(limit)
        self._has_override = True
        self.version += 1
        self.changed = datetime.now(UTC), by

    def restore_rate(self, *, by: str = "unknown") -> None:
        """Undo all changes by `set_rate`; the usage of clients stays.

        Raises:
            ValueError: The limiter counts requests in progress.
        """
        self.set_rate("" if self._configured is None else self._configured, by=by)
        self._has_override = False

    def reconfigure(self, limit: str, *, by: str = "unknown") -> bool:
        """Change the limit that `restore_rate` restores, and the present one if that is it.

        Returns:
            False if the present limit stays, because `set_rate` has set it.

        Raises:
            ValueError: As `set_rate`.
        """
        self.check_rate(limit)
        self._configured = str(parse_rate(limit))
        if self._has_override:
            return False
        self.restore_rate(by=by)
        return True

    def check_rate(
        self, limit: str | RateOf | RateTable, *, until: datetime | None = None
    ) -> float | None:
        """Check that `set_rate` would accept a change, and return the seconds until `until`.

        Raises:
            ValueError: As `set_rate`.
        """
        limiter = self.limiter
        if isinstance(limiter, InFlight | StoredInFlight):
            raise ValueError(
                f"set_rate needs a rate limit, got a limiter of type {type(limiter).__name__}"
            )
        if self.plans is not None and not isinstance(limit, str):
            if until is not None:
                raise ValueError(f"until needs the limit '0', got {limit!r}")
            self.plans.check_rates(limit)
            return None
        seconds = None if until is None else _seconds_until(until)
        rate = limiter.check_limit(cast(str, limit))
        if rate is not None and until is not None:
            raise ValueError(f"until needs the limit '0', got {limit!r}")
        if rate is not None and isinstance(self.cost, int) and self.cost > rate.amount:
            raise ValueError(
                f"limit must allow at least the cost of a request, which is {self.cost}, "
                f"got {limit!r}"
            )
        return seconds

    @property
    def rate(self) -> Rate | None:
        """Present rate; None if it depends on the key, or for requests in progress."""
        if isinstance(self.limiter, InFlight | StoredInFlight | PlanLimiter):
            return None
        return self.limiter.rate

    @property
    def shown_limit(self) -> str | dict[Any, str | None] | None:
        """Present limit as it is written: a rate, or the rates of plans.

        None for a function, and for a table with a key that is not text.
        """
        if self.plans is not None:
            return _shown(self.plans.rates)
        return str(self.limiter.limit if self.rate is None else self.rate)

    @property
    def configured_limit(self) -> str | dict[Any, str | None] | None:
        """Limit at the start, as it is written."""
        return self.shown_limit if self._configured is None else _shown(self._configured)

    def blocked_for(self) -> float | None:
        """Return the seconds until a limit of 0 ends, infinite if unknown; None without one."""
        return None if self.holds_slots else self._timed.blocked_for()

    def _count_tokens(self, tokens: Cost) -> None:
        if self.cost != 1:
            raise ValueError(f"give cost or tokens, not both: got {self.cost!r} and {tokens!r}")
        if self.holds_slots:
            raise ValueError(
                f"tokens need a rate limit, got a limiter of type {type(self.limiter).__name__}"
            )
        if isinstance(self.limiter, StoredLimiter) and not self.limiter.supports_refund:
            raise ValueError(
                "tokens need a shared limiter that supports refunds, and "
                f"{self.limiter.strategy!r} cannot: use strategy='fixed-window'"
            )
        self.unit, self.cost = "tokens", tokens

    def _count_money(self, reserve: Reserve | None, *, has_tokens: bool) -> None:
        if has_tokens or self.cost != 1:
            raise ValueError(
                "cost and tokens must not be given with a limit of money, whose requests cost "
                "what they cost: use reserve, such as reserve='0.05 USD'"
            )
        if self.on_missing_cost == "refuse" and not callable(reserve):
            raise ValueError(
                "on_missing_cost='refuse' needs a function `reserve` that returns None if the "
                f"price of a request is not known, got reserve={reserve!r}"
            )
        self.unit = CURRENCY
        limit = self.limiter.limit if self.plans is None else 0
        self.price = min(CENT, limit or CENT)
        if isinstance(reserve, str):
            reserve = parse_money("reserve", reserve)
        elif isinstance(reserve, Decimal):
            reserve = from_dollars("reserve", reserve)
        if not (reserve is None or type(reserve) is int or callable(reserve)):
            raise ValueError(
                "reserve must be text such as '0.05 USD', a Decimal of dollars, an integer of "
                f"micro-dollars, or a function of the scope, got {reserve!r}"
            )
        self.cost = self.price if reserve is None else cast(Cost, reserve)


def _shown(limit: str | RateOf | RateTable | None) -> str | dict[Any, str | None] | None:
    if isinstance(limit, str):
        return limit
    if isinstance(limit, Mapping) and all(isinstance(key, str) for key in limit):
        return dict(limit)
    return None


def _seconds_until(until: datetime) -> float:
    if not isinstance(until, datetime) or until.tzinfo is None:
        got = until.isoformat() if isinstance(until, datetime) else repr(until)
        raise ValueError(f"until must be a datetime with a time zone, got {got}")
    seconds = until.timestamp() - time.time()
    if seconds <= 0:
        raise ValueError(f"until must be in the future, got {until.isoformat()}")
    if seconds > MAX_SECONDS:
        raise ValueError(f"until must be within 100 years, got {until.isoformat()}")
    return seconds


def _limiter(
    limit: str | RateOf | RateTable | AnyLimiter, timezone: str | None, *, has_reserve: bool
) -> AnyLimiter:
    if isinstance(limit, str):
        return Limiter(limit, timezone=timezone)
    if isinstance(limit, Mapping):
        return PlanLimiter(limit, timezone=timezone)
    if timezone is not None:
        raise ValueError(f"timezone must be given to the limiter, got {timezone!r}")
    if isinstance(limit, AnyLimiter):
        return limit
    if callable(limit) and not isclass(limit):
        return PlanLimiter(limit, currency=CURRENCY if has_reserve else None)
    raise ValueError(
        "limit must be a rate such as '100/minute', a function of the key, a Limiter, a "
        f"PlanLimiter, a SharedLimiter, an InFlight or a SharedInFlight, got {limit!r}"
    )


def check_policies(policies: Sequence[Policy]) -> None:
    """Validate that policies can be evaluated together.

    Raises:
        ValueError: The list is empty, a name or limiter repeats, or charges cannot be undone.
    """
    if not policies:
        raise ValueError("policies must not be empty")
    for policy in policies:
        if not isinstance(policy, Policy):
            raise ValueError(f"policies must be a list of Policy, got {policy!r} among them")
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise ValueError(f"every policy must have a unique name (name=), got {names}")
    if len({_counters(policy) for policy in policies}) < len(policies):
        raise ValueError(
            f"every policy must have its own limiter, got the same limiter twice in {names}: "
            "give shared limiters with the same rate and storage different prefixes, or paths"
        )
    if sum(policy.shared and not policy.remote.supports_refund for policy in policies) > 1:
        raise ValueError(
            "only one policy can have a shared sliding window, since it cannot refund what "
            f"another policy rejects, got several in {names}: use strategy='fixed-window'"
        )


def _counters(policy: Policy) -> object:
    """Return the identity of the counters of a policy."""
    return getattr(policy.limiter, "counters", id(policy.limiter))


class Charge(NamedTuple):
    """Cost of one request for one key of a policy.

    Attributes:
        policy: Policy of the charge.
        key: Key of the client.
        cost: Requests, tokens or slots.
        clears: Clears of the limiter before the charge.
    """

    policy: Policy
    key: Hashable
    cost: int
    clears: int = 0

    @property
    def is_cleared(self) -> bool:
        """True if the limiter was cleared after the charge."""
        return self.policy.limiter.clears != self.clears

    def peek(self) -> Decision:
        """Return what `apply` would decide, without counting."""
        policy = self.policy
        if policy.is_special and (rejection := policy.rejection_of(self.key)) is not None:
            return rejection
        return policy.named(policy.local.peek(self.key, self.cost))

    def apply(self) -> Decision:
        """Count the cost in a limiter of this process if it is allowed."""
        policy = self.policy
        if policy.is_special and (rejection := policy.rejection_of(self.key)) is not None:
            return rejection
        return policy.named(policy.local.hit(self.key, self.cost))

    async def apply_shared(self) -> Decision:
        """Count the cost in a shared limiter if it is allowed."""
        policy = self.policy
        if policy.is_special and (rejection := policy.rejection_of(self.key)) is not None:
            return rejection
        return policy.named(await policy.remote.hit(self.key, self.cost))

    def refund(self, *, since: float) -> None:
        """Release the slots of a charge, or undo an `apply` made at `since`."""
        limiter = self.policy.limiter
        if self.is_cleared or isinstance(limiter, StoredLimiter):
            return
        if isinstance(limiter, Limiter):
            limiter.charge(self.key, -self.cost, since=since)
        else:
            limiter.release(self.key, self.cost)

    async def charge_shared(self, amount: int, *, since: float, degraded: bool) -> None:
        """Correct the cost of an `apply_shared` made at `since`; slots are released by `refund`."""
        limiter = self.policy.limiter
        if amount and isinstance(limiter, StoredLimiter):
            await limiter.charge(self.key, amount, since=since, degraded=degraded)


class ChargeResult(NamedTuple):
    """Decision on a charge, and its time on the limiter's clock."""

    charge: Charge
    decision: Decision
    at: float

    @classmethod
    def of_shared(cls, charge: Charge, decision: Decision, *, asked: float) -> ChargeResult:
        """Return the result of a charge that a storage has decided.

        Its time is that of the response, or of the request at `asked` if the window may have
        ended in between: then a refund must not reach the next one.
        """
        now = charge.policy.now()
        at = asked if now - asked >= decision.reset_after else now
        return cls(charge, decision, at)

    def rolled_back(self) -> ChargeResult:
        """Refund the charge, unless that has to be awaited, and return the result without it."""
        charge, decision, at = self
        if not decision.allowed:
            return self
        charge.refund(since=at)
        remaining = min(decision.remaining + charge.cost, decision.limit)
        return ChargeResult(charge, decision._replace(remaining=remaining), at)

    async def roll_back_shared(self) -> None:
        """Refund the charge in a shared limiter."""
        charge, decision, at = self
        if decision.allowed:
            await charge.charge_shared(-charge.cost, since=at, degraded=decision.degraded)
