"""The meter of JSON answers: what is particular to an array that streams."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.bounds import MAX_DOCUMENT_BYTES
from tokenpulse_mw.usage.json_meter import JsonMeter

from ..support.chunks import chunkings, chunks_of
from ..support.memory import held_after
from .bodies import BODIES, JSON, Body, measure, outcome


def element(text: str, **counts: int) -> bytes:
    """One answer of Gemini."""
    candidates = [{"content": {"parts": [{"text": text}]}}] if text else []
    payload: dict[str, Any] = {"candidates": candidates, "modelVersion": "gemini-2.5-flash"}
    return json.dumps({**payload, "usageMetadata": counts} if counts else payload).encode()


FIRST = element("", promptTokenCount=7)
OUTPUT = element("Paris.", promptTokenCount=7, candidatesTokenCount=9)
LAST = element("", promptTokenCount=7, thoughtsTokenCount=4)


def test_the_last_whole_element_counts() -> None:
    """Gemini's counts may fall, and fields may vanish."""
    account = measure(JSON, [b"[%s,%s,%s]" % (FIRST, OUTPUT, LAST)])

    expected = TokenUsage(input=7, output=4, reasoning=4)
    assert outcome(account) == (expected, "reported", "gemini-2.5-flash", False, 0)


@pytest.mark.parametrize("complete", [True, False])
def test_an_array_that_was_cut_is_partial(complete: bool) -> None:
    """Its last whole element counts; where the body came to its end it is malformed."""
    account = measure(JSON, [b"[%s,%s,%s" % (FIRST, OUTPUT, LAST[:-3])], complete=complete)

    expected = TokenUsage(input=7, output=9)
    assert outcome(account) == (expected, "partial", "gemini-2.5-flash", False, int(complete))


def test_an_array_may_be_longer_than_any_document() -> None:
    """Only its elements are bounded."""
    meter = JsonMeter(longest=200)

    for chunk in (b"[", FIRST, *[b",\r\n" + OUTPUT] * 50, b"," + LAST + b"]\n"):
        meter.feed(chunk)
    meter.finish(complete=True)

    assert meter.account.usage == TokenUsage(input=7, output=4, reasoning=4)
    assert (meter.account.source, meter.account.unreadable) == ("reported", 0)


def test_an_element_that_is_too_long_is_skipped() -> None:
    """It is counted, and the others are read."""
    meter = JsonMeter(longest=200)

    meter.feed(b"[%s,%s,%s]" % (FIRST, element("x" * 200), LAST))
    meter.finish(complete=True)

    assert meter.account.usage == TokenUsage(input=7, output=4, reasoning=4)
    assert (meter.account.source, meter.account.unreadable) == ("reported", 1)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_an_element_that_is_too_long_says_its_usage_at_its_end(size: int) -> None:
    """Gemini draws pictures, which are longer than any text."""
    picture = element("x" * 2000, promptTokenCount=7, candidatesTokenCount=1290)
    body = b"[%s,%s,%s]" % (FIRST, picture, element(""))
    meter = JsonMeter(longest=300)

    for chunk in chunks_of(body, size):
        meter.feed(chunk)
    meter.finish(complete=True)

    expected = (TokenUsage(input=7, output=1290), "reported", "gemini-2.5-flash", False, 0)
    assert outcome(meter.account) == expected


def test_the_time_of_the_first_words_of_an_array_can_be_told() -> None:
    """Its elements are read as they come."""
    meter = JsonMeter()
    waiting = []

    for chunk in (b" \n[", FIRST, b",", OUTPUT[:-1], OUTPUT[-1:], b",", LAST, b"]"):
        meter.feed(chunk)
        waiting.append(meter.awaits_output)

    assert waiting == [True] * 4 + [False] * 4


def test_an_array_that_ends_with_an_error_failed() -> None:
    """Gemini tells of it in an element of its own."""
    error = b'{"error": {"code": 503, "status": "UNAVAILABLE"}}'

    assert measure(JSON, [b"[%s,%s]" % (OUTPUT, error)]).failed is True
    assert measure(JSON, [b"[%s,%s]" % (error, OUTPUT)]).failed is False


def test_an_error_that_is_the_whole_answer_is_a_failure() -> None:
    """OpenRouter, and others, answer so with a status of success."""
    assert measure(JSON, [b'{"error": {"code": 400}}']).failed is True
    assert measure(JSON, [b'{"object": "response", "status": "failed"}']).failed is True


def test_an_error_of_an_applications_own_is_no_failure() -> None:
    """Where it is not an object, and nothing shows a model's answer."""
    assert measure(JSON, [b'{"error": "no such user"}']).failed is False
    assert measure(JSON, [b'[{"error": true}]']).failed is False


VECTORS = {
    "object": "list",
    "data": [{"embedding": [-0.012345678] * 1536, "index": place} for place in range(100)],
    "model": "text-embedding-3-small",
    "usage": {"prompt_tokens": 800, "total_tokens": 800},
}
PICTURE = {
    "candidates": [{"content": {"parts": [{"inlineData": {"data": "A" * 2_000_000}}]}}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1290},
    "modelVersion": "gemini-2.5-flash-image",
}


@pytest.mark.parametrize("size", [1000, 65_536, 10_000_000])
@pytest.mark.parametrize(
    ("payload", "usage", "model"),
    [
        (VECTORS, TokenUsage(input=800), "text-embedding-3-small"),
        (PICTURE, TokenUsage(input=3, output=1290), "gemini-2.5-flash-image"),
        ({"response": PICTURE}, TokenUsage(input=3, output=1290), "gemini-2.5-flash-image"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_that_is_too_long_says_its_usage_at_its_end(
    payload: dict[str, Any], usage: TokenUsage, model: str, indent: int | None, size: int
) -> None:
    """Vectors of many texts, and pictures, are counted though they are not kept."""
    data = json.dumps(payload, indent=indent).encode()

    account = measure(JSON, chunks_of(data, size))

    assert len(data) > MAX_DOCUMENT_BYTES
    assert outcome(account) == (usage, "reported", model, False, 0)
    assert account.is_response is True


USAGE_FIRST = {"prompt_tokens": 7, "total_tokens": 7}


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("size", [1000, 10_000_000])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_that_is_too_long_may_say_its_usage_first(
    indent: int | None, size: int, complete: bool
) -> None:
    """llama.cpp tells it before the vectors, Mistral before the choices; also where it is cut."""
    payload = {
        "model": "m",
        "object": "list",
        "usage": USAGE_FIRST,
        "data": [{"embedding": [0.123456789] * 100_000}],
    }
    data = json.dumps(payload, indent=indent).encode()

    account = measure(JSON, chunks_of(data, size), complete=complete)

    source = "reported" if complete else "partial"
    assert len(data) > MAX_DOCUMENT_BYTES
    assert outcome(account) == (TokenUsage(input=7), source, "m", False, 0)


@pytest.mark.parametrize(
    "payload",
    [
        {"a": {"usage": USAGE_FIRST, "b": 1}, "text": "x" * MAX_DOCUMENT_BYTES},
        {"a": [{"usage": USAGE_FIRST}, 1], "text": "x" * MAX_DOCUMENT_BYTES},
        {"a": '"usage": {"prompt_tokens": 7}, ', "text": "x" * MAX_DOCUMENT_BYTES},
        {"a": "x" * 2000, "usage": USAGE_FIRST, "text": "x" * MAX_DOCUMENT_BYTES},
    ],
)
def test_a_usage_inside_of_a_document_that_is_too_long_is_only_text(
    payload: dict[str, Any],
) -> None:
    """Only what stands at its top, and in its first KiB or at its end, is its own."""
    account = measure(JSON, [json.dumps(payload).encode()])

    assert outcome(account) == (None, "missing", None, False, 1)


@pytest.mark.parametrize("size", [1, 30, 10_000])
def test_documents_one_after_the_other_are_read_line_by_line(size: int) -> None:
    """Some call such a stream JSON, too; the last usage counts."""
    data = FIRST + b"\n" + OUTPUT + b"\r\n\n" + LAST + b"\n"

    account = measure(JSON, chunks_of(data, size))

    expected = TokenUsage(input=7, output=4, reasoning=4)
    assert outcome(account) == (expected, "reported", "gemini-2.5-flash", False, 0)


def test_a_document_that_is_too_long_and_was_cut_says_nothing() -> None:
    """Its end may lie anywhere in it, where a usage may be what the model wrote."""
    data = json.dumps(
        {"text": "x" * MAX_DOCUMENT_BYTES, "a": [{"usage": {"prompt_tokens": 9}}]}
    ).encode()

    account = measure(JSON, [data[:-2]], complete=False)

    assert outcome(account) == (None, "missing", None, False, 1)
    assert account.is_response is None


@pytest.mark.parametrize("form", [bytearray, memoryview])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_bytes_of_an_answer_may_be_of_any_kind(
    body: Body, form: Callable[[bytes], Any]
) -> None:
    """Applications send bytearrays and memoryviews too."""
    for size in (7, len(body.data)):
        chunks = [form(chunk) for chunk in chunks_of(body.data, size)]
        account = measure(body.content_type, chunks)
        assert outcome(account) == (body.usage, "reported", body.model, False, 0)


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_byte_order_mark_before_an_answer_is_passed_over(size: int) -> None:
    """However it is cut."""
    for data in (b"\xef\xbb\xbf" + LAST, b"\xef\xbb\xbf\n[%s]" % LAST):
        account = measure(JSON, chunks_of(data, size))
        assert account.usage == TokenUsage(input=7, output=4, reasoning=4)


@pytest.mark.parametrize(
    "data",
    [
        b'{"input_tokens": 14}',
        b'{"totalTokens": 31, "promptTokensDetails": []}',
        b'{"access_token": "x", "expires_in": 3600}',
        b"[]",
        b'[{"id": 1}]',
        b"",
    ],
)
def test_a_whole_document_of_nothing_a_model_says_is_no_models_answer(data: bytes) -> None:
    """A count of tokens, a login, an empty answer."""
    assert measure(JSON, [data]).is_response is False


@pytest.mark.parametrize("data", [b'{"id": 1', b"[", b'[{"id": 1}', b"<html>", b'{"id": oops}'])
def test_whose_answer_it_is_cannot_be_told_of_what_cannot_be_read(data: bytes) -> None:
    """It may be a model's."""
    assert measure(JSON, [data]).is_response is None
    assert measure(JSON, [data], complete=False).is_response is None


def test_whose_answer_it_is_cannot_be_told_of_an_array_without_end() -> None:
    """After 1,024 elements without words no more of them are looked at."""
    assert measure(JSON, [b"[%s]" % b",".join([b"{}"] * 1023)]).is_response is False
    assert measure(JSON, [b"[%s]" % b",".join([b"{}"] * 1025)]).is_response is None


def test_an_answer_that_names_its_model_is_a_models() -> None:
    """Also where it says no usage, and where it has failed."""
    assert measure(JSON, [b'{"model": "gpt-5", "choices": []}']).is_response is True
    assert measure(JSON, [b'{"error": {"code": 429}}']).is_response is True
    assert measure(JSON, [b'{"jsonrpc": "2.0", "error": {"code": -3}}']).is_response is False


@pytest.mark.parametrize(
    "data", [b"[]", b"[1, 2]", b'["usage"]', b"[[%s]]" % LAST, b"[]]", b'[{"a": 1}]']
)
def test_an_array_of_anything_else_says_nothing(data: bytes) -> None:
    """Applications answer with arrays too."""
    assert outcome(measure(JSON, [data])) == (None, "missing", None, False, 0)


def test_a_malformed_element_is_counted() -> None:
    """Unless a whole one follows it."""
    broken = LAST.replace(b"7", b"oops")

    assert measure(JSON, [b"[%s,%s]" % (LAST, broken)]).unreadable == 1
    assert measure(JSON, [b"[%s,%s]" % (broken, LAST)]).unreadable == 0


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_white_space_before_an_answer_is_passed_over(size: int) -> None:
    """However it is cut."""
    document, array = b" \r\n\t{%s" % LAST[1:], b" \r\n\t[%s]" % LAST

    for data in (document, array):
        account = measure(JSON, chunks_of(data, size))
        assert account.usage == TokenUsage(input=7, output=4, reasoning=4)
        assert account.source == "reported"


def test_white_space_without_end_is_not_held() -> None:
    """It may be all that a server sends to keep a connection open."""
    meter = JsonMeter(longest=1000)
    held = held_after(100, lambda: meter.feed(b" " * 10_000))
    meter.feed(LAST)
    meter.finish(complete=True)

    assert held < 20_000
    assert meter.account.usage == TokenUsage(input=7, output=4, reasoning=4)


@given(sizes=st.lists(st.integers(1, 120), max_size=12), data=st.data())
def test_elements_are_counted_in_any_chunking(sizes: list[int], data: st.DataObject) -> None:
    """Those that are too long to be kept are counted too."""
    stream = json.dumps([{"text": "x" * size} for size in sizes]).encode()
    meter = JsonMeter(longest=64)
    for chunk in data.draw(chunkings(stream)):
        meter.feed(chunk)
    meter.finish(complete=True)

    assert meter.account.events == len(sizes)
