"""Arguments of sinks that send by HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tokenpulse_mw.alerts import sinks
from tokenpulse_mw.alerts.sinks import SlackSink, WebhookSink, http

URL = "https://hooks.test/services/T0/B0/token"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 601, "10", None, True])
def test_invalid_timeout_is_rejected(timeout: Any) -> None:
    """A timeout must be a finite number above 0 and at most 600."""
    with pytest.raises(ValueError, match=r"^timeout must be .* got"):
        WebhookSink(URL, timeout=timeout)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("Host", "elsewhere", "set by the sink"),
        ("content-type", "text/plain", "set by the sink"),
        ("Webhook-Id", "1", "set by the sink"),
        ("", "x", "must be a token"),
        ("a b", "x", "must be a token"),
        ("a\r\nb", "x", "must be a token"),
        (1, "x", "must be a token"),
        ("x-a", "hunter2\r\nX-Forged: 1", "on one line"),
        ("x-a", "", "on one line"),
        ("x-a", " hunter2", "on one line"),
        ("x-a", "hunter2\u00e9", "on one line"),
        ("x-a", b"hunter2", "on one line"),
    ],
)
def test_invalid_header_is_rejected_without_its_value(name: Any, value: Any, message: str) -> None:
    """The error of an invalid header does not show its value, which may be a secret."""
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
def test_invalid_url_is_rejected_and_not_shown(url: Any) -> None:
    """The error of an invalid URL does not show it, because it may be a secret."""
    with pytest.raises(ValueError, match=r"^url must be 'http://' or 'https://'") as caught:
        WebhookSink(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "origin"),
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
def test_repr_of_a_sink_shows_only_the_origin(url: str, origin: str) -> None:
    """The path, the query and the user information of a URL are secrets."""
    assert repr(WebhookSink(url)) == f"WebhookSink({origin!r})"
    assert repr(SlackSink(url)) == f"SlackSink({origin!r})"


def test_sink_without_httpx2_is_rejected_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without httpx2 the constructor raises an error that names the extra to install."""
    monkeypatch.setattr(http, "find_spec", lambda name: None)

    with pytest.raises(ValueError, match=r"WebhookSink needs .* 'tokenpulse-mw\[notify\]'"):
        WebhookSink(URL)
    with pytest.raises(ValueError, match="AlertmanagerSink needs"):
        sinks.AlertmanagerSink(URL)
    with pytest.raises(ValueError, match="AlertmanagerSink needs"):
        sinks.AlertmanagerSink(URL, generator_url=URL)
