"""The rule for quotas of keys, whose use an external source counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from decimal import Decimal
from heapq import nlargest
from inspect import isawaitable
from itertools import islice
from numbers import Integral, Real
from operator import itemgetter
from typing import Any, NamedTuple

import anyio

from ...validation import check_integer, check_seconds, describe
from ..lifecycle import Finding
from ..thresholds import Thresholds
from ..traffic.bucket import Usage
from ..traffic.traffic import Traffic
from .rule import Steps, escaped, name_with_id, severity_for, subject_of

_MAX_NUMBER = 1e15
_MAX_REPORTED = 1000  # keys that a process reports
_MIN_REPORTED_SHARE = 0.5
_MAX_FAILURES = 2  # refreshes in a row that may fail before the last quotas are too old
_MAX_ROW_CHARS = 200  # characters of an invalid row in an error


class Quota(NamedTuple):
    """The use of one key's quota.

    Attributes:
        key: The key's id.
        used: The use so far, in the unit of the quota.
        limit: The quota; None or a number not above 0 if the key has no quota.
        tenant: The key's tenant, if known.
        unit: The unit of the quota, in the plural.
    """

    key: str
    used: float
    limit: float | None
    tenant: str | None = None
    unit: str = "tokens"


# Returns the quotas. Plain tuples (key, used, limit), with tenant and unit or without, are
# accepted, with numbers of any kind, and keys and tenants that are integers.
QuotaSource = Callable[[], "Iterable[tuple[object, ...]] | Awaitable[Iterable[tuple[object, ...]]]"]


class QuotaExceeded:
    """The rule that `quota_exceeded` returns.

    Attributes:
        name: The rule's name.
        quotas: The quotas of the last successful refresh.
        per_process: Processes that do not lead refresh too, and report their quotas.
    """

    name = "quota_exceeded"

    def __init__(
        self, source: QuotaSource, *, timeout: float, max_keys: int, per_process: bool
    ) -> None:
        self.quotas: tuple[Quota, ...] = ()
        self.per_process = per_process
        self._source, self._timeout, self._max_keys = source, timeout, max_keys
        self._has_quotas, self._failures = False, 0

    async def refresh(self) -> None:
        """Call the source; if it fails, keep the last quotas.

        Raises:
            TimeoutError: The source took too long.
            ValueError: The source returned too many quotas, or an invalid one. Valid quotas next to
                it are used; a key with an invalid quota keeps its last one.
        """
        self._failures += 1  # reset on success; a cancelled refresh counts as a failure
        valid, invalid_keys, errors = list[Quota](), set[str](), list[ValueError]()
        for row in await self._rows():
            try:
                valid.append(_quota(row))
            except ValueError as error:
                errors.append(error)
                invalid_keys |= _key_of(row)
        invalid_keys -= {quota.key for quota in valid}
        if valid or not errors:
            unchanged = [quota for quota in self.quotas if quota.key in invalid_keys]
            self.quotas = (*valid, *unchanged)
            self._has_quotas, self._failures = True, 0
        if errors:
            raise errors[0]

    async def _rows(self) -> tuple[object, ...]:
        with anyio.fail_after(self._timeout):
            result = self._source()
            rows = await result if isawaitable(result) else result
        if not isinstance(rows, Iterable):
            raise ValueError(f"the quota source must return a list of quotas, got {rows!r}")
        first = tuple(islice(rows, self._max_keys + 1))
        if len(first) > self._max_keys:
            raise ValueError(
                f"the quota source must return at most {self._max_keys} quotas, got more: return "
                "only those near their limit, or raise max_keys"
            )
        return first

    def __call__(
        self, traffic: Traffic, thresholds: Thresholds, now: float
    ) -> Iterator[Finding | None]:
        """Return a finding for each key near or above its quota."""
        threshold = thresholds.quota_warning
        if threshold is None:
            return
        if not self._has_quotas:
            raise LookupError("the quota source has not returned any quotas yet")
        if self._failures > _MAX_FAILURES:
            raise LookupError(
                f"the quota source has failed {self._failures} times in a row: its last quotas "
                "are too old"
            )
        for quota in (*self.quotas, *self._reported(traffic)):
            # Compare the share: the rounding of limit x threshold could miss the exact threshold.
            share = quota.used / quota.limit if quota.limit and quota.limit > 0 else 0.0
            if share >= threshold * thresholds.resolve_ratio:
                yield _finding(quota, share, threshold, thresholds)
            else:
                yield None

    async def report_quotas(self) -> dict[str, Usage]:
        """Refresh, and return use and limit of the keys near their quota; at most 1,000.

        Raises:
            TimeoutError, ValueError: See `refresh`.
        """
        if not self.per_process:
            return {}
        await self.refresh()
        usages = [
            (quota.used / quota.limit, quota)
            for quota in self.quotas
            if quota.limit is not None and quota.used >= quota.limit * _MIN_REPORTED_SHARE > 0
        ]
        most = nlargest(_MAX_REPORTED, usages, key=itemgetter(0))
        return {quota.key: (quota.used, quota.limit) for _, quota in reversed(most) if quota.limit}

    def _reported(self, traffic: Traffic) -> Iterator[Quota]:
        if self.per_process:
            for key, (used, limit) in traffic.quotas.items():
                yield Quota(key, used, limit)


def quota_exceeded(
    source: QuotaSource | None,
    *,
    timeout: float = 5,
    max_keys: int = 100_000,
    per_process: bool = False,
) -> QuotaExceeded:
    """Return a rule that fires when a key has used 90 % of its quota; critical from 100 %.

    The engine calls the source before each evaluation. A key that the source no longer returns
    no longer has an alert. While the source fails, all alerts stay as they are; from its third
    failure in a row on, the rule and so the evaluation fail too.

    Args:
        source: A function without arguments, async or not, that returns the quotas. One that is
            not async must not block. None: there are no quotas.
        timeout: Seconds that an async source may take.
        max_keys: Maximum number of quotas; a source may return only those near their limit.
        per_process: The source knows only the usage in its own process, such as that of a limiter
            in memory. Every process of the fleet then calls it, and reports the keys that have used
            half of their quota to the leader once in an interval; their largest share counts.

    Raises:
        ValueError: An argument is invalid.
    """
    check_seconds("timeout", timeout)
    check_integer("max_keys", max_keys)
    if source is not None and not callable(source):
        raise ValueError(
            "source must be a function that returns quotas, such as lambda: "
            f"[Quota('k1', used=95, limit=100)], got {describe(source)}"
        )
    return QuotaExceeded(
        source or (lambda: ()), timeout=timeout, max_keys=max_keys, per_process=per_process
    )


def _quota(row: Any) -> Quota:
    try:
        key, used, limit, tenant, unit = Quota(*row)
        return Quota(
            _identity(key),
            _number(used),
            None if limit is None else _number(limit),
            None if tenant is None else _identity(tenant),
            _identity(unit),
        )
    except (TypeError, ValueError, ArithmeticError):
        raise ValueError(
            "a quota must be (key, used, limit) or (key, used, limit, tenant, unit), with key and "
            "tenant as strings or integers, and used and limit as numbers, got "
            f"{_shown(row)}"
        ) from None


def _identity(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError
    return str(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise TypeError
    number = int(value) if isinstance(value, Integral) else float(value)
    if not -_MAX_NUMBER <= number <= _MAX_NUMBER:  # false for NaN
        raise ValueError
    return number


def _key_of(row: Any) -> set[str]:
    """Return the key of an invalid row, if the key itself is valid."""
    try:
        return {_identity(row[0])}
    except (TypeError, ValueError, LookupError):
        return set()


def _shown(row: object) -> str:
    try:
        return repr(row)[:_MAX_ROW_CHARS]
    except Exception:  # noqa: BLE001 - repr of foreign objects, or of huge integers, may raise
        return f"a {type(row).__name__}"


def _finding(quota: Quota, share: float, threshold: float, thresholds: Thresholds) -> Finding:
    owner = f" (Master {escaped(quota.tenant)})" if quota.tenant else ""
    steps: Steps = ((1, "critical"), (threshold, "warning"))
    subject = subject_of("key", quota.key)
    return Finding(
        type="quota_exceeded",
        subject=subject,
        severity=severity_for(share, steps),
        keeps=severity_for(share, steps, thresholds.resolve_ratio),
        title="Quota exceeded" if share >= 1 else f"Quota at {share:.0%}",
        message=f"{name_with_id(subject)}{owner} has used {quota.used}/{quota.limit} "
        f"{escaped(quota.unit)} ({share:.1%})",
        value=share,
        metadata={
            "used": quota.used,
            "limit": quota.limit,
            "master": quota.tenant,
            "threshold": threshold,
        },
        keep_firing=thresholds.keep_firing,
        window=0,  # the source is complete at once after a restart
    )
