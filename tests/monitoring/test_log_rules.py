"""Alerts from the log: rules of Loki, the pipeline of Logstash, and the script for cron."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import anyio
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

import tokenpulse_mw
from tokenpulse_mw import (
    AlertEngine,
    AlertEvent,
    Exchange,
    Finding,
    Limiter,
    LogSink,
    RateLimitMiddleware,
    Settings,
    SharedLimiter,
    Subject,
    Thresholds,
    TokenPulse,
    configure_logging,
)
from tokenpulse_mw.alerts import (
    AlertmanagerSink,
    Sink,
    SQLAlertStore,
    StoreError,
    Traffic,
    WebhookSink,
)
from tokenpulse_mw.alerts.store import AlertStore
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.exchange.observers import ErrorReporter
from tokenpulse_mw.logs import AccessLog
from tokenpulse_mw.ratelimit.zone.zone_limiter import ZoneLimiter

from ..logs.test_servers import APP, need_packages, serving
from ..support.clock import FakeClock
from ..support.receiver import Receiver, respond_with
from ..support.servers import free_port
from ..support.waiting import PATIENCE, wait_until
from .files import DOCS, LOG_RULES, log_alerts, read
from .logql import evaluate, stream_labels

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

PACKAGE = Path(tokenpulse_mw.__file__).parent


def logged(write: Callable[[], object]) -> list[str]:
    """Return the lines of JSON that `write` logs."""
    stream = io.StringIO()
    configure_logging("INFO", "json", stream=stream)
    write()
    return stream.getvalue().splitlines()


def finish(status: int, count: int) -> None:
    """Finish requests, which the access log writes."""
    for _ in range(count):
        AccessLog()(Exchange("POST", 0.0, "/chat", status, "claude", outcome="complete"))


def fire() -> None:
    """Fire a critical alert, which the engine logs if it has no other sink."""
    finding = Finding(
        type="provider_down",
        subject=Subject("provider", "claude"),
        severity="critical",
        title="Provider claude is down",
        message="10 failures in a row",
    )
    anyio.run(LogSink(), AlertEvent("fired", finding, at=0.0))


@pytest.mark.parametrize(
    ("alert", "write", "labels"),
    [
        ("ErrorsLogged", lambda: logging.getLogger("app").error("no"), {"module": "app"}),
        ("ErrorsLogged", fire, {"module": "tokenpulse_mw.alerts"}),
        ("FailedRequestsLogged", lambda: finish(502, 21), {"route": "/chat", "provider": "claude"}),
    ],
)
def test_alert_fires_for_logged_lines(
    written: Path, alert: str, write: Callable[[], object], labels: dict[str, str]
) -> None:
    """The expression counts the lines that the formatter really writes."""
    lines = logged(write)

    assert firing(written, lines) == {alert: [labels]}


@pytest.mark.parametrize(
    "write",
    [
        lambda: logging.getLogger("app").warning("slow"),
        lambda: finish(502, 20),
        lambda: finish(429, 100),
        lambda: finish(200, 100),
    ],
    ids=["warning", "few failures", "limited", "complete"],
)
def test_no_alert_fires_for_normal_lines(written: Path, write: Callable[[], object]) -> None:
    """Warnings, a few failures and rejected requests are not a problem."""
    lines = logged(write)

    assert lines
    assert firing(written, lines) == {}


def firing(directory: Path, lines: list[str]) -> dict[str, list[dict[str, str]]]:
    """Return the labels of the alerts that fire for these lines, by name."""
    rules = log_alerts(directory)
    results = {name: evaluate(rule["expr"], lines) for name, rule in rules.items()}
    return {name: labels for name, labels in results.items() if labels}


ALERTS, LIMITS, STACK = "tokenpulse_mw.alerts", "tokenpulse_mw.ratelimit", "tokenpulse_mw"


def start(store: AlertStore | None = None) -> None:
    """Start an engine, and end it again."""

    async def run() -> None:
        async with AlertEngine([], [], store=store):
            pass

    anyio.run(run)


def deliver(sink: Sink) -> None:
    """Evaluate a rule that fires, and deliver its notification once."""

    def trouble(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
        subject = Subject("key", "k1")
        yield Finding(type="trouble", subject=subject, severity="info", title="T", message="M")

    async def run() -> None:
        await AlertEngine([trouble], [sink]).evaluate()
        if isinstance(sink, AlertmanagerSink | WebhookSink):
            await sink.aclose()

    anyio.run(run)


def test_outage_of_the_alert_store_is_an_alert(written: Path, tmp_path: Path) -> None:
    """A database that cannot be opened fails each heartbeat."""
    store = SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path}/missing/alerts.db")

    lines = logged(lambda: start(store))

    assert firing(written, lines).keys() == {"AlertStoreOutageLogged", "ErrorsLogged"}
    assert firing(written, lines)["AlertStoreOutageLogged"] == [{"module": ALERTS}]


@pytest.mark.parametrize(
    "component", ["heartbeat of the alert store", "reading the alert store", "alert store"]
)
def test_reminder_of_an_outage_is_an_alert_and_its_end_is_none(
    written: Path, component: str
) -> None:
    """Each window of 15 minutes has a line while the outage lasts, since reminders come before."""
    clock = FakeClock()
    failures = ErrorReporter(
        logger=logging.getLogger(ALERTS),
        continuing="alerts",
        self_explanatory=(StoreError,),
        clock=clock,
    )
    failures.log(component, StoreError("disk I/O error"))

    def continue_outage() -> None:
        for _ in range(11):
            clock.advance(60)
            failures.log(component, StoreError("disk I/O error"))

    alerts = firing(written, logged(continue_outage))
    assert alerts["AlertStoreOutageLogged"] == [{"module": ALERTS}]
    assert window_minutes(written, "AlertStoreOutageLogged") >= 11
    assert firing(written, logged(lambda: failures.recovered(component))) == {}


def window_minutes(directory: Path, alert: str) -> int:
    """Return the length of the window of an alert."""
    return int(re.findall(r"\[(\d+)m\]", log_alerts(directory)[alert]["expr"])[0])


def test_outage_of_the_limit_storage_is_an_alert(written: Path) -> None:
    """A storage that does not listen is logged with the first request."""

    async def hit() -> None:
        limiter = SharedLimiter("9/minute", storage=f"redis://127.0.0.1:{free_port()}")
        assert (await limiter.hit("a")).degraded
        await limiter.aclose()

    lines = logged(lambda: anyio.run(hit))

    assert firing(written, lines) == {"LimitStorageOutageLogged": [{"module": LIMITS}]}


def test_limit_that_is_no_longer_shared_by_workers_is_an_alert(
    written: Path, tmp_path: Path
) -> None:
    """The file of a limit in the shared folder was deleted."""
    clock = FakeClock()
    limiter = ZoneLimiter("9/minute", path=tmp_path / "limit", clock=clock)
    limiter.hit("a")
    (tmp_path / "limit").unlink()
    clock.advance(2)

    lines = logged(lambda: limiter.hit("a"))

    assert firing(written, lines) == {"LimitStorageOutageLogged": [{"module": LIMITS}]}


def failing(event: AlertEvent) -> None:
    """Fail, as a sink with a mistake."""
    raise RuntimeError("no")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "notification dropped: sink=WebhookSink alert=trouble:key:k1"),
        (503, "sink unavailable, notifications wait: sink=WebhookSink"),
    ],
)
def test_sink_that_rejects_or_is_down_is_an_alert(written: Path, status: int, text: str) -> None:
    """A dead letter is logged as ERROR, a receiver that is down as WARN."""
    with Receiver(respond_with(status)) as receiver:
        lines = logged(lambda: deliver(WebhookSink(receiver.url)))

    assert any(text in line for line in lines)
    assert firing(written, lines)["SinkRejectsLogged"] == [{"module": ALERTS}]


def test_one_of_two_alertmanagers_that_fails_is_an_alert(written: Path) -> None:
    """The notification is delivered, so only the line of the other Alertmanager shows it."""
    with Receiver() as receiver:
        urls = [receiver.url, f"http://127.0.0.1:{free_port()}"]
        lines = logged(lambda: deliver(AlertmanagerSink(urls)))

    assert firing(written, lines) == {"SinkRejectsLogged": [{"module": ALERTS}]}


def test_sink_with_a_mistake_is_an_alert(written: Path) -> None:
    """Its exception is logged with a traceback."""
    lines = logged(lambda: deliver(failing))

    assert firing(written, lines).keys() == {"SinkRejectsLogged", "ErrorsLogged"}


def test_processes_that_restart_repeatedly_are_an_alert(written: Path) -> None:
    """One start is not; and a deployment is not, since its lines leave the window earlier."""
    app = Starlette()
    TokenPulse(settings=Settings(limit=None)).install(app)

    def restart() -> None:
        with TestClient(app):
            pass

    lines = logged(restart)
    assert firing(written, lines) == {}
    assert firing(written, [*lines, *logged(restart)]) == {"ProcessRestartsLogged": [{}]}

    rule = log_alerts(written)["ProcessRestartsLogged"]
    minutes = window_minutes(written, "ProcessRestartsLogged")
    assert int(rule["for"].removesuffix("m")) >= minutes + 5  # a deployment of five minutes


def misconfigured(**settings: object) -> Callable[[], object]:
    """Return a function that creates a gateway with these settings."""
    return lambda: TokenPulse(settings=Settings(**settings))  # type: ignore[arg-type]


def detected() -> None:
    """Count a request twice."""
    limiter = Limiter("9/minute")
    app = RateLimitMiddleware(
        RateLimitMiddleware(PlainTextResponse("done"), limiter=limiter), limiter=limiter
    )
    TestClient(app).get("/")


def forwarded() -> None:
    """Send a request of an unknown proxy."""
    app = RateLimitMiddleware(PlainTextResponse("done"), limit="9/minute")
    for _ in range(3):
        TestClient(app, client=("10.0.0.7", 1)).get("/", headers={"x-forwarded-for": "203.0.113.9"})


@pytest.mark.parametrize(
    ("write", "module"),
    [
        (misconfigured(alert_webhook_secret="whsec_" + "c2VjcmV0" * 4), STACK),
        (detected, LIMITS),
        (forwarded, LIMITS),
    ],
)
def test_probable_misconfiguration_is_an_alert(
    written: Path, write: Callable[[], object], module: str
) -> None:
    """The line is logged once, so the window is a day."""
    lines = logged(write)

    assert firing(written, lines) == {"MisconfigurationLogged": [{"module": module}]}


def test_unknown_setting_is_an_alert(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with a typing error has no effect."""
    monkeypatch.setenv("TOKENPULSE_LIMITS", "9/minute")

    assert firing(written, logged(Settings)) == {"MisconfigurationLogged": [{"module": STACK}]}


def test_each_line_of_misconfiguration_is_in_the_source(written: Path) -> None:
    """A changed text must be changed in the rule too."""
    expression = log_alerts(written)["MisconfigurationLogged"]["expr"]
    (group,) = re.findall(r"\(\?s\)\((.*?)\)\.\*\|", expression)
    source = "".join(
        "".join(
            re.sub(r'"\n\s+f?"', "", path.read_text()) for path in PACKAGE.rglob("*.py")
        ).split()
    )

    starts = [re.sub(r"\[(.)\]", r"\1", start) for start in group.split("|")]
    assert len(starts) > 10
    for start in starts:
        assert '"' + "".join(start.split()) in source, start


NAMES = [
    "alert store failed with StoreError",
    "notification dropped: sink=x",
    "X-Forwarded-For came from x: all clients behind that proxy share one limit y",
    "Exception in ASGI application",
    "alert engine started: rules=x",
    "Child process [7] died",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("module", [ALERTS, LIMITS, STACK, "uvicorn.error", "tokenpulse_mw.access"])
def test_name_of_a_tenant_cannot_forge_an_alert(written: Path, name: str, module: str) -> None:
    """The filters read the beginning of the message, and only the lines of its module."""

    def write() -> None:
        logger = logging.getLogger(module)
        logger.warning("fired rate_limit:master:7 [warning]: Master '%s' is limited", name)
        logger.info("resolved traffic_spike:master_rpm:master:7 [info]: Master '%s' RPM", name)
        logging.getLogger("app").warning(name)

    assert firing(written, logged(write)) == {}


CRASHING = {
    "uvicorn": "uvicorn.error",
    "uvicorn with workers": "uvicorn.error",
    "gunicorn": "uvicorn.error",
    "hypercorn": "hypercorn.error",
    "granian": "_granian.utils",
}
COMMANDS = {
    "uvicorn": ["uvicorn", APP, "--port", "{port}"],
    "uvicorn with workers": ["uvicorn", APP, "--port", "{port}", "--workers", "2"],
    "gunicorn": [
        *("gunicorn", APP, "-k", "uvicorn_worker.UvicornWorker"),
        *("-b", "127.0.0.1:{port}", "--no-control-socket"),
    ],
    "hypercorn": ["hypercorn", APP, "--bind", "127.0.0.1:{port}"],
    "granian": ["granian", APP, "--interface", "asgi", "--port", "{port}"],
}


@pytest.mark.slow
@pytest.mark.parametrize("server", COMMANDS)
def test_exception_in_the_application_is_an_alert(
    written: Path, tmp_path: Path, server: str
) -> None:
    """Each server logs an unhandled exception under its own logger."""
    need_packages(server)
    log = tmp_path / "log"
    with serving(["-m", *COMMANDS[server]], log) as client:
        assert firing(written, json_lines(log)) == {}
        client.get("/failing")
        wait_until(lambda: "no upstream" in log.read_text())

    alerts = firing(written, json_lines(log))
    assert alerts["ApplicationCrashLogged"] == [{"module": CRASHING[server]}]
    assert "WorkerDiedLogged" not in firing(written, log.read_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("server", ["uvicorn with workers", "gunicorn", "granian"])
def test_killed_worker_is_an_alert(written: Path, tmp_path: Path, server: str) -> None:
    """The parent process writes text, since it does not run the application."""
    need_packages(server)
    log = tmp_path / "log"
    with serving(["-m", *COMMANDS[server]], log, stdout=True) as client:
        os.kill(int(client.get("/pid").text), signal.SIGKILL)
        wait_until(lambda: "WorkerDiedLogged" in firing(written, log.read_text().splitlines()))


def json_lines(log: Path) -> list[str]:
    """Return the lines of the application."""
    return [line for line in log.read_text().splitlines() if line.startswith("{")]


def test_alert_fires_for_lines_that_are_not_json(written: Path) -> None:
    """The other alerts cannot fire then, so this is an alert of its own."""
    expression = log_alerts(written)["LogsNotJson"]["expr"]
    line = '{"level":"INFO"}'

    assert evaluate(expression, ["text", "text", line]) == [{}]
    assert evaluate(expression, ["text", line]) == []


def test_alerts_have_the_annotations_and_the_runbook_of_the_others(written: Path) -> None:
    """The page has a section for each, and Alertmanager groups them like the others."""
    page = (DOCS / "monitoring.md").read_text()

    for name, rule in log_alerts(written).items():
        assert rule["labels"] == {"service": "tokenpulse", "severity": "warning"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"monitoring.md#{name.lower()}"
        assert f"\n### {name}\n" in page
        minutes = rule.get("for", "immediately").replace("m", " m" if "for" in rule else "m")
        assert re.search(rf"^\| \[`{name}`\]\(#{name.lower()}\) .* \| {minutes} \|$", page, re.M)


def test_ruler_of_loki_reads_the_rules_and_notifies_alertmanager(written: Path) -> None:
    """The directory is that of the tenant `fake`, in the volume of the Compose file."""
    services = read(written / "docker-compose.yml")["services"]
    ruler = read(written / "loki/loki.yml")["ruler"]
    folder, mounted, _ = services["loki"]["volumes"][0].split(":")

    directory = Path(ruler["storage"]["local"]["directory"]).relative_to(mounted)
    assert written / folder / directory / "fake/tokenpulse.rules.yml" == written / LOG_RULES
    assert ruler["alertmanager_url"] == "http://alertmanager:9093"
    assert "--web.listen-address" not in " ".join(services["alertmanager"]["command"])


def test_alloy_labels_are_those_of_the_rules(written: Path) -> None:
    """The selectors use the service and the level."""
    config = (written / "alloy/config.alloy").read_text()
    (static,) = re.findall(r"labels +=\s*{(.*)}", config)
    (dynamic,) = re.findall(r"stage.labels {\s*values = {(.*)}", config)

    (line,) = logged(lambda: logging.getLogger("app").info("done"))
    names = set(re.findall(r'"(\w+)" =', static + dynamic))
    assert stream_labels(line).keys() == names
    for rule in log_alerts(written).values():
        for selector in re.findall(r"{service_name[^}]*}", rule["expr"]):
            assert set(re.findall(r"(\w+)=", selector)) <= names


def test_logstash_reads_the_json_log(written: Path) -> None:
    """Each field of the pipeline is a field of the lines, and the time has its format."""
    pipeline = (written / "logstash/tokenpulse.conf").read_text()
    code = re.sub(r"#.*", "", pipeline)
    (line,) = logged(lambda: logging.getLogger("app").info("done"))
    entry = json.loads(line)

    assert code.count("{") == code.count("}")
    assert code.count("[") == code.count("]")
    assert re.findall(r"^(\w+) {$", code, re.M) == ["input", "filter", "output"]
    assert 'source => "message"' in code
    assert 'target => "tokenpulse"' in code
    fields = set(re.findall(r"\[tokenpulse\]\[(\w+)\]", code))
    assert fields == {"time", "level", "module", "message"} <= entry.keys()
    assert datetime.fromisoformat(entry["time"]).tzinfo is not None  # ISO8601


def test_filebeat_sends_the_labelled_containers_to_logstash(written: Path) -> None:
    """The label is that of the Compose file, and the port that of the pipeline."""
    services = read(written / "docker-compose.yml")["services"]
    config = read(written / "filebeat/filebeat.yml")
    (provider,) = config["filebeat.autodiscover"]["providers"]
    (template,) = provider["templates"]

    (label,) = services["gateway"]["labels"]
    assert template["condition"]["equals"] == {f"docker.container.labels.{label}": "true"}
    (port,) = re.findall(r"port => (\d+)", (written / "logstash/tokenpulse.conf").read_text())
    assert config["output.logstash"]["hosts"] == [f"${{LOGSTASH_HOST:localhost:{port}}}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("credentials", "code", "message"),
    [
        ({"claude": True}, 0, "OK: "),
        ({"claude": True, "kiro": False}, 1, "WARNING: 1 of 2 providers are inactive: kiro"),
        (None, 3, "UNKNOWN: "),
    ],
    ids=["active", "inactive", "not an endpoint"],
)
def test_script_checks_the_credentials(
    written: Path, credentials: dict[str, bool] | None, code: int, message: str
) -> None:
    """The line has a timestamp, and the exit code is that of a Nagios plugin."""
    app = Starlette()
    TokenPulse(settings=Settings(), credentials=credentials).install(app)
    script = written / "cron/check_credentials.sh"

    with LocalServer(app) as server:
        run = subprocess.run([script, server.url], capture_output=True, text=True, timeout=PATIENCE)

    time, line = run.stdout.split(maxsplit=1)
    assert run.returncode == code
    assert datetime.fromisoformat(time).tzinfo is not None
    assert line.startswith(message)
