"""The meter of answers whose media type does not tell what they are."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory import held_after
from tokenpulse_mw.usage import TokenUsage, meter_for

from .bodies import (
    BODIES,
    CHAT_JSON,
    CHAT_SSE,
    FRAMES,
    JSON,
    SPOKEN,
    SSE,
    Body,
    account,
    chunkings,
    cut,
    event,
    measure,
)

UNTOLD = [b"", b"text/plain", b"text/plain; charset=utf-8", b"application/octet-stream"]
TOLD = {name: body for name, body in BODIES.items() if body.content_type != FRAMES}
READ = {name: body for name, body in SPOKEN.items() if body.content_type != FRAMES}
PAGES = [b"hello", b"<html>", b"date: today", b"even", b"data", b"i", b"7", b"\xff{", b"DATA: 1"]

every_body = pytest.mark.parametrize("body", TOLD.values(), ids=TOLD)
untold = pytest.mark.parametrize("content_type", UNTOLD)
untold_or_json = pytest.mark.parametrize("content_type", [*UNTOLD, JSON])


def source(content_type: bytes) -> str:
    """Return how a complete usage is reported in a body of `content_type`."""
    return "reported" if content_type == JSON else "partial"


@untold
@pytest.mark.parametrize("body", [CHAT_JSON, CHAT_SSE], ids=["json", "a stream"])
def test_usage_in_sniffed_body_is_partial_and_doubtful(content_type: bytes, body: Body) -> None:
    """If the media type does not name a model response, the model may have written its text."""
    ledger = measure(content_type, [body.data])

    assert (ledger.usage, ledger.source, ledger.doubtful) == (body.usage, "partial", True)
    assert measure(body.content_type, [body.data]).doubtful is False


@every_body
@untold_or_json
def test_an_answer_is_known_by_its_first_bytes(content_type: bytes, body: Body) -> None:
    """Codex's streams have no media type, and gateways call them and JSON what they like."""
    for before in (b"", b"\xef\xbb\xbf", b" \r\n\n"):
        ledger = measure(content_type, [before + body.data])

        assert account(ledger) == (body.usage, source(content_type), body.model, False, 0)
        assert ledger.is_answer is True


@every_body
@untold_or_json
@settings(max_examples=30)  # for each pair of a body and a media type
@given(st.data())
def test_any_chunking_gives_the_same_account(
    content_type: bytes, body: Body, data: st.DataObject
) -> None:
    """Also where the first bytes are cut, or all of it is."""
    end = data.draw(st.integers(0, len(body.data)) | st.just(len(body.data)))
    complete = data.draw(st.booleans())
    chunks = data.draw(chunkings(body.data[:end]))

    ledger = measure(content_type, chunks, complete=complete)

    whole = measure(content_type, [body.data[:end]], complete=complete)
    assert account(ledger) == account(whole)
    assert ledger.is_answer == whole.is_answer


@pytest.mark.parametrize(
    "line",
    [b"data:", b"data: ", b"event: a\ndata:", b"id:1\ndata:", b"retry: 3\ndata:", b":\ndata:"],
)
@untold_or_json
def test_a_stream_may_begin_with_any_of_its_lines(content_type: bytes, line: bytes) -> None:
    """A comment, or a field of an event; one byte at a time."""
    stream = line + b'{"choices": [], "usage": {"prompt_tokens": 5}}\n\n'

    ledger = measure(content_type, cut(stream, range(1, len(stream))))

    assert account(ledger) == (TokenUsage(input=5), source(content_type), None, False, 0)


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
            waiting.add(meter.waiting)
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
        for chunk in cut(data, range(len(data))):
            meter.feed(chunk)
            assert meter.waiting is True
        meter.finish(complete=complete)

        assert account(meter.ledger) == (None, "missing", None, False, 0)
        assert meter.ledger.is_answer is False
        assert meter.ledger.complete is complete


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
    ledger = measure(content_type, cut(page, range(len(page))), complete=complete)

    assert (ledger.usage, ledger.source, ledger.is_answer) == (None, "missing", False)


@pytest.mark.parametrize("page", PAGES)
def test_json_that_is_none_is_unreadable(page: bytes) -> None:
    """What is called JSON should be; but nobody is to blame for what was cut."""
    for data in (page, page + b" and more of it" * 100):
        chunks = cut(data, range(len(data)))
        assert account(measure(JSON, chunks)) == (None, "missing", None, False, 1)
        assert account(measure(JSON, chunks, complete=False)) == (None, "missing", None, False, 0)


@untold
def test_a_stream_that_only_shows_a_model_misses_its_usage(content_type: bytes) -> None:
    """It was not asked for, as ever."""
    ledger = measure(content_type, [event({"choices": [{"delta": {"content": "P"}}]})])

    assert (ledger.source, ledger.is_answer) == ("missing", True)


@untold_or_json
def test_a_compressed_answer_is_known_by_what_it_says(content_type: bytes) -> None:
    """And not by the first bytes on the wire."""
    for body in (CHAT_SSE, CHAT_JSON):
        stream = gzip.compress(body.data)
        ledger = measure(content_type, cut(stream, range(len(stream))), encoding=b"gzip")

        assert account(ledger) == (body.usage, source(content_type), body.model, False, 0)


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
    assert meter.ledger.usage == CHAT_JSON.usage


@untold
def test_a_page_is_not_held(content_type: bytes) -> None:
    """However long it is."""
    meter = meter_for(content_type)
    assert meter is not None
    held = held_after(100, lambda: meter.feed(bytes(10_000)))

    assert held < 5_000


@untold_or_json
@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_random_bytes_never_raise(content_type: bytes, chunks: list[bytes], complete: bool) -> None:
    """Whatever it is, no usage is made up."""
    ledger = measure(content_type, chunks, complete=complete)

    assert (ledger.usage, ledger.source) == (None, "missing")
