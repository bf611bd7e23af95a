"""Whether a document tells of an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.document import Document, read
from tokenpulse_mw.usage.formats import has_error, is_error_response
from tokenpulse_mw.usage.formats.markers import may_have_error


def document(payload: dict[str, Any]) -> Document:
    """The one document that `payload` is."""
    (only,) = read(json.dumps(payload).encode())
    return only


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
def test_an_error_is_told_in_the_document(payload: dict[str, Any]) -> None:
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
def test_no_error_is_no_failure(payload: dict[str, Any]) -> None:
    """An `error` of null, or one inside of what the model wrote, is none."""
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
def test_a_whole_answer_may_be_an_error(payload: dict[str, Any]) -> None:
    """Some vendors answer so with a status of success."""
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
def test_an_applications_own_answer_may_speak_of_errors(payload: dict[str, Any]) -> None:
    """A word, or a yes, in a document that is not a model's tells of no failed answer."""
    assert is_error_response(document(payload)) is False


names = st.sampled_from(["error", "type", "object", "status", "failed", "model", "response.failed"])
errors = st.dictionaries(names, names | st.none() | st.just({"code": 1}))


@given(errors, st.lists(errors, max_size=2))
def test_what_tells_of_an_error_has_a_sign_of_it(
    payload: dict[str, Any], choices: list[dict[str, Any]]
) -> None:
    """Documents without one need not be asked."""
    data = json.dumps({**payload, "choices": choices}).encode()

    if any(map(has_error, read(data))):
        assert may_have_error(data)
