"""Recognition of errors in responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.document import read
from tokenpulse_mw.usage.formats import has_error, is_error_response
from tokenpulse_mw.usage.formats.markers import may_have_error

from ..bodies import document


@pytest.mark.parametrize(
    "payload",
    [
        {"error": {"message": "overloaded"}},
        {"error": "overloaded"},
        {"type": "error", "error": {"type": "overloaded_error"}},
        {"type": "error"},
        {"type": "response.failed", "response": {"error": None}},
        {"type": "response.failed"},
        {"type": "response.incomplete", "response": {"error": {"code": "server_error"}}},
        {"object": "response", "status": "failed", "error": None},
        {"object": "error", "message": "EngineCore died", "code": 500},
        {"choices": [{"delta": {}, "error": {"code": 502}, "finish_reason": "error"}]},
        {"choices": [], "x_groq": {"id": "req", "error": "over capacity"}},
        {"response": {"candidates": []}, "error": {"code": 500}},
    ],
)
def test_has_error_of_a_document_with_an_error_is_true(payload: dict[str, Any]) -> None:
    """Vendors report an error under `error`, or by the type of the event."""
    assert has_error(document(payload)) is True


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"error": None},
        {"type": "message_stop"},
        {"type": "response.completed", "response": {"error": None}},
        {"choices": [{"message": {"error": {"message": "quoted"}}}]},
        {"choices": [{"error": None}]},
        {"choices": "error", "x_groq": "error"},
        {"error": {}},
        {"error": {"code": 0, "message": ""}},
        {"choices": [], "x_groq": {"error": None}},
        {"object": "response", "status": "completed"},
        {"object": "batch", "status": "failed"},
    ],
)
def test_has_error_of_a_document_without_an_error_is_false(payload: dict[str, Any]) -> None:
    """A null `error`, an empty one, or one inside the model's output is not an error."""
    assert has_error(document(payload)) is False


@pytest.mark.parametrize(
    "payload",
    [
        {"error": {"message": "Provider returned error", "code": 429}},
        {"type": "error", "error": {"type": "overloaded_error"}},
        {"object": "error", "message": "EngineCore died"},
        {"object": "response", "model": "gpt-5", "status": "failed"},
        {"model": "llama", "error": "out of memory"},
    ],
)
def test_is_error_response_of_an_error_body_is_true(payload: dict[str, Any]) -> None:
    """An error body is recognized though its status is a success."""
    assert is_error_response(document(payload)) is True


@pytest.mark.parametrize(
    "payload",
    [
        {"error": True},
        {"error": "no"},
        {"error": {}},
        {"type": "error"},
        {"model": "gpt-5", "error": None},
    ],
)
def test_is_error_response_of_an_application_body_is_false(payload: dict[str, Any]) -> None:
    """Only an error object counts in a document that is not a model's."""
    assert is_error_response(document(payload)) is False


names = st.sampled_from(["error", "type", "object", "status", "failed", "model", "response.failed"])
errors = st.dictionaries(names, names | st.none() | st.just({"code": 1}))


@given(errors, st.lists(errors, max_size=2))
def test_document_with_an_error_contains_an_error_sign(
    payload: dict[str, Any], choices: list[dict[str, Any]]
) -> None:
    """Each document with an error has a sign, so that others need not be decoded."""
    data = json.dumps({**payload, "choices": choices}).encode()

    if any(map(has_error, read(data))):
        assert may_have_error(data)
