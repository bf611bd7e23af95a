"""Writes the files, with the gateway's address put in."""

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

_PAGE = "monitoring.md"  # as in docs/, whose other pages are not there to lead to


_OTHER_PAGE = re.compile(r"\[([^\]]*)\]\([^)#]+\.md[^)]*\)")


_RULES = "prometheus/rules/tokenpulse.rules.yml"


_RULES_FOR_THE_OPERATOR = "kubernetes/rules.yml"


_HEAD_FOR_THE_OPERATOR = """\
# For the Prometheus operator: the rules of prometheus/rules/tokenpulse.rules.yml.
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
    """Write the Prometheus, Alertmanager, Grafana, Loki, Docker, Kubernetes and cron files.

    The page on them and on what to do about each alert lies beside.

    Args:
        directory: Where; it is created if there is none.
        gateway: `HOST:PORT` of the gateway as this machine reaches it. What runs in containers
            reaches this machine's loopback as `host.docker.internal`.
        force: Replace files that are there already.

    Returns:
        The files written, sorted.

    Raises:
        ValueError: `gateway` is malformed.
        FileExistsError: Some of the files are there already; nothing is written then.
        OSError: A file cannot be written. Each that is there is whole.
    """
    texts = _texts(Address.parse(gateway))
    taken = [name for name in texts if (directory / name).exists()]
    if taken and not force:
        raise FileExistsError(
            f"{directory} has {', '.join(taken)} already, and nothing was written; "
            "choose another directory, or replace them with force (--force)"
        )
    for name, text in texts.items():
        _write(directory / name, text)
    return [directory / name for name in texts]


def _texts(gateway: Address) -> dict[str, str]:
    """What goes into each file, by its path in the directory, sorted."""
    values = {
        "__TARGET__": str(gateway.from_a_container()),
        "__FROM_HERE__": str(gateway.from_this_machine()),
        "__COMMAND__": _command(sys.executable),
        "__PORT__": str(gateway.port),
    }
    texts = dict(_templates(files(__package__) / "files"))
    texts[_PAGE] = _OTHER_PAGE.sub(r"\1", texts[_PAGE])
    texts[_RULES_FOR_THE_OPERATOR] = _HEAD_FOR_THE_OPERATOR + indent(texts[_RULES], "  ")
    for placeholder, value in values.items():
        texts = {name: text.replace(placeholder, value) for name, text in texts.items()}
    return dict(sorted(texts.items()))


def _command(python: str) -> str:
    """`tokenpulse-mw` for cron, which looks into few folders, and takes % for a line's end."""
    words = [python, "-Pm", "tokenpulse_mw"]
    if not python:  # as where it is embedded
        words = ["env", "PATH=/usr/local/bin:/usr/bin:/bin", "tokenpulse-mw"]
    return shlex.join(words).replace("%", r"\%")


def _templates(folder: Traversable, place: str = "") -> Iterator[tuple[str, str]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _templates(each, f"{place}{each.name}/")
        else:
            yield f"{place}{each.name}", each.read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    """All of it or nothing: a Prometheus that reloads must not see half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")


# How a container calls the machine that it runs on, and the gateway of the compose file, whose port
# that machine has as well.
_FROM_A_CONTAINER = "host.docker.internal"


_IN_COMPOSE = "gateway"


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port.

    Attributes:
        host: A name or an IP address, that of IPv6 in brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`.

        Raises:
            ValueError: It is none.
        """
        host, _, port = text.rpartition(":")
        number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
        if not _is_host(host) or not 0 < number < 65536:
            raise ValueError(
                "the gateway's address must be HOST:PORT, such as localhost:3000 or [::1]:3000, "
                f"without a scheme or a path, got {text!r}"
            )
        return cls(host, number)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def from_a_container(self) -> Address:
        """The same place as a container sees it, whose own loopback is not this machine's."""
        host = _FROM_A_CONTAINER if _is_this_machine(self.host) else self.host
        return Address(host, self.port)

    def from_this_machine(self) -> Address:
        """The same place as this machine sees it, which knows no names that containers have."""
        there = self.host.lower() in (_FROM_A_CONTAINER, _IN_COMPOSE)
        return Address("localhost", self.port) if there else self


def _is_host(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        try:
            return not IPv6Address(text[1:-1]).scope_id
        except ValueError:
            return False
    return _NAME.fullmatch(text) is not None


def _is_this_machine(host: str) -> bool:
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    return address.is_loopback or address.is_unspecified
