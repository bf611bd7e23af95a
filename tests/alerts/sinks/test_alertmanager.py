"""AlertmanagerSink, with receivers that respond as an Alertmanager may."""

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
from ...support.receiver import Receiver, respond_with
from ...support.servers import free_port
from .events import AT, event

OPTIONS = AlertOptions({}, "", 240)
URL = "http://alertmanager.test:9093"


def events_of(*keys: str, **fields: Any) -> list[AlertEvent]:
    """Return one event for each key."""
    return [event(subject=Subject("key", key), **fields) for key in keys]


def keys_of(requests: Iterable[Any]) -> list[list[str]]:
    """Return the keys of the alerts of each request."""
    return [[alert["labels"]["subject_id"] for alert in request.json] for request in requests]


class RejectingReceiver(Receiver):
    """Receiver that rejects requests with an alert of one key."""

    def __init__(self, key: str, status: int) -> None:
        super().__init__(self._respond)
        self._key = key.encode()
        self._status = status

    def _respond(self, out: BufferedIOBase, ending: Event) -> bool:
        rejected = self._key in self.received[-1].body
        return respond_with(self._status if rejected else 200)(out, ending)


@pytest.mark.parametrize("path", ["", "/", "/am", "/am/api/v2/alerts"])
@pytest.mark.anyio
async def test_alerts_are_posted_to_the_api_v2_below_the_path(path: str) -> None:
    """The path of the API is appended to the path of the URL, unless it is there."""
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url + path)
        await sink(event())
        await sink.aclose()

    start = "/am" if "am" in path else ""
    assert [request.path for request in receiver.received] == [f"{start}/api/v2/alerts"]
    assert repr(sink) == f"AlertmanagerSink([{receiver.url!r}])"


@pytest.mark.anyio
async def test_all_alertmanagers_receive_all_alerts() -> None:
    """Each Alertmanager receives every event and every resent alert."""
    with Receiver() as first, Receiver() as second:
        sink = AlertmanagerSink([first.url, second.url], wall=FakeClock(AT))
        await sink(event())
        await sink.resend(events_of("k2"), AT)
        await sink.aclose()

    bodies = [[request.json for request in peer.received] for peer in (first, second)]
    assert bodies[0] == bodies[1]
    assert keys_of(first.received) == [["k1"], ["k2"]]


@pytest.mark.anyio
async def test_firing_alert_is_resent_when_due_with_a_later_end() -> None:
    """A firing alert is resent every `resend_every` seconds, each time with a later end."""
    clock = FakeClock(AT)
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url, resend_every=60, wall=clock)
        await sink(event())
        for seconds in (30, 30, 30, 30):
            clock.advance(seconds)
            await sink.resend(events_of("k1"), clock())
        await sink.aclose()

    ends = [request.json[0]["endsAt"] for request in receiver.received]
    assert ends == [
        "2026-01-02T03:08:05.678Z",
        "2026-01-02T03:09:05.678Z",
        "2026-01-02T03:10:05.678Z",
    ]


@pytest.mark.anyio
async def test_resolved_alert_is_not_resent_until_it_fires_again() -> None:
    """A resolved alert is not resent, and is due at once if it fires again."""
    clock = FakeClock(AT)
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url, wall=clock)
        await sink(event())
        await sink(event("resolved"))
        await sink.resend([event("resolved")], clock())
        await sink.resend(events_of("k1"), clock())
        await sink.aclose()

    assert len(receiver.received) == 3


@pytest.mark.anyio
async def test_new_severity_is_due_at_once() -> None:
    """A new severity is another alert in Alertmanager, and the old one is not resent."""
    clock = FakeClock(AT)
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url, wall=clock)
        await sink(event())
        await sink.resend([event("escalated", "critical", previous="warning")], clock())
        await sink(event("escalated", "critical", previous="warning"))
        await sink.resend([event("reminded", "critical")], clock())
        await sink.aclose()

    severities = [
        [alert["labels"]["severity"] for alert in request.json] for request in receiver.received
    ]
    assert severities == [["warning"], ["critical"], ["warning", "critical"]]


@pytest.mark.anyio
async def test_many_alerts_are_sent_in_batches() -> None:
    """A request has at most 250 alerts."""
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url)
        await sink.resend(events_of(*(f"k{number}" for number in range(600))), AT)
        await sink.aclose()

    assert [len(request.json) for request in receiver.received] == [250, 250, 100]


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.anyio
async def test_rejected_batch_is_halved_until_only_the_bad_alert_fails(status: int) -> None:
    """One rejected alert does not prevent the delivery of the others in its batch."""
    with RejectingReceiver("k5", status) as receiver:
        sink = AlertmanagerSink(receiver.url)
        with pytest.raises(Rejected, match=f"responded with {status} to alert 'error_spike'"):
            await sink.resend(events_of(*(f"k{number}" for number in range(8))), AT)
        await sink.aclose()

    accepted = [key for keys in keys_of(receiver.received) if "k5" not in keys for key in keys]
    assert sorted(accepted) == ["k0", "k1", "k2", "k3", "k4", "k6", "k7"]
    assert len(receiver.received) == 7


@pytest.mark.parametrize(("status", "kind"), [(404, Rejected), (401, Rejected), (503, RetryLater)])
@pytest.mark.anyio
async def test_batch_is_not_halved_after_a_status_that_concerns_all_alerts(
    status: int, kind: type[Exception]
) -> None:
    """A status that does not depend on the alerts fails the batch after one request."""
    with Receiver(respond_with(status)) as receiver:
        sink = AlertmanagerSink(receiver.url)
        with pytest.raises(kind):
            await sink.resend(events_of("k1", "k2"), AT)
        with pytest.raises(kind):
            await sink(event())
        await sink.aclose()

    assert len(receiver.received) == 2


@pytest.mark.anyio
async def test_failed_alertmanager_gets_firing_alerts_after_its_recovery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An event that one Alertmanager accepts is delivered; the log has the outage of the other."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.alerts")
    clock = FakeClock(AT)
    with Receiver() as up, Receiver(respond_with(503)) as down:
        sink = AlertmanagerSink([up.url, down.url], wall=clock)
        await sink(event())
        await sink.resend(events_of("k1"), clock())
        down.respond = respond_with()
        await sink.resend(events_of("k1"), clock())
        await sink.resend(events_of("k1"), clock())
        await sink.aclose()

    assert len(up.received) == 1
    assert len(down.received) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"Alertmanager failed: url={down.url} error={down.url} responded with 503",
        f"Alertmanager recovered: url={down.url} (seconds=0 failures=2)",
    ]


@pytest.mark.anyio
async def test_event_is_retried_if_one_alertmanager_may_accept_it_later() -> None:
    """If one Alertmanager rejects an event and another is unreachable, the event is retried."""
    with Receiver(respond_with(403)) as receiver:
        sink = AlertmanagerSink([receiver.url, f"http://127.0.0.1:{free_port()}"])
        with pytest.raises(RetryLater):
            await sink(event())
        await sink.aclose()


@pytest.mark.anyio
async def test_invalid_event_is_rejected_and_not_resent() -> None:
    """An event that cannot be converted is rejected, and the other alerts are resent."""
    invalid = event(at=float("nan"))
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url)
        with pytest.raises(Rejected, match="cannot be converted to an alert"):
            await sink(invalid)
        await sink.resend([invalid, *events_of("k2")], AT)
        await sink.aclose()

    assert keys_of(receiver.received) == [["k2"]]


def test_alert_has_labels_annotations_and_times() -> None:
    """Labels identify an alert, annotations have what may change, and the end is limited."""
    options = AlertOptions({"cluster": "eu-1"}, "http://gateway.test/alerts", 240)
    fired = event(metric="rate", fired_at=AT - 60, metadata={"provider": "claude"})

    assert alerts_of(fired, options, AT) == [
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


@pytest.mark.parametrize("kind", ["master", "key", "apikey", "budget"])
def test_changed_name_is_not_another_alert(kind: str) -> None:
    """Alertmanager identifies an alert by its labels, so names are annotations only."""
    alerts = [
        alert
        for name in ("Acme", "Acme Ltd")
        for alert in alerts_of(
            event(subject=Subject(kind, "7", name), metadata={"master_name": name}), OPTIONS, AT
        )
    ]

    assert alerts[0]["labels"] == alerts[1]["labels"]
    assert [alert["annotations"]["subject_name"] for alert in alerts] == ["Acme", "Acme Ltd"]
    assert "Acme" not in str(alerts[0]["labels"])


def test_runbook_is_an_annotation() -> None:
    """Its name is that which Prometheus rules use."""
    url = "https://wiki.example/ai#error_spike"

    (linked,) = alerts_of(event(metadata={"runbook_url": url}), OPTIONS, AT)
    (other,) = alerts_of(event(), OPTIONS, AT)

    assert linked["annotations"]["runbook_url"] == url
    assert "runbook_url" not in other["annotations"]


def test_resolved_alert_ends_at_the_time_of_its_event() -> None:
    """The end of a resolved alert does not depend on the time of delivery."""
    (alert,) = alerts_of(event("resolved", fired_at=AT - 60), OPTIONS, AT + 1000)

    assert alert["startsAt"] == "2026-01-02T03:03:05.678Z"
    assert alert["endsAt"] == "2026-01-02T03:04:05.678Z"


def test_change_of_severity_resolves_the_old_alert() -> None:
    """A change of severity ends the alert of the old severity, and starts a new one."""
    old, new = alerts_of(event("escalated", "critical", previous="warning"), OPTIONS, AT)

    assert (old["labels"]["severity"], old["endsAt"]) == ("warning", "2026-01-02T03:04:05.678Z")
    assert (new["labels"]["severity"], new["endsAt"]) == ("critical", "2026-01-02T03:08:05.678Z")
    assert len(alerts_of(event("reminded", previous="warning"), OPTIONS, AT)) == 1


@pytest.mark.parametrize(
    ("subject", "metadata", "provider"),
    [
        (Subject("provider", "claude"), {}, "claude"),
        (Subject("apikey", "c1", "claude-prod"), {"provider": "claude"}, "claude"),
        (Subject("apikey", "c1"), {}, None),
        (Subject("key", "k1", "claude"), {"provider": 7}, None),
        (Subject("key", "k1"), {"provider": "codex"}, "codex"),
    ],
)
def test_alert_has_a_provider_label_only_if_it_concerns_one(
    subject: Subject, metadata: dict[str, Any], provider: str | None
) -> None:
    """The provider comes from the subject or the metadata, and empty labels are omitted."""
    (alert,) = alerts_of(event(subject=subject, metadata=metadata), OPTIONS, AT)

    assert alert["labels"].get("provider") == provider
    assert alert["annotations"].get("subject_name") == (subject.name or None)


@given(st.text(), st.text(), st.text(), st.floats(0, 4e9), st.floats(0, 4e9))
def test_any_event_is_converted_to_a_valid_alert(
    identity: str, name: str, metric: str, at: float, fired_at: float
) -> None:
    """Label names are valid, label values are not empty, and the start is not after the end."""
    resolved = event(
        "resolved", at=at, fired_at=fired_at, subject=Subject("key", identity, name), metric=metric
    )
    (alert,) = alerts_of(resolved, OPTIONS, at)

    msgspec.json.encode(alert)
    for label, value in alert["labels"].items():
        assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", label)
        assert 1 <= len(value) <= 200
    assert datetime.fromisoformat(alert["startsAt"]) <= datetime.fromisoformat(alert["endsAt"])


@given(st.lists(st.text(alphabet="ab\n\ud800\u202e", max_size=4), unique=True))
def test_different_subjects_have_different_labels(ids: list[str]) -> None:
    """Ids that must be changed to be valid label values stay different."""
    ids = [*ids, "x" * 300 + "1", "x" * 300 + "2"]
    events = events_of(*ids)
    labels = [alerts_of(fired, OPTIONS, AT)[0]["labels"].get("subject_id") for fired in events]

    assert len(set(labels)) == len(ids)


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
def test_invalid_labels_are_rejected(labels: Any, message: str) -> None:
    """The constructor rejects labels that Alertmanager would reject in every alert."""
    with pytest.raises(ValueError, match=message):
        AlertmanagerSink(URL, labels=labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_invalid_arguments_are_rejected(arguments: dict[str, Any], message: str) -> None:
    """The constructor rejects invalid arguments by name."""
    with pytest.raises(ValueError, match=message):
        AlertmanagerSink(**({"urls": URL} | arguments))
