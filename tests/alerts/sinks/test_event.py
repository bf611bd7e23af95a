"""AlertEvent and its conversion to and from JSON values."""

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


def test_to_dict_returns_all_fields_as_json_values() -> None:
    """Names are in snake_case, times in RFC 3339, and unknown values are null."""
    escalated = event(
        "escalated",
        "critical",
        previous="warning",
        fired_at=AT - 60,
        subject=Subject("apikey", "c1", "claude"),
        metric="rate",
        metadata={"requests": 10},
    )

    assert escalated.to_dict() == {
        "id": escalated.id,
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
def test_any_finding_is_converted_to_valid_json(
    metadata: dict[str, Any], title: str, value: float
) -> None:
    """Any text, number and metadata of a finding becomes valid JSON."""
    values = event(metadata=metadata, title=title + "\ud800", value=value).to_dict()

    decoded = json.loads(msgspec.json.encode(values))

    assert decoded == values
    assert decoded["title"] == title.encode("utf-8", "replace").decode() + "?"


@given(
    st.dictionaries(st.text(), _ANYTHING),
    st.text(),
    st.floats(),
    st.floats(0, 4e9),
    st.none() | st.floats(0, 4e9),
)
def test_from_dict_restores_what_to_dict_has_converted(
    metadata: dict[str, Any], identity: str, value: float, at: float, fired_at: float | None
) -> None:
    """An event that was stored as JSON is converted to the same values again."""
    values = event(
        "escalated",
        at=at,
        fired_at=fired_at,
        previous="info",
        subject=Subject("key", identity),
        metadata=metadata,
        value=value,
    ).to_dict()

    assert AlertEvent.from_dict(json.loads(msgspec.json.encode(values))).to_dict() == values


@pytest.mark.parametrize(
    "change",
    [{"at": "today"}, {"at": None}, {"subject": {"name": "x"}}, {"subject": 1}, {"id": "a.b"}],
)
def test_from_dict_rejects_values_of_another_form(change: dict[str, Any]) -> None:
    """Invalid and missing values, such as those of another version, are rejected."""
    with pytest.raises(ValueError, match="must be a result of AlertEvent"):
        AlertEvent.from_dict(event().to_dict() | change)
    with pytest.raises(ValueError, match="KeyError"):
        AlertEvent.from_dict({})


def test_recursive_metadata_is_truncated() -> None:
    """Metadata that contains itself becomes text from a certain depth on."""
    recursive: dict[str, Any] = {}
    recursive["self"] = recursive

    assert len(msgspec.json.encode(event(metadata=recursive).to_dict())) < 2000


def test_derived_id_depends_on_alert_transition_and_time() -> None:
    """Equal events have the same derived id, and different events have different ones."""
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
def test_invalid_id_is_rejected(id: str) -> None:
    """An id must fit into a header, and into signed content that is separated by full stops."""
    with pytest.raises(ValueError, match="1 to 128 letters"):
        AlertEvent("fired", event().finding, AT, id=id)


def test_valid_id_is_used() -> None:
    """A valid id replaces the derived one."""
    assert AlertEvent("fired", event().finding, AT, id="evt_1-A").id == "evt_1-A"


def test_start_of_an_episode_is_at_most_the_time_of_the_event() -> None:
    """An episode without a start, or with a later one, starts at the time of the event."""
    assert event(fired_at=AT - 5).began == AT - 5
    assert event(fired_at=AT + 5).began == AT
    assert event().began == AT


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e30])
def test_rfc3339_rejects_an_invalid_time(seconds: float) -> None:
    """A time that is not finite, or after the year 9999, is rejected."""
    with pytest.raises(ValueError, match="seconds since the epoch"):
        rfc3339(seconds)
