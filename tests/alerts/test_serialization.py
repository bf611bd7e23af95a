"""Conversion of findings and their metadata to JSON and back."""

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

_TEXT = st.text(st.characters())  # with lone surrogates


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


class Unprintable:
    """An object whose `str` raises."""

    def __str__(self) -> str:
        raise LookupError("no name")


def finding(**changes: Any) -> Finding:
    """Return a finding of the key k1."""
    trouble = Finding(
        type="trouble", subject=Subject("key", "k1"), severity="warning", title="", message=""
    )
    return replace(trouble, **changes)


def stored(finding: Finding) -> dict[str, Any]:
    """Return a finding as it is read from strict JSON."""
    values: dict[str, Any] = json.loads(json.dumps(finding_to_dict(finding), allow_nan=False))
    return values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, "9223372036854775808"),
        (-(2**63) - 1, "-9223372036854775809"),
        pytest.param(10**5000, "<int>", id="huge"),  # too long for an id
        ({10**5000: [10**5000]}, {"<int>": ["<int>"]}),
        (Unprintable(), "<Unprintable>"),
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
def test_json_safe_returns_the_nearest_json_value(value: object, expected: object) -> None:
    """Numbers that are not finite become null, and other types become text."""
    assert json_safe(value) == expected


def test_json_safe_of_a_list_that_contains_itself_ends() -> None:
    """Below five levels every value becomes text."""
    endless: list[Any] = []
    endless.append(endless)

    assert json.loads(json.dumps(json_safe(endless))) == [[[[["[[...]]"]]]]]


@given(_JSON)
def test_json_safe_leaves_its_own_result_unchanged(value: Any) -> None:
    """The result is strict JSON, and stays the same when it is stored again."""
    converted = json_safe(value)

    assert json.loads(json.dumps(converted, allow_nan=False)) == converted == json_safe(converted)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        (2**64, 2.0**64),
        (10**400, None),
        pytest.param(-(10**5000), None, id="huge"),
        (Decimal("0.5"), 0.5),
        ("high", None),
        (None, None),
        (math.nan, None),
    ],
)
def test_value_of_a_finding_becomes_a_finite_number(value: Any, expected: float | None) -> None:
    """A large integer becomes a float, and a value that is not a number becomes null."""
    converted = finding_to_dict(finding(value=value))["value"]

    assert (converted, type(converted)) == (expected, type(expected))


def test_seconds_above_the_largest_float_are_restored_as_infinity() -> None:
    """Smaller numbers of seconds are restored as they were."""
    values = stored(finding(hold_for=10**400, window=2**70))

    assert finding_from_dict(values) == finding(hold_for=math.inf, window=2.0**70, value=0)


@given(_TEXT)
def test_replace_surrogates_returns_valid_utf_8(text: str) -> None:
    """Valid text is unchanged, and the length stays the same."""
    valid = replace_surrogates(text)

    assert valid.encode().decode() == valid
    assert len(valid) == len(text)
    assert valid == text or any("\ud800" <= character <= "\udfff" for character in text)


@given(_FINDINGS)
def test_finding_is_restored_from_json(finding: Finding) -> None:
    """All fields are equal."""
    assert finding_from_dict(stored(finding)) == finding


@given(_TEXT, _TEXT)
@example("half \ud800 of a pair", "")
def test_restored_finding_has_the_same_fingerprint(identity: str, metric: str) -> None:
    """Otherwise a restart would resolve the alert and fire another one."""
    original = finding(subject=Subject("key", identity), metric=metric)

    assert finding_from_dict(finding_to_dict(original)).fingerprint == original.fingerprint


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_value_that_is_not_finite_is_restored_as_nan(value: float) -> None:
    """JSON has null instead."""
    values = finding_to_dict(finding(value=value))

    assert values["value"] is None
    assert math.isnan(finding_from_dict(values).value)


def test_finding_of_another_version_is_restored() -> None:
    """A missing field has its default, and an unknown field is ignored."""
    values = finding_to_dict(finding(window=300.0))
    del values["window"]
    values["colour"] = "red"

    assert finding_from_dict(values) == finding()


@pytest.mark.parametrize(
    "changes",
    [{"subject": None}, {"subject": {"id": "k1"}}, {"subject": {"colour": "red"}}, {"value": ...}],
)
def test_invalid_values_are_not_restored(changes: dict[str, Any]) -> None:
    """The error is one of those that the tracker catches."""
    values = finding_to_dict(finding()) | changes
    if values["value"] is ...:
        del values["value"]

    with pytest.raises((KeyError, TypeError, ValueError)):
        finding_from_dict(values)
