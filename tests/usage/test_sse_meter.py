"""The meter of server-sent events: what is too long, what is an error, what never speaks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage, UsageAccount
from tokenpulse_mw.usage.sse_meter import RecentEvents, SSEMeter, names_error

from ..support.chunks import chunkings, chunks_of
from ..support.memory import held_after
from .bodies import SSE, event, measure, outcome

OUTPUT = event({"choices": [{"delta": {"content": "Hello"}}], "usage": None})


ERROR = event({"error": {"message": "overloaded"}})


COUNTED = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}})


USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


DRAWN = {"object": "response", "output": [{"result": "A" * 2000}], "usage": USAGE}


COMPLETED = {"type": "response.completed", "response": {**DRAWN, "metadata": {}}}


def read(chunks: list[bytes], *, longest: int = 400, complete: bool = True) -> tuple[object, ...]:
    """The account of a stream of which longer events are not kept."""
    meter = SSEMeter(longest=longest)
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
def test_an_event_that_is_too_long_says_its_usage_at_its_end(
    payload: dict[str, Any], usage: TokenUsage, model: str | None, end: str, size: int
) -> None:
    """A picture is longer than any text."""
    stream = OUTPUT + event(payload, payload.get("type", ""), end=end) + OUTPUT

    chunks = chunks_of(stream, size)

    assert read(chunks) == (usage, "reported", model, False, 0)


def test_a_failure_that_is_too_long_is_known() -> None:
    """It repeats all that was asked."""
    stream = OUTPUT + event({**COMPLETED, "type": "response.failed"}, "response.failed")

    assert read([stream]) == (TokenUsage(1, 2), "reported", None, True, 0)


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "response.output_item.done", "item": DRAWN},
        {"type": "response.completed", "response": {"output": [DRAWN]}},
        {"type": "response.completed", "response": {"a": {"b": "x" * 2000, "usage": USAGE}}},
        {"a": {"text": "x" * 2000, "usage": {"prompt_tokens": 99}}},
        {"text": "x" * 2000, "usage": None},
        {"usage": {"prompt_tokens": 99}, "text": "x" * 2000},
    ],
)
def test_nothing_is_guessed_of_an_event_that_is_too_long(payload: dict[str, Any]) -> None:
    """What is not at its top, or not in its end, may be what the model wrote."""
    assert read([OUTPUT + event(payload)]) == (None, "missing", None, False, 1)


@pytest.mark.parametrize("size", [1, 10_000])
def test_an_event_that_is_too_long_and_was_cut_says_nothing(size: int) -> None:
    """Its end may lie anywhere in it."""
    inner = event({"a": "x" * 2000, "b": [{"usage": {"prompt_tokens": 9}}]})
    stream = inner[: inner.rindex(b"]")]

    chunks = chunks_of(stream, size)

    assert read(chunks, complete=False) == (None, "missing", None, False, 1)


long = st.sampled_from(
    [
        OUTPUT,
        ERROR,
        COUNTED,
        event(COMPLETED, "response.completed"),
        event({"text": "x" * 500, "usage": {"prompt_tokens": 3}}, end="\r\n"),
        event({"text": "x" * 500}),
        b"\n\n\r\n",
    ]
)


@given(st.lists(long, max_size=6), st.data())
def test_any_chunking_of_long_events_gives_the_same_account(
    events: list[bytes], data: st.DataObject
) -> None:
    """Also where what is left of them is all that counts."""
    stream = b"".join(events)
    end = data.draw(st.integers(0, len(stream)) | st.just(len(stream)))
    complete = data.draw(st.booleans())
    chunks = data.draw(chunkings(stream[:end]))

    expected = read([stream[:end]], complete=complete)
    assert read(chunks, complete=complete) == expected


CALL = {"choices": [{"delta": {"tool_calls": [{"id": "c"}]}}]}


COUNT = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}


def lines(*payloads: Any, end: str) -> bytes:
    """Events as GLM and Kimi part them where a tool is called, by one line end."""
    return "".join(f"data: {json.dumps(each)}{end}" for each in payloads).encode()


@pytest.mark.parametrize("size", [1, 50, 10_000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("rest", [b"", b"data: [DONE]\n\n", b"data: [DONE]"])
def test_events_that_one_line_end_parts_are_read_line_by_line(
    rest: bytes, end: str, size: int
) -> None:
    """GLM-4.7 and Kimi-K2.5 part them so; by the rules they are one event of several lines."""
    stream = OUTPUT + lines(CALL, COUNT, end=end) + rest

    account = measure(SSE, chunks_of(stream, size))

    assert outcome(account) == (TokenUsage(5, 1), "reported", None, False, 0)


def test_first_words_may_stand_in_such_events() -> None:
    """Then they are all at once."""
    meter = SSEMeter()

    meter.feed(lines({"choices": []}, CALL, end="\n"))
    assert meter.awaits_output is True
    meter.feed(b"\n")
    assert meter.awaits_output is False


def test_such_an_event_may_tell_of_an_error() -> None:
    """And it is a failure then."""
    assert measure(SSE, [OUTPUT + lines(CALL, {"error": {"code": 1}}, end="\n")]).failed is True


def test_a_document_of_several_lines_is_one() -> None:
    """As the rules say."""
    stream = b'data: {"usage":\ndata: {"prompt_tokens": 5},\ndata: "a": [1]}\n\n'

    assert outcome(measure(SSE, [stream])) == (TokenUsage(5), "reported", None, False, 0)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("rest", [b"", b"\n", b"\n\n"])
def test_json_that_is_called_a_stream_counts(indent: int | None, rest: bytes) -> None:
    """Some gateways call every answer so where the client has asked for a stream."""
    data = json.dumps({"model": "m", **COUNT}, indent=indent).encode() + rest

    assert outcome(measure(SSE, [data])) == (TokenUsage(5, 1), "reported", "m", False, 0)


def test_what_was_counted_before_an_error_is_partial() -> None:
    """Some, as vLLM, count as they go: the last count may not be all."""
    account = measure(SSE, [OUTPUT, COUNTED, ERROR, b"data: [DONE]\n\n"])

    assert outcome(account) == (TokenUsage(5, 1), "partial", None, True, 0)


def test_what_an_error_counts_itself_is_reported() -> None:
    """OpenRouter tells both at once."""
    usage = {"prompt_tokens": 5, "completion_tokens": 1}
    account = measure(SSE, [OUTPUT, event({"error": {"code": 502}, "usage": usage})])

    assert outcome(account) == (TokenUsage(5, 1), "reported", None, True, 0)


def test_a_stream_without_a_sign_of_a_model_may_be_anyones() -> None:
    """Not every event of it is read."""
    assert measure(SSE, [event({"progress": 7})]).is_response is None
    assert measure(SSE, [OUTPUT]).is_response is True


@pytest.mark.parametrize("size", [50, 100_000])
def test_first_words_are_not_waited_for_for_ever(size: int) -> None:
    """After 1,024 events they are not looked for, and there is no time to be told of them."""
    for silent, waiting in ((1023, False), (1024, True)):
        meter = SSEMeter()
        stream = event({"progress": 7}) * silent + OUTPUT * 50 + COUNTED
        for chunk in chunks_of(stream, size):
            meter.feed(chunk)
        assert meter.awaits_output is waiting
        meter.finish(complete=True)
        assert meter.awaits_output is waiting
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
    """Those that are too long to be kept are counted, comments are not."""
    stream = b"".join(
        event({"text": "x" * size}, end=end) + b": ping" + end.encode() * 2 for size in sizes
    )
    meter = SSEMeter(longest=64, account=UsageAccount(counts_events=True))
    for chunk in data.draw(chunkings(stream)):
        meter.feed(chunk)
    meter.finish(complete=complete)

    assert meter.account.events == len(sizes)


LEAST = 32 * 1024


def suspects(pieces: list[bytes]) -> list[bytes]:
    """The events that may tell of an error, of a stream that came in these pieces."""
    tail = RecentEvents()
    for piece in pieces:
        tail.add(piece)
    return list(tail.candidates())


def test_the_last_event_is_looked_at_whole() -> None:
    """However long it is."""
    long = event({"error": {"message": "x" * 3 * LEAST}})

    assert suspects([ERROR, long]) == [long.strip()]
    assert suspects([ERROR + long]) == [long.strip()]


@given(st.lists(st.integers(1, 12_000), min_size=1, max_size=12), st.data())
def test_events_are_looked_at_until_32_kib_are_passed(
    sizes: list[int], data: st.DataObject
) -> None:
    """And no others, in whatever pieces they came."""
    events = [event({"error": "x" * size}) for size in sizes]
    first = len(events)
    while first and sum(map(len, events[first:])) < LEAST:
        first -= 1
    ends = sorted(data.draw(st.sets(st.integers(1, len(events) - 1)))) if len(events) > 1 else []
    pieces = [
        b"".join(events[start:end])
        for start, end in zip([0, *ends], [*ends, len(events)], strict=True)
    ]

    assert suspects(pieces) == [each.strip() for each in events[first:]]


def test_of_a_long_piece_only_the_end_is_kept() -> None:
    """Servers may send all of an answer at once."""
    tail = RecentEvents()
    held = held_after(3, lambda: tail.add(ERROR * 100_000))

    assert held < 4 * LEAST


@pytest.mark.parametrize("block", [b"event: error\ndata: gone", b'{\n"error": {}\n}', b'"error":'])
def test_an_event_may_be_an_error_by_its_name_or_without_data(block: bytes) -> None:
    """Google ends a stream with JSON on lines of its own."""
    assert names_error(block) is True


@pytest.mark.parametrize("block", [b'data: "error": gone', b"event: add", b': "error"', b""])
def test_other_events_are_no_errors_by_their_name(block: bytes) -> None:
    """What their data tells is another thing."""
    assert names_error(block) is False
