"""Alerts from the log: rules of Loki, the pipeline of Logstash, and the script for cron."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import anyio
import pytest
from starlette.applications import Starlette

from tokenpulse_mw import (
    AlertEvent,
    Exchange,
    Finding,
    LogSink,
    Settings,
    Subject,
    TokenPulse,
    configure_logging,
)
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.logs import AccessLog

from ..support.waiting import PATIENCE
from .files import DOCS, LOG_RULES, log_alerts, read
from .logql import evaluate, stream_labels

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


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

    firing = {
        name: evaluate(rule["expr"], lines)
        for name, rule in log_alerts(written).items()
        if evaluate(rule["expr"], lines)
    }

    assert firing == {alert: [labels]}


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
    assert [rule for rule in log_alerts(written).values() if evaluate(rule["expr"], lines)] == []


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
