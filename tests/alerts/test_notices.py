"""Notices: who has heard of an alert hears how it goes on, and who has not hears of it first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Severity
from tokenpulse_mw.alerts.lifecycle import RANKS, Transition
from tokenpulse_mw.alerts.notices import notice


@pytest.mark.parametrize(
    ("told_as", "severity", "happened", "told"),
    [
        # Nobody has heard of it: it is new to them, whatever has happened to it.
        (None, "warning", "fired", "fired"),
        (None, "critical", "escalated", "fired"),
        (None, "info", "deescalated", "fired"),
        (None, "warning", "reminded", "fired"),
        (None, "warning", None, "fired"),
        (None, "warning", "resolved", None),
        # They know of it as it is.
        ("warning", "warning", None, None),
        ("warning", "warning", "reminded", "reminded"),
        ("warning", "warning", "resolved", "resolved"),
        ("warning", "warning", "escalated", None),
        ("critical", "critical", "deescalated", None),
        # They know of it as better, or as worse, than it is.
        ("warning", "critical", "escalated", "escalated"),
        ("warning", "critical", "reminded", "escalated"),
        ("warning", "critical", None, "escalated"),
        ("info", "critical", "deescalated", "escalated"),
        ("warning", "info", "deescalated", "deescalated"),
        ("critical", "warning", "reminded", "deescalated"),
        ("critical", "info", None, "deescalated"),
        ("warning", "critical", "resolved", "resolved"),
    ],
)
def test_what_is_news_depends_on_what_was_heard(
    told_as: Severity | None,
    severity: Severity,
    happened: Transition | None,
    told: Transition | None,
) -> None:
    """An end is told to those who know of the alert; else what differs from what they know."""
    assert notice(told_as, severity, happened) == told


severities: st.SearchStrategy[Severity] = st.sampled_from(list(RANKS))


@given(
    first=severities,
    rounds=st.lists(st.tuples(st.none() | severities, st.booleans(), st.booleans()), max_size=20),
    silent=st.booleans(),
    ends=st.booleans(),
)
def test_whoever_hears_of_an_alert_hears_of_its_end_once(
    first: Severity,
    rounds: list[tuple[Severity | None, bool, bool]],
    silent: bool,
    ends: bool,
) -> None:
    """And who was always kept from hearing hears nothing; the last that is heard is so."""
    told_as: Severity | None = None
    severity = first
    heard: list[Transition] = []
    for change, reminded, silenced in [(first, False, silent), *rounds]:
        happened: Transition | None = "reminded" if reminded else None
        severity = change or severity
        told = notice(told_as, severity, happened)
        if told is not None and not silenced:
            heard.append(told)
            told_as = severity
        assert silenced or told_as == severity
    end = notice(told_as, severity, "resolved") if ends else None
    heard += [end] if end is not None else []

    assert heard.count("fired") == (told_as is not None)
    assert heard[:1] in ([], ["fired"])
    assert heard.count("resolved") == (ends and told_as is not None)
    assert "resolved" not in heard[:-1]
