"""Compose, Kubernetes, Loki, Alloy and cron files."""

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
from urllib.parse import urlsplit

import pytest
import yaml
from starlette.applications import Starlette
from starlette.routing import Route

from tokenpulse_mw import HealthRouter, HttpMetrics, Settings, TokenPulse, configure_logging
from tokenpulse_mw.cli import main
from tokenpulse_mw.demo.server import LocalServer

from ..support.waiting import PATIENCE
from .files import blocks, read, rules


@pytest.fixture
def services(written: Path) -> dict[str, dict[str, Any]]:
    """Return the services of the Compose file."""
    compose: dict[str, dict[str, Any]] = read(written / "docker-compose.yml")
    return compose["services"]


@pytest.fixture
def kubernetes(written: Path) -> dict[str, dict[str, Any]]:
    """Return the Kubernetes objects by kind, without those of Redis."""
    objects = {}
    for name in ("gateway", "monitors", "rules"):
        file = written / "kubernetes" / f"{name}.yml"
        for item in yaml.safe_load_all(file.read_text()):
            objects[item["kind"]] = item
    return objects


def test_mounted_files_and_volumes_exist(
    written: Path, services: dict[str, dict[str, Any]]
) -> None:
    """Each volume is declared."""
    declared = set(read(written / "docker-compose.yml")["volumes"])
    mounts = [
        mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])
    ]

    assert {mount for mount in mounts if mount[0] not in "./"} == declared
    assert all((written / mount).exists() for mount in mounts if mount[0] == ".")


def test_configuration_paths_are_below_a_mount(
    written: Path, services: dict[str, dict[str, Any]]
) -> None:
    """Each program finds its configuration file in the container."""
    for name in ("prometheus", "alertmanager", "loki", "alloy"):
        path = next(part for part in services[name]["command"] if "/etc/" in part).split("=")[-1]
        folder, mounted, _ = services[name]["volumes"][0].split(":")
        assert (written / folder / Path(path).relative_to(mounted)).is_file()


def test_addresses_are_services_of_the_compose_file(
    written: Path, services: dict[str, dict[str, Any]]
) -> None:
    """Localhost and the Docker host are the only other names."""
    texts = [path.read_text() for path in written.rglob("*") if path.suffix in (".yml", ".alloy")]
    hosts = {host for text in texts for host in re.findall(r"https?://([\w.-]+):\d+", text)}
    targets = set(re.findall(r'targets: \["([\w.-]+):\d+"\]', "".join(texts)))

    assert hosts | targets <= {*services, "localhost", "host.docker.internal"}
    for name in ("prometheus", "alertmanager"):  # they connect to this machine
        assert services[name]["extra_hosts"] == ["host.docker.internal:host-gateway"]


def test_ports_are_published_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    """Image versions are pinned."""
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert name == "gateway" or re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", service["image"])


def test_redis_options_equal_those_of_the_documentation(written: Path) -> None:
    """The Kubernetes file and the example have the same command."""
    deployment, service = yaml.safe_load_all((written / "kubernetes/redis.yml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (example,) = (block for block in blocks("operations.md", "yaml") if "redis-server" in block)

    command = yaml.safe_load(example)["services"]["redis"]["command"]
    assert command[-2:] == ["--maxmemory-policy", "volatile-lfu"]
    assert ["redis-server", *container["args"]] == command
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]


def test_compose_gateway_has_a_health_check(services: dict[str, dict[str, Any]]) -> None:
    """Slim images have no curl, so the check is the command of this library."""
    check = services["gateway"]["healthcheck"]["test"]

    assert check[:4] == ["CMD", "tokenpulse-mw", "check", "health"]
    assert services["gateway"]["ports"] == ["127.0.0.1:3000:3000"]


def test_compose_health_check_runs(
    services: dict[str, dict[str, Any]], metrics: HttpMetrics
) -> None:
    """The exit code is 0 for a running gateway and 3 for a stopped one."""
    pulse = TokenPulse(metrics=metrics)
    app = Starlette()
    pulse.install(app)
    (_, _, *check) = services["gateway"]["healthcheck"]["test"]

    def code(url: str) -> int:
        return main([part.replace("http://localhost:3000", url) for part in check])

    with LocalServer(app) as server:
        assert code(server.url) == 0
    assert code(server.url) == 3


def test_compose_gateway_has_proxies_workers_and_secrets(
    written: Path, services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trusts the network of the file only, its workers share memory, and secrets are files."""
    compose, gateway = read(written / "docker-compose.yml"), services["gateway"]
    for name, value in gateway["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:?-(.*)\}", r"\1", value))
    (network,) = compose["networks"]["default"]["ipam"]["config"]

    settings = Settings()
    assert settings.trusted_proxies == (network["subnet"],)
    assert gateway["tmpfs"] == [str(Path(str(settings.shared_dir)).parent)]
    for secret in gateway["secrets"]:
        assert secret.removeprefix("tokenpulse_") in Settings.model_fields
        assert compose["secrets"][secret] == {"file": f"./secrets/{secret}"}


def test_kubernetes_gateway_has_proxies_storage_and_secrets(
    written: Path, kubernetes: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage is the Service of Redis, workers share memory, and secrets are files."""
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    _, redis = yaml.safe_load_all((written / "kubernetes/redis.yml").read_text())

    settings = Settings()
    assert settings.trusted_proxies == ("10.0.0.0/8",)
    address = urlsplit(str(settings.limit_storage))
    assert address.hostname == redis["metadata"]["name"]
    assert address.port == redis["spec"]["ports"][0]["port"]
    secrets, workers = container["volumeMounts"]
    assert secrets["mountPath"] == Settings.model_config["secrets_dir"]
    assert workers["mountPath"] == str(Path(str(settings.shared_dir)).parent)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {secrets["name"], workers["name"]} == volumes.keys()
    assert volumes[workers["name"]]["emptyDir"]["medium"] == "Memory"
    assert pod["automountServiceAccountToken"] is False  # its folder is inside of a read-only one


def test_ingress_serves_the_api_of_the_models_only(
    written: Path, kubernetes: dict[str, dict[str, Any]]
) -> None:
    """It does not buffer streams, and the backend is the Service."""
    ingress = read(written / "kubernetes/ingress.yml")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = kubernetes["Service"]

    assert path["path"] == "/v1"
    assert path["backend"]["service"] == {
        "name": service["metadata"]["name"],
        "port": {"name": service["spec"]["ports"][0]["name"]},
    }
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"


def test_kubernetes_probes_are_routes(kubernetes: dict[str, dict[str, Any]]) -> None:
    """`HealthRouter` serves the paths, and the port is declared."""
    (container,) = kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"]
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]

    paths = {route.path for route in HealthRouter().routes if isinstance(route, Route)}
    assert {probe["path"] for probe in probes} <= paths
    assert {probe["port"] for probe in probes} == {port["name"] for port in container["ports"]}
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"


def test_probe_timeout_is_longer_than_the_check_deadline(
    kubernetes: dict[str, dict[str, Any]],
) -> None:
    """A hanging check is reported by the gateway before the probe fails."""
    deadline = signature(HealthRouter).parameters["deadline"].default
    (manifest,) = kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"]
    (pod,) = (block for block in blocks("operations.md", "yaml") if "readinessProbe" in block)
    (documented,) = yaml.safe_load(pod)["containers"]

    for container in (manifest, documented):
        for probe in ("startupProbe", "readinessProbe"):
            assert container[probe]["timeoutSeconds"] > deadline


def test_pod_has_time_to_complete_responses(kubernetes: dict[str, dict[str, Any]]) -> None:
    """The grace period includes the pause of preStop."""
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])

    assert pod["terminationGracePeriodSeconds"] >= pause + 60


def test_kubernetes_selectors_match(kubernetes: dict[str, dict[str, Any]]) -> None:
    """The name of the Service is the job name of the rules."""
    deployment, service = kubernetes["Deployment"]["spec"], kubernetes["Service"]
    labels = deployment["template"]["metadata"]["labels"]
    monitor = kubernetes["ServiceMonitor"]["spec"]

    assert deployment["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert service["metadata"]["name"] == "tokenpulse"


def test_pod_has_no_scrape_annotations(
    kubernetes: dict[str, dict[str, Any]],
) -> None:
    """A job for all pods would have a name that the rules do not select."""
    assert "annotations" not in kubernetes["Deployment"]["spec"]["template"]["metadata"]


def test_operator_rules_equal_the_prometheus_rules(
    written: Path, kubernetes: dict[str, dict[str, Any]]
) -> None:
    """The file is generated from the rules."""
    groups = kubernetes["PrometheusRule"]["spec"]["groups"]

    assert [rule for group in groups for rule in group["rules"]] == rules(written)


def test_scrape_job_matches_the_rules_and_the_route(written: Path, metrics: HttpMetrics) -> None:
    """The job name and the path are correct."""
    (job,) = read(written / "prometheus/prometheus.yml")["scrape_configs"]

    assert job["job_name"] == "tokenpulse"
    routes = TokenPulse(metrics=metrics).routes
    paths = {route.path for route in routes if isinstance(route, Route)}
    assert job["metrics_path"] in paths


def test_loki_retention_is_a_week(written: Path) -> None:
    """Only the compactor deletes old logs."""
    settings = read(written / "loki/loki.yml")

    assert settings["limits_config"]["retention_period"] == "168h"
    assert settings["compactor"]["retention_enabled"] is True


@pytest.mark.usefixtures("logging_as_it_was")
def test_alloy_parses_the_json_log(written: Path) -> None:
    """The fields and the format of the time match."""
    stream = io.StringIO()
    configure_logging("INFO", "json", stream=stream)
    logging.getLogger("Migration").info("done")
    line = json.loads(stream.getvalue())
    config = (written / "alloy/config.alloy").read_text()

    (expressions,) = re.findall(r"expressions = {(.*)}", config)
    assert set(re.findall(r'= "(\w+)"', expressions)) == {"level", "time"} <= set(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def test_alloy_components_are_connected(written: Path, services: dict[str, dict[str, Any]]) -> None:
    """Referenced components exist, and the gateway has the label."""
    config = (written / "alloy/config.alloy").read_text()
    components = {
        f"{kind}.{name}" for kind, name in re.findall(r'^([\w.]+) "(\w+)" {$', config, re.M)
    }
    referenced = set(re.findall(r"[=\[ ]((?:loki|discovery)\.\w+\.\w+)\.\w+", config))
    (label,) = re.findall(r'values = \["([\w.]+)=true"\]', config)

    assert referenced < components
    assert config.count("{") == config.count("}")
    assert services["gateway"]["labels"] == {label: "true"}


def test_crontab_checks_credentials_every_five_minutes(written: Path) -> None:
    """All other lines are comments."""
    lines = (written / "cron/tokenpulse.crontab").read_text().splitlines()
    (line,) = [line for line in lines if not line.startswith("#")]

    assert line.split()[:5] == ["*/5", "*", "*", "*", "*"]
    assert " check credentials http://localhost:3000" in line
    assert not re.search(r"(?<!\\)%", line)  # cron interprets it as a newline


@pytest.mark.slow
def test_crontab_command_runs_in_the_environment_of_cron(
    written: Path, tmp_path: Path, metrics: HttpMetrics
) -> None:
    """Each line of the log has a timestamp."""
    pulse = TokenPulse(metrics=metrics, credentials={"claude": True, "kiro": False})
    app = Starlette()
    pulse.install(app)
    line = (written / "cron/tokenpulse.crontab").read_text().splitlines()[-1].split(maxsplit=5)[-1]
    log = tmp_path / "log"

    def code(url: str) -> int:
        script = line.replace(r"\%", "%").replace("/var/log/tokenpulse-creds.log", str(log))
        arguments = f"{url} --timeout {PATIENCE}"
        command = ["sh", "-c", script.replace("http://localhost:3000", arguments)]
        environment = {"HOME": str(tmp_path), "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
        return subprocess.run(command, cwd=tmp_path, env=environment, timeout=PATIENCE).returncode

    with LocalServer(app) as server:
        assert code(server.url) == 1
    assert code(server.url) == 3

    times, messages = zip(
        *(line.split(maxsplit=1) for line in log.read_text().splitlines()), strict=True
    )
    assert all(datetime.fromisoformat(time).tzinfo for time in times)
    assert messages[0] == "WARNING: 1 of 2 providers are inactive: kiro"
    assert messages[1].startswith("UNKNOWN: no response: ")
