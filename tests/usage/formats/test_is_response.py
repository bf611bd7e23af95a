"""Whose document it is: a model's, something that a vendor keeps, or an application's own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.document import Document, read
from tokenpulse_mw.usage.formats import is_response, is_stored_object, model_of

from ..bodies import JSON, account, measure


def document(payload: dict[str, Any]) -> Document:
    """The one document that `payload` is."""
    (only,) = read(json.dumps(payload).encode())
    return only


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"model": "gpt-5"}, "gpt-5"),
        ({"modelVersion": "gemini-2.5-pro"}, "gemini-2.5-pro"),
        ({"type": "message_start", "message": {"model": "claude-opus-4"}}, "claude-opus-4"),
        ({"type": "response.created", "response": {"model": "gpt-5"}}, "gpt-5"),
        ({}, None),
        ({"response": {"modelVersion": "gemini-2.5-pro"}}, "gemini-2.5-pro"),
        ({"model": ""}, None),
        ({"model": None}, None),
        ({"model": 5}, None),
        ({"model": {"name": "gpt-5"}}, None),
        ({"message": {}}, None),
        ({"message": "hello"}, None),
    ],
)
def test_the_model_is_who_says_it_answered(payload: dict[str, Any], expected: str | None) -> None:
    """The model's name stands in a field of its own, which the vendors put in different places."""
    assert model_of(document(payload)) == expected


@pytest.mark.parametrize(
    "payload",
    [
        {"model": "gpt-5"},
        {"type": "message_start", "message": {"model": "claude-opus-4"}},
        {"choices": []},
        {"candidates": [{}]},
        {"output": [{"type": "message"}]},
        {"output": {"text": "Paris."}},
        {"type": "message", "content": []},
        {"usageMetadata": {}},
        {"response": {"candidates": []}},
        {"error": {"code": 429}},
    ],
)
def test_a_models_answer_is_known_by_its_form(payload: dict[str, Any]) -> None:
    """Whatever it says of its usage."""
    assert is_response(document(payload)) is True


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"input_tokens": 5},
        {"totalTokens": 5},
        {"access_token": "x", "expires_in": 3600},
        {"choices": None},
        {"candidates": 3},
        {"output": "done"},
        {"content": [{"title": "a page"}]},
        {"type": "message", "content": "a letter"},
        {"error": "invalid_grant"},
        {"error": True},
        {"error": None},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601}},
        {"usage": {"disk": 5}},
    ],
)
def test_any_other_document_may_be_an_applications_own(payload: dict[str, Any]) -> None:
    """Counts of tokens, logins, pages and calls of procedures are no answers of models."""
    assert is_response(document(payload)) is False


KEPT = ["batch", "file", "fine_tuning.job", "vector_store", "assistant", "realtime.session"]
SPENT = {"input_tokens": 1500, "output_tokens": 500, "total_tokens": 2000}


@pytest.mark.parametrize("kind", KEPT)
def test_what_openai_keeps_for_its_client_is_no_answer(kind: str) -> None:
    """A batch that is made, cancelled or asked for by POST: its answers were counted, or will be.

    Nothing of it is missing, either, though it names a model.
    """
    payload = {
        "object": kind,
        "model": "gpt-5",
        "status": "failed",
        "usage": SPENT,
        "error": {"code": "expired"},
    }

    for told in (payload, {**payload, "usage": None}):
        ledger = measure(JSON, [json.dumps(told).encode()])
        assert account(ledger) == (None, "missing", None, False, 0)
        assert ledger.is_response is False


@pytest.mark.parametrize("kind", ["list", "chat.completion", "response", "response.compaction", 7])
def test_any_other_object_of_openai_is_an_answer(kind: Any) -> None:
    """A "list" is one of vectors; what has choices is an answer by whatever name."""
    assert is_stored_object(document({"object": kind})) is False
    assert is_stored_object(document({"object": "batch", "choices": []})) is False
    ledger = measure(JSON, [json.dumps({"object": kind, "usage": SPENT}).encode()])
    assert ledger.usage == TokenUsage(1500, 500)


def test_a_list_of_batches_is_no_answer() -> None:
    """What the batches of it have cost stands below; nor does it count in an array of its own."""
    batches = [{"object": "batch", "model": "gpt-5", "usage": SPENT}]
    ledger = measure(JSON, [json.dumps({"object": "list", "data": batches}).encode()])

    assert (ledger.source, ledger.is_response) == ("missing", False)
    assert measure(JSON, [json.dumps(batches).encode()]).usage is None


def test_a_cached_content_of_gemini_is_no_answer() -> None:
    """What is kept for later names the model it is for, and its length is no usage."""
    payload = {
        "name": "cachedContents/1",
        "model": "models/gemini-2.5-flash",
        "usageMetadata": {"totalTokenCount": 43130},
    }

    ledger = measure(JSON, [json.dumps(payload).encode()])

    assert (ledger.usage, ledger.source, ledger.is_response) == (None, "missing", False)
