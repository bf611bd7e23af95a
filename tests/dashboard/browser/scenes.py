"""States of a gateway that are hard to produce, as its JSON endpoints return them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from tokenpulse_mw.alerts import Finding, Severity, Subject

Json = dict[str, Any]

RIGHTS = ["read", "ack", "limits", "thresholds"]
# Names of clients that try to be markup, to reverse the text around them, or to fill the page.
HOSTILE = [
    '<img src=x onerror="document.title=1">',
    "\u202egnp.exe\u202d",
    "x" * 10_000,
    "a\x00b\x07c",
    "</script><script>document.title=1</script>",
    "javascript:document.title=1",
]


def ago(seconds: float, *, now: float) -> str:
    """Return the time `seconds` before `now` as RFC 3339."""
    return datetime.fromtimestamp(now - seconds, UTC).isoformat().replace("+00:00", "Z")


def provider(name: str, requests: float | None, **values: Any) -> Json:
    """Return a provider; all that is not given is healthy, or unknown without requests."""
    known = requests is not None
    rate = requests or 0
    return {
        "name": name,
        "requests_per_minute": requests,
        "error_share": 0.004 if known else None,
        "truncated_share": 0.001 if known else None,
        "p50_seconds": 1.24 if known else None,
        "p95_seconds": 8.1 if known else None,
        "time_to_first_token_p95_seconds": 0.92 if known else None,
        "tokens_per_minute": {"input": rate * 230, "output": rate * 61},
        "limited_by_us_per_minute": 0,
        "limited_by_vendor_per_minute": 0,
        "credential": "active" if known else "unknown",
        "credentials": [],
        "consecutive_failures": 0,
        "last_success_at": None,
        "usage_missing_share": 0.0 if known else None,
        "upstream": None,
        "models": [],
        **values,
    }


def credential(name: str, failures: int = 0, *, rejected: int = 0, at: str | None) -> Json:
    """Return a credential of the group `prod`."""
    return {
        "id": name,
        "group": "prod",
        "consecutive_failures": failures,
        "rejected": rejected,
        "last_success_at": at,
    }


def model(name: str, requests: float) -> Json:
    """Return a model with its rates."""
    tokens = {"input": requests * 115, "output": requests * 29}
    return {"name": name, "requests_per_minute": requests, "tokens_per_minute": tokens}


class Scene:
    """Data of all endpoints at one moment.

    Attributes:
        state, routes, inflight, tenants, limits, keys, rejections: Bodies of the endpoints.
        names: Names of the series.
        findings: Alerts that fire.
    """

    def __init__(self, now: float) -> None:
        self.now = now
        self.findings: list[Finding] = []
        self.names: list[str] = []
        self.routes: list[Json] = []
        self.inflight: list[Json] = []
        self.tenants: list[Json] = []
        self.limits: list[Json] = []
        self.keys: dict[str, list[Json]] = {}
        self.rejections: list[Json] = []
        self.trouble = 0.0  # share of failed requests in the last quarter of the series
        self.gap = range(0)  # steps without data
        self.state: Json = {
            "instance": {
                "id": "7f3a",
                "pid": 812,
                "host": "gw-1",
                "started_at": self.ago(11_000),
                "version": "0.1.0",
            },
            "at": self.ago(0),
            "service": "gateway",
            "scope": {"kind": "process", "processes": 1, "missing": 0},
            "me": {"name": "ada", "can": RIGHTS},
            "status": "ok",
            "firing": {"critical": 0, "warning": 0, "info": 0},
            "rates": {
                "window_seconds": 60,
                "requests_per_second": None,
                "error_share": None,
                "limited_per_minute": None,
                "tokens_per_minute": {"input": None, "output": None},
                "cost_usd_today": None,
            },
            "faults": dict.fromkeys(["client", "policy", "gateway", "provider", "network"]),
            "in_flight": {"count": 0, "oldest_seconds": None, "stalled": 0},
            "engine": {
                "last_evaluation_at": self.ago(14),
                "interval_seconds": 60,
                "store": "none",
                "leader": True,
                "alerts": True,
            },
            "providers": [],
            "sinks": [],
            "checks": [],
            "log_level": "INFO",
            "members": [],
            "internal_errors": 0,
            "series_overflow": 0,
        }

    def ago(self, seconds: float) -> str:
        """Return the time `seconds` before the scene as RFC 3339."""
        return ago(seconds, now=self.now)

    def series(self, by: str, seconds: int) -> Json:
        """Return the series of the last `seconds`."""
        steps = seconds // 15
        spans = {"errors": 0.004, "limited": 0.006}
        sizes = [75 / (1 + rank * rank / 2) for rank in range(len(self.names))]
        series: dict[str, list[Any]] = {}
        for name in ("requests", "errors", "limited", "input_tokens", "output_tokens", "cost_usd"):
            factor = {"input_tokens": 115.0, "output_tokens": 29.0, "cost_usd": 0.0002}.get(name, 1)
            series[name] = []
            for rank, size in enumerate(sizes):
                values: list[float | None] = []
                for step in range(steps):
                    wave = size * (1 + 0.25 * math.sin(step / 9 + rank * 2) + 0.08 * (step * 7 % 5))
                    part = spans.get(name, 1.0)
                    if step > steps * 3 / 4 and rank == 0 and name in spans:
                        part = max(part, self.trouble)
                    values.append(None if step in self.gap else round(wave * part * factor, 4))
                series[name].append(values)
        for name, size in {
            "ttft_p50": 0.4,
            "ttft_p95": 0.92,
            "duration_p95": 8.1,
            "ttfb_p95": 0.8,
        }.items():
            series[name] = [
                [
                    None
                    if step in self.gap
                    else round(size * (1 + rank / 4) * (1 + 0.2 * math.sin(step / 5 + rank)), 3)
                    for step in range(steps)
                ]
                for rank in range(len(self.names))
            ]
        series["in_flight"] = [
            None
            if step in self.gap or not self.names
            else round(37 + 9 * math.sin(step / 8) + step % 4)
            for step in range(steps)
        ]
        marks = [
            {"at": self.ago(2900), "kind": "started", "text": "gw-1 process 812"},
            *(
                {"at": self.ago(600 - 60 * number), "kind": "fired", "text": finding.title}
                for number, finding in enumerate(self.findings)
            ),
        ]
        return {
            "step_seconds": 15,
            "from": self.ago(seconds - 15),
            "to": self.ago(0),
            "names": self.names,
            "series": series,
            "marks": marks if self.names else [],
        }


def empty(now: float) -> Scene:
    """Return a gateway that has just started."""
    return Scene(now)


def busy(now: float) -> Scene:
    """Return a gateway with traffic and without problems."""
    scene = Scene(now)
    state = scene.state
    good = scene.ago(1)
    state["scope"] = {"kind": "fleet", "processes": 4, "missing": 0}
    state["engine"]["store"] = "ok"
    state["rates"] = {
        "window_seconds": 60,
        "requests_per_second": 12.4,
        "error_share": 0.0041,
        "limited_per_minute": 4,
        "tokens_per_minute": {"input": 81_234, "output": 20_111},
        "cost_usd_today": 184.2713,
    }
    state["faults"] = {"client": 2, "policy": 4, "gateway": 0, "provider": 3, "network": None}
    state["in_flight"] = {"count": 37, "oldest_seconds": 81.2, "stalled": 0}
    state["providers"] = [
        provider(
            "claude",
            310,
            last_success_at=good,
            limited_by_us_per_minute=3,
            limited_by_vendor_per_minute=1,
            credentials=[
                credential("prod-1", at=good),
                credential("prod-2", at=good),
                credential("prod-3", at=good),
            ],
            upstream={"requests_remaining": 412, "tokens_remaining": None, "resets_at": None},
            models=[model("claude-sonnet-5", 280), model("claude-opus-5", 30)],
        ),
        provider(
            "openai",
            290,
            last_success_at=good,
            p95_seconds=5.4,
            credentials=[credential("org-main", at=good)],
            upstream={
                "requests_remaining": 9_120,
                "tokens_remaining": 1_830_000,
                "resets_at": scene.ago(-41),
            },
            models=[model("gpt-6", 201), model("gpt-6-mini", 89)],
        ),
        provider("gemini", 121, last_success_at=good, p95_seconds=3.9),
        provider("mistral", None, credential="unknown"),
    ]
    state["sinks"] = [
        {"name": "SlackSink", "waiting": 0, "dead": 0, "last_ok_at": scene.ago(4_000)},
        {"name": "LogSink", "waiting": 0, "dead": 0, "last_ok_at": scene.ago(4_000)},
    ]
    state["checks"] = [
        {"name": "database", "status": "pass", "output": ""},
        {"name": "claude", "status": "pass", "output": "p95 1.2 s"},
    ]
    state["members"] = [
        {
            "name": f"gw-{number}:7:1f0c93a{number}",
            "host": f"gw-{number}",
            "pid": 7,
            "leader": number == 1,
            "seen_at": scene.ago(number),
        }
        for number in range(1, 5)
    ]
    scene.names = ["claude", "openai", "gemini"]
    scene.gap = range(60, 68)
    scene.routes = [
        {
            "route": route,
            "requests_per_minute": requests,
            "error_share": 0.004,
            "p50_seconds": 1.3,
            "p95_seconds": 7.9,
            "limited_per_minute": 1,
        }
        for route, requests in (
            ("/v1/messages", 310),
            ("/v1/chat/completions", 290),
            ("/v1beta/models/{model}:generateContent", 121),
            ("/v1/embeddings", 23),
        )
    ]
    scene.inflight = [
        {
            "id": f"01J8Z{number}",
            "age_seconds": 81.2 - 7 * number,
            "idle_seconds": 0.4,
            "route": "/v1/messages",
            "provider": "claude",
            "model": "claude-sonnet-5",
            "tenant": f"t{number}",
            "tenant_name": ["acme", "globex", "initech"][number % 3],
            "credential": "prod-1",
            "credential_group": "prod",
            "first_byte": number < 6,
            "output_tokens": 812 - 90 * number,
            "stalled": False,
        }
        for number in range(8)
    ]
    scene.tenants = [
        {
            "id": f"t{number}",
            "name": name,
            "requests": 41_200 // (number + 1),
            "input_tokens": 9_300_000 // (number + 1),
            "output_tokens": 2_410_000 // (number + 1),
            "cost_usd": 91.3 / (number + 1),
            "limited": 40 * number,
        }
        for number, name in enumerate(["acme", "globex", "initech", "umbrella", "hooli"])
    ]
    scene.limits = [
        limit("client address", "100 per minute", "client address", keys=812),
        limit("tokens", "1000000 per day", "annotation tenant", unit="tokens", keys=44),
        limit("spend", "20 per day", "annotation tenant", unit="USD", enforced=False, keys=44),
    ]
    scene.keys = {
        "tokens": [key("k_5e1f", "acme", 950_000, 1_000_000, scene.ago(-19_000))],
        "client address": [key("k_77ab", "192.0.2.7", 84, 100, scene.ago(-21))],
    }
    scene.rejections = [rejection(scene, 33, "client address", "192.0.2.7", 3)]
    return scene


def limit(policy: str, rate: str, key: str, **values: Any) -> Json:
    """Return a limit."""
    return {
        "policy": policy,
        "limit": rate,
        "configured": rate,
        "unit": "requests",
        "timezone": None,
        "enforced": True,
        "status": 429,
        "blocked": False,
        "blocked_until": None,
        "version": 0,
        "changed_at": None,
        "changed_by": None,
        "key": key,
        "storage": "memory",
        "keys": 0,
        "max_keys": 5_000,
        "evictions": 0,
        **values,
    }


def key(handle: str, label: str, used: int, limit: int, resets_at: str) -> Json:
    """Return a key of a limit."""
    return {
        "key": handle,
        "label": label,
        "used": used,
        "limit": limit,
        "remaining": max(0, limit - used),
        "resets_at": resets_at,
        "blocked_until": None,
    }


def rejection(scene: Scene, seconds: float, policy: str, label: str, times: int) -> Json:
    """Return a client that was limited `seconds` ago."""
    return {
        "at": scene.ago(seconds),
        "first_at": scene.ago(seconds + 300),
        "policy": policy,
        "key": f"k_{label}",
        "label": label,
        "route": "/v1/messages",
        "count": times,
    }


def alert(
    kind: str, subject: Subject, severity: Severity, title: str, message: str, **values: Any
) -> Finding:
    """Return a finding of a rule."""
    return Finding(
        type=kind, subject=subject, severity=severity, title=title, message=message, **values
    )


def incident(now: float) -> Scene:
    """Return a gateway with a rejected credential of one provider, and a tenant that floods it."""
    scene = busy(now)
    state = scene.state
    state["status"] = "error"
    state["firing"] = {"critical": 1, "warning": 2, "info": 0}
    state["rates"].update(error_share=0.172, limited_per_minute=1_204)
    state["faults"] = {"client": 3, "policy": 1_204, "gateway": 0, "provider": 131, "network": 1}
    state["in_flight"].update(stalled=2, oldest_seconds=304.0)
    claude = state["providers"][0]
    claude.update(error_share=0.34, limited_by_us_per_minute=1_190, consecutive_failures=2)
    claude["credentials"][1] = credential("prod-2", 14, rejected=14, at=scene.ago(640))
    scene.inflight[0].update(stalled=True, idle_seconds=244.0, age_seconds=304.0)
    scene.inflight[1].update(stalled=True, idle_seconds=121.0, age_seconds=180.0)
    scene.trouble = 0.34
    scene.limits[1] = limit("requests", "600 per minute", "annotation tenant", keys=44, evictions=0)
    scene.keys["requests"] = [
        key("k_5e1f", "acme", 600, 600, scene.ago(-31)),
        key("k_99b0", "globex", 492, 600, scene.ago(-31)),
    ]
    scene.rejections = [
        rejection(scene, 2, "requests", "acme", 1_120),
        rejection(scene, 40, "client address", "192.0.2.7", 84),
    ]
    scene.findings = [
        alert(
            "provider_down",
            Subject("apikey", "prod-2", "claude"),
            "critical",
            "Credential is failing: prod-2",
            "Credential prod-2 of claude failed 14 times in a row, the last with status 401",
            value=14,
            metadata={"threshold": 10, "failures": 14, "provider": "claude", "status": 401},
        ),
        alert(
            "high_error_rate",
            Subject("provider", "claude"),
            "warning",
            "High error rate of claude (34.0%)",
            "claude has a 34.0% error rate (105/310 requests) in the last 5m0s",
            value=0.34,
            metadata={"threshold": 0.05, "requests": 310, "errors": 105},
        ),
        alert(
            "rate_limit",
            Subject("master", "t0", "acme"),
            "warning",
            "Rate limit reached by acme",
            "Tenant acme was limited 1120 times in the last minute",
            value=1120,
            metadata={"limited": 1120},
        ),
    ]
    return scene


def broken_store(now: float) -> Scene:
    """Return a busy gateway whose alert store fails and from which a process is missing."""
    scene = busy(now)
    scene.state["status"] = "error"
    scene.state["engine"].update(store="failing", last_evaluation_at=scene.ago(412))
    scene.state["scope"] = {"kind": "fleet", "processes": 3, "missing": 1}
    scene.state["sinks"][0].update(waiting=12, dead=3)
    scene.state["checks"][0].update(status="fail", output="connection refused")
    scene.state["internal_errors"] = 7
    return scene


def hostile(now: float) -> Scene:
    """Return an incident in which every name is hostile."""
    scene = incident(now)
    state = scene.state
    names = HOSTILE
    state["service"] = names[0]
    state["me"]["name"] = names[1]
    state["instance"].update(host=names[0], version=names[1])
    state["providers"] = [
        provider(
            name,
            9,
            credentials=[credential(name, 14, rejected=14, at=None)],
            models=[model(name, 1)],
        )
        for name in names
    ]
    state["sinks"] = [{"name": names[0], "waiting": 0, "dead": 1, "last_ok_at": None}]
    state["checks"] = [{"name": names[1], "status": names[0], "output": names[2]}]
    state["members"] = [
        {"name": name, "host": name, "pid": 1, "leader": False, "seen_at": scene.ago(1)}
        for name in names
    ]
    scene.names = names
    for row, name in zip(scene.routes, names, strict=False):
        row["route"] = name
    for row, name in zip(scene.inflight, names, strict=False):
        row.update(tenant_name=name, model=name, credential=name, id=name)
    for row, name in zip(scene.tenants, names, strict=False):
        row.update(name=name, id=name)
    scene.limits = [limit(name, name, name) for name in names[:1]]
    scene.keys = {names[0]: [key(name, name, 1, 1, scene.ago(-1)) for name in names]}
    scene.rejections = [rejection(scene, 2, names[0], name, 99) for name in names]
    scene.findings = [
        alert(
            "provider_down",
            Subject("provider", f"p{number}", name),
            "critical",
            name,
            name,
            metadata={"provider": name, "runbook_url": "javascript:document.title=1"},
        )
        for number, name in enumerate(names)
    ]
    return scene


def large(now: float) -> Scene:
    """Return a gateway with 50 providers and 5,000 tenants."""
    scene = busy(now)
    good = scene.ago(1)
    scene.state["providers"] = [
        provider(
            f"provider-{number:02}",
            310 - number,
            last_success_at=good,
            credentials=[credential(f"key-{number}", at=good)],
            models=[model(f"model-{number}", 5)],
        )
        for number in range(50)
    ]
    scene.names = [f"provider-{number:02}" for number in range(50)]
    scene.tenants = [
        {
            "id": f"t{number}",
            "name": f"tenant {number:04}",
            "requests": 5_000 - number,
            "input_tokens": 1,
            "output_tokens": 1,
            "cost_usd": None,
            "limited": 0,
        }
        for number in range(5_000)
    ]
    return scene


SCENES = {"empty": empty, "busy": busy, "incident": incident, "broken store": broken_store}
