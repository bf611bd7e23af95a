"""Meter of JSON documents and of streamed JSON arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.bounds import MAX_DOCUMENT_BYTES
from tokenpulse_mw.usage.json_meter import JsonArraySplitter, JsonMeter

from ..support.chunks import chunkings, chunks_of
from ..support.memory import held_after
from .bodies import BODIES, JSON, Body, measure, outcome


def element(text: str, **counts: int) -> bytes:
    """Return an element of an array as streamed by Gemini."""
    candidates = [{"content": {"parts": [{"text": text}]}}] if text else []
    payload: dict[str, Any] = {"candidates": candidates, "modelVersion": "gemini-2.5-flash"}
    return json.dumps({**payload, "usageMetadata": counts} if counts else payload).encode()


FIRST = element("", promptTokenCount=7)
OUTPUT = element("Paris.", promptTokenCount=7, candidatesTokenCount=9)
LAST = element("", promptTokenCount=7, thoughtsTokenCount=4)


def test_usage_of_the_last_element_counts() -> None:
    """Counts of Gemini may decrease, and fields may disappear."""
    account = measure(JSON, [b"[%s,%s,%s]" % (FIRST, OUTPUT, LAST)])

    expected = TokenUsage(input=7, output=4, reasoning=4)
    assert outcome(account) == (expected, "reported", "gemini-2.5-flash", False, 0)


@pytest.mark.parametrize("complete", [True, False])
def test_usage_of_a_cut_array_is_partial(complete: bool) -> None:
    """The last complete element counts; a complete body with a cut array is unreadable."""
    account = measure(JSON, [b"[%s,%s,%s" % (FIRST, OUTPUT, LAST[:-3])], complete=complete)

    expected = TokenUsage(input=7, output=9)
    assert outcome(account) == (expected, "partial", "gemini-2.5-flash", False, int(complete))


def test_array_above_max_bytes_is_read() -> None:
    """Only the elements of an array are bounded by `max_bytes`."""
    meter = JsonMeter(max_bytes=200)

    for chunk in (b"[", FIRST, *[b",\r\n" + OUTPUT] * 50, b"," + LAST + b"]\n"):
        meter.feed(chunk)
    meter.finish(complete=True)

    assert meter.account.usage == TokenUsage(input=7, output=4, reasoning=4)
    assert (meter.account.source, meter.account.unreadable) == ("reported", 0)


def test_element_above_max_bytes_is_skipped() -> None:
    """An element above `max_bytes` is counted as unreadable, and the others are read."""
    meter = JsonMeter(max_bytes=200)

    meter.feed(b"[%s,%s,%s]" % (FIRST, element("x" * 200), LAST))
    meter.finish(complete=True)

    assert meter.account.usage == TokenUsage(input=7, output=4, reasoning=4)
    assert (meter.account.source, meter.account.unreadable) == ("reported", 1)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_usage_at_the_end_of_an_element_above_max_bytes_counts(size: int) -> None:
    """Gemini sends images, which are longer than any text."""
    image = element("x" * 2000, promptTokenCount=7, candidatesTokenCount=1290)
    body = b"[%s,%s,%s]" % (FIRST, image, element(""))
    meter = JsonMeter(max_bytes=300)

    for chunk in chunks_of(body, size):
        meter.feed(chunk)
    meter.finish(complete=True)

    expected = (TokenUsage(input=7, output=1290), "reported", "gemini-2.5-flash", False, 0)
    assert outcome(meter.account) == expected


def test_awaits_output_ends_with_the_first_element_with_output() -> None:
    """Elements of an array are read as they are completed."""
    meter = JsonMeter()
    awaiting = []

    for chunk in (b" \n[", FIRST, b",", OUTPUT[:-1], OUTPUT[-1:], b",", LAST, b"]"):
        meter.feed(chunk)
        awaiting.append(meter.awaits_output)

    assert awaiting == [True] * 4 + [False] * 4


def test_error_in_the_last_element_fails() -> None:
    """Gemini reports an error in the last element of the array."""
    error = b'{"error": {"code": 503, "status": "UNAVAILABLE"}}'

    assert measure(JSON, [b"[%s,%s]" % (OUTPUT, error)]).failed is True
    assert measure(JSON, [b"[%s,%s]" % (error, OUTPUT)]).failed is False


def test_error_body_fails() -> None:
    """Some vendors, such as OpenRouter, send an error with a status of success."""
    assert measure(JSON, [b'{"error": {"code": 400}}']).failed is True
    assert measure(JSON, [b'{"object": "response", "status": "failed"}']).failed is True


def test_error_of_an_application_does_not_fail() -> None:
    """An `error` that is not an object counts only in a model's response."""
    assert measure(JSON, [b'{"error": "no such user"}']).failed is False
    assert measure(JSON, [b'[{"error": true}]']).failed is False


EMBEDDINGS = {
    "object": "list",
    "data": [{"embedding": [-0.012345678] * 1536, "index": index} for index in range(100)],
    "model": "text-embedding-3-small",
    "usage": {"prompt_tokens": 800, "total_tokens": 800},
}
IMAGE = {
    "candidates": [{"content": {"parts": [{"inlineData": {"data": "A" * 2_000_000}}]}}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1290},
    "modelVersion": "gemini-2.5-flash-image",
}


@pytest.mark.parametrize("size", [1000, 65_536, 10_000_000])
@pytest.mark.parametrize(
    ("payload", "usage", "model"),
    [
        (EMBEDDINGS, TokenUsage(input=800), "text-embedding-3-small"),
        (IMAGE, TokenUsage(input=3, output=1290), "gemini-2.5-flash-image"),
        ({"response": IMAGE}, TokenUsage(input=3, output=1290), "gemini-2.5-flash-image"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_usage_at_the_end_of_a_document_above_max_bytes_counts(
    payload: dict[str, Any], usage: TokenUsage, model: str, indent: int | None, size: int
) -> None:
    """Embeddings of many texts, and images, are counted without being held."""
    data = json.dumps(payload, indent=indent).encode()

    account = measure(JSON, chunks_of(data, size))

    assert len(data) > MAX_DOCUMENT_BYTES
    assert outcome(account) == (usage, "reported", model, False, 0)
    assert account.is_response is True


USAGE_FIRST = {"prompt_tokens": 7, "total_tokens": 7}


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("size", [1000, 10_000_000])
@pytest.mark.parametrize("indent", [None, 2])
def test_usage_at_the_start_of_a_document_above_max_bytes_counts(
    indent: int | None, size: int, complete: bool
) -> None:
    """llama.cpp sends usage before the embeddings, Mistral before the choices."""
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
def test_nested_usage_of_a_document_above_max_bytes_is_ignored(
    payload: dict[str, Any],
) -> None:
    """Only top-level usage in the first KiB or at the end of the document counts."""
    account = measure(JSON, [json.dumps(payload).encode()])

    assert outcome(account) == (None, "missing", None, False, 1)


@pytest.mark.parametrize("size", [1, 30, 10_000])
def test_json_lines_are_read(size: int) -> None:
    """Some servers declare such a stream as JSON; the last usage counts."""
    data = FIRST + b"\n" + OUTPUT + b"\r\n\n" + LAST + b"\n"

    account = measure(JSON, chunks_of(data, size))

    expected = TokenUsage(input=7, output=4, reasoning=4)
    assert outcome(account) == (expected, "reported", "gemini-2.5-flash", False, 0)


def test_cut_document_above_max_bytes_has_no_usage() -> None:
    """The end may be anywhere in the document, even inside of output that looks like usage."""
    data = json.dumps(
        {"text": "x" * MAX_DOCUMENT_BYTES, "a": [{"usage": {"prompt_tokens": 9}}]}
    ).encode()

    account = measure(JSON, [data[:-2]], complete=False)

    assert outcome(account) == (None, "missing", None, False, 1)
    assert account.is_response is None


@pytest.mark.parametrize("kind", [bytearray, memoryview])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_chunks_may_be_any_bytes_like_object(body: Body, kind: Callable[[bytes], Any]) -> None:
    """Applications also send bytearrays and memoryviews."""
    for size in (7, len(body.data)):
        chunks = [kind(chunk) for chunk in chunks_of(body.data, size)]
        account = measure(body.content_type, chunks)
        assert outcome(account) == (body.usage, "reported", body.model, False, 0)


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_byte_order_mark_is_ignored(size: int) -> None:
    """A byte order mark before the document is ignored in any chunking."""
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
def test_is_response_of_other_document_is_false(data: bytes) -> None:
    """A token count, a login or an empty body is not a model's response."""
    assert measure(JSON, [data]).is_response is False


@pytest.mark.parametrize("data", [b'{"id": 1', b"[", b'[{"id": 1}', b"<html>", b'{"id": oops}'])
def test_is_response_of_unreadable_body_is_none(data: bytes) -> None:
    """A body that cannot be read may be a model's response."""
    assert measure(JSON, [data]).is_response is None
    assert measure(JSON, [data], complete=False).is_response is None


def test_is_response_of_a_long_array_is_none() -> None:
    """After 1,024 elements without output no more are examined."""
    assert measure(JSON, [b"[%s]" % b",".join([b"{}"] * 1023)]).is_response is False
    assert measure(JSON, [b"[%s]" % b",".join([b"{}"] * 1025)]).is_response is None


def test_is_response_of_a_document_with_a_model_or_an_error_is_true() -> None:
    """Usage is not required, and a JSON-RPC error is not a model's."""
    assert measure(JSON, [b'{"model": "gpt-5", "choices": []}']).is_response is True
    assert measure(JSON, [b'{"error": {"code": 429}}']).is_response is True
    assert measure(JSON, [b'{"jsonrpc": "2.0", "error": {"code": -3}}']).is_response is False


@pytest.mark.parametrize(
    "data", [b"[]", b"[1, 2]", b'["usage"]', b"[[%s]]" % LAST, b"[]]", b'[{"a": 1}]']
)
def test_array_of_other_values_is_ignored(data: bytes) -> None:
    """Applications may respond with any array."""
    assert outcome(measure(JSON, [data])) == (None, "missing", None, False, 0)


def test_malformed_element_is_unreadable() -> None:
    """A malformed element is counted, unless complete usage follows it."""
    broken = LAST.replace(b"7", b"oops")

    assert measure(JSON, [b"[%s,%s]" % (LAST, broken)]).unreadable == 1
    assert measure(JSON, [b"[%s,%s]" % (broken, LAST)]).unreadable == 0


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_leading_white_space_is_ignored(size: int) -> None:
    """White space before the document is ignored in any chunking."""
    document, array = b" \r\n\t{%s" % LAST[1:], b" \r\n\t[%s]" % LAST

    for data in (document, array):
        account = measure(JSON, chunks_of(data, size))
        assert account.usage == TokenUsage(input=7, output=4, reasoning=4)
        assert account.source == "reported"


def test_white_space_without_end_is_not_held() -> None:
    """White space, which servers send to keep a connection open, is not held."""
    meter = JsonMeter(max_bytes=1000)
    held = held_after(100, lambda: meter.feed(b" " * 10_000))
    meter.feed(LAST)
    meter.finish(complete=True)

    assert held < 20_000
    assert meter.account.usage == TokenUsage(input=7, output=4, reasoning=4)


@given(sizes=st.lists(st.integers(1, 120), max_size=12), data=st.data())
def test_elements_are_counted_in_any_chunking(sizes: list[int], data: st.DataObject) -> None:
    """`events` is the number of elements, including those above `max_bytes`."""
    stream = json.dumps([{"text": "x" * size} for size in sizes]).encode()
    meter = JsonMeter(max_bytes=64)
    for chunk in data.draw(chunkings(stream)):
        meter.feed(chunk)
    meter.finish(complete=True)

    assert meter.account.events == len(sizes)


texts = st.text(st.sampled_from('ab{}[]",:\\\u00e9\U0001f642 '), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def read(
    chunks: Iterable[bytes], *, max_bytes: int = 10_000
) -> tuple[list[bytes], JsonArraySplitter]:
    """Return the objects of an array that was received in `chunks`, and the splitter."""
    buffer = JsonArraySplitter(max_bytes=max_bytes)
    elements: list[bytes] = []
    for chunk in chunks:
        elements += buffer.feed(chunk)
    return elements, buffer


@given(st.lists(values, max_size=5), st.booleans(), st.sampled_from([None, 2]), st.data())
def test_any_chunking_gives_the_objects_of_an_array(
    array: list[Any], ascii_only: bool, indent: int | None, data: st.DataObject
) -> None:
    """Exactly the objects of an array are returned, with any content and in any chunking."""
    body = json.dumps(array, ensure_ascii=ascii_only, indent=indent).encode()

    elements, buffer = read(data.draw(chunkings(body)))

    objects = [json.loads(element) for element in elements]
    assert objects == [value for value in array if isinstance(value, dict)]
    assert (buffer.closed, buffer.overlong) == (True, 0)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_object_is_returned_with_the_chunk_that_completes_it(size: int) -> None:
    """An object is returned before the next one begins."""
    body = b'[{"a": 1}, {"b": "]}"}'
    buffer = JsonArraySplitter(max_bytes=100)
    completed_at = {
        element: min(start + size, len(body))
        for start in range(0, len(body), size)
        for element in buffer.feed(body[start : start + size])
    }

    ends = {b'{"a": 1}': 9, b'{"b": "]}"}': len(body)}
    assert completed_at == {
        element: min(-(-end // size) * size, len(body)) for element, end in ends.items()
    }
    assert buffer.closed is False


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_object_above_max_bytes_is_skipped(size: int) -> None:
    """An object above `max_bytes` is counted once in any chunking, and the others are returned."""
    body = b'[{"a": 1}, {"text": "%s"}, {"a": 2}]' % (b"x" * 50)

    elements, buffer = read(chunks_of(body, size), max_bytes=20)

    assert elements == [b'{"a": 1}', b'{"a": 2}']
    assert (buffer.closed, buffer.overlong) == (True, 1)


def test_object_of_max_bytes_is_returned() -> None:
    """An object of exactly `max_bytes` bytes is returned."""
    body = b'[{"text": "1234567"}]'

    assert read([body], max_bytes=19)[0] == [body[1:-1]]
    assert read([body], max_bytes=18)[0] == []


def test_bytes_after_the_array_are_ignored() -> None:
    """Brackets after the end of the array open nothing."""
    elements, buffer = read([b'[{"a": 1}]', b' ] } {"b": 2} ', b'[{"c": 3}]'])

    assert elements == [b'{"a": 1}']
    assert buffer.closed is True


def test_endless_object_is_held_in_bounded_memory() -> None:
    """An object that never ends holds no memory at any depth."""
    buffer = JsonArraySplitter(max_bytes=100)
    buffer.feed(b"[")
    held = held_after(20_000, lambda: (buffer.feed(b'{"a": "'), buffer.feed(b'\\"{"}')))

    assert held < 20_000


@given(st.lists(st.sampled_from([b"[", b"{", b"}", b"]", b'"', b"\\", b"a", b","])), st.data())
def test_any_chunking_of_malformed_json_gives_the_same_elements(
    parts: list[bytes], data: st.DataObject
) -> None:
    """Malformed JSON is split the same in any chunking and raises no error."""
    body = b"[" + b"".join(parts)

    elements, buffer = read(data.draw(chunkings(body)), max_bytes=10)

    whole, expected = read([body], max_bytes=10)
    assert elements == whole
    assert (buffer.closed, buffer.overlong) == (expected.closed, expected.overlong)
