"""Compose, Kubernetes, Loki and cron: every name in them leads to what it names."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
from datetime import datetime
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.applications import Starlette
from starlette.routing import Route

from tokenpulse_mw import HealthRouter, HttpMetrics, TokenPulse, configure_logging
from tokenpulse_mw.cli import main
from tokenpulse_mw.demo.server import LocalServer

from ..support.waiting import PATIENCE
from .files import blocks, read, rules


@pytest.fixture
def services(written: Path) -> dict[str, dict[str, Any]]:
    """What the compose file runs."""
    compose: dict[str, dict[str, Any]] = read(written / "docker-compose.yml")
    return compose["services"]


@pytest.fixture
def kubernetes(written: Path) -> dict[str, dict[str, Any]]:
    """The objects of Kubernetes, by kind, without those of Redis."""
    found = {}
    for name in ("gateway", "monitors", "rules"):
        file = written / "kubernetes" / f"{name}.yml"
        for each in yaml.safe_load_all(file.read_text()):
            found[each["kind"]] = each
    return found


def test_every_mounted_file_is_written(written: Path, services: dict[str, dict[str, Any]]) -> None:
    """And every volume is declared."""
    declared = set(read(written / "docker-compose.yml")["volumes"])
    mounts = [
        mount.split(":")[0] for each in services.values() for mount in each.get("volumes", [])
    ]

    assert {mount for mount in mounts if mount[0] not in "./"} == declared
    assert all((written / mount).exists() for mount in mounts if mount[0] == ".")


def test_every_settings_file_named_is_in_its_container(
    written: Path, services: dict[str, dict[str, Any]]
) -> None:
    """The path that a program is given lies below a folder that is mounted."""
    for name in ("prometheus", "alertmanager", "loki", "alloy"):
        place = next(part for part in services[name]["command"] if "/etc/" in part).split("=")[-1]
        folder, mounted, _ = services[name]["volumes"][0].split(":")
        assert (written / folder / Path(place).relative_to(mounted)).is_file()


def test_every_service_that_is_asked_runs(
    written: Path, services: dict[str, dict[str, Any]]
) -> None:
    """The addresses in the settings are names of the compose file, and its containers' hosts."""
    texts = [path.read_text() for path in written.rglob("*") if path.suffix in (".yml", ".alloy")]
    places = {place for text in texts for place in re.findall(r"https?://([\w.-]+):\d+", text)}
    targets = set(re.findall(r'targets: \["([\w.-]+):\d+"\]', "".join(texts)))

    assert places | targets <= {*services, "localhost", "host.docker.internal"}
    for name in ("prometheus", "alertmanager"):  # they call this machine
        assert services[name]["extra_hosts"] == ["host.docker.internal:host-gateway"]


def test_nothing_is_open_to_the_network(services: dict[str, dict[str, Any]]) -> None:
    """Ports are published on loopback; no image changes by itself."""
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert name == "gateway" or re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", service["image"])


def test_each_redis_evicts_what_the_documentation_advises(
    written: Path, services: dict[str, dict[str, Any]]
) -> None:
    """The compose file, the one of Kubernetes and the example of the documentation are alike."""
    deployment, service = yaml.safe_load_all((written / "kubernetes/redis.yml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (example,) = (each for each in blocks("operations.md", "yaml") if "redis-server" in each)

    command = yaml.safe_load(example)["services"]["redis"]["command"]
    assert command[-2:] == ["--maxmemory-policy", "volatile-lfu"]
    assert services["redis"]["command"] == ["redis-server", *container["args"]] == command
    assert services["redis"]["image"] == container["image"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]


def test_the_gateway_of_the_compose_file_is_checked(services: dict[str, dict[str, Any]]) -> None:
    """By this library's command, for slim images have no curl."""
    check = services["gateway"]["healthcheck"]["test"]

    assert check[:4] == ["CMD", "tokenpulse-mw", "check", "health"]
    assert services["gateway"]["ports"] == ["127.0.0.1:3000:3000"]


def test_the_check_of_compose_runs(
    services: dict[str, dict[str, Any]], metrics: HttpMetrics
) -> None:
    """As it stands, against a real gateway: all is fine, and then it is down."""
    pulse = TokenPulse(metrics=metrics)
    app = Starlette()
    pulse.install(app)
    (_, _, *check) = services["gateway"]["healthcheck"]["test"]

    def code(url: str) -> int:
        return main([part.replace("http://localhost:3000", url) for part in check])

    with LocalServer(app) as server:
        assert code(server.url) == 0
    assert code(server.url) == 3


def test_the_probes_of_kubernetes_are_answered(kubernetes: dict[str, dict[str, Any]]) -> None:
    """Each asks for a path that HealthRouter has, on a port that is there."""
    (container,) = kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"]
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]

    served = {route.path for route in HealthRouter().routes if isinstance(route, Route)}
    assert {probe["path"] for probe in probes} <= served
    assert {probe["port"] for probe in probes} == {port["name"] for port in container["ports"]}
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"


def test_kubernetes_waits_for_the_answer_of_a_check_that_hangs(
    kubernetes: dict[str, dict[str, Any]],
) -> None:
    """It comes when the deadline of all checks is over, and not before."""
    deadline = signature(HealthRouter).parameters["deadline"].default
    (manifest,) = kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"]
    (pod,) = (each for each in blocks("operations.md", "yaml") if "readinessProbe" in each)
    (documented,) = yaml.safe_load(pod)["containers"]

    for container in (manifest, documented):
        for probe in ("startupProbe", "readinessProbe"):
            assert container[probe]["timeoutSeconds"] > deadline


def test_a_pod_has_time_to_end(kubernetes: dict[str, dict[str, Any]]) -> None:
    """Its answers may go on for longer than it waits before it closes."""
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])

    assert pod["terminationGracePeriodSeconds"] >= pause + 60


def test_the_parts_of_kubernetes_find_each_other(kubernetes: dict[str, dict[str, Any]]) -> None:
    """By labels and by the names of ports; the service's name is the job of the rules."""
    deployment, service = kubernetes["Deployment"]["spec"], kubernetes["Service"]
    labels = deployment["template"]["metadata"]["labels"]
    monitor = kubernetes["ServiceMonitor"]["spec"]

    assert deployment["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert service["metadata"]["name"] == "tokenpulse"


def test_nothing_asks_to_be_scraped_under_another_name(
    kubernetes: dict[str, dict[str, Any]],
) -> None:
    """Annotations would be found by a job for all pods, whose name the rules do not look for."""
    assert "annotations" not in kubernetes["Deployment"]["spec"]["template"]["metadata"]


def test_the_operator_has_the_same_rules(
    written: Path, kubernetes: dict[str, dict[str, Any]]
) -> None:
    """Not a copy that grows old."""
    groups = kubernetes["PrometheusRule"]["spec"]["groups"]

    assert [rule for group in groups for rule in group["rules"]] == rules(written)


def test_prometheus_scrapes_what_the_rules_look_for(written: Path, metrics: HttpMetrics) -> None:
    """The job has the name that they know, and the path is served."""
    (job,) = read(written / "prometheus/prometheus.yml")["scrape_configs"]

    assert job["job_name"] == "tokenpulse"
    assert job["metrics_path"] in {route.path for route in TokenPulse(metrics=metrics).routes}


def test_loki_keeps_logs_for_a_week(written: Path) -> None:
    """And deletes them after that, which takes a compactor."""
    settings = read(written / "loki/loki.yml")

    assert settings["limits_config"]["retention_period"] == "168h"
    assert settings["compactor"]["retention_enabled"] is True


@pytest.mark.usefixtures("logging_as_it_was")
def test_alloy_reads_what_the_gateway_logs(written: Path) -> None:
    """The fields it takes are in a line of the JSON log, the time in the format it expects."""
    stream = io.StringIO()
    configure_logging("INFO", "json", stream=stream)
    logging.getLogger("Migration").info("done")
    line = json.loads(stream.getvalue())
    config = (written / "alloy/config.alloy").read_text()

    (expressions,) = re.findall(r"expressions = {(.*)}", config)
    assert set(re.findall(r'= "(\w+)"', expressions)) == {"level", "time"} <= set(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def test_the_parts_of_alloy_are_connected(
    written: Path, services: dict[str, dict[str, Any]]
) -> None:
    """Each part that another names is there, and the label that is looked for is the gateway's."""
    config = (written / "alloy/config.alloy").read_text()
    parts = {f"{kind}.{name}" for kind, name in re.findall(r'^([\w.]+) "(\w+)" {$', config, re.M)}
    named = set(re.findall(r"[=\[ ]((?:loki|discovery)\.\w+\.\w+)\.\w+", config))
    (label,) = re.findall(r'values = \["([\w.]+)=true"\]', config)

    assert named < parts
    assert config.count("{") == config.count("}")
    assert services["gateway"]["labels"] == {label: "true"}


def test_cron_runs_the_check_of_credentials(written: Path) -> None:
    """Every five minutes; crontab has no other lines than comments."""
    lines = (written / "cron/tokenpulse.crontab").read_text().splitlines()
    (line,) = [line for line in lines if not line.startswith("#")]

    assert line.split()[:5] == ["*/5", "*", "*", "*", "*"]
    assert " check credentials http://localhost:3000" in line
    assert not re.search(r"(?<!\\)%", line)  # which means a new line to cron


@pytest.mark.slow
def test_the_line_of_cron_runs_as_cron_runs_it(
    written: Path, tmp_path: Path, metrics: HttpMetrics
) -> None:
    """With few folders, from home; each line of the log has the time, whatever it says."""
    pulse = TokenPulse(metrics=metrics, credentials={"claude": True, "kiro": False})
    app = Starlette()
    pulse.install(app)
    line = (written / "cron/tokenpulse.crontab").read_text().splitlines()[-1].split(maxsplit=5)[-1]
    log = tmp_path / "log"

    def code(url: str) -> int:
        script = line.replace(r"\%", "%").replace("/var/log/tokenpulse-creds.log", str(log))
        patient = f"{url} --timeout {PATIENCE}"
        command = ["sh", "-c", script.replace("http://localhost:3000", patient)]
        environment = {"HOME": str(tmp_path), "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
        return subprocess.run(command, cwd=tmp_path, env=environment, timeout=PATIENCE).returncode

    with LocalServer(app) as server:
        assert code(server.url) == 1
    assert code(server.url) == 3

    times, said = zip(
        *(line.split(maxsplit=1) for line in log.read_text().splitlines()), strict=True
    )
    assert all(datetime.fromisoformat(time).tzinfo for time in times)
    assert said[0] == "WARNING: 1 of 2 providers are inactive: kiro"
    assert said[1].startswith("UNKNOWN: no answer: ")
