"""Meters: the bytes of one answer in, in any chunking; what it cost out."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage, meter_for
from tokenpulse_mw.usage.bounds import MAX_DOCUMENT_BYTES
from tokenpulse_mw.usage.eventstream_meter import EventStreamMeter
from tokenpulse_mw.usage.json_meter import JsonMeter
from tokenpulse_mw.usage.meter import MaybeJsonMeter, SniffMeter
from tokenpulse_mw.usage.sse_meter import SSEMeter

from ..support.chunks import chunkings, chunks_of, split_at
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
def test_an_answer_that_came_whole_is_reported(body: Body) -> None:
    """Of each vendor's answer the usage and the model are known when it ends."""
    account = measure(body.content_type, [body.data])

    assert outcome(account) == (body.usage, "reported", body.model, False, 0)


@every_body
def test_an_answer_is_partial_or_missing_wherever_it_is_cut(body: Body) -> None:
    """A cut answer never costs more than the vendor has said, and is never taken for whole."""
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
def test_a_cut_answer_is_nobodys_fault(body: Body) -> None:
    """An event or a document that was cut in two is not counted as unreadable."""
    accounts = [
        measure(body.content_type, [body.data[:end]], complete=False)
        for end in range(len(body.data))
    ]

    assert {account.unreadable for account in accounts} == {0}


@every_stream
def test_a_stream_may_leave_its_last_blank_line_out(body: Body) -> None:
    """The last event counts without the blank line that should end it."""
    account = measure(SSE, [body.data.rstrip(b"\r\n")])

    assert outcome(account) == (body.usage, "reported", body.model, False, 0)


@every_body
@given(st.data())
def test_any_chunking_gives_the_same_account(body: Body, data: st.DataObject) -> None:
    """Usage, source, model, failure and unreadable documents do not depend on the chunks."""
    end = data.draw(st.integers(0, len(body.data)) | st.just(len(body.data)))
    complete = data.draw(st.booleans())
    chunks = data.draw(chunkings(body.data[:end]))

    account = measure(body.content_type, chunks, complete=complete)

    whole = measure(body.content_type, [body.data[:end]], complete=complete)
    assert outcome(account) == outcome(whole)


@given(
    st.lists(
        st.sampled_from(
            [OUTPUT, USAGE, ERROR, b'data: {"usage": {"prompt_tokens": oops}\n\n', b": ping\n\n"]
        )
    ),
    st.data(),
)
def test_any_chunking_of_a_troubled_stream_gives_the_same_account(
    events: list[bytes], data: st.DataObject
) -> None:
    """Errors and malformed events are told however the stream is cut, and wherever it ends."""
    stream = b"".join(events)
    stream = stream[: data.draw(st.integers(0, len(stream)) | st.just(len(stream)))]
    complete = data.draw(st.booleans())

    account = measure(SSE, data.draw(chunkings(stream)), complete=complete)

    assert outcome(account) == outcome(measure(SSE, [stream], complete=complete))


@every_body_with_output
def test_waiting_ends_with_the_byte_that_completes_the_first_words(body: Body) -> None:
    """The time of the first words is that of the chunk which completes their event."""
    end = len(body.before) + len(body.first)
    if body.content_type == SSE and b"\r" in body.data:
        end -= 1  # a CR alone ends the blank line already
    meter = meter_for(body.content_type)
    assert meter is not None
    waiting = []

    for place in range(len(body.data)):
        meter.feed(body.data[place : place + 1])
        waiting.append(meter.awaits_output)

    assert waiting == [True] * (end - 1) + [False] * (len(body.data) - end + 1)


@every_body_with_output
def test_waiting_goes_on_before_the_first_words(body: Body) -> None:
    """Roles, starts and pings are not what a reader waits for."""
    meter = meter_for(body.content_type)
    assert meter is not None

    meter.feed(body.before)
    assert meter.awaits_output is True
    meter.feed(body.first + body.after)
    assert meter.awaits_output is False


def test_a_stream_without_words_is_waited_for_until_its_end() -> None:
    """An answer in which the model says nothing has no first words."""
    meter = SSEMeter()

    meter.feed(USAGE + b"data: [DONE]\n\n")
    meter.finish(complete=True)

    assert meter.awaits_output is True
    assert meter.account.usage == TokenUsage(input=3, output=4)


def test_a_json_answer_has_no_first_words() -> None:
    """All of it comes at once, so that it is waited for until its end."""
    meter = JsonMeter()

    for chunk in chunks_of(CHAT_JSON.data, 50):
        meter.feed(chunk)
        assert meter.awaits_output is True
    meter.finish(complete=True)

    assert meter.awaits_output is True


def test_an_empty_body_says_nothing() -> None:
    """No bytes are no usage, and nothing unreadable either."""
    assert outcome(measure(JSON, [])) == (None, "missing", None, False, 0)
    assert outcome(measure(SSE, [b""])) == (None, "missing", None, False, 0)


@pytest.mark.parametrize("data", [b"{", b"<html>", b"null", b'"usage"', b"\xff\xfe", b'{"usage":'])
def test_a_malformed_json_body_is_missing(data: bytes) -> None:
    """What is not a JSON document is counted as unreadable."""
    assert outcome(measure(JSON, [data])) == (None, "missing", None, False, 1)


def test_a_malformed_event_is_passed_over() -> None:
    """The other events of the stream still count."""
    account = measure(SSE, [OUTPUT, USAGE, b'data: {"usage": {"prompt_tokens": oops}\n\n'])

    assert (account.usage, account.unreadable) == (TokenUsage(input=3, output=4), 1)


def test_a_malformed_stream_is_missing() -> None:
    """Where no event that speaks of usage can be read there is no usage."""
    account = measure(SSE, [b'data: {"usage": {"prompt_tokens": oops}\n\n' * 2])

    assert outcome(account) == (None, "missing", None, False, 2)


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_a_json_body_that_is_too_long_is_let_go(size: int) -> None:
    """A body of more than `longest` bytes is unreadable, in whatever chunks it comes."""
    data = b'{"a": {"usage": {"prompt_tokens": 3}, "text": "%s"}}' % (b"x" * 53)
    meter = JsonMeter(longest=100)

    for chunk in chunks_of(data, size):
        meter.feed(chunk)
    meter.finish(complete=True)

    assert len(data) == 103
    assert outcome(meter.account) == (None, "missing", None, False, 1)


def test_a_json_body_that_is_too_long_is_held_no_longer() -> None:
    """What can no longer be read is let go at once, not when the answer ends."""
    meter = JsonMeter(longest=100_000)
    held = held_after(20, lambda: meter.feed(bytes(20_000)))

    assert held < 20_000


def test_a_json_body_of_the_limit_is_read() -> None:
    """`longest` itself is not too long."""
    data = b'{"usage": {"prompt_tokens": 3}}'
    meter = JsonMeter(longest=len(data))

    meter.feed(data)
    meter.finish(complete=True)

    assert outcome(meter.account) == (TokenUsage(input=3), "reported", None, False, 0)


def test_an_event_that_is_too_long_is_skipped() -> None:
    """An over-long event of a stream is unreadable; the others count."""
    meter = SSEMeter(longest=100)

    for chunk in (OUTPUT, event({"choices": [{"delta": {"content": "x" * 100}}]}), USAGE):
        meter.feed(chunk)
    meter.finish(complete=True)

    expected = (TokenUsage(input=3, output=4), "reported", None, False, 1)
    assert outcome(meter.account) == expected


def test_a_body_is_kept_up_to_one_mebibyte_by_default() -> None:
    """A meter made for a media type has the usual bound."""
    head = b'{"a": "%s", "usage": {"prompt_tokens": 3}, "text": "' % (b"x" * 2000)
    fits = head + b"x" * (MAX_DOCUMENT_BYTES - len(head) - 2) + b'"}'

    assert measure(JSON, [fits]).usage == TokenUsage(input=3)
    assert measure(JSON, [fits, b" "]).unreadable == 1


def test_a_long_stream_is_read_to_its_end() -> None:
    """After the first words a stream is looked through in batches, and none is left out."""
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
def test_an_error_inside_a_stream_is_a_failure(failure: bytes, before: bytes) -> None:
    """Vendors end a stream that began well with an error of their own."""
    assert measure(SSE, [before, failure]).failed is True


@every_stream
@pytest.mark.parametrize("text", LOOKALIKES)
def test_text_that_looks_like_an_error_or_usage_is_only_text(body: Body, text: str) -> None:
    """What the model writes is escaped inside a JSON string and changes no account."""
    words = event({"choices": [{"delta": {"content": text}}], "usage": None}) + event(
        {"type": "content_block_delta", "delta": {"text": text}}, "content_block_delta"
    )

    account = measure(SSE, [body.before, words, body.first, words, body.after, words])

    assert outcome(account) == (body.usage, "reported", body.model, False, 0)


@pytest.mark.parametrize("text", LOOKALIKES)
def test_text_of_a_json_answer_is_only_text(text: str) -> None:
    """A JSON answer may quote what an error or a usage looks like."""
    data = json.dumps({"choices": [{"message": {"content": text}}]}).encode()

    assert outcome(measure(JSON, [data])) == (None, "missing", None, False, 0)


def test_arguments_of_a_tool_are_not_the_vendors_words() -> None:
    """Gemini writes a tool's arguments as JSON, in which any name may stand."""
    arguments = {"usage": {"prompt_tokens": 99}, "error": {"code": 1}}
    call = {"functionCall": {"name": "report", "args": arguments}}
    payload = {
        "candidates": [{"content": {"parts": [call]}}],
        "usageMetadata": {"promptTokenCount": 7},
    }

    account = measure(SSE, [event(payload)])

    assert outcome(account) == (TokenUsage(input=7), "reported", None, False, 0)


def test_an_error_of_null_is_no_failure() -> None:
    """OpenAI Responses says `"error": null` in every event that wraps the response."""
    assert (
        measure(SSE, [event({"type": "response.created", "response": {"error": None}})]).failed
        is False
    )


def test_an_error_event_that_is_not_json_is_no_failure_without_the_name() -> None:
    """Only the event's name makes an error of plain text."""
    assert measure(SSE, [b'data: the word "error" in plain text\n\n']).failed is False
    assert measure(SSE, [b"data: event: error\n\n"]).failed is False
    assert measure(SSE, [b': a "error": comment\n\n']).failed is False
    assert measure(SSE, [b'data: "error": words\n"error": x\n\n']).failed is False


def test_an_error_is_looked_for_at_the_end_of_a_stream() -> None:
    """An error after which 32 KiB of answer follow did not end it."""
    after = OUTPUT * ((32 * 1024 - len(ERROR)) // len(OUTPUT))

    assert measure(SSE, [OUTPUT, ERROR, after]).failed is True
    assert measure(SSE, [OUTPUT, ERROR, after, OUTPUT * 2]).failed is False


def test_an_error_after_a_chunk_longer_than_the_limit_is_a_failure() -> None:
    """Events that came in one large chunk do not run into the next."""
    meter = SSEMeter(longest=200)

    meter.feed(OUTPUT * 5)
    meter.feed(ERROR)
    meter.finish(complete=True)

    assert meter.account.failed is True


def test_a_malformed_event_of_a_cut_stream_is_counted() -> None:
    """Only the event that was cut is excused, in whatever chunks the stream came."""
    stream = OUTPUT + b'data: {"usage": {"prompt_tokens": oops}\n\n' + OUTPUT[:20]

    assert measure(SSE, [stream], complete=False).unreadable == 1
    assert measure(SSE, split_at(stream, range(len(stream))), complete=False).unreadable == 1


def test_a_stream_that_never_speaks_is_held_in_bounded_memory() -> None:
    """An event without an end, in chunks of one byte, leaves nothing behind for each of them."""
    meter = SSEMeter(longest=100)
    held = held_after(50_000, lambda: meter.feed(b"x"))

    assert held < 50_000


@pytest.mark.parametrize("content_type", [JSON, SSE])
@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_random_bytes_never_raise(content_type: bytes, chunks: list[bytes], complete: bool) -> None:
    """Whatever a vendor sends, metering it does no harm and invents no usage."""
    account = measure(content_type, chunks, complete=complete)

    assert (account.usage, account.source) == (None, "missing")


fields = [b'"usage":', b'"usageMetadata": ', b'"error"', b'"type":', b'"response.failed"']


marks = [b"data: ", b"event: error", b"\n\n", b"\r\n\r", b"\xff", b"null", b"7"]


scraps = st.sampled_from([*fields, *marks, *split_at(b'{}[]":,', range(7)), OUTPUT, USAGE, ERROR])


@pytest.mark.parametrize("content_type", [JSON, SSE])
@given(st.lists(scraps, max_size=30), st.booleans())
def test_scraps_of_answers_never_raise(
    content_type: bytes, chunks: list[bytes], complete: bool
) -> None:
    """Pieces of answers in any order can be metered."""
    account = measure(content_type, chunks, complete=complete)

    assert account.source in ("reported", "partial", "missing")
    assert (account.source == "missing") == (account.usage is None)


@pytest.mark.parametrize("content_type", [JSON, SSE])
def test_nesting_without_end_does_not_raise(content_type: bytes) -> None:
    """An answer nested deeper than can be followed is unreadable."""
    data = b'data: {"error": 1, "usage": {"prompt_tokens": %s' % (b'{"a":' * 100_000)
    data = data if content_type == SSE else data.removeprefix(b"data: ")

    account = measure(content_type, [data])

    assert outcome(account) == (None, "missing", None, False, 1)


@pytest.mark.parametrize("field", ["usage", "choices", "response", "error", "x"])
@pytest.mark.parametrize("content_type", [JSON, SSE, b"text/plain"])
def test_a_document_that_is_nested_too_deeply_is_unreadable(
    content_type: bytes, field: str
) -> None:
    """It has come to its end, and is mended in vain."""
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
def test_a_meter_is_chosen_by_the_media_type(content_type: bytes, kind: type) -> None:
    """Parameters and case do not matter; what no vendor answers with has no meter."""
    assert type(meter_for(content_type)) is kind


def test_each_answer_has_a_meter_of_its_own() -> None:
    """Two answers of one media type do not share their account."""
    assert meter_for(JSON) is not meter_for(JSON)


UNTOLD = [b"", b"text/plain", b"text/plain; charset=utf-8", b"application/octet-stream"]


TOLD = {name: body for name, body in BODIES.items() if body.content_type != FRAMES}


READ = {name: body for name, body in WITH_OUTPUT.items() if body.content_type != FRAMES}


PAGES = [b"hello", b"<html>", b"date: today", b"even", b"data", b"i", b"7", b"\xff{", b"DATA: 1"]


sniffed_bodies = pytest.mark.parametrize("body", TOLD.values(), ids=TOLD)


untold = pytest.mark.parametrize("content_type", UNTOLD)


untold_or_json = pytest.mark.parametrize("content_type", [*UNTOLD, JSON])


def source(content_type: bytes) -> str:
    """Return how a complete usage is reported in a body of `content_type`."""
    return "reported" if content_type == JSON else "partial"


@untold
@pytest.mark.parametrize("body", [CHAT_JSON, CHAT_SSE], ids=["json", "a stream"])
def test_usage_in_sniffed_body_is_partial_and_doubtful(content_type: bytes, body: Body) -> None:
    """If the media type does not name a model response, the model may have written its text."""
    account = measure(content_type, [body.data])

    assert (account.usage, account.source, account.doubtful) == (body.usage, "partial", True)
    assert measure(body.content_type, [body.data]).doubtful is False


@sniffed_bodies
@untold_or_json
def test_an_answer_is_known_by_its_first_bytes(content_type: bytes, body: Body) -> None:
    """Codex's streams have no media type, and gateways call them and JSON what they like."""
    for before in (b"", b"\xef\xbb\xbf", b" \r\n\n"):
        account = measure(content_type, [before + body.data])

        assert outcome(account) == (body.usage, source(content_type), body.model, False, 0)
        assert account.is_response is True


@sniffed_bodies
@untold_or_json
@settings(max_examples=30)  # for each pair of a body and a media type
@given(st.data())
def test_any_chunking_of_a_sniffed_body_gives_the_same_account(
    content_type: bytes, body: Body, data: st.DataObject
) -> None:
    """Also where the first bytes are cut, or all of it is."""
    end = data.draw(st.integers(0, len(body.data)) | st.just(len(body.data)))
    complete = data.draw(st.booleans())
    chunks = data.draw(chunkings(body.data[:end]))

    account = measure(content_type, chunks, complete=complete)

    whole = measure(content_type, [body.data[:end]], complete=complete)
    assert outcome(account) == outcome(whole)
    assert account.is_response == whole.is_response


@pytest.mark.parametrize(
    "line",
    [b"data:", b"data: ", b"event: a\ndata:", b"id:1\ndata:", b"retry: 3\ndata:", b":\ndata:"],
)
@untold_or_json
def test_a_stream_may_begin_with_any_of_its_lines(content_type: bytes, line: bytes) -> None:
    """A comment, or a field of an event; one byte at a time."""
    stream = line + b'{"choices": [], "usage": {"prompt_tokens": 5}}\n\n'

    account = measure(content_type, split_at(stream, range(1, len(stream))))

    assert outcome(account) == (TokenUsage(input=5), source(content_type), None, False, 0)


@pytest.mark.parametrize("body", READ.values(), ids=READ)
@untold_or_json
def test_the_time_of_the_first_words_can_be_told(content_type: bytes, body: Body) -> None:
    """As if the answer were called by its name."""
    meters = [meter_for(each) for each in (content_type, body.content_type)]

    for place in range(len(body.data)):
        waiting = set()
        for meter in meters:
            assert meter is not None
            meter.feed(body.data[place : place + 1])
            waiting.add(meter.awaits_output)
        assert len(waiting) == 1


@untold
def test_a_stream_costs_no_more_once_it_is_known(content_type: bytes) -> None:
    """What feeds it is the stream's own meter."""
    sniffing, known = meter_for(content_type), meter_for(SSE)
    assert sniffing is not None
    assert known is not None

    sniffing.feed(CHAT_SSE.before)

    assert sniffing.feed.__func__ is known.feed.__func__  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("complete", [True, False])
@untold
def test_any_other_page_is_no_answer(content_type: bytes, complete: bool, page: bytes) -> None:
    """Nothing is looked at, nothing is missing, and nobody waits for a model's words."""
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
@untold
def test_a_page_that_begins_like_an_answer_is_none(
    content_type: bytes, complete: bool, page: bytes
) -> None:
    """Unless it shows a model, also where it cannot be read."""
    account = measure(content_type, split_at(page, range(len(page))), complete=complete)

    assert (account.usage, account.source, account.is_response) == (None, "missing", False)


@pytest.mark.parametrize("page", PAGES)
def test_json_that_is_none_is_unreadable(page: bytes) -> None:
    """What is called JSON should be; but nobody is to blame for what was cut."""
    for data in (page, page + b" and more of it" * 100):
        chunks = split_at(data, range(len(data)))
        assert outcome(measure(JSON, chunks)) == (None, "missing", None, False, 1)
        assert outcome(measure(JSON, chunks, complete=False)) == (None, "missing", None, False, 0)


@untold
def test_a_stream_that_only_shows_a_model_misses_its_usage(content_type: bytes) -> None:
    """It was not asked for, as ever."""
    account = measure(content_type, [event({"choices": [{"delta": {"content": "P"}}]})])

    assert (account.source, account.is_response) == ("missing", True)


@untold_or_json
def test_a_compressed_answer_is_known_by_what_it_says(content_type: bytes) -> None:
    """And not by the first bytes on the wire."""
    for body in (CHAT_SSE, CHAT_JSON):
        stream = gzip.compress(body.data)
        account = measure(content_type, split_at(stream, range(len(stream))), encoding=b"gzip")

        assert outcome(account) == (body.usage, source(content_type), body.model, False, 0)


@untold
def test_a_page_in_a_coding_that_nobody_reads_has_no_meter(content_type: bytes) -> None:
    """Nothing says that it is a model's."""
    assert meter_for(content_type, b"compress") is None
    assert meter_for(JSON, b"compress") is not None


@untold_or_json
def test_white_space_without_end_is_not_held(content_type: bytes) -> None:
    """It may be all that a server sends to keep a connection open."""
    meter = meter_for(content_type)
    assert meter is not None
    held = held_after(100, lambda: meter.feed(b" " * 10_000))
    meter.feed(CHAT_JSON.data)
    meter.finish(complete=True)

    assert held < 20_000
    assert meter.account.usage == CHAT_JSON.usage


@untold
def test_a_page_is_not_held(content_type: bytes) -> None:
    """However long it is."""
    meter = meter_for(content_type)
    assert meter is not None
    held = held_after(100, lambda: meter.feed(bytes(10_000)))

    assert held < 5_000


@untold_or_json
@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_random_bytes_of_a_sniffed_body_never_raise(
    content_type: bytes, chunks: list[bytes], complete: bool
) -> None:
    """Whatever it is, no usage is made up."""
    account = measure(content_type, chunks, complete=complete)

    assert (account.usage, account.source) == (None, "missing")
