"""Meters: usage of one response, for any media type and in any chunking."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage, meter_for
from tokenpulse_mw.usage.bounds import MAX_DOCUMENT_BYTES
from tokenpulse_mw.usage.eventstream import EventStreamMeter
from tokenpulse_mw.usage.json_meter import JsonMeter
from tokenpulse_mw.usage.meter import MaybeJsonMeter, SniffMeter
from tokenpulse_mw.usage.sse_meter import SSEMeter

from ..support.chunks import chunkings, chunks_of, prefixes, split_at
from ..support.memory import held_after
from .bodies import (
    BODIES,
    CHAT_JSON,
    CHAT_SSE,
    FRAMES,
    JSON,
    SSE,
    STREAMS,
    WITH_OUTPUT,
    Body,
    event,
    measure,
    outcome,
)

OUTPUT = event({"choices": [{"delta": {"content": "Hello"}}], "usage": None})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
ERROR = event({"error": {"message": "overloaded"}})
LOOKALIKES = ['"error": {"a": 1}', '"usage": {"prompt_tokens": 99}', '\n\nevent: error\n\n"error"']
every_body = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
every_body_with_output = pytest.mark.parametrize("body", WITH_OUTPUT.values(), ids=WITH_OUTPUT)
every_stream = pytest.mark.parametrize("body", STREAMS.values(), ids=STREAMS)


@every_body
def test_usage_of_complete_response_is_reported(body: Body) -> None:
    """The usage and the model of each vendor's response are known at its end."""
    account = measure(body.content_type, [body.data])

    assert outcome(account) == (body.usage, "reported", body.model, False, 0)


@every_body
def test_usage_of_cut_response_is_partial_or_missing(body: Body) -> None:
    """A response cut at any byte is never complete, and no count exceeds the final one."""
    for end in range(len(body.data)):
        account = measure(body.content_type, [body.data[:end]], complete=False)

        usage = account.usage or TokenUsage()
        assert account.source == ("missing" if account.usage is None else "partial")
        assert account.failed is False
        assert usage.input <= body.usage.input
        assert usage.output <= body.usage.output
        assert usage.cache_read <= body.usage.cache_read
        assert usage.cache_write <= body.usage.cache_write
        assert usage.reasoning <= body.usage.reasoning


@every_body
def test_cut_response_is_not_unreadable(body: Body) -> None:
    """An event or document that was cut is not counted as unreadable."""
    accounts = [
        measure(body.content_type, [body.data[:end]], complete=False)
        for end in range(len(body.data))
    ]

    assert {account.unreadable for account in accounts} == {0}


@every_stream
def test_stream_without_last_blank_line_is_reported(body: Body) -> None:
    """The last event counts without the blank line after it."""
    account = measure(SSE, [body.data.rstrip(b"\r\n")])

    assert outcome(account) == (body.usage, "reported", body.model, False, 0)


@every_body
@given(st.data())
def test_any_chunking_gives_the_same_account(body: Body, data: st.DataObject) -> None:
    """Usage, source, model, failure and unreadable documents do not depend on the chunks."""
    received = data.draw(prefixes(body.data))
    complete = data.draw(st.booleans())

    account = measure(body.content_type, data.draw(chunkings(received)), complete=complete)

    whole = measure(body.content_type, [received], complete=complete)
    assert outcome(account) == outcome(whole)


@given(
    st.lists(
        st.sampled_from(
            [OUTPUT, USAGE, ERROR, b'data: {"usage": {"prompt_tokens": oops}\n\n', b": ping\n\n"]
        )
    ),
    st.data(),
)
def test_any_chunking_of_errors_and_malformed_events_gives_the_same_account(
    events: list[bytes], data: st.DataObject
) -> None:
    """Errors and malformed events are recognized in any chunking and with any end."""
    stream = data.draw(prefixes(b"".join(events)))
    complete = data.draw(st.booleans())

    account = measure(SSE, data.draw(chunkings(stream)), complete=complete)

    assert outcome(account) == outcome(measure(SSE, [stream], complete=complete))


@every_body_with_output
def test_awaits_output_ends_with_the_byte_that_completes_the_first_output(body: Body) -> None:
    """`awaits_output` becomes False with the last byte of the first event with output."""
    end = len(body.before) + len(body.first)
    if body.content_type == SSE and b"\r" in body.data:
        end -= 1  # a CR alone ends the blank line already
    meter = meter_for(body.content_type)
    assert meter is not None
    awaiting = []

    for byte in chunks_of(body.data, 1):
        meter.feed(byte)
        awaiting.append(meter.awaits_output)

    assert awaiting == [True] * (end - 1) + [False] * (len(body.data) - end + 1)


@every_body_with_output
def test_awaits_output_before_the_first_output_is_true(body: Body) -> None:
    """Roles, starts and pings are not output."""
    meter = meter_for(body.content_type)
    assert meter is not None

    meter.feed(body.before)
    assert meter.awaits_output is True
    meter.feed(body.first + body.after)
    assert meter.awaits_output is False


def test_awaits_output_of_stream_without_output_stays_true() -> None:
    """`awaits_output` stays True if the model writes no output."""
    meter = SSEMeter()

    meter.feed(USAGE + b"data: [DONE]\n\n")
    meter.finish(complete=True)

    assert meter.awaits_output is True
    assert meter.account.usage == TokenUsage(input=3, output=4)


def test_awaits_output_of_json_document_stays_true() -> None:
    """`awaits_output` stays True for a single JSON document."""
    meter = JsonMeter()

    for chunk in chunks_of(CHAT_JSON.data, 50):
        meter.feed(chunk)
        assert meter.awaits_output is True
    meter.finish(complete=True)

    assert meter.awaits_output is True


def test_empty_body_has_no_usage() -> None:
    """An empty body has no usage and is not unreadable."""
    assert outcome(measure(JSON, [])) == (None, "missing", None, False, 0)
    assert outcome(measure(SSE, [b""])) == (None, "missing", None, False, 0)


@pytest.mark.parametrize("data", [b"{", b"<html>", b"null", b'"usage"', b"\xff\xfe", b'{"usage":'])
def test_malformed_json_body_is_unreadable(data: bytes) -> None:
    """A body that is not a JSON document has no usage and is counted as unreadable."""
    assert outcome(measure(JSON, [data])) == (None, "missing", None, False, 1)


def test_malformed_event_does_not_affect_other_events() -> None:
    """A malformed event is counted as unreadable, and usage before it counts."""
    account = measure(SSE, [OUTPUT, USAGE, b'data: {"usage": {"prompt_tokens": oops}\n\n'])

    assert (account.usage, account.unreadable) == (TokenUsage(input=3, output=4), 1)


def test_stream_with_only_malformed_usage_has_no_usage() -> None:
    """Each malformed event with usage is counted as unreadable."""
    account = measure(SSE, [b'data: {"usage": {"prompt_tokens": oops}\n\n' * 2])

    assert outcome(account) == (None, "missing", None, False, 2)


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_json_body_above_max_bytes_is_unreadable(size: int) -> None:
    """A body of more than `max_bytes` bytes is unreadable in any chunking."""
    data = b'{"a": {"usage": {"prompt_tokens": 3}, "text": "%s"}}' % (b"x" * 53)
    meter = JsonMeter(max_bytes=100)

    for chunk in chunks_of(data, size):
        meter.feed(chunk)
    meter.finish(complete=True)

    assert len(data) == 103
    assert outcome(meter.account) == (None, "missing", None, False, 1)


def test_json_body_above_max_bytes_is_not_held() -> None:
    """The body is discarded as soon as it is too long."""
    meter = JsonMeter(max_bytes=100_000)
    held = held_after(20, lambda: meter.feed(bytes(20_000)))

    assert held < 20_000


def test_json_body_of_max_bytes_is_read() -> None:
    """A body of exactly `max_bytes` bytes is read."""
    data = b'{"usage": {"prompt_tokens": 3}}'
    meter = JsonMeter(max_bytes=len(data))

    meter.feed(data)
    meter.finish(complete=True)

    assert outcome(meter.account) == (TokenUsage(input=3), "reported", None, False, 0)


def test_event_above_max_bytes_is_skipped() -> None:
    """An event of more than `max_bytes` bytes is unreadable; the other events count."""
    meter = SSEMeter(max_bytes=100)

    for chunk in (OUTPUT, event({"choices": [{"delta": {"content": "x" * 100}}]}), USAGE):
        meter.feed(chunk)
    meter.finish(complete=True)

    expected = (TokenUsage(input=3, output=4), "reported", None, False, 1)
    assert outcome(meter.account) == expected


def test_default_of_max_bytes_is_one_mebibyte() -> None:
    """A JSON document of more than 1 MiB is unreadable by default."""
    head = b'{"a": "%s", "usage": {"prompt_tokens": 3}, "text": "' % (b"x" * 2000)
    fits = head + b"x" * (MAX_DOCUMENT_BYTES - len(head) - 2) + b'"}'

    assert measure(JSON, [fits]).usage == TokenUsage(input=3)
    assert measure(JSON, [fits, b" "]).unreadable == 1


def test_usage_at_the_end_of_a_long_stream_counts() -> None:
    """Events after the first output are scanned in batches, and none is omitted."""
    early = event({"choices": [], "usage": {"prompt_tokens": 1}})
    meter = SSEMeter()

    for chunk in (OUTPUT, early, *[OUTPUT] * 2000):
        meter.feed(chunk)
    assert meter.account.usage == TokenUsage(input=1)
    meter.feed(USAGE)
    meter.finish(complete=True)

    assert meter.account.usage == TokenUsage(input=3, output=4)


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(
            event({"type": "error", "error": {"type": "overloaded_error"}}, "error"),
            id="anthropic",
        ),
        pytest.param(ERROR, id="chat"),
        pytest.param(event({"choices": [], "error": {"code": 400}}), id="openrouter"),
        pytest.param(event({"choices": [{"error": {"code": 502}}]}), id="openrouter-choice"),
        pytest.param(event({"object": "error", "message": "died"}), id="vllm"),
        pytest.param(event({"x_groq": {"error": "over capacity"}}), id="groq"),
        pytest.param(event({"error": {"message": "x" * 40_000}}), id="long"),
        pytest.param(b"event: error\ndata: %s\n\n" % (b"m" * 40_000), id="long-plain-text"),
        pytest.param(
            event(
                {"type": "response.failed", "response": {"error": {"code": "server_error"}}},
                "response.failed",
            ),
            id="responses",
        ),
        pytest.param(b"event: error\ndata: upstream went away\n\n", id="plain-text"),
        pytest.param(b"event:error\r\ndata:gone\r\n\r\n", id="crlf-without-spaces"),
        pytest.param(b"data: gone\nevent: error", id="unended"),
        pytest.param(b'{\n  "error": {\n    "code": 429\n  }\n}\n', id="google"),
        pytest.param(b'{\n\n  "error": {\n\n    "code": 429\n\n  }\n\n}\n', id="google-spaced"),
        pytest.param(b'{"error": {"code": 429}}\r\n', id="google-on-one-line"),
    ],
)
@pytest.mark.parametrize("before", [b"", OUTPUT, OUTPUT * 3000], ids=["alone", "short", "long"])
def test_error_at_the_end_of_a_stream_fails(failure: bytes, before: bytes) -> None:
    """An error of any vendor at the end of a stream marks the response as failed."""
    assert measure(SSE, [before, failure]).failed is True


@every_stream
@pytest.mark.parametrize("text", LOOKALIKES)
def test_text_that_looks_like_an_error_or_usage_is_ignored(body: Body, text: str) -> None:
    """Text of the model is escaped inside a JSON string and never changes the account."""
    output = event({"choices": [{"delta": {"content": text}}], "usage": None}) + event(
        {"type": "content_block_delta", "delta": {"text": text}}, "content_block_delta"
    )

    account = measure(SSE, [body.before, output, body.first, output, body.after, output])

    assert outcome(account) == (body.usage, "reported", body.model, False, 0)


@pytest.mark.parametrize("text", LOOKALIKES)
def test_text_of_json_document_that_looks_like_usage_is_ignored(text: str) -> None:
    """Quoted errors and usage in the text of a JSON response are ignored."""
    data = json.dumps({"choices": [{"message": {"content": text}}]}).encode()

    assert outcome(measure(JSON, [data])) == (None, "missing", None, False, 0)


def test_tool_arguments_that_look_like_usage_are_ignored() -> None:
    """Gemini sends the arguments of a tool as JSON, in which any name may occur."""
    arguments = {"usage": {"prompt_tokens": 99}, "error": {"code": 1}}
    call = {"functionCall": {"name": "report", "args": arguments}}
    payload = {
        "candidates": [{"content": {"parts": [call]}}],
        "usageMetadata": {"promptTokenCount": 7},
    }

    account = measure(SSE, [event(payload)])

    assert outcome(account) == (TokenUsage(input=7), "reported", None, False, 0)


def test_null_error_does_not_fail() -> None:
    """OpenAI Responses sends `"error": null` in every event with a response."""
    assert (
        measure(SSE, [event({"type": "response.created", "response": {"error": None}})]).failed
        is False
    )


def test_plain_text_event_without_error_name_does_not_fail() -> None:
    """An event that is not JSON is an error only if it is named `error`."""
    assert measure(SSE, [b'data: the word "error" in plain text\n\n']).failed is False
    assert measure(SSE, [b"data: event: error\n\n"]).failed is False
    assert measure(SSE, [b': a "error": comment\n\n']).failed is False
    assert measure(SSE, [b'data: "error": words\n"error": x\n\n']).failed is False


def test_error_before_the_last_8_kib_does_not_fail() -> None:
    """An error that more than 8 KiB follow did not end the stream."""
    after = OUTPUT * ((8 * 1024 - len(ERROR)) // len(OUTPUT))

    assert measure(SSE, [OUTPUT, ERROR, after]).failed is True
    assert measure(SSE, [OUTPUT, ERROR, after, OUTPUT * 2]).failed is False


def test_error_after_a_chunk_above_max_bytes_fails() -> None:
    """Complete events of a chunk that is longer than `max_bytes` do not hide the next event."""
    meter = SSEMeter(max_bytes=200)

    meter.feed(OUTPUT * 5)
    meter.feed(ERROR)
    meter.finish(complete=True)

    assert meter.account.failed is True


def test_malformed_event_before_the_cut_is_unreadable() -> None:
    """Only the event that was cut is not counted as unreadable."""
    stream = OUTPUT + b'data: {"usage": {"prompt_tokens": oops}\n\n' + OUTPUT[:20]

    assert measure(SSE, [stream], complete=False).unreadable == 1
    assert measure(SSE, split_at(stream, range(len(stream))), complete=False).unreadable == 1


def test_event_without_end_is_held_in_bounded_memory() -> None:
    """An endless event in chunks of one byte holds no memory for each chunk."""
    meter = SSEMeter(max_bytes=100)
    held = held_after(50_000, lambda: meter.feed(b"x"))

    assert held < 50_000


@pytest.mark.parametrize("content_type", [JSON, SSE])
@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_random_bytes_never_raise(content_type: bytes, chunks: list[bytes], complete: bool) -> None:
    """Random bytes raise no error and give no usage."""
    account = measure(content_type, chunks, complete=complete)

    assert (account.usage, account.source) == (None, "missing")


fields = [b'"usage":', b'"usageMetadata": ', b'"error"', b'"type":', b'"response.failed"']
marks = [b"data: ", b"event: error", b"\n\n", b"\r\n\r", b"\xff", b"null", b"7"]
parts = st.sampled_from([*fields, *marks, b"", *chunks_of(b'{}[]":,', 1), OUTPUT, USAGE, ERROR])


@pytest.mark.parametrize("content_type", [JSON, SSE])
@given(st.lists(parts, max_size=30), st.booleans())
def test_response_parts_in_any_order_never_raise(
    content_type: bytes, chunks: list[bytes], complete: bool
) -> None:
    """Parts of responses in any order raise no error, and the source fits the usage."""
    account = measure(content_type, chunks, complete=complete)

    assert account.source in ("reported", "partial", "missing")
    assert (account.source == "missing") == (account.usage is None)


@pytest.mark.parametrize("content_type", [JSON, SSE])
def test_endless_nesting_is_unreadable(content_type: bytes) -> None:
    """A document that nests without end is unreadable and raises no error."""
    data = b'data: {"error": 1, "usage": {"prompt_tokens": %s' % (b'{"a":' * 100_000)
    data = data if content_type == SSE else data.removeprefix(b"data: ")

    account = measure(content_type, [data])

    assert outcome(account) == (None, "missing", None, False, 1)


@pytest.mark.parametrize("field", ["usage", "choices", "response", "error", "x"])
@pytest.mark.parametrize("content_type", [JSON, SSE, b"text/plain"])
def test_complete_document_nested_too_deeply_is_unreadable(content_type: bytes, field: str) -> None:
    """Deep nesting is unreadable even if the document is complete."""
    data = b'{"%s": %s, "usage": {"prompt_tokens": 3}}' % (
        field.encode(),
        b"[" * 100_000 + b"]" * 100_000,
    )
    data = b"data: %s\n\n" % data if content_type == SSE else data

    account = measure(content_type, [data])

    assert outcome(account) == (None, "missing", None, False, 1)


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        (b"application/json", MaybeJsonMeter),
        (b"application/json; charset=UTF-8", MaybeJsonMeter),
        (b"Application/JSON", MaybeJsonMeter),
        (b" application/json ;charset=utf-8", MaybeJsonMeter),
        (b"application/problem+json", JsonMeter),
        (b"application/vnd.api+JSON; profile=x", JsonMeter),
        (b"application/json; note=" + b"x" * 500, MaybeJsonMeter),
        (b"text/event-stream", SSEMeter),
        (b"text/event-stream; charset=utf-8", SSEMeter),
        (b"Text/Event-Stream;charset=utf-8", SSEMeter),
        (b"application/vnd.amazon.eventstream", EventStreamMeter),
        (b"", SniffMeter),
        (b"text/plain; a=application/json", SniffMeter),
        (b"application/octet-stream", SniffMeter),
        (b"text/html", type(None)),
        (b"application/json-seq", type(None)),
        (b"application/jsonp", type(None)),
        (b"application/stream+json", type(None)),
        (b"application/jsonlines+json", type(None)),
        (b"application/x-ndjson", type(None)),
        (b"\xff\xfe", type(None)),
        (b"x" * 500 + b"+json", type(None)),
    ],
)
def test_meter_is_chosen_by_the_media_type(content_type: bytes, kind: type) -> None:
    """Parameters and case do not matter; media types of no vendor have no meter."""
    assert type(meter_for(content_type)) is kind


def test_each_call_of_meter_for_returns_a_new_meter() -> None:
    """Two responses never share an account."""
    assert meter_for(JSON) is not meter_for(JSON)


UNKNOWN_TYPES = [b"", b"text/plain", b"text/plain; charset=utf-8", b"application/octet-stream"]
SNIFFED = {name: body for name, body in BODIES.items() if body.content_type != FRAMES}
SNIFFED_WITH_OUTPUT = {
    name: body for name, body in WITH_OUTPUT.items() if body.content_type != FRAMES
}
PAGES = [b"hello", b"<html>", b"date: today", b"even", b"data", b"i", b"7", b"\xff{", b"DATA: 1"]
sniffed_bodies = pytest.mark.parametrize("body", SNIFFED.values(), ids=SNIFFED)
unknown_type = pytest.mark.parametrize("content_type", UNKNOWN_TYPES)
unknown_type_or_json = pytest.mark.parametrize("content_type", [*UNKNOWN_TYPES, JSON])


def source(content_type: bytes) -> str:
    """Return the source of a complete usage in a body of `content_type`."""
    return "reported" if content_type == JSON else "partial"


@unknown_type
@pytest.mark.parametrize("body", [CHAT_JSON, CHAT_SSE], ids=["json", "a stream"])
def test_usage_in_sniffed_body_is_partial_and_doubtful(content_type: bytes, body: Body) -> None:
    """Without a media type of model responses, the model may have written the usage itself."""
    account = measure(content_type, [body.data])

    assert (account.usage, account.source, account.doubtful) == (body.usage, "partial", True)
    assert measure(body.content_type, [body.data]).doubtful is False


@sniffed_bodies
@unknown_type_or_json
def test_response_format_is_recognized_by_its_first_bytes(content_type: bytes, body: Body) -> None:
    """Streams without a media type, and JSON with another one, are recognized."""
    for before in (b"", b"\xef\xbb\xbf", b" \r\n\n"):
        account = measure(content_type, [before + body.data])

        assert outcome(account) == (body.usage, source(content_type), body.model, False, 0)
        assert account.is_response is True


@sniffed_bodies
@unknown_type_or_json
@settings(max_examples=30)  # for each pair of a body and a media type
@given(st.data())
def test_any_chunking_of_a_sniffed_body_gives_the_same_account(
    content_type: bytes, body: Body, data: st.DataObject
) -> None:
    """The account of a sniffed body does not depend on the chunks, even if it is cut."""
    received = data.draw(prefixes(body.data))
    complete = data.draw(st.booleans())

    account = measure(content_type, data.draw(chunkings(received)), complete=complete)

    whole = measure(content_type, [received], complete=complete)
    assert outcome(account) == outcome(whole)
    assert account.is_response == whole.is_response


@pytest.mark.parametrize(
    "line",
    [b"data:", b"data: ", b"event: a\ndata:", b"id:1\ndata:", b"retry: 3\ndata:", b":\ndata:"],
)
@unknown_type_or_json
def test_stream_is_recognized_by_any_first_line(content_type: bytes, line: bytes) -> None:
    """A comment or any field of an event identifies a stream, one byte at a time."""
    stream = line + b'{"choices": [], "usage": {"prompt_tokens": 5}}\n\n'

    account = measure(content_type, chunks_of(stream, 1))

    assert outcome(account) == (TokenUsage(input=5), source(content_type), None, False, 0)


@pytest.mark.parametrize("body", SNIFFED_WITH_OUTPUT.values(), ids=SNIFFED_WITH_OUTPUT)
@unknown_type_or_json
def test_awaits_output_of_sniffed_body_is_that_of_a_known_body(
    content_type: bytes, body: Body
) -> None:
    """`awaits_output` changes at the same byte as with the correct media type."""
    meters = [meter_for(media_type) for media_type in (content_type, body.content_type)]

    for byte in chunks_of(body.data, 1):
        awaiting = set()
        for meter in meters:
            assert meter is not None
            meter.feed(byte)
            awaiting.add(meter.awaits_output)
        assert len(awaiting) == 1


@unknown_type
def test_recognized_stream_is_fed_to_its_meter_directly(content_type: bytes) -> None:
    """After recognition, `feed` is that of the stream's meter."""
    sniffing, known = meter_for(content_type), meter_for(SSE)
    assert sniffing is not None
    assert known is not None

    sniffing.feed(CHAT_SSE.before)

    assert sniffing.feed.__func__ is known.feed.__func__  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("complete", [True, False])
@unknown_type
def test_other_page_is_not_a_response(content_type: bytes, complete: bool, page: bytes) -> None:
    """A page that is neither JSON nor a stream is not read, and has no missing usage."""
    for data in (page, page + b" and more of it" * 100):
        meter = meter_for(content_type)
        assert meter is not None
        for chunk in split_at(data, range(len(data))):
            meter.feed(chunk)
            assert meter.awaits_output is True
        meter.finish(complete=complete)

        assert outcome(meter.account) == (None, "missing", None, False, 0)
        assert meter.account.is_response is False
        assert meter.account.complete is complete


@pytest.mark.parametrize(
    "page",
    [b"{name} is here", b"[info] up\n[info] down", b"id: 5\nname: x\n", b": a list", b"", b"\n"],
)
@pytest.mark.parametrize("complete", [True, False])
@unknown_type
def test_page_that_begins_like_a_response_is_not_a_response(
    content_type: bytes, complete: bool, page: bytes
) -> None:
    """Such a page is a response only if a model is recognized in it."""
    account = measure(content_type, split_at(page, range(len(page))), complete=complete)

    assert (account.usage, account.source, account.is_response) == (None, "missing", False)


@pytest.mark.parametrize("page", PAGES)
def test_page_declared_as_json_is_unreadable(page: bytes) -> None:
    """A complete page with the media type of JSON is unreadable; a cut one is not."""
    for data in (page, page + b" and more of it" * 100):
        chunks = split_at(data, range(len(data)))
        assert outcome(measure(JSON, chunks)) == (None, "missing", None, False, 1)
        assert outcome(measure(JSON, chunks, complete=False)) == (None, "missing", None, False, 0)


@unknown_type
def test_sniffed_stream_with_output_has_missing_usage(content_type: bytes) -> None:
    """A sniffed stream with output but without usage is a response."""
    account = measure(content_type, [event({"choices": [{"delta": {"content": "P"}}]})])

    assert (account.source, account.is_response) == ("missing", True)


@unknown_type_or_json
def test_compressed_response_is_recognized_by_its_decoded_bytes(content_type: bytes) -> None:
    """The first decoded bytes identify the format, not those of the compressed body."""
    for body in (CHAT_SSE, CHAT_JSON):
        stream = gzip.compress(body.data)
        account = measure(content_type, split_at(stream, range(len(stream))), encoding=b"gzip")

        assert outcome(account) == (body.usage, source(content_type), body.model, False, 0)


@unknown_type
def test_unsupported_encoding_without_a_known_media_type_has_no_meter(content_type: bytes) -> None:
    """Nothing identifies such a body as a model response."""
    assert meter_for(content_type, b"compress") is None
    assert meter_for(JSON, b"compress") is not None


@unknown_type_or_json
def test_white_space_without_end_is_not_held(content_type: bytes) -> None:
    """White space, which servers send to keep a connection open, is not held."""
    meter = meter_for(content_type)
    assert meter is not None
    held = held_after(100, lambda: meter.feed(b" " * 10_000))
    meter.feed(CHAT_JSON.data)
    meter.finish(complete=True)

    assert held < 20_000
    assert meter.account.usage == CHAT_JSON.usage


@unknown_type
def test_other_page_is_not_held(content_type: bytes) -> None:
    """The bytes of a page that is not a response are discarded."""
    meter = meter_for(content_type)
    assert meter is not None
    held = held_after(100, lambda: meter.feed(bytes(10_000)))

    assert held < 5_000


@unknown_type_or_json
@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_random_bytes_of_a_sniffed_body_never_raise(
    content_type: bytes, chunks: list[bytes], complete: bool
) -> None:
    """Random bytes raise no error and give no usage."""
    account = measure(content_type, chunks, complete=complete)

    assert (account.usage, account.source) == (None, "missing")
