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


def test_a_new_ledger_has_heard_nothing() -> None:
    """Before the vendor speaks there is no usage."""
    ledger = UsageAccount()

    assert (ledger.usage, ledger.source, ledger.model) == (None, "missing", None)
    assert (ledger.failed, ledger.complete, ledger.unreadable) == (False, False, 0)


def test_usage_of_an_answer_that_ended_is_reported() -> None:
    """The vendor's own count of a complete answer is the best there is."""
    ledger = ledger_of({"model": "gpt-5", "usage": {"prompt_tokens": 3, "completion_tokens": 4}})

    assert (ledger.usage, ledger.source) == (TokenUsage(input=3, output=4), "reported")
    assert ledger.model == "gpt-5"


def test_usage_of_an_answer_that_did_not_end_is_partial() -> None:
    """More may have been to come."""
    ledger = ledger_of({"usage": {"prompt_tokens": 3}})
    ledger.complete = False

    assert (ledger.usage, ledger.source) == (TokenUsage(input=3), "partial")


def test_a_count_that_would_be_corrected_is_partial() -> None:
    """Anthropic's message_start counts the output before it is written."""
    ledger = ledger_of(start(input_tokens=10, output_tokens=1))

    assert (ledger.usage, ledger.source) == (TokenUsage(input=10, output=1), "partial")
    assert ledger.model == "claude-opus-4"


def test_message_delta_overrides_message_start_field_by_field() -> None:
    """What the delta says again is replaced, never added; what it leaves out stays."""
    ledger = ledger_of(
        start(input_tokens=2479, cache_read_input_tokens=50, output_tokens=1),
        delta(input_tokens=404_500, output_tokens=40),
    )

    assert ledger.usage == TokenUsage(input=404_550, output=40, cache_read=50)
    assert ledger.source == "reported"


def test_a_null_in_message_delta_does_not_override() -> None:
    """Null is no count."""
    ledger = ledger_of(
        start(input_tokens=10, cache_read_input_tokens=50, output_tokens=1),
        delta(input_tokens=None, cache_read_input_tokens=None, output_tokens=40),
    )

    assert ledger.usage == TokenUsage(input=60, output=40, cache_read=50)


def test_a_zero_in_message_delta_overrides() -> None:
    """Zero is a count."""
    ledger = ledger_of(
        start(input_tokens=10, cache_read_input_tokens=50),
        delta(cache_read_input_tokens=0, output_tokens=4),
    )

    assert ledger.usage == TokenUsage(input=10, output=4)


def test_a_second_message_start_does_not_add_up() -> None:
    """Some gateways send message_start twice."""
    first = start(input_tokens=10, output_tokens=1)

    assert ledger_of(first, first, delta(output_tokens=4)).usage == TokenUsage(input=10, output=4)


def test_a_message_delta_alone_counts() -> None:
    """A stream that was joined late has only its last count."""
    ledger = ledger_of(delta(output_tokens=4), delta(input_tokens=3))

    assert (ledger.usage, ledger.source) == (TokenUsage(input=3, output=4), "reported")


def test_iterations_are_summed() -> None:
    """With compaction, the iterations of the delta are what is billed."""
    calls = [{"input_tokens": 500, "output_tokens": 30}, {"input_tokens": 20, "output_tokens": 7}]
    ledger = ledger_of(
        start(input_tokens=500, output_tokens=1),
        delta(input_tokens=20, output_tokens=7, iterations=calls),
    )

    assert ledger.usage == TokenUsage(input=520, output=37)


@pytest.mark.parametrize("iterations", [{}, {"iterations": None}, {"iterations": []}])
def test_new_counts_make_the_iterations_before_them_void(iterations: dict[str, Any]) -> None:
    """They are what those counts were made of, and not the new ones."""
    call = {"input_tokens": 25, "output_tokens": 1}
    ledger = ledger_of(start(**call, iterations=[call]), delta(output_tokens=500, **iterations))

    assert ledger.usage == TokenUsage(input=25, output=500)


def test_iterations_stay_where_a_delta_counts_nothing() -> None:
    """It may tell of searches only."""
    call = {"input_tokens": 25, "output_tokens": 1}
    ledger = ledger_of(start(**call, iterations=[call, call]), delta(iterations=[call, call, call]))

    assert ledger.usage == TokenUsage(input=75, output=3)


def test_the_last_whole_object_of_openai_wins() -> None:
    """Counts of earlier chunks are neither added nor kept where the last one is silent."""
    details = {"prompt_tokens_details": {"cached_tokens": 2}}
    ledger = ledger_of(
        {"usage": {"prompt_tokens": 3, "completion_tokens": 1, **details}},
        {"usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    )

    assert ledger.usage == TokenUsage(input=3, output=4)


def test_the_last_whole_object_of_gemini_wins() -> None:
    """Gemini's counts may fall, and fields may vanish."""
    ledger = ledger_of(
        {"usageMetadata": {"promptTokenCount": 87, "candidatesTokenCount": 90}},
        {"usageMetadata": {"promptTokenCount": 87, "thoughtsTokenCount": 78}},
    )

    assert ledger.usage == TokenUsage(input=87, output=78, reasoning=78)


def test_the_documents_of_an_array_count_as_one_after_the_other() -> None:
    """Gemini streams an array when it is not asked for server-sent events."""
    ledger = ledger_of(
        [
            {"usageMetadata": {"promptTokenCount": 7}, "modelVersion": "gemini-2.5-flash"},
            {"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 9}},
        ]
    )

    assert ledger.usage == TokenUsage(input=7, output=9)
    assert ledger.model == "gemini-2.5-flash"


def test_a_usage_of_null_says_nothing() -> None:
    """OpenAI puts `"usage": null` on every chunk, also after the one that counts."""
    ledger = ledger_of({"usage": None}, {"usage": {"prompt_tokens": 3}}, {"usage": None})

    assert (ledger.usage, ledger.source) == (TokenUsage(input=3), "reported")
    assert ledger_of({"usage": None}).source == "missing"


def test_usage_of_groq_is_not_added_to_its_own_repetition() -> None:
    """Groq says it under `x_groq`, under `usage`, or both."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4}

    assert ledger_of({"x_groq": {"usage": usage}}).usage == TokenUsage(input=3, output=4)
    assert ledger_of({"usage": usage, "x_groq": {"usage": usage}}).usage == TokenUsage(
        input=3, output=4
    )


def test_response_completed_says_what_the_response_cost() -> None:
    """OpenAI Responses wraps the answer in its last event."""
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    response = {"object": "response", "model": "gpt-5"}
    ledger = ledger_of(
        {"type": "response.created", "response": {**response, "usage": None}},
        {"type": "response.completed", "response": {**response, "usage": usage}},
    )

    assert (ledger.usage, ledger.source) == (TokenUsage(input=3, output=4), "reported")
    assert ledger.model == "gpt-5"


def test_the_last_model_named_is_who_answered() -> None:
    """A document without a model does not take the name away."""
    ledger = ledger_of({"model": "router"}, {"model": "gpt-5"}, {"model": None}, {})

    assert ledger.model == "gpt-5"


def test_another_family_takes_the_account_over() -> None:
    """Fields of two families are never merged, also where they have one name."""
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}

    assert ledger_of({"usage": usage}, delta(output_tokens=9)).usage == TokenUsage(output=9)


def test_what_cannot_be_read_is_counted() -> None:
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
def test_a_stream_is_heard_alike_in_any_batches(
    said: list[Any], usage: TokenUsage | None, model: str | None, unreadable: int, batch: int
) -> None:
    """What a whole statement makes void need not be read: the account is the same."""
    ledger = streamed(*said, batch=batch)

    assert (ledger.usage, ledger.model, ledger.unreadable) == (usage, model, unreadable)


events = st.sampled_from(
    [CHAT, UNNAMED, {}, METRICS, BROKEN, start(input_tokens=5), delta(output_tokens=6)]
)


@given(st.lists(events, max_size=8), st.integers(2, 8))
def test_any_batches_of_a_stream_give_one_account(said: list[Any], batch: int) -> None:
    """Usage, source, model and unreadable documents do not depend on what came together."""
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
def test_bedrocks_metrics_tell_what_claudes_events_leave_out(
    told: dict[str, Any], usage: TokenUsage
) -> None:
    """Field by field, so that nothing is added twice.

    Where the two do not agree on the input, one of them has the cache in it: nothing is mended.
    """
    metrics = {"type": "message_stop", "amazon-bedrock-invocationMetrics": ALL_METRICS}

    ledger = streamed(delta(**told), metrics)

    assert (ledger.usage, ledger.source) == (usage, "reported")


def test_bedrocks_metrics_mend_no_other_vendors_count() -> None:
    """What OpenAI and others leave out is zero."""
    assert streamed(CHAT, METRICS).usage == TokenUsage(input=3)


def test_no_more_is_read_than_what_counts() -> None:
    """Before the last whole statement nothing is asked for."""
    asked = []

    def latest_first() -> Iterator[bytes]:
        for payload in (delta(output_tokens=6), CHAT, CHAT, CHAT):
            asked.append(payload)
            yield json.dumps(payload).encode()

    UsageAccount().add_usage_events(latest_first())

    assert asked == [delta(output_tokens=6), CHAT]


def test_the_model_of_an_answers_opening_is_known_without_a_usage() -> None:
    """Most streams name it in every event, and tell their usage only when asked to."""
    ledger = UsageAccount()

    assert ledger.check_first_token(b'{"model": "gpt-5", "choices": []}') is False
    assert ledger.check_first_token(b'{"choices": [{"delta": {"content": "P"}}]}') is True
    assert ledger.check_first_token(b"[DONE]") is False
    assert ledger.model == "gpt-5"
    assert ledger.unreadable == 0


FAILED: dict[str, Any] = {"error": {"message": "EngineCore died"}}


def test_what_was_said_before_an_error_is_partial() -> None:
    """Some, as vLLM, count as they go: the last count may not be all."""
    ledger = streamed(CHAT)
    ledger.check_error(json.dumps(FAILED).encode())

    assert (ledger.usage, ledger.source, ledger.failed) == (TokenUsage(input=3), "partial", True)


def test_what_an_error_says_itself_is_reported() -> None:
    """It is the vendor's last word."""
    said = {"usage": {"prompt_tokens": 3}, **FAILED}
    ledger = streamed(said)
    ledger.check_error(json.dumps(said).encode())

    assert (ledger.source, ledger.failed) == ("reported", True)


@pytest.mark.parametrize("data", [b"", b"{", b"7", b"\xff", b'{"error": null}', b"[{}]"])
def test_bytes_without_an_error_tell_of_none(data: bytes) -> None:
    """What is no document, or one without an error, is no failure."""
    ledger = UsageAccount()
    ledger.check_error(data)

    assert ledger.failed is False


@pytest.mark.parametrize("data", [b'{"error": "overloaded"}', b'[{}, {"error": {"code": 503}}]'])
def test_bytes_may_tell_of_an_error(data: bytes) -> None:
    """A document, or an array of them, that holds an error tells of it."""
    ledger = UsageAccount()
    ledger.check_error(data)

    assert ledger.failed is True


def test_whose_answer_it_is_cannot_be_told_of_a_new_ledger() -> None:
    """Nothing has been seen of it."""
    assert UsageAccount().is_response is None


@pytest.mark.parametrize(
    "data",
    [b'{"model": "gpt-5"}', b'{"choices": [{"delta": {}}]}', b'{"generation": "P"}'],
)
def test_a_stream_in_which_a_model_is_seen_is_an_answer(data: bytes) -> None:
    """By its name, by its form, or by its words."""
    ledger = UsageAccount()
    ledger.check_first_token(data)

    assert ledger.is_response is True


def test_what_is_only_guessed_to_be_a_models_is_no_answer_unless_it_shows() -> None:
    """It may be any page, also where it was cut or cannot be read."""
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
    """What no response can have used is not taken in part, since that would be too little."""
    ledger = ledger_of({"type": "message", "model": "m", "usage": usage})

    assert account(ledger) == (None, "missing", "m", False, 1)
    assert (ledger.is_response, ledger.doubtful) == (True, True)


def test_implausible_usage_shows_a_model_response() -> None:
    """Its counts are wrong, but it has counts."""
    ledger = ledger_of({"usage": {"prompt_tokens": TOO_MUCH}})
    ledger.complete_scan = True

    assert (ledger.source, ledger.is_response) == ("missing", True)


def test_implausible_delta_leaves_usage_partial() -> None:
    """What was reported before it still counts."""
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


def test_what_tells_a_usage_is_an_answer() -> None:
    """Whatever else it is."""
    assert streamed(UNNAMED).is_response is True


def test_first_words_are_not_looked_for_for_ever() -> None:
    """After 1,024 events, or 1 MiB of them, none is looked at any more."""
    words = b'{"choices": [{"text": "P"}]}'
    for events in ([b"{}"] * 1024, [b"{%s}" % (b" " * 2**20)]):
        ledger = UsageAccount()
        assert not any(map(ledger.check_first_token, events[1:]))
        assert ledger.awaits_first_token is True
        assert ledger.check_first_token(events[0]) is False
        assert ledger.awaits_first_token is False
        assert ledger.check_first_token(words) is False


def test_reading_in_vain_comes_to_an_end() -> None:
    """After too many events that tell no usage only the last of those at hand is read."""
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
