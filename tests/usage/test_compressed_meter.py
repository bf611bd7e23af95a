"""Meter of compressed responses."""

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

from ..support.chunks import chunkings, chunks_of, prefixes, split_at
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


def gzip_meter(meter: JsonMeter | SSEMeter, *, max_bytes: int) -> CompressedMeter:
    """Return a meter that reads gzip and decodes at most `max_bytes` bytes."""
    factories = decoders_for(b"gzip")
    assert factories is not None
    return CompressedMeter(meter, [factory() for factory in factories], max_bytes=max_bytes)


@every_body
@every_coding
def test_compressed_response_is_read_like_a_plain_one(
    body: Body, coding: bytes, encode: Encode
) -> None:
    """A response has the same account in every coding."""
    account = measure(body.content_type, [encode(body.data)], encoding=coding)

    assert outcome(account) == (body.usage, "reported", body.model, False, 0)


@every_coding
@given(st.sampled_from(list(BODIES.values())), st.data())
def test_any_chunking_of_compressed_response_gives_the_same_account(
    coding: bytes, encode: Encode, body: Body, data: st.DataObject
) -> None:
    """The account does not depend on the chunks or on the position of the end."""
    stream = data.draw(prefixes(encode(body.data)))
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
    """Usage counts if only the end of the coding is missing."""
    account = measure(SSE, [gzipped(CHAT_SSE.data)[:-8]], complete=False, encoding=b"gzip")

    assert outcome(account) == (CHAT_SSE.usage, "partial", CHAT_SSE.model, False, 0)


@every_coding
@given(st.integers(0, 2**32), st.data())
def test_corrupt_response_never_raises(
    coding: bytes, encode: Encode, seed: int, data: st.DataObject
) -> None:
    """Changed bits of a compressed body raise no error."""
    stream = bytearray(encode(CHAT_SSE.data))
    chance = random.Random(seed)
    for _ in range(chance.randrange(1, 4)):
        stream[chance.randrange(len(stream))] ^= 1 << chance.randrange(8)

    account = measure(SSE, data.draw(chunkings(bytes(stream))), encoding=coding)

    assert account.source in ("reported", "partial", "missing")


def test_corrupt_response_is_unreadable_once() -> None:
    """Usage before the corruption counts, and later chunks are ignored."""
    chunks = [gzipped(USAGE)[:-8], b"\xff" * 100, b"\xff" * 100, gzipped(USAGE)]

    account = measure(SSE, chunks, encoding=b"gzip")

    assert outcome(account) == (TokenUsage(input=3, output=4), "partial", None, False, 1)


def test_awaits_output_ends_with_the_first_output() -> None:
    """The first output is recognized in a coding that is flushed."""
    compressor = zlib.compressobj(wbits=31)
    meter = meter_for(SSE, b"gzip")
    assert meter is not None
    awaiting = []

    for part in (CHAT_SSE.before, CHAT_SSE.first, CHAT_SSE.after):
        awaiting.append(meter.awaits_output)
        meter.feed(compressor.compress(part) + compressor.flush(zlib.Z_SYNC_FLUSH))
    meter.feed(compressor.flush())
    meter.finish(complete=True)

    assert awaiting == [True, True, False]
    assert meter.account.usage == CHAT_SSE.usage


def test_empty_body_is_not_unreadable() -> None:
    """An empty body is not a cut coding."""
    assert outcome(measure(JSON, [], encoding=b"gzip")) == (None, "missing", None, False, 0)
    assert outcome(measure(JSON, [b""], encoding=b"gzip")) == (None, "missing", None, False, 0)


def test_decoded_bytes_are_bounded() -> None:
    """Decoding ends after `max_bytes` bytes, and usage before that counts."""
    pings = b": ping\n\n" * 5000
    meter = gzip_meter(SSEMeter(), max_bytes=len(pings))

    for chunk in split_at(gzipped(USAGE + pings * 3), range(50, 300, 50)):
        meter.feed(chunk)
    meter.finish(complete=True)

    assert outcome(meter.account) == (TokenUsage(input=3, output=4), "partial", None, False, 1)


def test_response_of_max_bytes_is_read() -> None:
    """A body that decodes to exactly `max_bytes` is read."""
    for max_bytes, source in ((len(USAGE), "reported"), (len(USAGE) - 1, "missing")):
        meter = gzip_meter(SSEMeter(), max_bytes=max_bytes)

        meter.feed(gzip.compress(USAGE))
        meter.finish(complete=True)

        assert meter.account.source == source


def test_decompression_bomb_is_not_decoded_to_its_end() -> None:
    """The number of decoded bytes is bounded by the number of compressed bytes."""
    bomb = gzip.compress(b": ping\n\n" * 1_000_000)
    meter = gzip_meter(SSEMeter(), max_bytes=64 * 1024 * 1024)

    meter.feed(gzip.compress(USAGE) + bomb)
    meter.finish(complete=True)

    assert outcome(meter.account) == (TokenUsage(input=3, output=4), "partial", None, False, 1)


def test_limit_of_decoded_bytes_grows_with_the_compressed_bytes() -> None:
    """A long response is decoded to its end."""
    chance = random.Random(7)
    comments = b"".join(b": ping %d\n\n" % chance.randrange(10**9) for _ in range(120_000))
    stream = gzipped(comments + USAGE)

    account = measure(SSE, chunks_of(stream, 5000), encoding=b"gzip")

    assert len(comments) > 2 * 1024 * 1024
    assert outcome(account) == (TokenUsage(input=3, output=4), "reported", None, False, 0)


@pytest.mark.slow
@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_highly_compressed_stream_is_decoded_to_its_end(coding: str) -> None:
    """Streams of Azure repeat each event, and brotli reduces them to a hundredth."""
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
        chunk = event({"choices": choices, "model": "gpt-4o-2024-11-20", "usage": None})
        chunks.append(compress(chunk * 4) + flush())

    account = measure(SSE, [*chunks, compress(USAGE), end()], encoding=coding.encode())

    expected = (TokenUsage(input=3, output=4), "reported", "gpt-4o-2024-11-20", False, 0)
    assert outcome(account) == expected


_VOCABULARY = ["pulse", "token", "meter", "alert", "limit", "route"]


def _compressor(coding: str) -> tuple[Any, Any, Any]:
    """Return functions that compress, flush and finish."""
    if coding == "gzip":
        stream = zlib.compressobj(wbits=31)
        return stream.compress, lambda: stream.flush(zlib.Z_SYNC_FLUSH), stream.flush
    brotli = pytest.importorskip("brotli", reason="install the package brotli").Compressor()
    return brotli.process, brotli.flush, brotli.finish


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_compressed_chunks_may_be_any_bytes_like_object(
    coding: tuple[bytes, Encode], kind: Callable[[bytes], Any]
) -> None:
    """Applications also send bytearrays and memoryviews."""
    stream = coding[1](CHAT_SSE.data)
    chunks = [kind(chunk) for chunk in chunks_of(stream, 50)]

    assert measure(SSE, chunks, encoding=coding[0]).usage == CHAT_SSE.usage


def test_bytes_between_two_codings_are_bounded() -> None:
    """A bomb inside a bomb is not decoded to its end, even if it contains no bytes."""
    bomb = gzip.compress(gzip.compress(b"", mtime=0) * 200_000)

    account = measure(JSON, [bomb], encoding=b"gzip, gzip")

    assert outcome(account) == (None, "missing", None, False, 1)


@pytest.mark.parametrize("encoding", [b"compress", b"gzip, aws-chunked", b"x" * 500])
def test_unsupported_encoding_is_missing_and_not_unreadable(encoding: bytes) -> None:
    """A body in an unsupported coding is not read."""
    for content_type in (JSON, SSE):
        meter = meter_for(content_type, encoding)
        assert isinstance(meter, UnsupportedEncodingMeter)
        meter.feed(b"anything")
        meter.finish(complete=True)

        assert meter.awaits_output is False
        assert outcome(meter.account) == (None, "missing", None, False, 0)
        assert meter.account.complete is True


def test_compressed_page_has_no_meter() -> None:
    """A media type of no vendor has no meter in any coding."""
    assert meter_for(b"text/html", b"gzip") is None
    assert meter_for(b"text/html", b"compress") is None


@pytest.mark.parametrize("encoding", [b"", b"identity", b" Identity ", b"none", b"UTF-8"])
def test_identity_encoding_has_the_plain_meter(encoding: bytes) -> None:
    """Encodings that change no bytes need no decoder."""
    assert isinstance(meter_for(JSON, encoding), JsonMeter)
    assert measure(JSON, [CHAT_JSON.data], encoding=encoding).usage == CHAT_JSON.usage


def test_concurrent_responses_have_separate_decoders() -> None:
    """Chunks of two responses do not mix."""
    first, second = meter_for(JSON, b"gzip"), meter_for(JSON, b"gzip")
    assert first is not None
    assert second is not None
    data = gzipped(CHAT_JSON.data)

    for chunk in chunks_of(data, 20):
        first.feed(chunk)
        second.feed(chunk)
    first.finish(complete=True)
    second.finish(complete=True)

    assert (first.account.usage, second.account.usage) == (CHAT_JSON.usage, CHAT_JSON.usage)
