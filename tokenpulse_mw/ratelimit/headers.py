"""Dialects of the rate limit headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil

from ..validation import check_choice
from .limiters import CURRENCY, EPSILON, Changes, Decision
from .policy import Policy

RawHeaders = list[tuple[bytes, bytes]]
Write = Callable[[Sequence[Decision]], RawHeaders]

_UNITS = {CURRENCY: "micro-USD"}  # in headers, which have integers only
_MAX_INTEGER = 999_999_999_999_999  # RFC 9651, 3.3.1


class Dialect:
    """Writer of the headers for the decisions on one request.

    Attributes:
        write: Function that returns the headers for one or more decisions.
        replaces: Names of headers, in lower case, that are removed from the application's
            response: there they describe the limits of another service.
    """

    __slots__ = ("replaces", "write")

    def __init__(self, write: Write, *replaces: bytes) -> None:
        self.write = write
        self.replaces = frozenset(replaces)


def dialect(name: str | None, policies: Sequence[Policy]) -> Dialect | None:
    """Return the dialect `name`: "draft-11", "openai" or "legacy"; None writes no headers.

    Raises:
        ValueError: The dialect is unknown.
    """
    name = check_choice("headers", name, (*_DIALECTS, None))
    return None if name is None else _DIALECTS[name](policies)


def _draft_11(policies: Sequence[Policy]) -> Dialect:
    """Return the dialect of draft-ietf-httpapi-ratelimit-headers-11: one item per policy.

    The fields are structured fields (RFC 9651).
    """
    units = {policy.name: policy.unit for policy in policies}
    descriptions: dict[str, bytes] = {}
    all_described, described_at = b"", -1
    # With the remaining amount and the seconds, and without seconds.
    items = {
        policy.name: (b'"%b";r=%%d;t=%%d' % name, b'"%b";r=%%d' % name)
        for policy in policies
        for name in [policy.name.encode()]
    }
    calendars = {
        policy.name for policy in policies if getattr(policy.limiter, "period", None) is not None
    }
    has_plans = any(policy.plans is not None for policy in policies)

    def describe(decision: Decision) -> bytes:
        if decision.window is None:
            return descriptions[decision.policy]
        name = decision.policy  # of a plan
        window = None if name in calendars else decision.window
        return _policy_item(name, units[name], decision.limit, window)

    def describe_all() -> None:
        """Describe the present limits."""
        nonlocal all_described, described_at
        described_at = Changes.count
        for policy in policies:
            limiter = policy.limiter
            window = None if policy.name in calendars else limiter.window  # of no fixed length
            descriptions[policy.name] = _policy_item(
                policy.name, policy.unit, limiter.limit, window
            )
        all_described = b",".join(descriptions.values())

    def write(decisions: Sequence[Decision]) -> RawHeaders:
        if described_at != Changes.count:
            describe_all()
        if len(decisions) == len(descriptions) and not has_plans:
            described = all_described
        else:
            described = b",".join([describe(decision) for decision in decisions])
        states = b""
        for decision in decisions:
            with_seconds, without = items[decision.policy]
            seconds = decision.more_after
            seconds = _whole_seconds(decision.reset_after if seconds is None else seconds)
            if seconds:
                state = with_seconds % (decision.remaining, seconds)
            else:  # it is unknown when a slot is free
                state = without % decision.remaining
            states = states + b"," + state if states else state
        return [(b"ratelimit-policy", described), (b"ratelimit", states)]

    return Dialect(write)


def _policy_item(name: str, unit: str, limit: int, window: int | None) -> bytes:
    item = f'"{name}";q={limit}'
    if unit != "requests":
        item += f';qu="{_UNITS.get(unit, unit)}"'
    if window is not None:
        item += f";w={window}"
    return item.encode()


def _openai(policies: Sequence[Policy]) -> Dialect:
    """Return the dialect of OpenAI: `x-ratelimit-limit-requests` and so on, and for tokens."""
    units = {
        policy.name: policy.unit
        for policy in policies
        if policy.limiter.window is not None and policy.unit != CURRENCY
    }
    names = {
        unit: [f"x-ratelimit-{field}-{unit}".encode() for field in ("limit", "remaining", "reset")]
        for unit in ("requests", "tokens")
    }

    def write(decisions: Sequence[Decision]) -> RawHeaders:
        fields: RawHeaders = []
        for unit in dict.fromkeys(units.values()):
            same_unit = [decision for decision in decisions if units.get(decision.policy) == unit]
            if same_unit:
                tightest = min(same_unit, key=_remaining)
                duration = _go_duration(tightest.reset_after)
                values = (tightest.limit, tightest.remaining, duration)
                fields += zip(names[unit], (str(value).encode() for value in values), strict=True)
        return fields

    return Dialect(write, *names["requests"], *names["tokens"])


def _go_duration(seconds: float) -> str:
    """Return a duration as OpenAI and Go write it: 12ms, 8s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    minutes, seconds = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _legacy(policies: Sequence[Policy]) -> Dialect:
    """Return the dialect with `X-RateLimit-Limit`, `-Remaining` and `-Reset` in seconds."""
    timed = {  # without money, since the headers have no unit
        policy.name
        for policy in policies
        if policy.limiter.window is not None and policy.unit != CURRENCY
    }
    names = (b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")

    def write(decisions: Sequence[Decision]) -> RawHeaders:
        with_window = [decision for decision in decisions if decision.policy in timed]
        if not with_window:
            return []
        tightest = min(with_window, key=_remaining)
        values = (tightest.limit, tightest.remaining, _whole_seconds(tightest.reset_after))
        return [(name, b"%d" % value) for name, value in zip(names, values, strict=True)]

    return Dialect(write, *names)


def _remaining(decision: Decision) -> tuple[bool, int]:
    return decision.allowed, decision.remaining


def _whole_seconds(seconds: float) -> int:
    """Return `seconds` rounded up, without float errors, and at most 15 digits."""
    return min(ceil(seconds - EPSILON), _MAX_INTEGER)


_DIALECTS: Mapping[str, Callable[[Sequence[Policy]], Dialect]] = {
    "draft-11": _draft_11,
    "openai": _openai,
    "legacy": _legacy,
}
