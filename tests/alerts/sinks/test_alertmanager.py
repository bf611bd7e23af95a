"""AlertmanagerSink beside receivers that answer as an Alertmanager may."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from datetime import datetime
from io import BufferedIOBase
from threading import Event
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import AlertEvent, Subject
from tokenpulse_mw.alerts.sinks import AlertmanagerSink, Rejected, RetryLater
from tokenpulse_mw.alerts.sinks.alertmanager import AlertOptions, alerts_of

from ...support.clock import FakeClock
from ...support.receiver import Receiver, answering
from ...support.servers import free_port
from .events import AT, event


def about(*keys: str, **fields: Any) -> list[AlertEvent]:
    """One event for each key."""
    return [event(subject=Subject("key", key), **fields) for key in keys]


def keys(batches: Iterable[Any]) -> list[list[str]]:
    """Which keys each request was about."""
    return [[alert["labels"]["subject_id"] for alert in each.json] for each in batches]


class Picky(Receiver):
    """Refuses requests in which there is a certain key."""

    def __init__(self, key: str, status: int) -> None:
        super().__init__(self._judge)
        self._key = key.encode()
        self._status = status

    def _judge(self, out: BufferedIOBase, ending: Event) -> bool:
        bad = self._key in self.received[-1].body
        return answering(self._status if bad else 200)(out, ending)


@pytest.mark.parametrize("path", ["", "/", "/am", "/am/api/v2/alerts"])
@pytest.mark.anyio
async def test_alerts_go_to_the_api_v2(path: str) -> None:
    """Below the path that the Alertmanager has, if it has one."""
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url + path)
        await sink(event())
        await sink.aclose()

    start = "/am" if "am" in path else ""
    assert [each.path for each in receiver.received] == [f"{start}/api/v2/alerts"]
    assert repr(sink) == f"AlertmanagerSink([{receiver.url!r}])"


@pytest.mark.anyio
async def test_every_alertmanager_is_told_everything() -> None:
    """They sort out among themselves who notifies; a balancer between would break that."""
    with Receiver() as one, Receiver() as other:
        sink = AlertmanagerSink([one.url, other.url], wall=FakeClock(AT))
        await sink(event())
        await sink.resend(about("k2"), AT)
        await sink.aclose()

    assert [each.json for each in one.received] == [each.json for each in other.received]
    assert keys(one.received) == [["k1"], ["k2"]]


@pytest.mark.anyio
async def test_what_fires_is_sent_again_when_it_is_due() -> None:
    """Not in each round, and with a later end each time."""
    clock = FakeClock(AT)
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url, resend_every=60, wall=clock)
        await sink(event())
        for seconds in (30, 30, 30, 30):
            clock.advance(seconds)
            await sink.resend(about("k1"), clock())
        await sink.aclose()

    ends = [each.json[0]["endsAt"] for each in receiver.received]
    assert ends == [
        "2026-01-02T03:08:05.678Z",
        "2026-01-02T03:09:05.678Z",
        "2026-01-02T03:10:05.678Z",
    ]


@pytest.mark.anyio
async def test_what_is_resolved_is_not_sent_again() -> None:
    """Unless it fires again."""
    clock = FakeClock(AT)
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url, wall=clock)
        await sink(event())
        await sink(event("resolved"))
        await sink.resend([event("resolved")], clock())
        await sink.resend(about("k1"), clock())
        await sink.aclose()

    assert len(receiver.received) == 3


@pytest.mark.anyio
async def test_a_new_severity_is_due_at_once() -> None:
    """It is an alert of its own there; the old one is not sent again."""
    clock = FakeClock(AT)
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url, wall=clock)
        await sink(event())
        await sink.resend([event("escalated", "critical", previous="warning")], clock())
        await sink(event("escalated", "critical", previous="warning"))
        await sink.resend([event("reminded", "critical")], clock())
        await sink.aclose()

    sent = [[alert["labels"]["severity"] for alert in each.json] for each in receiver.received]
    assert sent == [["warning"], ["critical"], ["warning", "critical"]]


@pytest.mark.anyio
async def test_many_alerts_are_sent_in_parts() -> None:
    """No request grows without a bound."""
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url)
        await sink.resend(about(*(f"k{number}" for number in range(600))), AT)
        await sink.aclose()

    assert [len(each.json) for each in receiver.received] == [250, 250, 100]


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.anyio
async def test_one_bad_alert_does_not_spoil_the_others(status: int) -> None:
    """A batch that is refused is halved until only what is bad is left."""
    with Picky("k5", status) as receiver:
        sink = AlertmanagerSink(receiver.url)
        with pytest.raises(Rejected, match=f"answered {status} to an alert 'error_spike'"):
            await sink.resend(about(*(f"k{number}" for number in range(8))), AT)
        await sink.aclose()

    taken = [key for batch in keys(receiver.received) if "k5" not in batch for key in batch]
    assert sorted(taken) == ["k0", "k1", "k2", "k3", "k4", "k6", "k7"]
    assert len(receiver.received) == 7


@pytest.mark.parametrize(("status", "kind"), [(404, Rejected), (401, Rejected), (503, RetryLater)])
@pytest.mark.anyio
async def test_an_answer_that_is_about_no_alert_is_for_all(
    status: int, kind: type[Exception]
) -> None:
    """There is no use in asking with each of them."""
    with Receiver(answering(status)) as receiver:
        sink = AlertmanagerSink(receiver.url)
        with pytest.raises(kind):
            await sink.resend(about("k1", "k2"), AT)
        with pytest.raises(kind):
            await sink(event())
        await sink.aclose()

    assert len(receiver.received) == 2


@pytest.mark.anyio
async def test_one_that_is_down_gets_what_fires_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The event is taken, since the other has it; the log says once that one is down."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.alerts")
    clock = FakeClock(AT)
    with Receiver() as up, Receiver(answering(503)) as down:
        sink = AlertmanagerSink([up.url, down.url], wall=clock)
        await sink(event())
        await sink.resend(about("k1"), clock())
        down.answer = answering()
        await sink.resend(about("k1"), clock())
        await sink.resend(about("k1"), clock())
        await sink.aclose()

    assert len(up.received) == 1
    assert len(down.received) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"Alertmanager {down.url} cannot be told of all alerts: {down.url} answered 503",
        f"Alertmanager {down.url} is told of all alerts again (seconds=0 failures=2)",
    ]


@pytest.mark.anyio
async def test_while_there_is_hope_nothing_is_rejected() -> None:
    """One refuses the event for good, the other cannot be asked at present."""
    with Receiver(answering(403)) as receiver:
        sink = AlertmanagerSink([receiver.url, f"http://127.0.0.1:{free_port()}"])
        with pytest.raises(RetryLater):
            await sink(event())
        await sink.aclose()


@pytest.mark.anyio
async def test_an_event_that_makes_no_alert_is_rejected_and_never_sent_again() -> None:
    """The others of its round are."""
    broken = event(at=float("nan"))
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url)
        with pytest.raises(Rejected, match="makes no alert"):
            await sink(broken)
        await sink.resend([broken, *about("k2")], AT)
        await sink.aclose()

    assert keys(receiver.received) == [["k2"]]


FORM = AlertOptions({}, "", 240)


URL = "http://alertmanager.test:9093"


def test_an_alert_is_known_by_its_labels() -> None:
    """And what may change while it lasts is in its annotations; it ends if not sent again."""
    form = AlertOptions({"cluster": "eu-1"}, "http://gateway.test/alerts", 240)
    told = event(metric="rate", fired_at=AT - 60, metadata={"provider": "claude"})

    assert alerts_of(told, form, AT) == [
        {
            "labels": {
                "cluster": "eu-1",
                "alertname": "error_spike",
                "severity": "warning",
                "subject_kind": "key",
                "subject_id": "k1",
                "metric": "rate",
                "provider": "claude",
            },
            "annotations": {
                "summary": "High error rate",
                "description": "Key 'k1' has 30.0% error rate",
                "value": "0.3",
            },
            "startsAt": "2026-01-02T03:03:05.678Z",
            "endsAt": "2026-01-02T03:08:05.678Z",
            "generatorURL": "http://gateway.test/alerts",
        }
    ]


def test_what_is_resolved_has_ended_when_it_did() -> None:
    """However much later it is told."""
    (alert,) = alerts_of(event("resolved", fired_at=AT - 60), FORM, AT + 1000)

    assert alert["startsAt"] == "2026-01-02T03:03:05.678Z"
    assert alert["endsAt"] == "2026-01-02T03:04:05.678Z"


def test_a_change_of_severity_ends_one_alert_and_begins_another() -> None:
    """To Alertmanager they are two, since their labels differ."""
    old, new = alerts_of(event("escalated", "critical", previous="warning"), FORM, AT)

    assert (old["labels"]["severity"], old["endsAt"]) == ("warning", "2026-01-02T03:04:05.678Z")
    assert (new["labels"]["severity"], new["endsAt"]) == ("critical", "2026-01-02T03:08:05.678Z")
    assert len(alerts_of(event("reminded", previous="warning"), FORM, AT)) == 1


@pytest.mark.parametrize(
    ("subject", "metadata", "provider"),
    [
        (Subject("provider", "claude"), {}, "claude"),
        (Subject("apikey", "c1", "gemini"), {"provider": "claude"}, "gemini"),
        (Subject("apikey", "c1"), {}, None),
        (Subject("key", "k1", "claude"), {"provider": 7}, None),
        (Subject("key", "k1"), {"provider": "codex"}, "codex"),
    ],
)
def test_an_alert_says_which_provider_it_is_about(
    subject: Subject, metadata: dict[str, Any], provider: str | None
) -> None:
    """Where it is about one; an empty label would be none at all."""
    (alert,) = alerts_of(event(subject=subject, metadata=metadata), FORM, AT)

    assert alert["labels"].get("provider") == provider
    assert alert["annotations"].get("subject_name") == (subject.name or None)


@given(st.text(), st.text(), st.text(), st.floats(0, 4e9), st.floats(0, 4e9))
def test_whatever_it_is_about_alertmanager_takes_it(
    identity: str, name: str, metric: str, at: float, fired_at: float
) -> None:
    """Names of labels are words, values are text and not empty, and it ends after it begins."""
    told = event(
        "resolved", at=at, fired_at=fired_at, subject=Subject("key", identity, name), metric=metric
    )
    (alert,) = alerts_of(told, FORM, at)

    msgspec.json.encode(alert)
    for label, value in alert["labels"].items():
        assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", label)
        assert 1 <= len(value) <= 200
    starts, ends = (datetime.fromisoformat(alert[each]) for each in ("startsAt", "endsAt"))
    assert starts <= ends


@given(st.lists(st.text(alphabet="ab\n\ud800\u202e", max_size=4), unique=True))
def test_two_subjects_are_never_one(ids: list[str]) -> None:
    """Also where their ids cannot be sent as they are."""
    ids = [*ids, "x" * 300 + "1", "x" * 300 + "2"]
    sent = [
        alerts_of(event(subject=Subject("key", identity)), FORM, AT)[0]["labels"].get("subject_id")
        for identity in ids
    ]

    assert len(set(sent)) == len(ids)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"bad-name": "x"}, r"must match \[a-zA-Z_\]"),
        ({"": "x"}, "must match"),
        ({1: "x"}, "must match"),
        ({"severity": "page"}, "choose another name"),
        ({"cluster": ""}, "1 to 200"),
        ({"cluster": "a\nb"}, "1 to 200"),
        ({"cluster": "x" * 201}, "1 to 200"),
        ({"cluster": 7}, "1 to 200"),
    ],
)
def test_labels_that_would_be_refused_are_refused_at_once(labels: Any, message: str) -> None:
    """Before one of them spoils a batch of alerts."""
    with pytest.raises(ValueError, match=message):
        AlertmanagerSink(URL, labels=labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"urls": []}, "at least one"),
        ({"urls": "alertmanager:9093"}, "^url must be"),
        ({"urls": [URL, None]}, "^url must be"),
        ({"generator_url": "/alerts"}, "^generator_url must be"),
        (
            {"resend_every": 0},
            "^resend_every must be .* above 0 and at most 86400, got 0$",
        ),
        ({"timeout": -1}, "^timeout must be a number of seconds above 0 and at most 600, got -1$"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    """When the sink is built."""
    with pytest.raises(ValueError, match=message):
        AlertmanagerSink(**({"urls": URL} | settings))
