"""Traffic: which exchange counts where."""

from __future__ import annotations

from typing import Any

import pytest

from tests.alerts.exchanges import exchange
from tokenpulse_mw.alerts import Thresholds, Traffic
from tokenpulse_mw.alerts.windows import OVERFLOW


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
def test_an_exchange_counts_as_a_failure_of_its_key_where_the_server_failed(
    fields: dict[str, Any], requests: int, failures: int
) -> None:
    """A client's own error is a request like any other; our own limit, or a client gone, none."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(key="k1", status=500), now=0)

    traffic.observe(exchange(key="k1", **fields), now=0)

    assert list(traffic.errors.failing()) == [("k1", 1 + requests, 1 + failures)]


@pytest.mark.parametrize(("status", "failures"), [(399, 0), (400, 1), (404, 1), (499, 1), (500, 1)])
def test_the_errors_of_clients_count_where_they_are_asked_for(status: int, failures: int) -> None:
    """`count_client_errors` takes every status from 400 up for a failure, as the seed does."""
    traffic = Traffic(Thresholds(count_client_errors=True), max_subjects=5)
    traffic.observe(exchange(key="k1", status=500), now=0)

    traffic.observe(exchange(key="k1", status=status), now=0)

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
        exchange(master=master, key="k1", provider="claude", status=503, limited=True), now=0
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
    traffic.observe(exchange(key="k1", status=500), now=0)

    traffic.errors.expire(10)
    assert list(traffic.errors.failing()) == [("k1", 1, 1)]
    traffic.errors.expire(11)
    assert list(traffic.errors.failing()) == []


def test_each_count_is_bounded_by_max_subjects() -> None:
    """A flood of keys, masters and credentials takes no more memory than was granted."""
    traffic = Traffic(Thresholds(), max_subjects=2)

    for number in range(100):
        name = str(number)
        traffic.observe(exchange(key=name, credential=name, status=500), now=0)
        traffic.observe(exchange(master=name, limited=True), now=0)

    assert {key for key, *_ in traffic.errors.failing()} == {"0", "1", OVERFLOW}
    assert {master for master, _ in traffic.limited.items()} == {"0", "1", OVERFLOW}
    assert {upstream[1] for upstream, _ in traffic.upstreams.failing()} == {"98", "99"}
