"""Budget of work for one response."""

from __future__ import annotations

import gzip
import json
import random

import pytest

from tokenpulse_mw.usage import TokenUsage, meter_for
from tokenpulse_mw.usage.bounds import (
    MAX_BODY_WORK_NS,
    MAX_BODY_WORK_PER_BYTE_NS,
    MAX_BUILT_VALUES,
    MAX_FEED_WORK_NS,
)
from tokenpulse_mw.usage.budget import Budget, slices
from tokenpulse_mw.usage.document import objects, read, read_events
from tokenpulse_mw.usage.formats import has_output

from .bodies import FRAMES, JSON, SSE, event, frame, measure, outcome

RESPONSE = {"model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
USAGE = TokenUsage(input=3, output=4)
# Events that look like usage and are not, more than one feed may read.
NO_USAGE = event({"a_tokens": 1}) * 20_000


def test_feed_work_is_bounded() -> None:
    """A feed may spend exactly its maximum of work."""
    budget = Budget()

    assert budget.spend(MAX_FEED_WORK_NS) is True
    assert budget.spend(1) is False
    assert budget.exhausted is True


def test_exhausted_budget_stays_exhausted() -> None:
    """A new chunk does not renew an exhausted budget."""
    budget = Budget()
    budget.spend(MAX_FEED_WORK_NS + 1)

    budget.start(1000)

    assert budget.spend(1) is False


def test_body_work_is_bounded_by_a_constant_and_its_bytes() -> None:
    """The work for a body does not depend on the number of chunks."""
    budget, spent = Budget(), 0

    while budget.spend(1_000_000):
        spent += 1_000_000
        budget.start(100)

    most = MAX_BODY_WORK_NS + MAX_BODY_WORK_PER_BYTE_NS * 100 * (spent // 1_000_000)
    assert most - 1_000_000 <= spent <= most


def test_only_compressed_bytes_of_a_body_start_a_feed() -> None:
    """Decoded bytes do not add to the budget."""
    budget = Budget(encoded=True)
    budget.spend(MAX_FEED_WORK_NS)
    budget.start(1000)
    assert budget.spend(1) is False

    budget = Budget(encoded=True)
    budget.spend(MAX_FEED_WORK_NS)
    budget.start(1000, encoded=True)
    assert budget.spend(1) is True


def test_slices_are_the_whole_data() -> None:
    """All slices have the given size, except that the last one may be shorter."""
    assert list(slices(b"abcdefg", 3)) == [b"abc", b"def", b"g"]
    assert list(slices(b"", 3)) == []


@pytest.mark.parametrize(
    ("content_type", "encoding", "first", "hostile", "model"),
    [
        (SSE, b"", event(RESPONSE), NO_USAGE * 5, "m"),
        (SSE, b"gzip", gzip.compress(event(RESPONSE)), gzip.compress(NO_USAGE * 5), "m"),
        (
            JSON,
            b"",
            b'[{"modelVersion":"m","usageMetadata":{"promptTokenCount":3,'
            b'"candidatesTokenCount":4}}',
            b",{}" * 1_000_000,
            "m",
        ),
        (
            FRAMES,
            b"",
            frame(b"", b'{"usage":{"inputTokens":3,"outputTokens":4}}'),
            frame(b"", b"") * 100_000,
            None,
        ),
    ],
    ids=["events", "compressed", "array", "frames"],
)
def test_usage_before_exhausted_budget_counts(
    content_type: bytes, encoding: bytes, first: bytes, hostile: bytes, model: str | None
) -> None:
    """The body is counted as unreadable once, and its usage is partial."""
    chunks = [first, hostile, hostile[:1000], event(RESPONSE)]
    if content_type == SSE and not encoding:
        chunks = [first, hostile, *[event(RESPONSE)] * 1000]

    account = measure(content_type, chunks, encoding=encoding)

    assert account.unreadable == 1
    assert account.complete is False
    assert (account.usage, account.source, account.model) == (USAGE, "partial", model)


def test_compressed_document_that_exhausts_its_budget_is_unreadable_once() -> None:
    """A single compressed chunk is decoded only up to the budget."""
    body = (
        b'{"a":"%s","usage":{"prompt_tokens":3}}'
        % random.Random(1).randbytes(2 << 20).hex().encode()
    )

    account = measure(JSON, [gzip.compress(body, 1)], encoding=b"gzip")

    assert (account.source, account.complete, account.unreadable) == ("missing", False, 1)


@pytest.mark.parametrize("field", ["choices", "output", "delta", "candidates", "outputs"])
def test_output_of_very_many_values_is_output(field: str) -> None:
    """A field with too many values counts as output, and no objects are created for it."""
    values = [0] * (MAX_BUILT_VALUES + 1)
    content = {"values": values} if field in ("output", "delta") else values

    (document,) = read_events(json.dumps({field: content}).encode())

    assert has_output(document) is True
    assert objects(getattr(document, field)) == []


def test_small_fields_of_a_large_document_are_read() -> None:
    """Usage is read from a document with any number of values in other fields."""
    (document,) = read(
        json.dumps(
            {"x": [0] * 5000, "error": [0] * 5000, "choices": [0] * 5000, **RESPONSE}
        ).encode()
    )

    assert (document.usage, document.model, document.error) == (*reversed(RESPONSE.values()), None)
    assert len(bytes(document.choices)) > 5000


def test_usage_after_exhausted_budget_is_ignored() -> None:
    """No more of the body is read after the budget is exhausted."""
    account = measure(SSE, [NO_USAGE * 5, event(RESPONSE)])

    assert outcome(account)[:2] == (None, "missing")
    assert account.unreadable == 1


def test_stream_that_exhausted_its_budget_is_not_held() -> None:
    """Chunks after the exhaustion are discarded."""
    meter = meter_for(SSE)
    assert meter is not None
    meter.feed(NO_USAGE * 5)

    for _ in range(100):
        meter.feed(b"x" * 50_000)

    assert len(meter._held) <= 50_000  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [16 * 1024, 1024 * 1024, 20 * 1024 * 1024])
def test_image_in_one_chunk_is_within_the_budget(size: int) -> None:
    """Images of many megabytes are read as JSON, with the usage at the end."""
    usage = b'"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}'
    body = b'{"created":1,"data":[{"b64_json":"%s"}],%s}' % (b"A" * size, usage)

    assert outcome(measure(JSON, [body]))[:2] == (USAGE, "reported")
    assert measure(JSON, [body]).unreadable == 0


@pytest.mark.slow
def test_compressed_embeddings_of_64_mib_are_within_the_budget() -> None:
    """Embeddings of 64 MiB are read, if chunks have at most 64 KiB as in HTTP clients."""
    chance = random.Random(1)
    numbers = b"".join(b"%.9f," % chance.uniform(-1, 1) for _ in range(20_000))
    end = b'0],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}'
    vectors = b'{"object":"list","data":[' + numbers * ((64 << 20) // len(numbers) - 1)
    body = gzip.compress(vectors + end, 1)

    account = measure(JSON, list(slices(body, 64 << 10)), encoding=b"gzip")

    assert (account.usage, account.source) == (TokenUsage(input=3), "reported")


@pytest.mark.parametrize("chunk", [100, 16 << 10, 1 << 20])
def test_long_stream_with_usage_in_each_event_is_within_the_budget(
    chunk: int,
) -> None:
    """Usage in each of thousands of events, as sent by vLLM and Gemini, is read."""
    body = b"".join(
        event({"choices": [{"delta": {"content": f"word {n}"}}], **RESPONSE}) for n in range(8_000)
    )

    account = measure(SSE, list(slices(body, chunk)))

    assert outcome(account) == (USAGE, "reported", "m", False, 0)


@pytest.mark.parametrize("chunk", [100, 16 << 10, 1 << 20])
def test_long_array_is_within_the_budget(chunk: int) -> None:
    """Gemini streams an array if server-sent events are not requested."""
    element = (
        b'{"candidates":[{"content":{"parts":[{"text":"some words"}],"role":"model"},"index":0}],'
        b'"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4,"totalTokenCount":7,'
        b'"promptTokensDetails":[{"modality":"TEXT","tokenCount":3}]},"modelVersion":"m"}'
    )
    body = b"[" + b",\r\n".join([element] * 3_000) + b"]"

    account = measure(JSON, list(slices(body, chunk)))

    assert outcome(account) == (USAGE, "reported", "m", False, 0)
