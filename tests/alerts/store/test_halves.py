"""Changes in two parts: nothing is lost between them."""

from __future__ import annotations

from tokenpulse_mw.alerts.store import Changes
from tokenpulse_mw.alerts.store.halves import halves

from .samples import alert, notification, transition


def parts(changes: Changes) -> list[Changes]:
    """`changes`, record by record."""
    smaller = halves(changes)
    return [each for half in smaller for each in parts(half)] if smaller else [changes]


def test_changes_are_halved_until_each_record_is_alone() -> None:
    """In the order in which one needs the other: an alert comes before what happened to it."""
    changes = Changes(
        (alert("a1"), alert("a2")),
        (transition("a1"), transition("a2")),
        (notification("n1"),),
        ("a3", "a4"),
    )

    assert parts(changes) == [
        Changes(alerts=(alert("a1"),)),
        Changes(alerts=(alert("a2"),)),
        Changes(transitions=(transition("a1"),)),
        Changes(transitions=(transition("a2"),)),
        Changes(notifications=(notification("n1"),)),
        Changes(forgotten=("a3",)),
        Changes(forgotten=("a4",)),
    ]


def test_what_cannot_be_halved_has_no_halves() -> None:
    """There is an end to it."""
    assert halves(Changes()) == halves(Changes(forgotten=("a1",))) == ()
