"""Account of one response: reports merged by the rules of each vendor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage, UsageAccount
from tokenpulse_mw.usage.bounds import MAX_USELESS_READS

from .bodies import outcome


def account_of(*payloads: Any) -> UsageAccount:
    """Return the account of a complete response of these documents."""
    account = UsageAccount()
    for payload in payloads:
        account.read(json.dumps(payload).encode())
    account.complete = True
    return account


def streamed(*payloads: Any, batch: int = 1) -> UsageAccount:
    """Return the account of a stream of these documents, read in batches of `batch`."""
    account = UsageAccount()
    events = [
        payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        for payload in payloads
    ]
    for first in range(0, len(events), batch):
        account.add_usage_events(reversed(events[first : first + batch]))
    account.complete = True
    return account


def start(**usage: Any) -> dict[str, Any]:
    """Return the first event of an Anthropic stream."""
    return {"type": "message_start", "message": {"model": "claude-opus-4", "usage": usage}}


def delta(**usage: Any) -> dict[str, Any]:
    """Return the event of an Anthropic stream that has the final usage."""
    return {"type": "message_delta", "delta": {}, "usage": usage}


def test_new_account_has_no_usage() -> None:
    """Usage is missing until the vendor reports it."""
    account = UsageAccount()

    assert (account.usage, account.source, account.model) == (None, "missing", None)
    assert (account.failed, account.complete, account.unreadable) == (False, False, 0)


def test_usage_of_complete_response_is_reported() -> None:
    """The usage in a complete response has the source `reported`."""
    account = account_of({"model": "gpt-5", "usage": {"prompt_tokens": 3, "completion_tokens": 4}})

    assert (account.usage, account.source) == (TokenUsage(input=3, output=4), "reported")
    assert account.model == "gpt-5"


def test_usage_of_incomplete_response_is_partial() -> None:
    """The usage in an incomplete response has the source `partial`."""
    account = account_of({"usage": {"prompt_tokens": 3}})
    account.complete = False

    assert (account.usage, account.source) == (TokenUsage(input=3), "partial")


def test_usage_of_message_start_is_partial() -> None:
    """Usage of `message_start` is partial, since Anthropic sends it before the output."""
    account = account_of(start(input_tokens=10, output_tokens=1))

    assert (account.usage, account.source) == (TokenUsage(input=10, output=1), "partial")
    assert account.model == "claude-opus-4"


def test_message_delta_overrides_message_start_field_by_field() -> None:
    """Fields of `message_delta` replace those of `message_start`; absent fields are kept."""
    account = account_of(
        start(input_tokens=2479, cache_read_input_tokens=50, output_tokens=1),
        delta(input_tokens=404_500, output_tokens=40),
    )

    assert account.usage == TokenUsage(input=404_550, output=40, cache_read=50)
    assert account.source == "reported"


def test_null_in_message_delta_does_not_override() -> None:
    """A null in `message_delta` keeps the earlier count."""
    account = account_of(
        start(input_tokens=10, cache_read_input_tokens=50, output_tokens=1),
        delta(input_tokens=None, cache_read_input_tokens=None, output_tokens=40),
    )

    assert account.usage == TokenUsage(input=60, output=40, cache_read=50)


def test_zero_in_message_delta_overrides() -> None:
    """A zero in `message_delta` replaces the earlier count."""
    account = account_of(
        start(input_tokens=10, cache_read_input_tokens=50),
        delta(cache_read_input_tokens=0, output_tokens=4),
    )

    assert account.usage == TokenUsage(input=10, output=4)


def test_zero_input_in_message_delta_is_ignored() -> None:
    """Some gateways write an input of 0 in the delta; a prompt has at least one token."""
    account = account_of(start(input_tokens=15), delta(input_tokens=0, output_tokens=42))

    assert account.usage == TokenUsage(input=15, output=42)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_zeros_after_usage_are_ignored(batch: int) -> None:
    """A last chunk whose counts are all zero does not override the usage before it."""
    usage = {"prompt_tokens": 9, "completion_tokens": 4}
    zeros = {"prompt_tokens": 0, "completion_tokens": 0}

    account = streamed({"usage": usage}, {"usage": zeros}, {"usage": zeros}, batch=batch)

    assert (account.usage, account.source) == (TokenUsage(9, 4), "reported")


def test_zeros_alone_are_reported() -> None:
    """A response without any other usage has zero tokens."""
    account = account_of({"usage": {"prompt_tokens": 0, "completion_tokens": 0}})

    assert (account.usage, account.source) == (TokenUsage(), "reported")


def test_second_message_start_is_not_added() -> None:
    """A repeated `message_start`, as some gateways send, is counted once."""
    first = start(input_tokens=10, output_tokens=1)

    assert account_of(first, first, delta(output_tokens=4)).usage == TokenUsage(input=10, output=4)


def test_message_delta_alone_counts() -> None:
    """Usage of `message_delta` is reported without a `message_start`."""
    account = account_of(delta(output_tokens=4), delta(input_tokens=3))

    assert (account.usage, account.source) == (TokenUsage(input=3, output=4), "reported")


def test_iterations_are_summed() -> None:
    """The usage is the sum of the iterations, if `message_delta` lists them."""
    calls = [{"input_tokens": 500, "output_tokens": 30}, {"input_tokens": 20, "output_tokens": 7}]
    account = account_of(
        start(input_tokens=500, output_tokens=1),
        delta(input_tokens=20, output_tokens=7, iterations=calls),
    )

    assert account.usage == TokenUsage(input=520, output=37)


@pytest.mark.parametrize("iterations", [{}, {"iterations": None}, {"iterations": []}])
def test_new_counts_discard_earlier_iterations(iterations: dict[str, Any]) -> None:
    """New counts without iterations replace earlier iterations."""
    call = {"input_tokens": 25, "output_tokens": 1}
    account = account_of(start(**call, iterations=[call]), delta(output_tokens=500, **iterations))

    assert account.usage == TokenUsage(input=25, output=500)


def test_delta_with_only_iterations_replaces_earlier_iterations() -> None:
    """New iterations replace the earlier ones, if the delta has no other counts."""
    call = {"input_tokens": 25, "output_tokens": 1}
    account = account_of(
        start(**call, iterations=[call, call]), delta(iterations=[call, call, call])
    )

    assert account.usage == TokenUsage(input=75, output=3)


def test_last_usage_object_of_openai_replaces_earlier_ones() -> None:
    """The last usage object of OpenAI is the usage; earlier ones are not added."""
    details = {"prompt_tokens_details": {"cached_tokens": 2}}
    account = account_of(
        {"usage": {"prompt_tokens": 3, "completion_tokens": 1, **details}},
        {"usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    )

    assert account.usage == TokenUsage(input=3, output=4)


def test_last_usage_object_of_gemini_replaces_earlier_ones() -> None:
    """The last usage object of Gemini is the usage, even if counts decrease or disappear."""
    account = account_of(
        {"usageMetadata": {"promptTokenCount": 87, "candidatesTokenCount": 90}},
        {"usageMetadata": {"promptTokenCount": 87, "thoughtsTokenCount": 78}},
    )

    assert account.usage == TokenUsage(input=87, output=78, reasoning=78)


def test_documents_of_an_array_are_added_in_order() -> None:
    """The documents of an array, as streamed by Gemini, are read in order."""
    account = account_of(
        [
            {"usageMetadata": {"promptTokenCount": 7}, "modelVersion": "gemini-2.5-flash"},
            {"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 9}},
        ]
    )

    assert account.usage == TokenUsage(input=7, output=9)
    assert account.model == "gemini-2.5-flash"


def test_null_usage_is_ignored() -> None:
    """A null `usage`, which OpenAI sends in every chunk, does not change the usage."""
    account = account_of({"usage": None}, {"usage": {"prompt_tokens": 3}}, {"usage": None})

    assert (account.usage, account.source) == (TokenUsage(input=3), "reported")
    assert account_of({"usage": None}).source == "missing"


def test_repeated_usage_of_groq_is_counted_once() -> None:
    """Usage in `x_groq`, in `usage` or in both is counted once."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4}

    assert account_of({"x_groq": {"usage": usage}}).usage == TokenUsage(input=3, output=4)
    assert account_of({"usage": usage, "x_groq": {"usage": usage}}).usage == TokenUsage(
        input=3, output=4
    )


def test_usage_of_response_completed_is_reported() -> None:
    """The usage and the model are read from the response inside `response.completed`."""
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    response = {"object": "response", "model": "gpt-5"}
    account = account_of(
        {"type": "response.created", "response": {**response, "usage": None}},
        {"type": "response.completed", "response": {**response, "usage": usage}},
    )

    assert (account.usage, account.source) == (TokenUsage(input=3, output=4), "reported")
    assert account.model == "gpt-5"


def test_last_named_model_is_the_model() -> None:
    """The last name is the model; documents without a name do not change it."""
    account = account_of({"model": "router"}, {"model": "gpt-5"}, {"model": None}, {})

    assert account.model == "gpt-5"


def test_usage_in_another_format_replaces_earlier_usage() -> None:
    """Fields of two formats are never merged, even if they have the same name."""
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}

    assert account_of({"usage": usage}, delta(output_tokens=9)).usage == TokenUsage(output=9)


def test_unreadable_document_is_counted() -> None:
    """A malformed document increments `unreadable` and changes nothing else."""
    account = account_of({"usage": {"prompt_tokens": 3}})
    account.read(b'{"usage": {"prompt_tokens": 9')
    account.read(b'"usage"')

    assert account.unreadable == 2
    assert account.usage == TokenUsage(input=3)


CHAT: dict[str, Any] = {"model": "gpt-5", "usage": {"prompt_tokens": 3}}
UNNAMED: dict[str, Any] = {"usage": {"prompt_tokens": 4}}
METRICS = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 7, "outputTokenCount": 8}}
BROKEN = b'{"usage": {"prompt_tokens": oops'


@pytest.mark.parametrize("batch", [1, 2, 3, 10])
@pytest.mark.parametrize(
    ("events", "usage", "model", "unreadable"),
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
    events: list[Any], usage: TokenUsage | None, model: str | None, unreadable: int, batch: int
) -> None:
    """The size of the batches does not change the account."""
    account = streamed(*events, batch=batch)

    assert (account.usage, account.model, account.unreadable) == (usage, model, unreadable)


any_event = st.sampled_from(
    [CHAT, UNNAMED, {}, METRICS, BROKEN, start(input_tokens=5), delta(output_tokens=6)]
)


@given(st.lists(any_event, max_size=8), st.integers(2, 8))
def test_any_events_give_the_same_account_in_any_batches(events: list[Any], batch: int) -> None:
    """Usage, source, model and unreadable documents do not depend on the batches."""
    one_by_one, batched = streamed(*events), streamed(*events, batch=batch)

    assert outcome(batched) == outcome(one_by_one)


ALL_METRICS = {
    "inputTokenCount": 100,
    "outputTokenCount": 50,
    "cacheReadInputTokenCount": 80,
    "cacheWriteInputTokenCount": 20,
}


@pytest.mark.parametrize(
    ("counts", "usage"),
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
    counts: dict[str, Any], usage: TokenUsage
) -> None:
    """Bedrock's metrics add only missing counts; if the inputs differ, only the output is added."""
    metrics = {"type": "message_stop", "amazon-bedrock-invocationMetrics": ALL_METRICS}

    account = streamed(delta(**counts), metrics)

    assert (account.usage, account.source) == (usage, "reported")


def test_bedrock_metrics_do_not_supplement_other_formats() -> None:
    """Bedrock's metrics do not change counts of other formats, whose missing counts are zero."""
    assert streamed(CHAT, METRICS).usage == TokenUsage(input=3)


def test_documents_before_a_complete_report_are_not_read() -> None:
    """The iteration over events ends with the last complete report."""
    read = []

    def latest_first() -> Iterator[bytes]:
        for payload in (delta(output_tokens=6), CHAT, CHAT, CHAT):
            read.append(payload)
            yield json.dumps(payload).encode()

    UsageAccount().add_usage_events(latest_first())

    assert read == [delta(output_tokens=6), CHAT]


def test_model_of_stream_without_usage_is_known() -> None:
    """The model is read from the events before the first output."""
    account = UsageAccount()

    assert account.check_first_token(b'{"model": "gpt-5", "choices": []}') is False
    assert account.check_first_token(b'{"choices": [{"delta": {"content": "P"}}]}') is True
    assert account.check_first_token(b"[DONE]") is False
    assert account.model == "gpt-5"
    assert account.unreadable == 0


def test_output_that_is_not_utf_8_is_not_the_first_token() -> None:
    """The other fields of the event count."""
    account = UsageAccount()

    assert account.check_first_token(b'{"model": "gpt-5", "delta": {"text": "\xff"}}') is False
    assert account.model == "gpt-5"


FAILED: dict[str, Any] = {"error": {"message": "EngineCore died"}}


def test_usage_before_an_error_is_partial() -> None:
    """Usage before an error is partial, since vLLM reports running counts."""
    account = streamed(CHAT)
    account.check_error(json.dumps(FAILED).encode())

    assert (account.usage, account.source, account.failed) == (TokenUsage(input=3), "partial", True)


def test_usage_in_the_error_document_is_reported() -> None:
    """Usage in the document with the error has the source `reported`."""
    payload = {"usage": {"prompt_tokens": 3}, **FAILED}
    account = streamed(payload)
    account.check_error(json.dumps(payload).encode())

    assert (account.source, account.failed) == ("reported", True)


@pytest.mark.parametrize("data", [b"", b"{", b"7", b"\xff", b'{"error": null}', b"[{}]"])
def test_check_error_without_an_error_does_not_fail(data: bytes) -> None:
    """Data that is not a document, or has no error, is ignored."""
    account = UsageAccount()
    account.check_error(data)

    assert account.failed is False


@pytest.mark.parametrize("data", [b'{"error": "overloaded"}', b'[{}, {"error": {"code": 503}}]'])
def test_check_error_with_an_error_fails(data: bytes) -> None:
    """An error is recognized in a document and in an array of documents."""
    account = UsageAccount()
    account.check_error(data)

    assert account.failed is True


def test_is_response_of_new_account_is_none() -> None:
    """`is_response` is None before any document is read."""
    assert UsageAccount().is_response is None


@pytest.mark.parametrize(
    "data",
    [b'{"model": "gpt-5"}', b'{"choices": [{"delta": {}}]}', b'{"generation": "P"}'],
)
def test_is_response_of_stream_with_a_sign_of_a_model_is_true(data: bytes) -> None:
    """`is_response` is True after a model name, the shape of a response, or output."""
    account = UsageAccount()
    account.check_first_token(data)

    assert account.is_response is True


def test_is_response_of_sniffed_body_without_a_sign_is_false() -> None:
    """`is_response` of a sniffed body is False until a document is recognized as a model's."""
    account = UsageAccount(sniffed=True)
    assert account.is_response is False
    account.read(b"{")
    assert account.is_response is False
    account.read(json.dumps(CHAT).encode())
    assert account.is_response is True


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
    """Counts that no response can have are ignored as a whole, not in part."""
    account = account_of({"type": "message", "model": "m", "usage": usage})

    assert outcome(account) == (None, "missing", "m", False, 1)
    assert (account.is_response, account.doubtful) == (True, True)


def test_implausible_usage_shows_a_model_response() -> None:
    """`is_response` is True after implausible counts, though they are ignored."""
    account = account_of({"usage": {"prompt_tokens": TOO_MUCH}})
    account.complete_scan = True

    assert (account.source, account.is_response) == ("missing", True)


def test_implausible_delta_leaves_usage_partial() -> None:
    """An implausible delta is ignored, and earlier usage remains partial."""
    account = streamed(start(input_tokens=9, output_tokens=1), delta(output_tokens=TOO_MUCH))

    assert outcome(account) == (TokenUsage(9, 1), "partial", "claude-opus-4", False, 1)
    assert account.doubtful is True


def test_deltas_that_add_up_to_implausible_usage_are_not_merged() -> None:
    """A plausible delta is ignored if the merged usage is implausible."""
    account = streamed(start(input_tokens=10**9), delta(output_tokens=1))

    assert (account.usage, account.source, account.doubtful) == (TokenUsage(10**9), "partial", True)


_COUNTS = st.sampled_from([1, 10**9, TOO_MUCH])
_REPORTS = st.one_of(
    st.builds(lambda count: start(input_tokens=count), _COUNTS),
    st.builds(lambda count: delta(output_tokens=count), _COUNTS),
    st.builds(lambda count: {"usage": {"prompt_tokens": count}}, _COUNTS),
    st.builds(
        lambda count: {"amazon-bedrock-invocationMetrics": {"inputTokenCount": count}}, _COUNTS
    ),
)


@given(st.lists(_REPORTS, max_size=8), st.integers(2, 8))
def test_implausible_reports_give_the_same_account_in_any_batches(
    reports: list[dict[str, Any]], batch: int
) -> None:
    """The size of the batches does not change the account of implausible reports."""
    one, several = streamed(*reports), streamed(*reports, batch=batch)

    assert outcome(one) == outcome(several)
    assert one.doubtful == several.doubtful


def test_is_response_with_usage_is_true() -> None:
    """`is_response` is True after usage without a model name."""
    assert streamed(UNNAMED).is_response is True


def test_search_for_first_output_is_bounded() -> None:
    """The search for output ends after 1,024 events, or after 1 MiB of them."""
    output = b'{"choices": [{"text": "P"}]}'
    for events in ([b"{}"] * 1024, [b"{%s}" % (b" " * 2**20)]):
        account = UsageAccount()
        assert not any(map(account.check_first_token, events[1:]))
        assert account.awaits_first_token is True
        assert account.check_first_token(events[0]) is False
        assert account.awaits_first_token is False
        assert account.check_first_token(output) is False


def test_useless_reads_are_bounded() -> None:
    """After too many events without a complete report only the last one of a batch is read."""
    read = []

    def latest_first(event: bytes) -> Iterator[bytes]:
        for number in range(12_000):
            read.append(number)
            yield event

    account = UsageAccount()
    account.add_usage_events(latest_first(b'{"max_tokens": 5}'))
    assert len(read) == MAX_USELESS_READS
    read.clear()
    account.add_usage_events(
        latest_first(b'{"type": "message_delta", "usage": {"output_tokens": 5}}')
    )
    account.add_usage_events(latest_first(b"{"))
    assert read == [0, 0]
    assert (account.usage, account.unreadable) == (TokenUsage(output=5), 1)
