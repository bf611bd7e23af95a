"""Traffic: which exchange counts where."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import TokenUsage
from tokenpulse_mw.alerts import Thresholds, Traffic
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.traffic import OVERFLOW

from ..exchanges import exchange


@pytest.mark.parametrize(
    ("fields", "requests", "failures"),
    [
        ({"status": 200}, 1, 0),
        ({"status": 404}, 1, 0),
        ({"status": 429}, 1, 0),
        ({"status": 499}, 1, 0),
        ({"status": 500}, 1, 1),
        ({"status": 503}, 1, 1),
        ({"status": 200, "outcome": "error"}, 1, 1),
        ({"status": 200, "outcome": "truncated"}, 1, 1),
        ({"status": 404, "outcome": "truncated"}, 1, 1),
        ({"status": 500, "outcome": "client_disconnect"}, 0, 0),
        ({"status": 499, "outcome": "client_disconnect"}, 0, 0),
        ({"status": 429, "limited": True}, 0, 0),
        ({"status": 503, "limited": True}, 0, 0),
    ],
)
def test_defect_6_an_exchange_is_a_failure_of_its_key_where_the_server_failed(
    fields: dict[str, Any], requests: int, failures: int
) -> None:
    """A client's own error is a request like any other; our own limit, or a client gone, none."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(api_key="k1", status=500), now=0)

    traffic.observe(exchange(api_key="k1", **fields), now=0)

    assert list(traffic.errors.failing()) == [("k1", 1 + requests, 1 + failures)]


@pytest.mark.parametrize(("status", "failures"), [(399, 0), (400, 1), (404, 1), (499, 1), (500, 1)])
def test_the_errors_of_clients_count_where_they_are_asked_for(status: int, failures: int) -> None:
    """`count_client_errors` takes every status from 400 up for a failure, as the seed does."""
    traffic = Traffic(Thresholds(count_client_errors=True), max_subjects=5)
    traffic.observe(exchange(api_key="k1", status=500), now=0)

    traffic.observe(exchange(api_key="k1", status=status), now=0)

    assert list(traffic.errors.failing()) == [("k1", 2, 1 + failures)]


def test_exchanges_without_a_key_are_the_gateways() -> None:
    """A gateway that tells no tenants apart is watched as one."""
    traffic = Traffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(status=500), now=0)

    assert list(traffic.errors.failing()) == [("", 1, 1)]


@pytest.mark.parametrize(("master", "subject"), [("acme", "acme"), (None, "")])
def test_a_limited_exchange_is_tallied_for_its_master_alone(
    master: str | None, subject: str
) -> None:
    """Our own 429 never reached the application: it is no failure of a key or an upstream."""
    traffic = Traffic(Thresholds(), max_subjects=5)

    traffic.observe(
        exchange(tenant=master, api_key="k1", provider="claude", status=503, limited=True), now=0
    )

    assert list(traffic.limited.items()) == [(subject, 1)]
    assert list(traffic.errors.failing()) == []
    assert list(traffic.upstreams.failing()) == []


@pytest.mark.parametrize(
    ("fields", "failing"),
    [
        ({"provider": "claude"}, [("provider", "claude")]),
        ({"provider": "claude", "credential": "c1"}, [("apikey", "c1")]),
        ({"provider": "other"}, [("provider", "other")]),
        ({"provider": "unknown", "credential": "c1"}, [("apikey", "c1")]),
        ({"provider": "unknown"}, []),
    ],
)
def test_a_failure_is_noted_of_the_credential_and_else_of_the_provider(
    fields: dict[str, Any], failing: list[tuple[str, str]]
) -> None:
    """Who answered is named as closely as is known, and nobody where nothing is."""
    traffic = Traffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(status=502, **fields), now=0)

    assert [upstream for upstream, _ in traffic.upstreams.failing()] == failing


@pytest.mark.parametrize(
    ("fields", "in_a_row"),
    [
        ({"status": 200}, 0),
        ({"status": 302}, 1),
        ({"status": 200, "method": "OPTIONS"}, 1),
        ({"status": 400}, 1),
        ({"status": 499}, 1),
        ({"status": 500}, 2),
        ({"status": 200, "outcome": "error"}, 2),
        ({"status": 200, "outcome": "truncated"}, 2),
        ({"status": 404, "outcome": "error"}, 2),
        ({"status": 500, "outcome": "client_disconnect"}, 1),
        ({"status": 200, "outcome": "client_disconnect"}, 1),
    ],
)
@pytest.mark.parametrize("counted", [False, True])
def test_an_upstream_is_judged_by_its_answers_alone(
    fields: dict[str, Any], in_a_row: int, counted: bool
) -> None:
    """Errors and preflights of clients, redirects, and clients that left are not its doing."""
    traffic = Traffic(Thresholds(count_client_errors=counted), max_subjects=5)
    traffic.observe(exchange(provider="claude", status=500), now=0)

    traffic.observe(exchange(provider="claude", **fields), now=0)

    found = [streak.failures for _, streak in traffic.upstreams.failing()]
    assert found == ([in_a_row] if in_a_row else [])


def test_a_credential_is_the_same_whoever_is_known_to_answer() -> None:
    """A failure often does not tell whose it was; the provider is remembered from a success."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(provider="claude", credential="c1"), now=0)

    traffic.observe(exchange(credential="c1", status=500), now=0)

    ((upstream, streak),) = traffic.upstreams.failing()
    assert (upstream, streak.name, streak.failures) == (("apikey", "c1"), "claude", 1)


def test_preflights_are_no_requests_of_a_key() -> None:
    """The OPTIONS that a browser sends before each request would halve the share of errors."""
    traffic = Traffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(status=500), now=0)
    traffic.observe(exchange(method="OPTIONS"), now=0)

    assert list(traffic.errors.failing()) == [("", 1, 1)]


def test_the_error_window_is_the_thresholds() -> None:
    """Failures are forgotten after `error_window` seconds and at most a tenth more."""
    traffic = Traffic(Thresholds(error_window=10), max_subjects=5)
    traffic.observe(exchange(api_key="k1", status=500), now=0)

    traffic.roll(10)
    assert list(traffic.errors.failing()) == [("k1", 1, 1)]
    traffic.roll(11)
    assert list(traffic.errors.failing()) == []


def test_each_count_is_bounded_by_max_subjects() -> None:
    """A flood of keys, masters and credentials takes no more memory than was granted."""
    traffic = Traffic(Thresholds(), max_subjects=2)

    for number in range(1000):
        name = str(number)
        traffic.observe(exchange(api_key=name, credential=name, status=500), now=0)
        traffic.observe(exchange(tenant=name, limited=True), now=0)

    counts = traffic.counts
    assert {key for key, *_ in traffic.errors.failing()} == {"0", "1", OVERFLOW}
    assert {master for master, _ in traffic.limited.items()} == {"0", "1", OVERFLOW}
    assert {upstream[1] for upstream, _ in traffic.upstreams.failing()} == {"998", "999"}
    assert {master for master, *_ in counts.minute.items()} == {"", "0", OVERFLOW}
    assert len(list(counts.failures_by_upstream.items())) == 5


def test_a_tenant_that_is_called_as_the_overflow_is_not_counted_with_it() -> None:
    """Neither its requests, nor its failures, nor how often it was limited."""
    traffic = Traffic(Thresholds(), max_subjects=1)
    for name in (OVERFLOW, "b"):
        traffic.observe(exchange(tenant=name, api_key=name, status=500), now=0)
        traffic.observe(exchange(tenant=name, limited=True), now=0)

    counts = traffic.counts
    assert sorted(counts.errors.failing()) == [(OVERFLOW, 1, 1), ("__overflow___", 1, 1)]
    assert dict(counts.limited.items()) == {OVERFLOW: 1, "__overflow___": 1}
    assert list(counts.minute.items()) == [("__overflow___", 2, 0), (OVERFLOW, 2, 0)]
    assert traffic.overflowed == 1 + 1 + 2 + 2


def test_what_overflows_is_counted_in_all_windows_and_stays_counted() -> None:
    """That `max_subjects` is too small can be seen."""
    traffic = Traffic(Thresholds(), max_subjects=1)
    assert traffic.overflowed == 0
    for key in "abc":
        traffic.observe(exchange(api_key=key), now=0)
        traffic.observe(exchange(tenant=key, limited=True), now=0)

    traffic.roll(0)

    # Two keys; two masters that were limited; of four masters three, in a minute and in a day.
    assert traffic.overflowed == 2 + 2 + 3 + 3
    with traffic.frozen():
        finish(traffic.set_thresholds(Thresholds(error_window=10)))
    assert traffic.overflowed == 2 + 2 + 3 + 3


@pytest.mark.parametrize(
    ("fields", "requests", "tokens"),
    [
        ({}, 1, 0),
        ({"usage": TokenUsage(input=10, output=5, cache_read=9, reasoning=4)}, 1, 15),
        ({"status": 404}, 1, 0),
        ({"status": 429, "limited": True}, 1, 0),
        ({"outcome": "client_disconnect", "usage": TokenUsage(input=10)}, 1, 10),
        ({"method": "OPTIONS"}, 0, 0),
    ],
)
@pytest.mark.parametrize(("master", "subject"), [("acme", "acme"), (None, "")])
def test_requests_and_tokens_are_a_masters_or_the_gateways(
    fields: dict[str, Any], requests: int, tokens: int, master: str | None, subject: str
) -> None:
    """Tokens are those read and written; a preflight is nobody's request.

    Defect 15: who has no master is not invisible.
    """
    traffic = Traffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(tenant=master, **fields), now=0)

    counts = traffic.counts
    expected = [(subject, requests, tokens)] if requests else []
    assert list(counts.minute.items()) == list(counts.day.items()) == expected
    assert counts.request_rate.get("") == (requests, 0)


def test_defect_14_tokens_count_when_the_exchange_ends() -> None:
    """A stream of three minutes counts in the minute of its last token, when it is known."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    long = exchange(tenant="acme", duration=180.0, usage=TokenUsage(output=7))

    traffic.observe(long, now=1000)
    traffic.roll(1059)
    assert traffic.counts.minute.get("acme") == (1, 7)
    traffic.roll(1066)
    assert traffic.counts.minute.get("acme") == (0, 0)
    assert traffic.counts.day.get("acme") == (1, 7)


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"provider": "claude", "status": 429}, [("claude", 1, 0)]),
        ({"provider": "claude", "status": 429, "limited": True}, [("claude", 1, 1)]),
        ({"provider": "claude", "status": 503, "limited": True}, [("claude", 1, 1)]),
        ({"provider": "unknown", "status": 429}, [("", 1, 0)]),
        ({"provider": "claude", "status": 200}, []),
    ],
)
def test_answers_of_429_are_a_providers_and_ours_are_told_apart(
    fields: dict[str, Any], refused: list[tuple[str, int, int]]
) -> None:
    """Whether the vendor or our own limit refuses makes a difference to whoever looks."""
    traffic = Traffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(**fields), now=0)

    assert list(traffic.counts.rate_limited.items()) == refused


@pytest.mark.parametrize(
    ("duration", "bucket"),
    [(0.0, 0), (0.5, 0), (0.51, 1), (4.0, 3), (5.0, 4), (5.01, 5), (50.0, 9), (51.0, 10)],
)
def test_durations_are_sorted_by_bounds_made_of_the_threshold(duration: float, bucket: int) -> None:
    """5 s is a bound where it is the threshold, so that what is above it is known exactly."""
    traffic = Traffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(provider="claude", duration=duration), now=0)

    assert list(traffic.counts.latencies.items()) == [(("claude", bucket), 1, 0)]
    bounds = traffic.counts.bounds
    assert bounds == (0.5, 1.25, 2.5, 4.0, 5, 7.5, 10, 15, 25, 50)


def test_failures_are_blamed_on_the_upstream_that_they_came_from() -> None:
    """A key's, and a provider's; what nobody answered is blamed on nobody."""
    traffic = Traffic(Thresholds(count_client_errors=True), max_subjects=5)
    for fields in (
        {"provider": "claude", "status": 500},
        {"provider": "claude", "status": 500, "credential": "c1"},
        {"provider": "claude", "status": 404},
        {"provider": "unknown", "status": 500},
        {"provider": "claude"},
    ):
        traffic.observe(exchange(api_key="k1", **fields), now=0)

    claude, c1 = ("provider", "claude"), ("apikey", "c1")
    assert sorted(traffic.counts.failures_by_upstream.items()) == [
        (("key", "k1", c1), 1, 0),
        (("key", "k1", claude), 1, 0),
        (("provider", "claude", c1), 1, 0),
        (("provider", "claude", claude), 1, 0),
    ]


def test_a_round_forgets_who_was_limited_and_the_peaks_and_nothing_else() -> None:
    """The windows go on."""
    traffic = Traffic(Thresholds(master_rpd=1), max_subjects=5)
    traffic.observe(exchange(tenant="acme", limited=True), now=0)
    assert list(traffic.limited.items()) == [("acme", 1)]

    traffic.begin_evaluation()

    assert list(traffic.limited.items()) == []
    assert list(traffic.counts.day.maxima()) == [("acme", 1, 0)]


def test_what_is_seen_after_the_rules_have_looked_is_the_next_rounds() -> None:
    """An exchange that ends in between is not forgotten."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(tenant="acme", limited=True), now=0)

    traffic.begin_evaluation()

    assert list(traffic.limited.items()) == [("acme", 1)]


def test_other_thresholds_apply_to_the_traffic_there_has_been() -> None:
    """A daily limit that is set at noon knows of the morning."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    for _ in range(20):
        traffic.observe(exchange(tenant="acme", api_key="k1", status=500), now=0)

    with traffic.frozen():
        finish(traffic.set_thresholds(Thresholds(master_rpd=20)))

    assert list(traffic.counts.day.maxima()) == [("acme", 20, 0)]
    assert list(traffic.errors.failing()) == [("k1", 20, 20)]


@pytest.mark.parametrize(
    "other",
    [{"error_window": 10}, {"count_client_errors": True}, {"provider_latency_p95": 1}],
)
def test_shares_begin_anew_where_they_were_counted_by_other_rules(other: dict[str, Any]) -> None:
    """Failures of two kinds, or of two windows, make no share of anything."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(api_key="k1", tenant="acme", status=500), now=0)

    with traffic.frozen():
        finish(traffic.set_thresholds(Thresholds(**other)))
    assert list(traffic.errors.failing()) == []
    assert list(traffic.counts.latencies.items()) == []
    assert traffic.counts.day.get("acme") == (1, 0)
    traffic.observe(exchange(api_key="k1", status=400), now=0)
    assert traffic.errors.get("k1") == (1, 1 if "count_client_errors" in other else 0)


def test_a_threshold_of_latency_that_is_off_needs_no_buckets() -> None:
    """All durations are alike then."""
    traffic = Traffic(Thresholds(provider_latency_p95=None), max_subjects=5)

    for duration in (0.1, 100.0):
        traffic.observe(exchange(provider="claude", duration=duration), now=0)

    assert list(traffic.counts.latencies.items()) == [(("claude", 0), 2, 0)]


def test_an_exchange_that_cannot_be_counted_costs_no_other() -> None:
    """What it raises is its observer's to log; all that is counted before and after is right."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(api_key="k1"), now=0)

    with pytest.raises(TypeError):
        traffic.observe(exchange(api_key=["k1"]), now=0)

    traffic.observe(exchange(api_key="k1"), now=0)
    assert traffic.errors.get("k1") == (2, 0)


class Seen(NamedTuple):
    """One exchange: how many seconds after the one before, whose, and how it went."""

    later: float
    key: str
    credential: str
    status: int


@given(
    log=st.lists(
        st.builds(
            Seen,
            later=st.sampled_from([0.0, 0.3, 1.0, 7.0]),
            key=st.sampled_from(["k1", "k2", "k3"]),
            credential=st.sampled_from(["c1", "c2", "c3"]),
            status=st.sampled_from([200, 404, 500]),
        ),
        max_size=60,
    ),
    most=st.integers(1, 3),
)
def test_gathering_exchanges_gives_what_counting_each_of_them_gives(
    log: list[Seen], most: int
) -> None:
    """Rules see the same, whether they look after every exchange or once at the end.

    Also where subjects have to share a name for want of room.
    """
    at_once, gathered = (Traffic(Thresholds(), max_subjects=most) for _ in range(2))
    now = 0.0

    for seen in log:
        now += seen.later
        made = exchange(api_key=seen.key, credential=seen.credential, status=seen.status)
        for traffic in (at_once, gathered):
            traffic.observe(made, now)
        assert at_once.counts is not None

    for traffic in (at_once, gathered):
        traffic.roll(now)
    assert sorted(at_once.errors.items()) == sorted(gathered.errors.items())
    assert sorted(at_once.counts.day.items()) == sorted(gathered.counts.day.items())


@given(
    outcomes=st.lists(
        st.tuples(st.sampled_from(["c1", "c2", "c3"]), st.sampled_from([200, 500])), max_size=60
    )
)
def test_streaks_are_in_the_order_that_exchanges_ended_in(
    outcomes: list[tuple[str, int]],
) -> None:
    """Gathering loses no order: a failure after a success is not the same as before it."""
    traffic = Traffic(Thresholds(), max_subjects=5)

    for credential, status in outcomes:
        traffic.observe(exchange(credential=credential, status=status), now=0)

    failing = {}
    for credential in ("c1", "c2", "c3"):
        own = [status == 500 for each, status in outcomes if each == credential][::-1]
        in_a_row = own.index(False) if False in own else len(own)
        if in_a_row:
            failing["apikey", credential] = in_a_row
    found = {upstream: streak.failures for upstream, streak in traffic.upstreams.failing()}
    assert found == failing


def test_an_upstream_that_had_to_go_begins_anew() -> None:
    """With room for one, each of two in turn is forgotten, and no failure goes to the other."""
    traffic = Traffic(Thresholds(), max_subjects=1)

    for credential in ("c1", "c2", "c1", "c1", "c2"):
        traffic.observe(exchange(credential=credential, status=500), now=0)

    found = {upstream: streak.failures for upstream, streak in traffic.upstreams.failing()}
    assert found == {("apikey", "c2"): 1}


def test_the_upstreams_heard_of_last_are_kept() -> None:
    """One that is asked all the time does not go for those that are asked once."""
    traffic = Traffic(Thresholds(), max_subjects=2)

    for number in range(50):
        traffic.observe(exchange(credential="busy", status=500), now=number)
        traffic.observe(exchange(credential=str(number), status=500), now=number)

    found = {upstream[1]: streak.failures for upstream, streak in traffic.upstreams.failing()}
    assert found == {"busy": 50, "49": 1}
