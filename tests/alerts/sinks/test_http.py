"""What can be set of a sink, and what is refused before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest

from tokenpulse_mw.alerts import sinks
from tokenpulse_mw.alerts.sinks import SlackSink, WebhookSink, http

URL = "https://hooks.test/services/T0/B0/token"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 601, "10", None, True])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    """Above 0, and one that ends."""
    with pytest.raises(ValueError, match=r"^timeout must be .* got"):
        WebhookSink(URL, timeout=timeout)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("Host", "elsewhere", "set by the sink"),
        ("content-type", "text/plain", "set by the sink"),
        ("Webhook-Id", "1", "set by the sink"),
        ("", "x", "must be a word"),
        ("a b", "x", "must be a word"),
        ("a\r\nb", "x", "must be a word"),
        (1, "x", "must be a word"),
        ("x-a", "hunter2\r\nX-Forged: 1", "on one line"),
        ("x-a", "", "on one line"),
        ("x-a", " hunter2", "on one line"),
        ("x-a", "hunter2\u00e9", "on one line"),
        ("x-a", b"hunter2", "on one line"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(name: Any, value: Any, message: str) -> None:
    """And its value is not shown, for it may be a secret."""
    with pytest.raises(ValueError, match=message) as caught:
        WebhookSink(URL, headers={name: value})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        None,
        b"https://hooks.test/x",
        "",
        "hooks.test/hunter2",
        "ftp://hooks.test/hunter2",
        "hunter2://hooks.test",
        "https:///hunter2",
        "https://u:hunter2@/",
        "https://hunter2 hooks/",
        "https://hooks.test\r\n/hunter2",
        "https://-hunter2/",
        "https://hunter2..test/",
        "https://hunter2_%2f/",
        f"https://{'a' * 64}.test/",
        "https://hooks.test:0/hunter2",
        "https://hooks.test:65536/hunter2",
        "https://hooks.test:-1/hunter2",
        "https://hooks.test:hunter2/",
        "https://[hunter2]/",
        "https://999.1.1.1/hunter2",
        "https://" + "a." * 200 + "test/hunter2",
    ],
)
def test_a_url_that_is_none_is_refused(url: Any) -> None:
    """It is not shown, for it may be a secret, or have one in it."""
    with pytest.raises(ValueError, match=r"^url must be 'http://' or 'https://'") as caught:
        WebhookSink(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (URL, "https://hooks.test"),
        ("http://localhost:9093", "http://localhost:9093"),
        ("HTTPS://Hooks.Test:443/x", "https://hooks.test"),
        ("http://alert_manager.team-1.svc.:80/", "http://alert_manager.team-1.svc."),
        ("http://[::1]:9/x", "http://[::1]:9"),
        ("https://m\u00fcller.de/x", "https://xn--mller-kva.de"),
        ("https://user:hunter2@hooks.test:8443/hunter2?token=hunter2#x", "https://hooks.test:8443"),
    ],
)
def test_a_sink_shows_only_where_it_sends_to(url: str, place: str) -> None:
    """Not the path, the query, a name or a password: they are what opens the door."""
    assert repr(WebhookSink(url)) == f"WebhookSink({place!r})"
    assert repr(SlackSink(url)) == f"SlackSink({place!r})"


def test_without_httpx2_a_sink_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is built, and not at the first alert."""
    monkeypatch.setattr(http, "find_spec", lambda name: None)

    with pytest.raises(ValueError, match=r"WebhookSink needs .* 'tokenpulse-mw\[notify\]'"):
        WebhookSink(URL)
    with pytest.raises(ValueError, match="AlertmanagerSink needs"):
        sinks.AlertmanagerSink(URL)
    with pytest.raises(ValueError, match="AlertmanagerSink needs"):
        sinks.AlertmanagerSink(URL, generator_url=URL)
