"""AlertEvent: what is told of an alert, as an object and as JSON."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import AlertEvent, Subject
from tokenpulse_mw.alerts.sinks.event import rfc3339

from .events import AT, event


def test_an_event_can_be_written_as_json() -> None:
    """Names are in snake_case, times in RFC 3339, and what is not known is null."""
    told = event(
        "escalated",
        "critical",
        previous="warning",
        fired_at=AT - 60,
        subject=Subject("apikey", "c1", "claude"),
        metric="rate",
        metadata={"requests": 10},
    )

    assert told.to_dict() == {
        "id": told.id,
        "alert_id": None,
        "transition": "escalated",
        "at": "2026-01-02T03:04:05.678Z",
        "fired_at": "2026-01-02T03:03:05.678Z",
        "fingerprint": "error_spike:rate:apikey:c1",
        "type": "error_spike",
        "metric": "rate",
        "severity": "critical",
        "previous_severity": "warning",
        "subject": {"kind": "apikey", "id": "c1", "name": "claude"},
        "title": "High error rate",
        "message": "Key 'k1' has 30.0% error rate",
        "value": 0.3,
        "metadata": {"requests": 10},
    }


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), _ANYTHING), st.text(), st.floats())
def test_whatever_a_rule_found_comes_out_as_json(
    metadata: dict[str, Any], title: str, value: float
) -> None:
    """Nothing that a rule says keeps an alert from being told."""
    told = event(metadata=metadata, title=title + "\ud800", value=value).to_dict()

    written = msgspec.json.encode(told)

    assert json.loads(written) == told
    assert json.loads(written)["title"] == title.encode("utf-8", "replace").decode() + "?"


@given(
    st.dictionaries(st.text(), _ANYTHING),
    st.text(),
    st.floats(),
    st.floats(0, 4e9),
    st.none() | st.floats(0, 4e9),
)
def test_an_event_can_be_kept_as_json(
    metadata: dict[str, Any], identity: str, value: float, at: float, fired_at: float | None
) -> None:
    """What is read back is told as it would have been, also after a restart."""
    told = event(
        "escalated",
        at=at,
        fired_at=fired_at,
        previous="info",
        subject=Subject("key", identity),
        metadata=metadata,
        value=value,
    ).to_dict()

    assert AlertEvent.from_dict(json.loads(msgspec.json.encode(told))).to_dict() == told


@pytest.mark.parametrize(
    "change",
    [{"at": "today"}, {"at": None}, {"subject": {"name": "x"}}, {"subject": 1}, {"id": "a.b"}],
)
def test_what_is_no_event_is_not_read_as_one(change: dict[str, Any]) -> None:
    """Such as what another version has stored."""
    with pytest.raises(ValueError, match="must be what AlertEvent"):
        AlertEvent.from_dict(event().to_dict() | change)
    with pytest.raises(ValueError, match="KeyError"):
        AlertEvent.from_dict({})


def test_metadata_that_holds_itself_is_cut_off() -> None:
    """It is written as text from some depth on, and does not go on for ever."""
    endless: dict[str, Any] = {}
    endless["self"] = endless

    assert len(msgspec.json.encode(event(metadata=endless).to_dict())) < 2000


def test_an_id_is_derived_where_none_is_given() -> None:
    """The same transition of the same alert at the same time has the same one, others have not."""
    ids = [
        event("fired").id,
        event("resolved").id,
        event("fired", at=AT + 1).id,
        event("fired", subject=Subject("key", "k2")).id,
        AlertEvent("fired", event().finding, AT, alert_id="a1").id,
    ]

    assert event("fired").id == ids[0]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("id", ["a.b", "a b", "a\nb", "\u00e9", "x" * 129])
def test_an_id_that_is_no_word_is_refused(id: str) -> None:
    """It has to fit into a header, and into a signature that is divided by full stops."""
    with pytest.raises(ValueError, match="1 to 128 letters"):
        AlertEvent("fired", event().finding, AT, id=id)


def test_an_id_that_is_a_word_is_kept() -> None:
    """Such as one that an engine has stored."""
    assert AlertEvent("fired", event().finding, AT, id="evt_1-A").id == "evt_1-A"


def test_an_episode_never_begins_after_what_is_told_of_it() -> None:
    """Where its beginning is not known, or cannot be, it is the time of the event."""
    assert event(fired_at=AT - 5).began == AT - 5
    assert event(fired_at=AT + 5).began == AT
    assert event().began == AT


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e30])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    """Rather than written as something that nobody can read."""
    with pytest.raises(ValueError, match="seconds since the epoch"):
        rfc3339(seconds)
