"""What docs/health.md tells to put into Dockerfiles, manifests and crontabs works."""

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
    """The blocks of the page in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def manifests() -> dict[str, Any]:
    """The YAML of the page, all of it in one."""
    return {name: value for each in blocks("yaml") for name, value in yaml.safe_load(each).items()}


def pod() -> dict[str, Any]:
    """The pod of the page."""
    spec: dict[str, Any] = manifests()["spec"]
    return spec


@pytest.fixture
def gateway() -> Iterator[tuple[str, HealthRouter]]:
    """A gateway's URL, and its health."""
    health = HealthRouter(credentials={"claude": True})
    with LocalServer(Starlette(routes=health.routes)) as server:
        yield server.url, health


def run(line: str, url: str, folder: Path) -> int:
    """Run a line of the page in a shell against `url`, as if the command were installed."""
    command = folder / "tokenpulse-mw"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tokenpulse_mw "$@"\n')
    command.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    line = line.replace("http://127.0.0.1:8000", url).replace("/var/log", str(folder))
    return subprocess.run(
        ["sh", "-c", line], env={**os.environ, "PATH": path}, check=False
    ).returncode


def test_the_healthcheck_of_the_dockerfile_works(
    gateway: tuple[str, HealthRouter], tmp_path: Path
) -> None:
    """0 while it lives, 1 when it does not: Docker knows no other code."""
    (dockerfile,) = blocks("dockerfile")
    match = re.fullmatch(r"HEALTHCHECK (--\w+(-\w+)?=\w+ )*\\\n  CMD (.*)\n", dockerfile)
    assert match is not None
    line = match[3]

    assert run(line, gateway[0], tmp_path) == 0
    assert run(line, "http://127.0.0.1:9", tmp_path) == 1


def test_the_healthcheck_of_the_compose_file_works(
    gateway: tuple[str, HealthRouter], tmp_path: Path
) -> None:
    """It is the same, without a shell."""
    service = manifests()["services"]["gateway"]
    kind, *command = service["healthcheck"]["test"]

    assert kind == "CMD"
    assert run(" ".join(command), gateway[0], tmp_path) == 0


def test_the_line_of_cron_works(gateway: tuple[str, HealthRouter], tmp_path: Path) -> None:
    """It has five fields of time, and a command whose output comes into a file."""
    (line,) = blocks("cron")
    *times, command = line.rstrip("\n").split(" ", 5)

    assert times == ["*/5", "*", "*", "*", "*"]
    assert run(command, gateway[0], tmp_path) == 0
    assert (tmp_path / "tokenpulse-creds.log").read_text() == "OK: all providers are active (1)\n"


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_asks_for_an_endpoint_that_is_there(name: str) -> None:
    """On the port that the container has."""
    (container,) = pod()["containers"]
    paths = {route.path for route in HealthRouter().routes if isinstance(route, Route)}

    assert container[name]["httpGet"]["path"] == f"/health/{_ENDPOINTS[name]}"
    assert container[name]["httpGet"]["path"] in paths
    assert container[name]["httpGet"]["port"] == container["ports"][0]["containerPort"]


_ENDPOINTS = dict(zip(PROBES, ("startup", "live", "ready"), strict=True))


def test_the_times_of_the_manifest_fit_together() -> None:
    """The balancer sees the drain before it is over, and the pod is not killed in it."""
    delay = inspect.signature(drain_on_sigterm).parameters["delay"].default
    deadline = inspect.signature(HealthRouter).parameters["deadline"].default
    readiness = pod()["containers"][0]["readinessProbe"]

    assert pod()["terminationGracePeriodSeconds"] > delay
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < delay
    assert readiness["timeoutSeconds"] > deadline
    assert manifests()["services"]["gateway"]["stop_grace_period"] == "60s"


def test_the_pod_can_wait_by_itself() -> None:
    """For servers that cannot be held back; the wait is a command that every image has."""
    assert manifests()["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "5"]}}}
