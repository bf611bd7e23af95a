"""Counts that a process could not write to the file yet, because it did not get a lock."""

from __future__ import annotations

from typing import NamedTuple

from .table import Address

_MAX_DEBTS = 1000


class Debt(NamedTuple):
    """Amount owed to the window of a key.

    Attributes:
        amount: Amount to charge; a negative one is a refund.
        since: Time of the first hit in it.
        ends: End of the window; after that, nothing is owed.
    """

    amount: int
    since: float
    ends: float


class Debts:
    """Debts by set and key, at most 1,000.

    Attributes:
        count: Number of keys with a debt.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sets: dict[int, dict[Address, Debt]] = {}

    def amount(self, address: Address, now: float) -> int:
        """Return the amount owed to a key."""
        debt = self._sets.get(address.set, {}).get(address)
        return debt.amount if debt is not None and debt.ends > now else 0

    def add(self, address: Address, debt: Debt, now: float) -> bool:
        """Add a debt, and return False if there are too many."""
        debts = self._sets.setdefault(address.set, {})
        known = debts.get(address)
        if known is None and self.count >= _MAX_DEBTS:
            return False
        if known is None:
            self.count += 1
        elif known.ends > now:
            debt = Debt(
                known.amount + debt.amount,
                min(known.since, debt.since),
                max(known.ends, debt.ends),
            )
        debts[address] = debt
        return True

    def pop(self, number: int) -> dict[Address, Debt]:
        """Remove and return the debts of a set."""
        debts = self._sets.pop(number, {})
        self.count -= len(debts)
        return debts
