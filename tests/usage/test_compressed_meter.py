"""Compressed answers: read through their codings, and in bounded memory."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage, meter_for
from tokenpulse_mw.usage.compressed_meter import CompressedMeter, UnsupportedEncodingMeter
from tokenpulse_mw.usage.decompress import decoders_for
from tokenpulse_mw.usage.json_meter import JsonMeter
from tokenpulse_mw.usage.sse_meter import SSEMeter

from ..support.chunks import chunkings, chunks_of, split_at
from .bodies import (
    ANTHROPIC_SSE,
    BODIES,
    CHAT_JSON,
    CHAT_SSE,
    JSON,
    SSE,
    Body,
    event,
    measure,
    outcome,
)
from .codings import CODINGS, WHOLE, Encode, gzipped

USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})


every_body = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)


every_coding = pytest.mark.parametrize(("coding", "encode"), CODINGS.values(), ids=CODINGS)


def encoded(meter: JsonMeter | SSEMeter, *, most: int) -> CompressedMeter:
    """A meter that reads through gzip, and decodes so many bytes."""
    makes = decoders_for(b"gzip")
    assert makes is not None
    return CompressedMeter(meter, [make() for make in makes], most=most)


@every_body
@every_coding
def test_compressed_response_is_read_like_a_plain_one(
    body: Body, coding: bytes, encode: Encode
) -> None:
    """The account is the same in every coding."""
    account = measure(body.content_type, [encode(body.data)], encoding=coding)

    assert outcome(account) == (body.usage, "reported", body.model, False, 0)


@every_coding
@given(st.sampled_from(list(BODIES.values())), st.data())
def test_any_chunking_of_compressed_response_gives_the_same_account(
    coding: bytes, encode: Encode, body: Body, data: st.DataObject
) -> None:
    """The position of the cuts and of the end does not matter."""
    stream = encode(body.data)
    stream = stream[: data.draw(st.integers(0, len(stream)) | st.just(len(stream)))]
    complete = data.draw(st.booleans())
    chunks = data.draw(chunkings(stream))

    account = measure(body.content_type, chunks, complete=complete, encoding=coding)

    whole = measure(body.content_type, [stream], complete=complete, encoding=coding)
    assert outcome(account) == outcome(whole)


@pytest.mark.parametrize(("coding", "encode"), WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("complete", [True, False])
def test_cut_compressed_response_is_partial_or_missing(
    coding: bytes, encode: Encode, complete: bool
) -> None:
    """A body that ends inside a coding is not complete, even if the server ends it."""
    stream = encode(ANTHROPIC_SSE.data)
    for end in range(1, len(stream) - 10, 3):
        account = measure(SSE, [stream[:end]], complete=complete, encoding=coding)

        usage = account.usage or TokenUsage()
        assert account.source == ("missing" if account.usage is None else "partial")
        assert usage.input <= ANTHROPIC_SSE.usage.input
        assert usage.output <= ANTHROPIC_SSE.usage.output
        assert account.unreadable == complete


def test_usage_before_the_cut_counts() -> None:
    """Only the end of the coding is missing."""
    account = measure(SSE, [gzipped(CHAT_SSE.data)[:-8]], complete=False, encoding=b"gzip")

    assert outcome(account) == (CHAT_SSE.usage, "partial", CHAT_SSE.model, False, 0)


@every_coding
@given(st.integers(0, 2**32), st.data())
def test_corrupt_response_never_raises(
    coding: bytes, encode: Encode, seed: int, data: st.DataObject
) -> None:
    """Usage before the corruption counts."""
    stream = bytearray(encode(CHAT_SSE.data))
    chance = random.Random(seed)
    for _ in range(chance.randrange(1, 4)):
        stream[chance.randrange(len(stream))] ^= 1 << chance.randrange(8)

    account = measure(SSE, data.draw(chunkings(bytes(stream))), encoding=coding)

    assert account.source in ("reported", "partial", "missing")


def test_corrupt_response_is_unreadable_once() -> None:
    """Later chunks are ignored."""
    chunks = [gzipped(USAGE)[:-8], b"\xff" * 100, b"\xff" * 100, gzipped(USAGE)]

    account = measure(SSE, chunks, encoding=b"gzip")

    assert outcome(account) == (TokenUsage(input=3, output=4), "partial", None, False, 1)


def test_awaits_output_ends_with_the_first_output() -> None:
    """The first output is seen through a coding that is flushed."""
    compressor = zlib.compressobj(wbits=31)
    meter = meter_for(SSE, b"gzip")
    assert meter is not None
    waiting = []

    for part in (CHAT_SSE.before, CHAT_SSE.first, CHAT_SSE.after):
        waiting.append(meter.awaits_output)
        meter.feed(compressor.compress(part) + compressor.flush(zlib.Z_SYNC_FLUSH))
    meter.feed(compressor.flush())
    meter.finish(complete=True)

    assert waiting == [True, True, False]
    assert meter.account.usage == CHAT_SSE.usage


def test_empty_body_is_not_unreadable() -> None:
    """It is not cut, because it has not begun."""
    assert outcome(measure(JSON, [], encoding=b"gzip")) == (None, "missing", None, False, 0)
    assert outcome(measure(JSON, [b""], encoding=b"gzip")) == (None, "missing", None, False, 0)


def test_decoded_bytes_are_bounded() -> None:
    """Excess bytes are unreadable once; usage before them counts."""
    words = b": ping\n\n" * 5000
    meter = encoded(SSEMeter(), most=len(words))

    for chunk in split_at(gzipped(USAGE + words * 3), range(50, 300, 50)):
        meter.feed(chunk)
    meter.finish(complete=True)

    assert outcome(meter.account) == (TokenUsage(input=3, output=4), "partial", None, False, 1)


def test_response_of_the_limit_is_read() -> None:
    """`most` is inclusive."""
    for most, source in ((len(USAGE), "reported"), (len(USAGE) - 1, "missing")):
        meter = encoded(SSEMeter(), most=most)

        meter.feed(gzip.compress(USAGE))
        meter.finish(complete=True)

        assert meter.account.source == source


def test_an_answer_that_says_much_more_than_its_size_is_not_decoded_to_its_end() -> None:
    """A few bytes cost no more time than an answer of their size could."""
    bomb = gzip.compress(b": ping\n\n" * 1_000_000)
    meter = SSEMeter()
    read = encoded(meter, most=64 * 1024 * 1024)

    read.feed(gzip.compress(USAGE) + bomb)
    read.finish(complete=True)

    assert outcome(read.account) == (TokenUsage(input=3, output=4), "partial", None, False, 1)


def test_a_long_answer_earns_what_it_says() -> None:
    """The more of it has come, the more of it is decoded."""
    chance = random.Random(7)
    words = b"".join(b": ping %d\n\n" % chance.randrange(10**9) for _ in range(120_000))
    stream = gzipped(words + USAGE)

    account = measure(SSE, chunks_of(stream, 5000), encoding=b"gzip")

    assert len(words) > 2 * 1024 * 1024
    assert outcome(account) == (TokenUsage(input=3, output=4), "reported", None, False, 0)


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_an_honest_stream_may_be_compressed_much(coding: str) -> None:
    """Azure repeats itself in every event, and brotli makes a hundredth of it."""
    compress, flush, end = _compressor(coding)
    safe = {"filtered": False, "severity": "safe"}
    filters = dict.fromkeys(("hate", "self_harm", "sexual", "violence"), safe)
    chance = random.Random(3)
    chunks = []
    for _ in range(5000):
        choices = [
            {
                "content_filter_offsets": {"check_offset": 0, "start_offset": 0},
                "content_filter_results": filters,
                "delta": {"content": f" {chance.choice(_VOCABULARY)}"},
                "finish_reason": None,
                "index": 0,
                "logprobs": None,
            }
        ]
        said = event({"choices": choices, "model": "gpt-4o-2024-11-20", "usage": None})
        chunks.append(compress(said * 4) + flush())

    account = measure(SSE, [*chunks, compress(USAGE), end()], encoding=coding.encode())

    expected = (TokenUsage(input=3, output=4), "reported", "gpt-4o-2024-11-20", False, 0)
    assert outcome(account) == expected


_VOCABULARY = ["pulse", "token", "meter", "alert", "limit", "route"]


def _compressor(coding: str) -> tuple[Any, Any, Any]:
    """What compresses, what hands on all that was compressed, and what ends it."""
    if coding == "gzip":
        stream = zlib.compressobj(wbits=31)
        return stream.compress, lambda: stream.flush(zlib.Z_SYNC_FLUSH), stream.flush
    brotli = pytest.importorskip("brotli", reason="install the package brotli").Compressor()
    return brotli.process, brotli.flush, brotli.finish


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
@pytest.mark.parametrize("form", [bytearray, memoryview])
def test_the_bytes_of_a_compressed_answer_may_be_of_any_kind(
    coding: tuple[bytes, Encode], form: Callable[[bytes], Any]
) -> None:
    """Applications send bytearrays and memoryviews too."""
    stream = coding[1](CHAT_SSE.data)
    chunks = [form(chunk) for chunk in chunks_of(stream, 50)]

    assert measure(SSE, chunks, encoding=coding[0]).usage == CHAT_SSE.usage


def test_what_lies_between_two_codings_counts_too() -> None:
    """A bomb in a bomb may say nothing at all in the end."""
    bomb = gzip.compress(gzip.compress(b"", mtime=0) * 200_000)

    account = measure(JSON, [bomb], encoding=b"gzip, gzip")

    assert outcome(account) == (None, "missing", None, False, 1)


@pytest.mark.parametrize("encoding", [b"compress", b"gzip, aws-chunked", b"x" * 500])
def test_an_answer_in_an_unknown_coding_is_missing(encoding: bytes) -> None:
    """It is nobody's fault, and not counted as unreadable."""
    for content_type in (JSON, SSE):
        meter = meter_for(content_type, encoding)
        assert isinstance(meter, UnsupportedEncodingMeter)
        meter.feed(b"anything")
        meter.finish(complete=True)

        assert meter.awaits_output is False
        assert outcome(meter.account) == (None, "missing", None, False, 0)
        assert meter.account.complete is True


def test_a_body_that_no_vendor_answers_with_has_no_meter_in_any_coding() -> None:
    """A page is no answer of a model, however it is compressed."""
    assert meter_for(b"text/html", b"gzip") is None
    assert meter_for(b"text/html", b"compress") is None


@pytest.mark.parametrize("encoding", [b"", b"identity", b" Identity ", b"none", b"UTF-8"])
def test_a_plain_answer_needs_no_decoding(encoding: bytes) -> None:
    """Its meter is the plain one."""
    assert isinstance(meter_for(JSON, encoding), JsonMeter)
    assert measure(JSON, [CHAT_JSON.data], encoding=encoding).usage == CHAT_JSON.usage


def test_each_compressed_answer_has_a_decoder_of_its_own() -> None:
    """Two answers at once do not mix."""
    one, other = meter_for(JSON, b"gzip"), meter_for(JSON, b"gzip")
    assert one is not None
    assert other is not None
    data = gzipped(CHAT_JSON.data)

    for chunk in chunks_of(data, 20):
        one.feed(chunk)
        other.feed(chunk)
    one.finish(complete=True)
    other.finish(complete=True)

    assert (one.account.usage, other.account.usage) == (CHAT_JSON.usage, CHAT_JSON.usage)
