"""Writes the configuration files for the address of a gateway."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from textwrap import indent

_RUNBOOK = "monitoring.md"  # a copy of docs/monitoring.md
_LINK_TO_PAGE = re.compile(r"\[([^\]]*)\]\([^)#]+\.md[^)]*\)")  # the other pages are not written

_RULES = "prometheus/rules/tokenpulse.rules.yml"
_OPERATOR_RULES = "kubernetes/rules.yml"
_OPERATOR_HEAD = """\
# Rules of prometheus/rules/tokenpulse.rules.yml for the Prometheus operator.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tokenpulse
  labels: {app.kubernetes.io/name: tokenpulse}
spec:
"""


def write_files(
    directory: Path, *, gateway: str = "localhost:3000", force: bool = False
) -> list[Path]:
    """Write files for Prometheus, Alertmanager, Grafana, Loki, Logstash, Docker, Kubernetes, cron.

    The runbook of the alerts, `monitoring.md`, is written as well.

    Args:
        directory: Target directory; created if missing.
        gateway: `HOST:PORT` of the gateway as seen from this machine. Containers reach the loopback
            interface of this machine as `host.docker.internal`.
        force: Replace existing files.

    Returns:
        The paths of the written files, sorted.

    Raises:
        ValueError: `gateway` is invalid.
        FileExistsError: Some of the files exist; nothing was written.
        OSError: A file cannot be written. No file is incomplete.
    """
    texts = _texts(Address.parse(gateway))
    existing = [name for name in texts if (directory / name).exists()]
    if existing and not force:
        raise FileExistsError(
            f"directory must not contain {', '.join(existing)}, got {directory}; nothing was "
            "written: use another directory, or replace the files with force (--force)"
        )
    for name, text in texts.items():
        _write(directory / name, text)
    return [directory / name for name in texts]


def _texts(gateway: Address) -> dict[str, str]:
    """Return the text of each file by its path in the directory, sorted."""
    values = {
        "__TARGET__": str(gateway.from_container()),
        "__FROM_HERE__": str(gateway.from_host()),
        "__COMMAND__": _command(sys.executable).replace("%", r"\%"),  # cron: a newline
        "__SHELL_COMMAND__": _command(sys.executable),
        "__PORT__": str(gateway.port),
    }
    texts = dict(_templates(files(__package__) / "files"))
    texts[_RUNBOOK] = _LINK_TO_PAGE.sub(r"\1", texts[_RUNBOOK])
    texts[_OPERATOR_RULES] = _OPERATOR_HEAD + indent(texts[_RULES], "  ")
    for placeholder, value in values.items():
        texts = {name: text.replace(placeholder, value) for name, text in texts.items()}
    return dict(sorted(texts.items()))


def _command(python: str) -> str:
    """Return the command for a shell that has a short PATH, such as that of cron."""
    words = [python, "-Pm", "tokenpulse_mw"]
    if not python:  # an embedded interpreter
        words = ["env", "PATH=/usr/local/bin:/usr/bin:/bin", "tokenpulse-mw"]
    return shlex.join(words)


def _templates(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    """Write a file atomically: Prometheus must not reload an incomplete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        if path.suffix == ".sh":
            temporary.chmod(0o755)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
_DOCKER_HOST = "host.docker.internal"  # this machine, as seen from a container
_COMPOSE_SERVICE = "gateway"  # its port is published on this machine


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port.

    Attributes:
        host: Host name or IP address; an IPv6 address is in brackets.
        port: Port, 1 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse `HOST:PORT`.

        Raises:
            ValueError: `text` is not a valid address.
        """
        host, _, port = text.rpartition(":")
        number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
        if not _is_host(host) or not 0 < number < 65536:
            raise ValueError(
                "gateway must be HOST:PORT, such as localhost:3000 or [::1]:3000, "
                f"without a scheme or a path, got {text!r}"
            )
        return cls(host, number)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def from_container(self) -> Address:
        """Return the address as seen from a container, which has its own loopback interface."""
        return Address(_DOCKER_HOST, self.port) if _is_local(self.host) else self

    def from_host(self) -> Address:
        """Return the address as seen from this machine, which cannot resolve container names."""
        is_container_name = self.host.lower() in (_DOCKER_HOST, _COMPOSE_SERVICE)
        return Address("localhost", self.port) if is_container_name else self


def _is_host(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        try:
            return not IPv6Address(text[1:-1]).scope_id
        except ValueError:
            return False
    return _HOST_NAME.fullmatch(text) is not None


def _is_local(host: str) -> bool:
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    return address.is_loopback or address.is_unspecified
