"""Meter of server-sent events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage, UsageAccount
from tokenpulse_mw.usage.sse_meter import RecentEvents, SSEMeter, names_error

from ..support.chunks import chunkings, chunks_of, prefixes
from ..support.memory import held_after
from .bodies import SSE, event, measure, outcome

OUTPUT = event({"choices": [{"delta": {"content": "Hello"}}], "usage": None})
ERROR = event({"error": {"message": "overloaded"}})
USAGE_EVENT = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}})
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
IMAGE_RESPONSE = {"object": "response", "output": [{"result": "A" * 2000}], "usage": USAGE}
COMPLETED = {"type": "response.completed", "response": {**IMAGE_RESPONSE, "metadata": {}}}


def read(chunks: list[bytes], *, max_bytes: int = 400, complete: bool = True) -> tuple[object, ...]:
    """Return the outcome of a stream whose longer events are not held."""
    meter = SSEMeter(max_bytes=max_bytes)
    for chunk in chunks:
        meter.feed(chunk)
    meter.finish(complete=complete)
    return outcome(meter.account)


@pytest.mark.parametrize("size", [1, 100, 10_000])
@pytest.mark.parametrize(
    ("payload", "usage", "model"),
    [
        (COMPLETED, TokenUsage(1, 2), None),
        ({**COMPLETED, "type": "response.incomplete"}, TokenUsage(1, 2), None),
        (
            {"text": "x" * 2000, "model": "gpt-5", "usage": {"prompt_tokens": 3}},
            TokenUsage(3),
            "gpt-5",
        ),
        (
            {"response": {"text": "x" * 2000, "usageMetadata": {"promptTokenCount": 7}}, "id": 1},
            TokenUsage(7),
            None,
        ),
    ],
    ids=["completed", "incomplete", "chat", "code-assist"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_usage_at_the_end_of_an_event_above_max_bytes_counts(
    payload: dict[str, Any], usage: TokenUsage, model: str | None, end: str, size: int
) -> None:
    """Events with images are longer than any text."""
    stream = OUTPUT + event(payload, payload.get("type", ""), end=end) + OUTPUT

    chunks = chunks_of(stream, size)

    assert read(chunks) == (usage, "reported", model, False, 0)


def test_failed_event_above_max_bytes_fails() -> None:
    """`response.failed` repeats the whole request, and is recognized by its name."""
    stream = OUTPUT + event({**COMPLETED, "type": "response.failed"}, "response.failed")

    assert read([stream]) == (TokenUsage(1, 2), "reported", None, True, 0)


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "response.output_item.done", "item": IMAGE_RESPONSE},
        {"type": "response.completed", "response": {"output": [IMAGE_RESPONSE]}},
        {"type": "response.completed", "response": {"a": {"b": "x" * 2000, "usage": USAGE}}},
        {"a": {"text": "x" * 2000, "usage": {"prompt_tokens": 99}}},
        {"text": "x" * 2000, "usage": None},
    ],
)
def test_nested_usage_of_an_event_above_max_bytes_is_ignored(payload: dict[str, Any]) -> None:
    """Usage that is not at the top level may be output of the model."""
    assert read([OUTPUT + event(payload)]) == (None, "missing", None, False, 1)


@pytest.mark.parametrize("size", [1, 100, 10_000])
@pytest.mark.parametrize("name", ["", "image_generation.completed"])
def test_usage_at_the_start_of_an_event_above_max_bytes_counts(name: str, size: int) -> None:
    """OpenAI writes the usage of a generated image before the image."""
    image = {"type": "image_generation.completed", "usage": USAGE, "b64_json": "A" * 2000}

    chunks = chunks_of(event(image, name), size)

    assert read(chunks) == (TokenUsage(1, 2), "reported", None, False, 0)
    assert read(chunks[:-1], complete=False)[1] in ("missing", "partial")


@pytest.mark.parametrize("size", [1, 10_000])
def test_cut_event_above_max_bytes_has_no_usage(size: int) -> None:
    """The end may be anywhere in the event, even inside of output that looks like usage."""
    inner = event({"a": "x" * 2000, "b": [{"usage": {"prompt_tokens": 9}}]})
    stream = inner[: inner.rindex(b"]")]

    chunks = chunks_of(stream, size)

    assert read(chunks, complete=False) == (None, "missing", None, False, 1)


any_event = st.sampled_from(
    [
        OUTPUT,
        ERROR,
        USAGE_EVENT,
        event(COMPLETED, "response.completed"),
        event({"text": "x" * 500, "usage": {"prompt_tokens": 3}}, end="\r\n"),
        event({"text": "x" * 500}),
        b"\n\n\r\n",
    ]
)


@given(st.lists(any_event, max_size=6), st.data())
def test_any_chunking_of_long_events_gives_the_same_account(
    events: list[bytes], data: st.DataObject
) -> None:
    """The account of events above `max_bytes` does not depend on the chunks."""
    stream = data.draw(prefixes(b"".join(events)))
    complete = data.draw(st.booleans())
    chunks = data.draw(chunkings(stream))

    assert read(chunks, complete=complete) == read([stream], complete=complete)


TOOL_CALL = {"choices": [{"delta": {"tool_calls": [{"id": "c"}]}}]}
USAGE_CHUNK = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}


def lines(*payloads: Any, end: str) -> bytes:
    """Return events separated by one line end, as sent by GLM and Kimi for tool calls."""
    return "".join(f"data: {json.dumps(payload)}{end}" for payload in payloads).encode()


@pytest.mark.parametrize("size", [1, 50, 10_000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("rest", [b"", b"data: [DONE]\n\n", b"data: [DONE]"])
def test_events_separated_by_one_line_end_are_read_line_by_line(
    rest: bytes, end: str, size: int
) -> None:
    """By the specification, these events of GLM-4.7 and Kimi-K2.5 are one event."""
    stream = OUTPUT + lines(TOOL_CALL, USAGE_CHUNK, end=end) + rest

    account = measure(SSE, chunks_of(stream, size))

    assert outcome(account) == (TokenUsage(5, 1), "reported", None, False, 0)


def test_first_output_of_events_separated_by_one_line_end_is_found() -> None:
    """The output is found with the blank line after the last of these events."""
    meter = SSEMeter()

    meter.feed(lines({"choices": []}, TOOL_CALL, end="\n"))
    assert meter.awaits_output is True
    meter.feed(b"\n")
    assert meter.awaits_output is False


def test_error_in_events_separated_by_one_line_end_fails() -> None:
    """An error on any of the lines marks the response as failed."""
    assert (
        measure(SSE, [OUTPUT + lines(TOOL_CALL, {"error": {"code": 1}}, end="\n")]).failed is True
    )


def test_document_on_several_data_lines_is_read() -> None:
    """The data lines of an event are joined, as specified."""
    stream = b'data: {"usage":\ndata: {"prompt_tokens": 5},\ndata: "a": [1]}\n\n'

    assert outcome(measure(SSE, [stream])) == (TokenUsage(5), "reported", None, False, 0)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("rest", [b"", b"\n", b"\n\n"])
def test_json_document_declared_as_a_stream_is_read(indent: int | None, rest: bytes) -> None:
    """Some gateways declare every response to a streaming request as a stream."""
    data = json.dumps({"model": "m", **USAGE_CHUNK}, indent=indent).encode() + rest

    assert outcome(measure(SSE, [data])) == (TokenUsage(5, 1), "reported", "m", False, 0)


def test_usage_before_an_error_is_partial() -> None:
    """Some servers, such as vLLM, report running counts, and the last one may be incomplete."""
    account = measure(SSE, [OUTPUT, USAGE_EVENT, ERROR, b"data: [DONE]\n\n"])

    assert outcome(account) == (TokenUsage(5, 1), "partial", None, True, 0)


def test_usage_in_the_error_event_is_reported() -> None:
    """OpenRouter reports usage and an error in one event."""
    usage = {"prompt_tokens": 5, "completion_tokens": 1}
    account = measure(SSE, [OUTPUT, event({"error": {"code": 502}, "usage": usage})])

    assert outcome(account) == (TokenUsage(5, 1), "reported", None, True, 0)


def test_is_response_of_a_stream_without_output_is_none() -> None:
    """Not every event of a stream is read, so it may be a model's response."""
    assert measure(SSE, [event({"progress": 7})]).is_response is None
    assert measure(SSE, [OUTPUT]).is_response is True


@pytest.mark.parametrize("size", [50, 100_000])
def test_search_for_first_output_ends_after_1024_events(size: int) -> None:
    """`awaits_output` stays True if the first 1,024 events have no output."""
    for silent, awaiting in ((1023, False), (1024, True)):
        meter = SSEMeter()
        stream = event({"progress": 7}) * silent + OUTPUT * 50 + USAGE_EVENT
        for chunk in chunks_of(stream, size):
            meter.feed(chunk)
        assert meter.awaits_output is awaiting
        meter.finish(complete=True)
        assert meter.awaits_output is awaiting
        assert meter.account.usage == TokenUsage(5, 1)


@given(
    sizes=st.lists(st.integers(1, 120), max_size=12),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    complete=st.booleans(),
    data=st.data(),
)
def test_events_are_counted_in_any_chunking(
    sizes: list[int], end: str, complete: bool, data: st.DataObject
) -> None:
    """`events` includes events above `max_bytes` and excludes comments."""
    stream = b"".join(
        event({"text": "x" * size}, end=end) + b": ping" + end.encode() * 2 for size in sizes
    )
    meter = SSEMeter(max_bytes=64, account=UsageAccount(counts_events=True))
    for chunk in data.draw(chunkings(stream)):
        meter.feed(chunk)
    meter.finish(complete=complete)

    assert meter.account.events == len(sizes)


MIN_SEARCHED_BYTES = 8 * 1024


def candidates(pieces: list[bytes]) -> list[bytes]:
    """Return the events that may report an error, of a stream in these pieces."""
    tail = RecentEvents()
    for piece in pieces:
        tail.add(piece)
    return list(tail.candidates())


def test_last_event_is_searched_completely() -> None:
    """The last event is searched for an error at any length."""
    long = event({"error": {"message": "x" * 3 * MIN_SEARCHED_BYTES}})

    assert candidates([ERROR, long]) == [long.strip()]
    assert candidates([ERROR + long]) == [long.strip()]


@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=12), st.data())
def test_last_8_kib_of_events_are_searched(sizes: list[int], data: st.DataObject) -> None:
    """The searched events do not depend on the chunks."""
    events = [event({"error": "x" * size}) for size in sizes]
    first = len(events)
    while first and sum(map(len, events[first:])) < MIN_SEARCHED_BYTES:
        first -= 1
    ends = sorted(data.draw(st.sets(st.integers(1, len(events) - 1)))) if len(events) > 1 else []
    pieces = [
        b"".join(events[start:end])
        for start, end in zip([0, *ends], [*ends, len(events)], strict=True)
    ]

    assert candidates(pieces) == [block.strip() for block in events[first:]]


def test_only_the_end_of_a_long_piece_is_held() -> None:
    """Servers may send the whole response at once."""
    tail = RecentEvents()
    held = held_after(3, lambda: tail.add(ERROR * 100_000))

    assert held < 4 * MIN_SEARCHED_BYTES


@pytest.mark.parametrize("block", [b"event: error\ndata: gone", b'{\n"error": {}\n}', b'"error":'])
def test_names_error_of_error_name_or_bare_json_error_is_true(block: bytes) -> None:
    """Google ends a stream with an error that is JSON without `data:`."""
    assert names_error(block) is True


@pytest.mark.parametrize("block", [b'data: "error": gone', b"event: add", b': "error"', b""])
def test_names_error_of_other_event_is_false(block: bytes) -> None:
    """Errors in the data of an event are checked separately."""
    assert names_error(block) is False
