"""Rate limits of providers, as their responses report them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from .exchange import Exchange, QuotaUnit, UpstreamQuota

# All names of the headers below are longer, and begin so.
MIN_NAME_SIZE = 24
NAME_PREFIXES = frozenset((b"x-ratelimit-", b"anthropic-ra", b"llm_provider"))
PREFIX_SIZE = 12

# LiteLLM adds this prefix to the headers of the provider; those without it are about its own keys.
_LITELLM = b"llm_provider-"
_OPENAI = re.compile(rb"x-ratelimit-(limit|remaining|reset)-(requests|tokens)")
_ANTHROPIC = re.compile(
    rb"anthropic-ratelimit-(requests|tokens|input-tokens|output-tokens)-(limit|remaining|reset)"
)
_INTEGER = re.compile(rb"[0-9]{1,15}")
_DURATION = re.compile(
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m(?!s))?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)ms)?"
)
_SECONDS = (86_400, 3600, 60, 1, 0.001)
_MAX_RESET_SECONDS = 31 * 86_400

_MAX_POOLS = 1000
_KEPT_SECONDS = 300  # after the last response, and after the reset that it reported

RawHeaders = Iterable[tuple[bytes, bytes]]


def parse_quotas(
    headers: RawHeaders, *, wall: Callable[[], float] = time.time
) -> tuple[tuple[UpstreamQuota, ...], bool]:
    """Return what is left of a provider's limits, and True if a header is invalid.

    The headers are those of OpenAI, Azure and Groq (`x-ratelimit-remaining-requests`) and of
    Anthropic (`anthropic-ratelimit-requests-remaining`). A value is invalid if it is not an integer
    of at most 15 digits, or is larger than its own limit; the quota is left out then.

    Args:
        headers: Headers of the response; others are ignored.
        wall: Returns seconds since the epoch.
    """
    named = [(name.lower(), value) for name, value in headers]
    forwarded = [
        (name.removeprefix(_LITELLM), value) for name, value in named if name.startswith(_LITELLM)
    ]
    values: dict[bytes, dict[bytes, bytes]] = {}
    for name, value in forwarded or named:
        if match := _OPENAI.fullmatch(name):
            part, limit = match.groups()
        elif match := _ANTHROPIC.fullmatch(name):
            limit, part = match.groups()
        else:
            continue
        values.setdefault(limit, {})[part] = value.strip()
    quotas, is_invalid = list[UpstreamQuota](), False
    for name, parts in values.items():
        if b"remaining" in parts:
            try:
                quotas.append(_quota(name, parts, wall))
            except ValueError:
                is_invalid = True
    return tuple(quotas), is_invalid


def _quota(name: bytes, parts: Mapping[bytes, bytes], wall: Callable[[], float]) -> UpstreamQuota:
    remaining = _integer(parts[b"remaining"])
    limit = _integer(parts[b"limit"]) if b"limit" in parts else None
    if limit is not None and not remaining <= limit > 0:
        raise ValueError("remaining must be at most the limit, which must be above 0")
    reset = _reset_after(parts[b"reset"], wall) if b"reset" in parts else None
    unit: QuotaUnit = "requests" if name == b"requests" else "tokens"
    return UpstreamQuota(unit, remaining, limit, reset)


def _integer(value: bytes) -> int:
    if not _INTEGER.fullmatch(value):
        raise ValueError("must be an integer of at most 15 digits")
    return int(value)


def _reset_after(value: bytes, wall: Callable[[], float]) -> float:
    """Return the seconds until a reset: a duration such as 6m0s, a number, or an RFC 3339 time."""
    text = value.decode("latin-1")
    if _INTEGER.fullmatch(value):
        seconds = float(value)
    elif text and (match := _DURATION.fullmatch(text)):
        seconds = sum(
            float(part) * unit for part, unit in zip(match.groups(), _SECONDS, strict=True) if part
        )
    else:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError("must have a time zone")
        seconds = at.timestamp() - wall()
    if seconds > _MAX_RESET_SECONDS:
        raise ValueError(f"must be at most {_MAX_RESET_SECONDS} s")
    return max(0.0, seconds)


class QuotaPool(NamedTuple):
    """The last known state of one of a provider's limits.

    Attributes:
        provider: The provider.
        credential: Id of the credential that the limit belongs to; empty if it is not annotated.
        credential_group: Its readable group; empty if it has none.
        model: The model that the limit was reported for; empty if it is not known.
        unit: `requests` or `tokens`.
        remaining: What is left.
        limit: The limit; None if it is not known.
        resets_in: Seconds until the whole limit is available again; None if it is not known.
    """

    provider: str
    credential: str
    credential_group: str
    model: str
    unit: QuotaUnit
    remaining: int
    limit: int | None
    resets_in: float | None

    @property
    def share(self) -> float | None:
        """Remaining share, from 0 to 1; None if the limit is not known and something is left."""
        if self.limit is None:
            return None if self.remaining else 0.0
        return self.remaining / self.limit


class UpstreamQuotas:
    """Last known state of the providers' rate limits.

    `ExchangeMiddleware` adds what responses report. Each provider, credential, model and unit has
    an entry; the oldest of more than 1,000 is evicted. An entry is removed five minutes after its
    last response or, if that is later, after its reset; after the reset, the whole limit is
    available.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[tuple[str, str, str, QuotaUnit], _Entry] = {}

    def add(self, exchange: Exchange) -> None:
        """Store the quotas of a finished exchange."""
        for unit, quotas in groupby(
            sorted(exchange.upstream, key=_unit_and_share), key=lambda quota: quota.unit
        ):
            lowest = next(quotas)  # such as that of the input tokens
            key = (exchange.provider, exchange.credential or "", exchange.model or "", unit)
            self._entries.pop(key, None)  # the order is that of the last response
            self._replace_unnamed(key, lowest.limit)
            group = exchange.credential_group or ""
            self._entries[key] = _Entry(lowest, group, self._clock())
        while len(self._entries) > _MAX_POOLS:
            self._entries.pop(next(iter(self._entries)))

    def _replace_unnamed(self, key: tuple[str, str, str, QuotaUnit], limit: int | None) -> None:
        """Remove the same limit as a response without a model, such as a 429, has reported it."""
        provider, credential, _, unit = key
        unnamed = provider, credential, "", unit
        entry = self._entries.get(unnamed)
        if entry is not None and entry.quota.limit == limit:
            del self._entries[unnamed]

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()

    def pools(self) -> Iterator[QuotaPool]:
        """Yield the present state of each limit."""
        now = self._clock()
        for key, (quota, group, at) in list(self._entries.items()):
            provider, credential, model, unit = key
            reset = None if quota.reset_after is None else at + quota.reset_after - now
            if now - at > _KEPT_SECONDS and (reset is None or reset < -_KEPT_SECONDS):
                self._entries.pop(key, None)
                continue
            remaining = quota.remaining
            if reset is not None and reset <= 0:
                reset = 0.0
                if quota.limit is None:
                    continue
                remaining = quota.limit
            yield QuotaPool(provider, credential, group, model, unit, remaining, quota.limit, reset)

    def lowest(self) -> dict[tuple[str, QuotaUnit], QuotaPool]:
        """Return for each provider and unit the limit with the smallest remaining share."""
        lowest: dict[tuple[str, QuotaUnit], QuotaPool] = {}
        for pool in self.pools():
            key = pool.provider, pool.unit
            lowest[key] = min(lowest.get(key, pool), pool, key=_share_first)
        return lowest


class _Entry(NamedTuple):
    quota: UpstreamQuota
    credential_group: str
    at: float


def _unit_and_share(quota: UpstreamQuota) -> tuple[str, float]:
    share = quota.remaining / quota.limit if quota.limit else float(quota.remaining > 0)
    return quota.unit, share


def _share_first(pool: QuotaPool) -> float:
    return 1.0 if pool.share is None else pool.share
