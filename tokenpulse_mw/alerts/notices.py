"""Whether anyone is told of an alert, which is not for its life cycle to know."""

from __future__ import annotations

from .lifecycle import RANKS, Severity, Transition


def notice(
    told_as: Severity | None, severity: Severity, happened: Transition | None
) -> Transition | None:
    """What is news of an alert that has fired, to those who heard of it as `told_as`.

    It makes no difference when they were kept from hearing of it: whoever heard of an alert
    hears of its end, whoever did not does not, and a silence that ends tells what fires still.

    Args:
        told_as: The severity that was last told, or None where nothing was.
        severity: How bad it is.
        happened: What its life cycle says, if anything.
    """
    if happened == "resolved":
        return None if told_as is None else "resolved"
    if told_as is None:
        return "fired"
    if severity != told_as:
        return "escalated" if RANKS[severity] > RANKS[told_as] else "deescalated"
    return "reminded" if happened == "reminded" else None
