"""Where the gateway is, for whoever watches it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

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
