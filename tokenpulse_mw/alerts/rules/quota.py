"""Quotas that are nearly used up, as somebody else counts them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from inspect import isawaitable
from itertools import islice
from typing import NamedTuple

import anyio

from ..lifecycle import Finding, Severity
from ..thresholds import Thresholds
from ..traffic import Traffic
from .rule import Rule, subject_of

_LARGEST = 1e15


class Quota(NamedTuple):
    """How far a key has used its quota.

    Attributes:
        key: The key's id.
        used: What it has used, in the quota's unit.
        limit: What it may use; None, or not above 0, where it has no quota.
        master: The tenant whose key it is, where known.
    """

    key: str
    used: float
    limit: float | None
    master: str | None = None


# Gives the quotas; plain tuples of (key, used, limit) or (key, used, limit, master) will do.
QuotaSource = Callable[[], "Iterable[tuple[object, ...]] | Awaitable[Iterable[tuple[object, ...]]]"]


class Quotas:
    """The quotas as they were last told by `source`.

    Args:
        source: Called by `refresh` without arguments; it gives quotas, or can be awaited for
            them. One that is not awaited must not block.
        deadline: Seconds that a source that is awaited may take.
        max_keys: Quotas that are taken at most; a source may give only those that are near.

    Attributes:
        known: The source has answered at least once.

    Raises:
        ValueError: `deadline` or `max_keys` is not above 0.
    """

    def __init__(
        self, source: QuotaSource, *, deadline: float = 5, max_keys: int = 100_000
    ) -> None:
        for name, value in (("deadline", deadline), ("max_keys", max_keys)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")
        self._source, self._deadline, self._most = source, deadline, max_keys
        self._quotas: tuple[Quota, ...] = ()
        self.known = False

    async def refresh(self) -> None:
        """Ask the source again. Where that fails, what was last known stays.

        Raises:
            TimeoutError: The source took too long.
            ValueError: It gave what is no quota, or too many.
        """
        with anyio.fail_after(self._deadline):
            given = self._source()
            rows = await given if isawaitable(given) else given
        if not isinstance(rows, Iterable):
            raise ValueError(f"the quota source must give a list of quotas, got {rows!r}")
        quotas = tuple(_quota(row) for row in islice(rows, self._most + 1))
        if len(quotas) > self._most:
            raise ValueError(
                f"the quota source gave more than {self._most} quotas; "
                "let it give only those that are near their limit, or raise max_keys"
            )
        self._quotas, self.known = quotas, True

    def __iter__(self) -> Iterator[Quota]:
        return iter(self._quotas)


class _QuotaExceeded:
    """The rule of some quotas, which the engine refreshes before each round."""

    name = "quota_exceeded"

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self.refresh = quotas.refresh

    def __call__(
        self,
        traffic: Traffic,
        thresholds: Thresholds,
        now: float,
    ) -> Iterator[Finding]:
        threshold = thresholds.quota_warning
        if threshold is None:
            return
        if not self._quotas.known:
            raise LookupError("the quota source has not answered yet")
        for quota in self._quotas:
            # A share, not limit x threshold, whose rounding could miss what is just reached.
            share = quota.used / quota.limit if quota.limit and quota.limit > 0 else 0.0
            if share >= threshold * thresholds.resolve_ratio:
                yield _finding(quota, share, threshold, thresholds.keep_firing)


def quota_exceeded(quotas: Quotas) -> Rule:
    """The rule that a key has used at least 90 % of its quota; from 100 % it is critical.

    A key that the source no longer gives has no alert any more. While the source fails, all stay
    as they are.
    """
    return _QuotaExceeded(quotas)


def _quota(row: tuple[object, ...]) -> Quota:
    try:
        key, used, limit, *rest = row
        master = rest[0] if rest else None
    except (TypeError, ValueError):
        raise _wrong(row) from None
    if not isinstance(key, str) or len(rest) > 1 or not isinstance(master, str | None):
        raise _wrong(row)
    if not _is_number(used) or not (limit is None or _is_number(limit)):
        raise _wrong(row)
    return Quota(key, used, limit, master)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -_LARGEST <= value <= _LARGEST  # which is never so for nan


def _wrong(row: object) -> ValueError:
    return ValueError(
        f"a quota must be (key, used, limit) or (key, used, limit, master), with key and master "
        f"as text and used and limit as numbers, got {row!r}"
    )


def _finding(quota: Quota, share: float, threshold: float, keep_firing: float) -> Finding:
    exceeded, owner = share >= 1, f" (master {quota.master!r})" if quota.master else ""
    fires: Severity = "critical" if exceeded else "warning"
    return Finding(
        type="quota_exceeded",
        subject=subject_of("key", quota.key),
        severity=fires if exceeded or share >= threshold else None,
        title="Quota exceeded" if exceeded else f"Quota at {share:.0%}",
        message=f"Key {quota.key!r}{owner} has used {quota.used} of {quota.limit} "
        f"({share:.1%}) of its quota",
        value=share,
        metadata={
            "used": quota.used,
            "limit": quota.limit,
            "master": quota.master,
            "threshold": threshold,
        },
        keep_firing=keep_firing,
        window=0,  # what the source says is known at once
    )
