"""How an answer tells the client where it stands: dialects of the rate limit headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil

from .limiters import EPSILON, Decision
from .policy import Policy

RawHeaders = list[tuple[bytes, bytes]]
Write = Callable[[Sequence[Decision]], RawHeaders]

_MOST_READY = 4096  # answers' headers that are kept
_BITS_OF_TIME = 50  # more than the largest number of seconds has
_LARGEST = 999_999_999_999_999  # RFC 9651, 3.3.1


class Dialect:
    """Writes the headers for what several policies decided of one request.

    Attributes:
        write: Gives the headers for decisions, of which there is at least one.
        replaces: Names of headers that must not be on the answer twice, in lower case: those of
            an application behind us tell of somebody else's limits.
    """

    __slots__ = ("replaces", "write")

    def __init__(self, write: Write, *replaces: bytes) -> None:
        self.write = write
        self.replaces = frozenset(replaces)


def dialect(name: str | None, policies: Sequence[Policy]) -> Dialect | None:
    """The dialect called `name`: "draft-11", "openai" or "legacy"; None writes no headers.

    Raises:
        ValueError: There is no such dialect.
    """
    if name is None:
        return None
    if not isinstance(name, str) or name not in _DIALECTS:
        raise ValueError(
            f"headers {name!r} is not a known dialect: expected one of {list(_DIALECTS)}, or None "
            "for no headers"
        )
    return _DIALECTS[name](policies)


def _draft_11(policies: Sequence[Policy]) -> Dialect:
    """draft-ietf-httpapi-ratelimit-headers-11: structured fields (RFC 9651), an item a policy."""
    stated = {policy.name: _stated(policy) for policy in policies}
    ready: dict[int, RawHeaders] = {}

    def write(decisions: Sequence[Decision]) -> RawHeaders:
        return [
            (b"ratelimit-policy", b",".join([stated[each.policy] for each in decisions])),
            (b"ratelimit", b",".join(map(_standing, decisions))),
        ]

    def write_alone(decisions: Sequence[Decision]) -> RawHeaders:
        """The same for one policy, of which most answers are like others."""
        decision = decisions[0]
        left = decision.more_after
        left = ceil(decision.reset_after - EPSILON) if left is None else _whole(left)
        shown = decision.remaining << _BITS_OF_TIME | left
        fields = ready.get(shown)
        if fields is None:
            if len(ready) >= _MOST_READY:
                ready.clear()
            fields = ready[shown] = write(decisions)
        return fields

    return Dialect(write if len(policies) > 1 else write_alone)


def _stated(policy: Policy) -> bytes:
    stated = f'"{policy.name}";q={policy.limiter.limit}'
    if policy.unit != "requests":
        stated += f';qu="{policy.unit}"'
    if policy.limiter.window is not None:
        stated += f";w={policy.limiter.window}"
    return stated.encode()


def _standing(decision: Decision) -> bytes:
    standing = b'"%b";r=%d' % (decision.policy.encode(), decision.remaining)
    left = _until_more(decision)
    return standing + b";t=%d" % left if left else standing  # nobody knows when a place is free


def _openai(policies: Sequence[Policy]) -> Dialect:
    """`x-ratelimit-limit-requests` and so on, as OpenAI has them, and the same for tokens."""
    units = {policy.name: policy.unit for policy in policies if policy.limiter.window is not None}
    names = {
        unit: [f"x-ratelimit-{what}-{unit}".encode() for what in ("limit", "remaining", "reset")]
        for unit in ("requests", "tokens")
    }

    def write(decisions: Sequence[Decision]) -> RawHeaders:
        fields: RawHeaders = []
        for unit in dict.fromkeys(units.values()):
            of_unit = [each for each in decisions if units.get(each.policy) == unit]
            if of_unit:
                least = min(of_unit, key=_remaining)
                values = (least.limit, least.remaining, _as_go_writes(least.reset_after))
                fields += zip(names[unit], (str(value).encode() for value in values), strict=True)
        return fields

    return Dialect(write, *names["requests"], *names["tokens"])


def _as_go_writes(seconds: float) -> str:
    """A duration as OpenAI writes it: 12ms, 8s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    minutes, seconds = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _legacy(policies: Sequence[Policy]) -> Dialect:
    """`X-RateLimit-Limit`, `-Remaining` and `-Reset` of the tightest policy; seconds to wait."""
    timed = {policy.name for policy in policies if policy.limiter.window is not None}
    names = (b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")

    def write(decisions: Sequence[Decision]) -> RawHeaders:
        of_time = [each for each in decisions if each.policy in timed]
        if not of_time:
            return []
        least = min(of_time, key=_remaining)
        values = (least.limit, least.remaining, _whole(least.reset_after))
        return [(name, b"%d" % value) for name, value in zip(names, values, strict=True)]

    return Dialect(write, *names)


def _remaining(decision: Decision) -> tuple[bool, int]:
    return decision.allowed, decision.remaining


def _until_more(decision: Decision) -> int:
    """Whole seconds, rounded up, in which no more than `remaining` can be used."""
    left = decision.more_after
    return _whole(decision.reset_after if left is None else left)


def _whole(seconds: float) -> int:
    """Rounded up, but for what floats add to a window; a structured field has 15 digits."""
    return min(ceil(seconds - EPSILON), _LARGEST)


_DIALECTS: Mapping[str, Callable[[Sequence[Policy]], Dialect]] = {
    "draft-11": _draft_11,
    "openai": _openai,
    "legacy": _legacy,
}
