"""Examples for Docker, Compose, Kubernetes and cron in docs/health.md."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.applications import Starlette
from starlette.routing import Route

from tokenpulse_mw import HealthRouter
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.health import drain_on_sigterm

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "health.md").read_text()
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language on the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def manifests() -> dict[str, Any]:
    """Return the top-level keys of all YAML blocks of the page."""
    return {
        name: value for block in blocks("yaml") for name, value in yaml.safe_load(block).items()
    }


def pod_spec() -> dict[str, Any]:
    """Return the pod specification of the page."""
    spec: dict[str, Any] = manifests()["spec"]
    return spec


@pytest.fixture
def gateway() -> Iterator[tuple[str, HealthRouter]]:
    """Run a gateway, and return its URL and its health router."""
    health = HealthRouter(credentials={"claude": True})
    with LocalServer(Starlette(routes=health.routes)) as server:
        yield server.url, health


def run_in_shell(line: str, url: str, folder: Path) -> int:
    """Run a command line of the page against `url`, and return the exit code."""
    command = folder / "tokenpulse-mw"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tokenpulse_mw "$@"\n')
    command.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    line = line.replace("http://127.0.0.1:8000", url).replace("/var/log", str(folder))
    return subprocess.run(
        ["sh", "-c", line], env={**os.environ, "PATH": path}, check=False
    ).returncode


def test_dockerfile_healthcheck_exits_with_0_or_1(
    gateway: tuple[str, HealthRouter], tmp_path: Path
) -> None:
    """Docker reserves all other exit codes."""
    (dockerfile,) = blocks("dockerfile")
    match = re.fullmatch(r"HEALTHCHECK (--\w+(-\w+)?=\w+ )*\\\n  CMD (.*)\n", dockerfile)
    assert match is not None
    line = match[3]

    assert run_in_shell(line, gateway[0], tmp_path) == 0
    assert run_in_shell(line, "http://127.0.0.1:9", tmp_path) == 1


def test_compose_healthcheck_succeeds(gateway: tuple[str, HealthRouter], tmp_path: Path) -> None:
    """The command runs without a shell."""
    service = manifests()["services"]["gateway"]
    kind, *command = service["healthcheck"]["test"]

    assert kind == "CMD"
    assert run_in_shell(" ".join(command), gateway[0], tmp_path) == 0


def test_cron_line_logs_the_status(gateway: tuple[str, HealthRouter], tmp_path: Path) -> None:
    """The line has five time fields, and its output goes to a file."""
    (line,) = blocks("cron")
    *times, command = line.rstrip("\n").split(" ", 5)

    assert times == ["*/5", "*", "*", "*", "*"]
    assert run_in_shell(command, gateway[0], tmp_path) == 0
    assert (tmp_path / "tokenpulse-creds.log").read_text() == "OK: all providers are active (1)\n"


@pytest.mark.parametrize("name", PROBES)
def test_probe_path_and_port_exist(name: str) -> None:
    """The path is a route of `HealthRouter`, and the port is that of the container."""
    (container,) = pod_spec()["containers"]
    paths = {route.path for route in HealthRouter().routes if isinstance(route, Route)}

    assert container[name]["httpGet"]["path"] == f"/health/{_ENDPOINTS[name]}"
    assert container[name]["httpGet"]["path"] in paths
    assert container[name]["httpGet"]["port"] == container["ports"][0]["containerPort"]


_ENDPOINTS = dict(zip(PROBES, ("startup", "live", "ready"), strict=True))


def test_times_of_the_manifests_are_consistent() -> None:
    """Probes see the drain before it ends, and the pod is not killed during the drain."""
    delay = inspect.signature(drain_on_sigterm).parameters["delay"].default
    deadline = inspect.signature(HealthRouter).parameters["deadline"].default
    readiness = pod_spec()["containers"][0]["readinessProbe"]

    assert pod_spec()["terminationGracePeriodSeconds"] > delay
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < delay
    assert readiness["timeoutSeconds"] > deadline
    assert manifests()["services"]["gateway"]["stop_grace_period"] == "60s"


def test_pre_stop_hook_sleeps() -> None:
    """The hook delays SIGTERM for servers whose shutdown cannot be delayed."""
    assert manifests()["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "5"]}}}
