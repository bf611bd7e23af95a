"""Quotas that are nearly used up, as somebody else counts them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from decimal import Decimal
from inspect import isawaitable
from itertools import islice
from numbers import Integral, Real
from typing import Any, NamedTuple

import anyio

from ...validation import check_seconds
from ..lifecycle import Finding
from ..thresholds import Thresholds
from ..traffic.traffic import Traffic
from .rule import Rule, Steps, severity_for, subject_of

_LARGEST = 1e15
_MOST_FAILURES = 2  # in a row, which a source may have without being taken for dead
_SHOWN = 200  # characters of a wrong row


class Quota(NamedTuple):
    """How far a key has used its quota.

    Attributes:
        key: The key's id.
        used: What it has used, in the quota's unit.
        limit: What it may use; None, or not above 0, where it has no quota.
        tenant: The tenant whose key it is, where known.
    """

    key: str
    used: float
    limit: float | None
    tenant: str | None = None


# Gives the quotas; plain tuples of (key, used, limit) or (key, used, limit, master) will do, with
# numbers of any kind, and keys and masters that are whole numbers.
QuotaSource = Callable[[], "Iterable[tuple[object, ...]] | Awaitable[Iterable[tuple[object, ...]]]"]


class Quotas:
    """The quotas as they were last told by `source`.

    Args:
        source: Called by `refresh` without arguments; it gives quotas, or can be awaited for
            them. One that is not awaited must not block. None: there are no quotas.
        deadline: Seconds that a source that is awaited may take.
        max_keys: Quotas that are taken at most; a source may give only those that are near.

    Attributes:
        known: The source has answered at least once.
        failures: How often in a row it has failed by now.

    Raises:
        ValueError: `deadline` or `max_keys` is no number above 0.
    """

    def __init__(
        self, source: QuotaSource | None, *, deadline: float = 5, max_keys: int = 100_000
    ) -> None:
        check_seconds("deadline", deadline)
        if type(max_keys) is not int or max_keys < 1:
            raise ValueError(f"max_keys must be a whole number above 0, got {max_keys!r}")
        self._source: QuotaSource = source or (lambda: ())
        self._deadline, self._most = deadline, max_keys
        self._quotas: tuple[Quota, ...] = ()
        self.known, self.failures = False, 0

    async def refresh(self) -> None:
        """Ask the source again. Where that fails, what was last known stays.

        Raises:
            TimeoutError: The source took too long.
            ValueError: It gave too many, or something that is no quota. The quotas beside that
                are taken all the same; what was known of a key whose quota is none stays.
        """
        self.failures += 1  # until it has answered
        rows = await self._rows()
        good, unclear, wrong = list[Quota](), set[str](), list[ValueError]()
        for row in rows:
            try:
                good.append(_quota(row))
            except ValueError as error:
                wrong.append(error)
                unclear |= _key_of(row)
        unclear -= {each.key for each in good}
        stay = [each for each in self._quotas if each.key in unclear]
        if good or not wrong:  # else it is no answer
            self._quotas, self.known, self.failures = (*good, *stay), True, 0
        if wrong:
            raise wrong[0]

    async def _rows(self) -> tuple[object, ...]:
        with anyio.fail_after(self._deadline):
            given = self._source()
            rows = await given if isawaitable(given) else given
        if not isinstance(rows, Iterable):
            raise ValueError(f"the quota source must give a list of quotas, got {rows!r}")
        taken = tuple(islice(rows, self._most + 1))
        if len(taken) > self._most:
            raise ValueError(
                f"the quota source gave more than {self._most} quotas; "
                "let it give only those that are near their limit, or raise max_keys"
            )
        return taken

    def __iter__(self) -> Iterator[Quota]:
        return iter(self._quotas)


class _QuotaExceeded:
    """The rule of some quotas, which the engine refreshes before each round."""

    name = "quota_exceeded"

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self.refresh = quotas.refresh

    def __call__(
        self, traffic: Traffic, thresholds: Thresholds, now: float
    ) -> Iterator[Finding | None]:
        threshold = thresholds.quota_warning
        if threshold is None:
            return
        if not self._quotas.known:
            raise LookupError("the quota source has not answered yet")
        if self._quotas.failures > _MOST_FAILURES:
            raise LookupError(
                f"the quota source has failed {self._quotas.failures} times in a row: "
                "what it said before is too old"
            )
        for quota in self._quotas:
            # A share, not limit x threshold, whose rounding could miss what is just reached.
            share = quota.used / quota.limit if quota.limit and quota.limit > 0 else 0.0
            if share >= threshold * thresholds.resolve_ratio:
                yield _finding(quota, share, threshold, thresholds)
            else:
                yield None


def quota_exceeded(quotas: Quotas) -> Rule:
    """The rule that a key has used at least 90 % of its quota; from 100 % it is critical.

    A key that the source no longer gives has no alert any more. While the source fails, all stay
    as they are; from its third failure in a row on the rule fails too, and so does the round.
    """
    return _QuotaExceeded(quotas)


def _quota(row: Any) -> Quota:
    try:
        key, used, limit, *rest = row
        (master,) = rest or [None]
        return Quota(
            _identity(key),
            _number(used),
            None if limit is None else _number(limit),
            None if master is None else _identity(master),
        )
    except (TypeError, ValueError, ArithmeticError):
        raise ValueError(
            "a quota must be (key, used, limit) or (key, used, limit, master), with key and "
            "master as text or whole numbers, and used and limit as numbers, got "
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
    if not -_LARGEST <= number <= _LARGEST:  # which is never so for nan
        raise ValueError
    return number


def _key_of(row: Any) -> set[str]:
    """The key of a row that is wrong, if that at least is one."""
    try:
        return {_identity(row[0])}
    except (TypeError, ValueError, LookupError):
        return set()


def _shown(row: object) -> str:
    try:
        return repr(row)[:_SHOWN]
    except Exception:  # noqa: BLE001 - it is somebody else's, or has an integer that is too long
        return f"a {type(row).__name__}"


def _finding(quota: Quota, share: float, threshold: float, thresholds: Thresholds) -> Finding:
    owner = f" (master {quota.tenant!r})" if quota.tenant else ""
    steps: Steps = ((1, "critical"), (threshold, "warning"))
    return Finding(
        type="quota_exceeded",
        subject=subject_of("key", quota.key),
        severity=severity_for(share, steps),
        keeps=severity_for(share, steps, thresholds.resolve_ratio),
        title="Quota exceeded" if share >= 1 else f"Quota at {share:.0%}",
        message=f"Key {quota.key!r}{owner} has used {quota.used} of {quota.limit} "
        f"({share:.1%}) of its quota",
        value=share,
        metadata={
            "used": quota.used,
            "limit": quota.limit,
            "master": quota.tenant,
            "threshold": threshold,
        },
        keep_firing=thresholds.keep_firing,
        window=0,  # what the source says is known at once
    )
