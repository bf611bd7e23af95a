"""The meter of JSON answers: what is particular to an array that streams."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.json_meter import JsonMeter

from .bodies import JSON, account, cut, measure


def element(text: str, **counts: int) -> bytes:
    """One answer of Gemini."""
    candidates = [{"content": {"parts": [{"text": text}]}}] if text else []
    payload: dict[str, Any] = {"candidates": candidates, "modelVersion": "gemini-2.5-flash"}
    return json.dumps({**payload, "usageMetadata": counts} if counts else payload).encode()


FIRST = element("", promptTokenCount=7)
WORDS = element("Paris.", promptTokenCount=7, candidatesTokenCount=9)
LAST = element("", promptTokenCount=7, thoughtsTokenCount=4)


def test_the_last_whole_element_counts() -> None:
    """Gemini's counts may fall, and fields may vanish."""
    ledger = measure(JSON, [b"[%s,%s,%s]" % (FIRST, WORDS, LAST)])

    expected = TokenUsage(input=7, output=4, reasoning=4)
    assert account(ledger) == (expected, "reported", "gemini-2.5-flash", False, 0)


@pytest.mark.parametrize("complete", [True, False])
def test_an_array_that_was_cut_is_partial(complete: bool) -> None:
    """Its last whole element counts; where the body came to its end it is malformed."""
    ledger = measure(JSON, [b"[%s,%s,%s" % (FIRST, WORDS, LAST[:-3])], complete=complete)

    expected = TokenUsage(input=7, output=9)
    assert account(ledger) == (expected, "partial", "gemini-2.5-flash", False, int(complete))


def test_an_array_may_be_longer_than_any_document() -> None:
    """Only its elements are bounded."""
    meter = JsonMeter(longest=200)

    for chunk in (b"[", FIRST, *[b",\r\n" + WORDS] * 50, b"," + LAST + b"]\n"):
        meter.feed(chunk)
    meter.finish(complete=True)

    assert meter.ledger.usage == TokenUsage(input=7, output=4, reasoning=4)
    assert (meter.ledger.source, meter.ledger.unreadable) == ("reported", 0)


def test_an_element_that_is_too_long_is_skipped() -> None:
    """It is counted, and the others are read."""
    meter = JsonMeter(longest=200)

    meter.feed(b"[%s,%s,%s]" % (FIRST, element("x" * 200, promptTokenCount=99), LAST))
    meter.finish(complete=True)

    assert meter.ledger.usage == TokenUsage(input=7, output=4, reasoning=4)
    assert (meter.ledger.source, meter.ledger.unreadable) == ("reported", 1)


def test_the_time_of_the_first_words_of_an_array_can_be_told() -> None:
    """Its elements are read as they come."""
    meter = JsonMeter()
    waiting = []

    for chunk in (b" \n[", FIRST, b",", WORDS[:-1], WORDS[-1:], b",", LAST, b"]"):
        meter.feed(chunk)
        waiting.append(meter.waiting)

    assert waiting == [True] * 4 + [False] * 4


def test_an_array_that_ends_with_an_error_failed() -> None:
    """Gemini tells of it in an element of its own."""
    error = b'{"error": {"code": 503, "status": "UNAVAILABLE"}}'

    assert measure(JSON, [b"[%s,%s]" % (WORDS, error)]).failed is True
    assert measure(JSON, [b"[%s,%s]" % (error, WORDS)]).failed is False


def test_an_error_that_is_the_whole_answer_is_no_failure_of_a_stream() -> None:
    """Nothing had begun well."""
    assert measure(JSON, [b'{"error": {"code": 400}}']).failed is False


@pytest.mark.parametrize(
    "data", [b"[]", b"[1, 2]", b'["usage"]', b"[[%s]]" % LAST, b"[]]", b'[{"a": 1}]']
)
def test_an_array_of_anything_else_says_nothing(data: bytes) -> None:
    """Applications answer with arrays too."""
    assert account(measure(JSON, [data])) == (None, "missing", None, False, 0)


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
        ledger = measure(JSON, cut(data, range(size, len(data), size)))
        assert ledger.usage == TokenUsage(input=7, output=4, reasoning=4)
        assert ledger.source == "reported"


def test_white_space_without_end_is_not_held() -> None:
    """It may be all that a server sends to keep a connection open."""
    meter = JsonMeter(longest=1000)
    tracemalloc.start()
    try:
        for _ in range(100):
            meter.feed(b" " * 10_000)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    meter.feed(LAST)
    meter.finish(complete=True)

    assert held < 20_000
    assert meter.ledger.usage == TokenUsage(input=7, output=4, reasoning=4)
