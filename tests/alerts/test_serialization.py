"""Values as JSON has them: whatever a rule finds can be kept, told, and read back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from decimal import Decimal
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Finding, Subject
from tokenpulse_mw.alerts.serialization import (
    finding_from_dict,
    finding_to_dict,
    json_safe,
    replace_surrogates,
)

_TEXT = st.text(st.characters())  # halves of surrogate pairs as well


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


_INTEGERS = st.integers(-(2**63), 2**63 - 1)


_FINDINGS = st.builds(
    Finding,
    type=st.text(),
    subject=st.builds(Subject, st.text(), st.text(), st.text()),
    severity=st.sampled_from(["info", "warning", "critical"]),
    title=st.text(),
    message=st.text(),
    metric=st.text(),
    value=st.floats(allow_nan=False, allow_infinity=False) | _INTEGERS,
    metadata=st.dictionaries(st.text(), st.text() | _INTEGERS | st.none()),
    hold_for=st.floats(0, 1e9),
    keep_firing=st.floats(0, 1e9),
    window=st.floats(0, 1e9),
    keeps=st.sampled_from([None, "info", "warning", "critical"]),
)


class Nameless:
    """What cannot be written as text."""

    def __str__(self) -> str:
        raise LookupError("no name")


def found(**changes: Any) -> Finding:
    """What a rule finds."""
    trouble = Finding(
        type="trouble", subject=Subject("key", "k1"), severity="warning", title="", message=""
    )
    return replace(trouble, **changes)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, "9223372036854775808"),
        (-(2**63) - 1, "-9223372036854775809"),
        pytest.param(10**5000, "<int>", id="endless"),  # pytest cannot write it either
        ({10**5000: [10**5000]}, {"<int>": ["<int>"]}),
        (Nameless(), "<Nameless>"),
        (2.5, 2.5),
        (math.inf, None),
        (-math.inf, None),
        (math.nan, None),
        ("键\x00", "键\x00"),
        ("half \ud800 of a pair", "half ? of a pair"),
        (b"bytes", "b'bytes'"),
        (PurePosixPath("/a"), "/a"),
        ((1, (2, 3)), [1, [2, 3]]),
        ({4}, [4]),
        (frozenset({4}), [4]),
        ({1: math.nan, "\udfff": [b""]}, {"1": None, "?": ["b''"]}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ([[[[[[7]]]]]], [[[[["[7]"]]]]]),
        ({"a": {"b": {"c": {"d": {"e": {}}}}}}, {"a": {"b": {"c": {"d": {"e": "{}"}}}}}),
    ],
)
def test_a_value_becomes_what_comes_closest_to_it_in_json(value: object, kept: object) -> None:
    """Numbers that are none are null, and what JSON does not know is text."""
    assert json_safe(value) == kept


def test_what_contains_itself_ends() -> None:
    """Beyond five levels there is only text."""
    endless: list[Any] = []
    endless.append(endless)

    assert json.loads(json.dumps(json_safe(endless))) == [[[[["[[...]]"]]]]]


@given(_JSON)
def test_what_is_portable_stays_as_it_is(value: Any) -> None:
    """To keep what was read back changes nothing any more."""
    once = json_safe(value)

    assert json.loads(json.dumps(once, allow_nan=False)) == once == json_safe(once)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (7, 7),
        (2**64, 2.0**64),
        (10**400, None),
        pytest.param(-(10**5000), None, id="endless"),
        (Decimal("0.5"), 0.5),
        ("high", None),
        (None, None),
        (math.nan, None),
    ],
)
def test_a_number_becomes_the_closest_that_json_has(value: Any, kept: float | None) -> None:
    """What cannot be compared with a threshold is none, and a large one is rounded."""
    told = finding_to_dict(found(value=value))["value"]

    assert (told, type(told)) == (kept, type(kept))


def test_any_number_of_seconds_is_read_back_as_one() -> None:
    """More of them than there are numbers are endless."""
    kept = json.loads(json.dumps(finding_to_dict(found(hold_for=10**400, window=2**70))))

    assert finding_from_dict(kept) == found(hold_for=math.inf, window=2.0**70, value=0)


@given(_TEXT)
def test_any_text_becomes_valid(text: str) -> None:
    """Of what was valid, nothing changes."""
    made = replace_surrogates(text)

    assert made.encode().decode() == made
    assert len(made) == len(text)
    assert made == text or any("\ud800" <= each <= "\udfff" for each in text)


@given(_FINDINGS)
def test_a_finding_is_read_back_as_it_was(finding: Finding) -> None:
    """An alert goes on after a restart with all that was known of it."""
    kept = json.loads(json.dumps(finding_to_dict(finding), allow_nan=False))

    assert finding_from_dict(kept) == finding


@given(_TEXT, _TEXT)
@example("half \ud800 of a pair", "")
def test_an_alert_is_the_same_one_after_a_restart(identity: str, metric: str) -> None:
    """Whatever its subject is called: or a restart would end it, and begin another one."""
    finding = found(subject=Subject("key", identity), metric=metric)

    assert finding_from_dict(finding_to_dict(finding)).fingerprint == finding.fingerprint


def test_a_number_that_is_none_is_none_again() -> None:
    """That there was nothing to divide by is no reason to lose an alert."""
    for value in (math.nan, math.inf):
        kept = finding_to_dict(found(value=value))

        assert kept["value"] is None
        assert math.isnan(finding_from_dict(kept).value)


def test_a_finding_of_another_version_can_be_read() -> None:
    """What was unknown then has its default, and what is unknown now is left out."""
    kept = finding_to_dict(found(window=300.0))
    del kept["window"]
    kept["colour"] = "red"

    assert finding_from_dict(kept) == found()


@pytest.mark.parametrize(
    "changes",
    [{"subject": None}, {"subject": {"id": "k1"}}, {"subject": {"colour": "red"}}, {"value": ...}],
)
def test_what_is_no_finding_is_refused(changes: dict[str, Any]) -> None:
    """With one of the errors that whoever reads it expects."""
    kept = finding_to_dict(found()) | changes
    if kept["value"] is ...:
        del kept["value"]

    with pytest.raises((KeyError, TypeError, ValueError)):
        finding_from_dict(kept)
