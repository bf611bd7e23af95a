"""Recognition of model responses, stored vendor objects and other JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.formats import is_response, is_stored_object, model_of

from ..bodies import JSON, document, measure, outcome


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
def test_model_is_read_from_any_field(payload: dict[str, Any], expected: str | None) -> None:
    """The model is read from the field of any vendor."""
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
def test_model_response_is_recognized_by_its_shape(payload: dict[str, Any]) -> None:
    """A response is recognized without usage."""
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
def test_other_document_is_not_a_response(payload: dict[str, Any]) -> None:
    """Token counts, logins, pages and JSON-RPC errors are not model responses."""
    assert is_response(document(payload)) is False


STORED = [
    "batch",
    "file",
    "fine_tuning.job",
    "vector_store",
    "assistant",
    "realtime.session",
    "video",
]
TOTALS = {"input_tokens": 1500, "output_tokens": 500, "total_tokens": 2000}


@pytest.mark.parametrize("kind", STORED)
def test_object_stored_by_openai_is_not_a_response(kind: str) -> None:
    """Usage of a stored object is neither counted nor missing, though it names a model."""
    payload = {
        "object": kind,
        "model": "gpt-5",
        "status": "failed",
        "usage": TOTALS,
        "error": {"code": "expired"},
    }

    for body in (payload, {**payload, "usage": None}):
        result = measure(JSON, [json.dumps(body).encode()])
        assert outcome(result) == (None, "missing", None, False, 0)
        assert result.is_response is False


@pytest.mark.parametrize("kind", ["list", "chat.completion", "response", "response.compaction", 7])
def test_other_object_of_openai_is_a_response(kind: Any) -> None:
    """Lists of embeddings and documents with choices are responses."""
    assert is_stored_object(document({"object": kind})) is False
    assert is_stored_object(document({"object": "batch", "choices": []})) is False
    result = measure(JSON, [json.dumps({"object": kind, "usage": TOTALS}).encode()])
    assert result.usage == TokenUsage(1500, 500)


def test_moderation_is_not_a_response() -> None:
    """A moderation names a model, but costs no tokens."""
    payload = {
        "id": "modr-1",
        "model": "omni-moderation-latest",
        "results": [{"flagged": False, "categories": {"violence": False}}],
    }

    result = measure(JSON, [json.dumps(payload).encode()])

    assert (result.source, result.is_response) == ("missing", False)


@pytest.mark.parametrize(
    "inner",
    [
        {"model": "gpt-5", "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
        {"modelVersion": "g", "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4}},
    ],
    ids=["openai", "gemini"],
)
def test_response_inside_data_is_a_response(inner: dict[str, Any]) -> None:
    """Some gateways wrap the response of the vendor."""
    result = measure(JSON, [json.dumps({"code": 0, "data": inner}).encode()])

    assert (result.usage, result.source) == (TokenUsage(3, 4), "reported")
    assert result.is_response


@pytest.mark.parametrize(
    "payload",
    [
        {"data": {"name": "Acme"}},
        {"data": [{"usage": {"prompt_tokens": 9}}]},
        {"data": {"usage": 7}},
        {"data": {"object": "batch", "usage": TOTALS}},
        {"data": {"data": {"usage": {"prompt_tokens": 9}}}},
    ],
)
def test_other_data_is_not_a_response(payload: dict[str, Any]) -> None:
    """Only an object with usage inside `data` is taken for a response."""
    result = measure(JSON, [json.dumps(payload).encode()])

    assert (result.source, result.is_response) == ("missing", False)


def test_usage_beside_data_counts() -> None:
    """Usage at the top level is not replaced by usage inside `data`."""
    payload = {"usage": {"prompt_tokens": 3}, "data": {"usage": {"prompt_tokens": 9}}}

    assert measure(JSON, [json.dumps(payload).encode()]).usage == TokenUsage(3)


def test_list_of_batches_is_not_a_response() -> None:
    """Usage of batches is ignored in a list and in a plain array."""
    batches = [{"object": "batch", "model": "gpt-5", "usage": TOTALS}]
    result = measure(JSON, [json.dumps({"object": "list", "data": batches}).encode()])

    assert (result.source, result.is_response) == ("missing", False)
    assert measure(JSON, [json.dumps(batches).encode()]).usage is None


def test_cached_content_of_gemini_is_not_a_response() -> None:
    """Cached content names a model, and its length is not usage."""
    payload = {
        "name": "cachedContents/1",
        "model": "models/gemini-2.5-flash",
        "usageMetadata": {"totalTokenCount": 43130},
    }

    result = measure(JSON, [json.dumps(payload).encode()])

    assert (result.usage, result.source, result.is_response) == (None, "missing", False)
