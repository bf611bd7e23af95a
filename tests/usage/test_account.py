"""What an answer has said so far, by the merge rule of each vendor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage, UsageAccount
from tokenpulse_mw.usage.bounds import MAX_USELESS_READS

from .bodies import account


def ledger_of(*payloads: Any) -> UsageAccount:
    """A ledger that has read these documents, of an answer that came to its end."""
    ledger = UsageAccount()
    for payload in payloads:
        ledger.read(json.dumps(payload).encode())
    ledger.complete = True
    return ledger


def streamed(*payloads: Any, batch: int = 1) -> UsageAccount:
    """A ledger that has heard these documents of a stream, so many of them at a time."""
    ledger = UsageAccount()
    said = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in payloads]
    for place in range(0, len(said), batch):
        ledger.add_usage_events(reversed(said[place : place + batch]))
    ledger.complete = True
    return ledger


def start(**usage: Any) -> dict[str, Any]:
    """Anthropic's first event."""
    return {"type": "message_start", "message": {"model": "claude-opus-4", "usage": usage}}


def delta(**usage: Any) -> dict[str, Any]:
    """Anthropic's last event but one."""
    return {"type": "message_delta", "delta": {}, "usage": usage}


def test_new_account_has_no_usage() -> None:
    """Usage is missing until the vendor reports it."""
    ledger = UsageAccount()

    assert (ledger.usage, ledger.source, ledger.model) == (None, "missing", None)
    assert (ledger.failed, ledger.complete, ledger.unreadable) == (False, False, 0)


def test_usage_of_complete_response_is_reported() -> None:
    """The vendor's own count of a complete response is exact."""
    ledger = ledger_of({"model": "gpt-5", "usage": {"prompt_tokens": 3, "completion_tokens": 4}})

    assert (ledger.usage, ledger.source) == (TokenUsage(input=3, output=4), "reported")
    assert ledger.model == "gpt-5"


def test_usage_of_incomplete_response_is_partial() -> None:
    """The vendor may have reported more."""
    ledger = ledger_of({"usage": {"prompt_tokens": 3}})
    ledger.complete = False

    assert (ledger.usage, ledger.source) == (TokenUsage(input=3), "partial")


def test_usage_of_message_start_is_partial() -> None:
    """Anthropic's message_start counts the output before it is written."""
    ledger = ledger_of(start(input_tokens=10, output_tokens=1))

    assert (ledger.usage, ledger.source) == (TokenUsage(input=10, output=1), "partial")
    assert ledger.model == "claude-opus-4"


def test_message_delta_overrides_message_start_field_by_field() -> None:
    """Fields of the delta are replaced, never added; absent fields stay."""
    ledger = ledger_of(
        start(input_tokens=2479, cache_read_input_tokens=50, output_tokens=1),
        delta(input_tokens=404_500, output_tokens=40),
    )

    assert ledger.usage == TokenUsage(input=404_550, output=40, cache_read=50)
    assert ledger.source == "reported"


def test_null_in_message_delta_does_not_override() -> None:
    """Null is not a count."""
    ledger = ledger_of(
        start(input_tokens=10, cache_read_input_tokens=50, output_tokens=1),
        delta(input_tokens=None, cache_read_input_tokens=None, output_tokens=40),
    )

    assert ledger.usage == TokenUsage(input=60, output=40, cache_read=50)


def test_zero_in_message_delta_overrides() -> None:
    """Zero is a count."""
    ledger = ledger_of(
        start(input_tokens=10, cache_read_input_tokens=50),
        delta(cache_read_input_tokens=0, output_tokens=4),
    )

    assert ledger.usage == TokenUsage(input=10, output=4)


def test_second_message_start_is_not_added() -> None:
    """Some gateways send message_start twice."""
    first = start(input_tokens=10, output_tokens=1)

    assert ledger_of(first, first, delta(output_tokens=4)).usage == TokenUsage(input=10, output=4)


def test_message_delta_alone_counts() -> None:
    """A stream without its start has only the last count."""
    ledger = ledger_of(delta(output_tokens=4), delta(input_tokens=3))

    assert (ledger.usage, ledger.source) == (TokenUsage(input=3, output=4), "reported")


def test_iterations_are_summed() -> None:
    """With compaction, the iterations of the delta are billed."""
    calls = [{"input_tokens": 500, "output_tokens": 30}, {"input_tokens": 20, "output_tokens": 7}]
    ledger = ledger_of(
        start(input_tokens=500, output_tokens=1),
        delta(input_tokens=20, output_tokens=7, iterations=calls),
    )

    assert ledger.usage == TokenUsage(input=520, output=37)


@pytest.mark.parametrize("iterations", [{}, {"iterations": None}, {"iterations": []}])
def test_new_counts_discard_earlier_iterations(iterations: dict[str, Any]) -> None:
    """The iterations belong to the counts that they came with."""
    call = {"input_tokens": 25, "output_tokens": 1}
    ledger = ledger_of(start(**call, iterations=[call]), delta(output_tokens=500, **iterations))

    assert ledger.usage == TokenUsage(input=25, output=500)


def test_delta_without_counts_keeps_iterations() -> None:
    """A delta may only report searches."""
    call = {"input_tokens": 25, "output_tokens": 1}
    ledger = ledger_of(start(**call, iterations=[call, call]), delta(iterations=[call, call, call]))

    assert ledger.usage == TokenUsage(input=75, output=3)


def test_last_usage_object_of_openai_replaces_earlier_ones() -> None:
    """Counts of earlier chunks are neither added nor kept."""
    details = {"prompt_tokens_details": {"cached_tokens": 2}}
    ledger = ledger_of(
        {"usage": {"prompt_tokens": 3, "completion_tokens": 1, **details}},
        {"usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    )

    assert ledger.usage == TokenUsage(input=3, output=4)


def test_last_usage_object_of_gemini_replaces_earlier_ones() -> None:
    """Gemini's counts may decrease, and fields may disappear."""
    ledger = ledger_of(
        {"usageMetadata": {"promptTokenCount": 87, "candidatesTokenCount": 90}},
        {"usageMetadata": {"promptTokenCount": 87, "thoughtsTokenCount": 78}},
    )

    assert ledger.usage == TokenUsage(input=87, output=78, reasoning=78)


def test_documents_of_an_array_are_added_in_order() -> None:
    """Gemini streams an array if server-sent events are not requested."""
    ledger = ledger_of(
        [
            {"usageMetadata": {"promptTokenCount": 7}, "modelVersion": "gemini-2.5-flash"},
            {"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 9}},
        ]
    )

    assert ledger.usage == TokenUsage(input=7, output=9)
    assert ledger.model == "gemini-2.5-flash"


def test_null_usage_is_ignored() -> None:
    """OpenAI sends `"usage": null` in every chunk, also after the one with usage."""
    ledger = ledger_of({"usage": None}, {"usage": {"prompt_tokens": 3}}, {"usage": None})

    assert (ledger.usage, ledger.source) == (TokenUsage(input=3), "reported")
    assert ledger_of({"usage": None}).source == "missing"


def test_repeated_usage_of_groq_is_counted_once() -> None:
    """Groq reports it in `x_groq`, in `usage`, or in both."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4}

    assert ledger_of({"x_groq": {"usage": usage}}).usage == TokenUsage(input=3, output=4)
    assert ledger_of({"usage": usage, "x_groq": {"usage": usage}}).usage == TokenUsage(
        input=3, output=4
    )


def test_usage_of_response_completed_is_reported() -> None:
    """OpenAI Responses wraps the response in its last event."""
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    response = {"object": "response", "model": "gpt-5"}
    ledger = ledger_of(
        {"type": "response.created", "response": {**response, "usage": None}},
        {"type": "response.completed", "response": {**response, "usage": usage}},
    )

    assert (ledger.usage, ledger.source) == (TokenUsage(input=3, output=4), "reported")
    assert ledger.model == "gpt-5"


def test_last_named_model_is_the_model() -> None:
    """A document without a model keeps the name."""
    ledger = ledger_of({"model": "router"}, {"model": "gpt-5"}, {"model": None}, {})

    assert ledger.model == "gpt-5"


def test_usage_in_another_format_replaces_earlier_usage() -> None:
    """Fields of two formats are never merged, even under the same name."""
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}

    assert ledger_of({"usage": usage}, delta(output_tokens=9)).usage == TokenUsage(output=9)


def test_unreadable_document_is_counted() -> None:
    """Malformed documents change nothing else."""
    ledger = ledger_of({"usage": {"prompt_tokens": 3}})
    ledger.read(b'{"usage": {"prompt_tokens": 9')
    ledger.read(b'"usage"')

    assert ledger.unreadable == 2
    assert ledger.usage == TokenUsage(input=3)


CHAT: dict[str, Any] = {"model": "gpt-5", "usage": {"prompt_tokens": 3}}


UNNAMED: dict[str, Any] = {"usage": {"prompt_tokens": 4}}


METRICS = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 7, "outputTokenCount": 8}}


BROKEN = b'{"usage": {"prompt_tokens": oops'


@pytest.mark.parametrize("batch", [1, 2, 3, 10])
@pytest.mark.parametrize(
    ("said", "usage", "model", "unreadable"),
    [
        ([CHAT, UNNAMED], TokenUsage(input=4), None, 0),
        ([UNNAMED, CHAT, {"usage": None}, {"model": "other"}], TokenUsage(input=3), "gpt-5", 0),
        ([CHAT, BROKEN, BROKEN], TokenUsage(input=3), "gpt-5", 2),
        ([BROKEN, CHAT, BROKEN], TokenUsage(input=3), "gpt-5", 1),
        ([BROKEN, BROKEN, CHAT], TokenUsage(input=3), "gpt-5", 0),
        ([BROKEN, BROKEN], None, None, 2),
        ([[UNNAMED, CHAT], {}], TokenUsage(input=3), "gpt-5", 0),
        (
            [start(input_tokens=3), BROKEN, delta(output_tokens=4), delta(output_tokens=5)],
            TokenUsage(input=3, output=5),
            "claude-opus-4",
            1,
        ),
        ([CHAT, start(input_tokens=5), CHAT], TokenUsage(input=3), "gpt-5", 0),
        ([CHAT, start(input_tokens=5)], TokenUsage(input=5), "claude-opus-4", 0),
        ([start(input_tokens=5), METRICS], TokenUsage(7, 8), "claude-opus-4", 0),
        ([delta(output_tokens=5), METRICS], TokenUsage(7, 5), None, 0),
        ([delta(output_tokens=5), METRICS, delta(output_tokens=6)], TokenUsage(7, 6), None, 0),
        ([METRICS, CHAT], TokenUsage(input=3), "gpt-5", 0),
        ([METRICS], TokenUsage(7, 8), None, 0),
    ],
)
def test_usage_events_give_the_same_account_in_any_batches(
    said: list[Any], usage: TokenUsage | None, model: str | None, unreadable: int, batch: int
) -> None:
    """Events before a complete report need not be read."""
    ledger = streamed(*said, batch=batch)

    assert (ledger.usage, ledger.model, ledger.unreadable) == (usage, model, unreadable)


events = st.sampled_from(
    [CHAT, UNNAMED, {}, METRICS, BROKEN, start(input_tokens=5), delta(output_tokens=6)]
)


@given(st.lists(events, max_size=8), st.integers(2, 8))
def test_any_events_give_the_same_account_in_any_batches(said: list[Any], batch: int) -> None:
    """Usage, source, model and unreadable documents do not depend on the batches."""
    one_by_one, batched = streamed(*said), streamed(*said, batch=batch)

    assert account(batched) == account(one_by_one)


ALL_METRICS = {
    "inputTokenCount": 100,
    "outputTokenCount": 50,
    "cacheReadInputTokenCount": 80,
    "cacheWriteInputTokenCount": 20,
}


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"output_tokens": 40}, TokenUsage(200, 40, 80, 20)),
        ({"output_tokens": 40, "input_tokens": None}, TokenUsage(200, 40, 80, 20)),
        ({"output_tokens": 40, "cache_read_input_tokens": 0}, TokenUsage(120, 40, 0, 20)),
        ({"input_tokens": 100}, TokenUsage(200, 50, 80, 20)),
        ({"input_tokens": 200}, TokenUsage(200, 50)),
        ({"input_tokens": 0, "output_tokens": 40}, TokenUsage(0, 40)),
        ({"iterations": [{"input_tokens": 7, "output_tokens": 9}]}, TokenUsage(7, 9)),
    ],
)
def test_bedrock_metrics_supplement_anthropic_counts(
    told: dict[str, Any], usage: TokenUsage
) -> None:
    """Field by field, so that nothing is added twice.

    Where the two do not agree on the input, one of them has the cache in it: nothing is mended.
    """
    metrics = {"type": "message_stop", "amazon-bedrock-invocationMetrics": ALL_METRICS}

    ledger = streamed(delta(**told), metrics)

    assert (ledger.usage, ledger.source) == (usage, "reported")


def test_bedrock_metrics_do_not_supplement_other_formats() -> None:
    """Counts that OpenAI and others omit are zero."""
    assert streamed(CHAT, METRICS).usage == TokenUsage(input=3)


def test_documents_before_a_complete_report_are_not_read() -> None:
    """The iteration ends with the last complete report."""
    asked = []

    def latest_first() -> Iterator[bytes]:
        for payload in (delta(output_tokens=6), CHAT, CHAT, CHAT):
            asked.append(payload)
            yield json.dumps(payload).encode()

    UsageAccount().add_usage_events(latest_first())

    assert asked == [delta(output_tokens=6), CHAT]


def test_model_of_first_event_is_known_without_usage() -> None:
    """Most streams name it in every event, and report usage only on request."""
    ledger = UsageAccount()

    assert ledger.check_first_token(b'{"model": "gpt-5", "choices": []}') is False
    assert ledger.check_first_token(b'{"choices": [{"delta": {"content": "P"}}]}') is True
    assert ledger.check_first_token(b"[DONE]") is False
    assert ledger.model == "gpt-5"
    assert ledger.unreadable == 0


FAILED: dict[str, Any] = {"error": {"message": "EngineCore died"}}


def test_usage_before_an_error_is_partial() -> None:
    """Some vendors (vLLM) report running counts: the last one may not be all."""
    ledger = streamed(CHAT)
    ledger.check_error(json.dumps(FAILED).encode())

    assert (ledger.usage, ledger.source, ledger.failed) == (TokenUsage(input=3), "partial", True)


def test_usage_in_the_error_document_is_reported() -> None:
    """Nothing follows the error."""
    said = {"usage": {"prompt_tokens": 3}, **FAILED}
    ledger = streamed(said)
    ledger.check_error(json.dumps(said).encode())

    assert (ledger.source, ledger.failed) == ("reported", True)


@pytest.mark.parametrize("data", [b"", b"{", b"7", b"\xff", b'{"error": null}', b"[{}]"])
def test_check_error_without_an_error_does_not_fail(data: bytes) -> None:
    """Data that is not a document, or has no error, is ignored."""
    ledger = UsageAccount()
    ledger.check_error(data)

    assert ledger.failed is False


@pytest.mark.parametrize("data", [b'{"error": "overloaded"}', b'[{}, {"error": {"code": 503}}]'])
def test_check_error_with_an_error_fails(data: bytes) -> None:
    """The error may be in a document or in an array of them."""
    ledger = UsageAccount()
    ledger.check_error(data)

    assert ledger.failed is True


def test_is_response_of_new_account_is_none() -> None:
    """Nothing has been read."""
    assert UsageAccount().is_response is None


@pytest.mark.parametrize(
    "data",
    [b'{"model": "gpt-5"}', b'{"choices": [{"delta": {}}]}', b'{"generation": "P"}'],
)
def test_is_response_of_stream_with_a_sign_of_a_model_is_true(data: bytes) -> None:
    """A model name, the shape of the response, or output is a sign."""
    ledger = UsageAccount()
    ledger.check_first_token(data)

    assert ledger.is_response is True


def test_is_response_of_sniffed_body_without_a_sign_is_false() -> None:
    """It may be any page, even if it was cut or cannot be read."""
    ledger = UsageAccount(sniffed=True)
    assert ledger.is_response is False
    ledger.read(b"{")
    assert ledger.is_response is False
    ledger.read(json.dumps(CHAT).encode())
    assert ledger.is_response is True


TOO_MUCH = 10**9 + 1


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": TOO_MUCH, "completion_tokens": 3},
        {"prompt_tokens": 2**70, "completion_tokens": 3},
        {"prompt_tokens": 1e300, "completion_tokens": 3},
        {"prompt_tokens": 10**9, "completion_tokens": 1},
        {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": TOO_MUCH}},
        {"input_tokens": 10**9, "cache_read_input_tokens": 1},
        {"iterations": [{"input_tokens": 6 * 10**8}] * 2, "input_tokens": 5},
    ],
)
def test_implausible_usage_of_document_is_missing_and_unreadable(usage: dict[str, Any]) -> None:
    """Counts that no response can have are not used in part, as that would be too little."""
    ledger = ledger_of({"type": "message", "model": "m", "usage": usage})

    assert account(ledger) == (None, "missing", "m", False, 1)
    assert (ledger.is_response, ledger.doubtful) == (True, True)


def test_implausible_usage_shows_a_model_response() -> None:
    """Implausible counts are counts."""
    ledger = ledger_of({"usage": {"prompt_tokens": TOO_MUCH}})
    ledger.complete_scan = True

    assert (ledger.source, ledger.is_response) == ("missing", True)


def test_implausible_delta_leaves_usage_partial() -> None:
    """Usage reported before it still counts."""
    ledger = streamed(start(input_tokens=9, output_tokens=1), delta(output_tokens=TOO_MUCH))

    assert account(ledger) == (TokenUsage(9, 1), "partial", "claude-opus-4", False, 1)
    assert ledger.doubtful is True


def test_deltas_that_add_up_to_implausible_usage_are_not_merged() -> None:
    """Each is plausible alone, but one response cannot have used both."""
    ledger = streamed(start(input_tokens=10**9), delta(output_tokens=1))

    assert (ledger.usage, ledger.source, ledger.doubtful) == (TokenUsage(10**9), "partial", True)


_COUNTS = st.sampled_from([1, 10**9, TOO_MUCH])


_STATEMENTS = st.one_of(
    st.builds(lambda count: start(input_tokens=count), _COUNTS),
    st.builds(lambda count: delta(output_tokens=count), _COUNTS),
    st.builds(lambda count: {"usage": {"prompt_tokens": count}}, _COUNTS),
    st.builds(
        lambda count: {"amazon-bedrock-invocationMetrics": {"inputTokenCount": count}}, _COUNTS
    ),
)


@given(st.lists(_STATEMENTS, max_size=8), st.integers(2, 8))
def test_implausible_statements_count_the_same_in_any_batches(
    statements: list[dict[str, Any]], batch: int
) -> None:
    """It does not matter how many events are read at once."""
    one, several = streamed(*statements), streamed(*statements, batch=batch)

    assert account(one) == account(several)
    assert one.doubtful == several.doubtful


def test_is_response_with_usage_is_true() -> None:
    """Usage is always a sign of a model."""
    assert streamed(UNNAMED).is_response is True


def test_search_for_first_output_is_bounded() -> None:
    """It ends after 1,024 events, or 1 MiB of them."""
    words = b'{"choices": [{"text": "P"}]}'
    for events in ([b"{}"] * 1024, [b"{%s}" % (b" " * 2**20)]):
        ledger = UsageAccount()
        assert not any(map(ledger.check_first_token, events[1:]))
        assert ledger.awaits_first_token is True
        assert ledger.check_first_token(events[0]) is False
        assert ledger.awaits_first_token is False
        assert ledger.check_first_token(words) is False


def test_useless_reads_are_bounded() -> None:
    """After too many events without a complete report only the last one of a batch is read."""
    asked = []

    def latest_first(said: bytes) -> Iterator[bytes]:
        for place in range(12_000):
            asked.append(place)
            yield said

    ledger = UsageAccount()
    ledger.add_usage_events(latest_first(b'{"max_tokens": 5}'))
    assert len(asked) == MAX_USELESS_READS
    asked.clear()
    ledger.add_usage_events(
        latest_first(b'{"type": "message_delta", "usage": {"output_tokens": 5}}')
    )
    ledger.add_usage_events(latest_first(b"{"))
    assert asked == [0, 0]
    assert (ledger.usage, ledger.unreadable) == (TokenUsage(output=5), 1)
