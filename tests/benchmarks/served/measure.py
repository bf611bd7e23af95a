"""CPU time of a server process for each request, in interleaved turns of all variants."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from statistics import median

from ..report import Cell, Row, Summary, table
from .gateway import CHUNKS, VARIANTS
from .load import CONNECTIONS, Connections, request
from .process import NOT_INSTALLED

ROUNDS = 9
CHAT = json.dumps(
    {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "How is the weather? " * 10}]}
).encode()
BARE, ONE, ADMIN, THREE = (
    "bare FastAPI",
    "install, 1 policy",
    "install, 1 policy, admin token",
    "install, 3 policies",
)
PEERS = "instrumentator + slowapi"


@dataclass(frozen=True)
class Scenario:
    """Requests of one kind.

    Attributes:
        title: Title of the table.
        data: The request.
        batches: Requests of each connection in a turn.
    """

    title: str
    data: bytes
    batches: int


GET = Scenario("GET of a small JSON", request("GET", "/claude/models"), 100)
POST = Scenario("POST with a metered JSON", request("POST", "/codex/chat", CHAT), 80)
STREAM = Scenario(f"stream of {CHUNKS} chunks", request("POST", "/codex/stream", CHAT), 10)


class Served:
    """A variant that a process of its own serves.

    Args:
        process: The process.
        address: Host and port of its server.
    """

    def __init__(self, process: subprocess.Popen[str], address: tuple[str, int]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.address = address
        self._questions, self._answers = process.stdin, process.stdout

    def cpu_time(self) -> float:
        """Return the seconds of CPU time that the process has used."""
        self._questions.write("\n")
        self._questions.flush()
        return float(self._answers.readline())


@contextmanager
def serving(variant: str) -> Iterator[Served]:
    """Serve `variant` in a process until the end of the body.

    Raises:
        ModuleNotFoundError: The peer is not installed.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=2 * CONNECTIONS) as listener:
        descriptor, address = listener.fileno(), listener.getsockname()
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.process", variant, str(descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[descriptor],
            text=True,
        )
    with process:  # closes its standard input, which ends it, and waits
        assert process.stdout is not None
        if not process.stdout.readline():
            if process.wait() != NOT_INSTALLED:
                raise RuntimeError(f"the server of {variant!r} failed")
            raise ModuleNotFoundError(variant)
        yield Served(process, address)


def costs(servers: Mapping[str, Served], scenario: Scenario) -> dict[str, list[float]]:
    """Return the microseconds of CPU time for each request, of each round, by variant.

    A variant that fails is left out.
    """
    with ExitStack() as stack:
        connections: dict[str, Connections] = {}
        for variant, server in servers.items():
            opened = stack.enter_context(Connections(server.address))
            with suppress(ConnectionError):
                opened.exchange(scenario.data, max(scenario.batches // 4, 1))
                connections[variant] = opened
        result: dict[str, list[float]] = {variant: [] for variant in connections}
        for number in range(ROUNDS):
            order = list(connections)[:: -1 if number % 2 else 1]
            for variant in order:
                before = servers[variant].cpu_time()
                requests = connections[variant].exchange(scenario.data, scenario.batches)
                cost = (servers[variant].cpu_time() - before) / requests * 1e6
                result[variant].append(cost)
    return result


def over_bare(times: Mapping[str, list[float]], variant: str) -> float:
    """Return the median of the additional microseconds of `variant`, round by round."""
    pairs = zip(times[variant], times[BARE], strict=True)
    return median(cost - bare for cost, bare in pairs)


def show(scenario: Scenario, times: Mapping[str, list[float]]) -> None:
    """Print the table of a scenario."""
    peers = over_bare(times, PEERS) if PEERS in times else None
    rows: list[list[Cell]] = []
    for variant in VARIANTS:
        if variant not in times:
            rows.append([variant, *["fails, or is not installed"], *[""] * 3])
            continue
        more, bare = over_bare(times, variant), median(times[BARE])
        share = "" if peers is None or variant == BARE else more / peers
        rows.append([variant, median(times[variant]), more, more / bare, share])
    columns = ["variant", "CPU in µs", "over bare", "share of bare", f"share of {PEERS}"]
    table(f"uvicorn, {scenario.title}: CPU time of the process for each request", columns, rows)


def summarise(scenario: Scenario, times: Mapping[str, list[float]]) -> Summary:
    """Return the rows of the last table for a scenario."""
    bare, peers = median(times[BARE]), over_bare(times, PEERS) if PEERS in times else None
    rows: Summary = []
    for name, variant in (("1 policy", ONE), ("3 policies", THREE)):
        more = over_bare(times, variant)
        compared = f"{more / bare:.2f} of bare FastAPI"
        if peers is not None:
            compared += f", {more / peers:.2f} of {PEERS} together"
        rows.append(Row(f"uvicorn, {scenario.title}, {name}", f"+{more:.0f} µs", compared))
    if scenario is GET:
        admin = over_bare(times, ADMIN)
        compared = f"{admin / over_bare(times, ONE):.2f} of that without the token"
        rows.append(Row(f"uvicorn, {scenario.title}, admin token", f"+{admin:.0f} µs", compared))
    return rows


def measure_served() -> Summary:
    """Print the tables of all scenarios."""
    summary: Summary = []
    with ExitStack() as stack:
        servers: dict[str, Served] = {}
        for variant in VARIANTS:
            with suppress(ModuleNotFoundError):
                servers[variant] = stack.enter_context(serving(variant))
        for scenario in (GET, POST, STREAM):
            times = costs(servers, scenario)
            show(scenario, times)
            summary += summarise(scenario, times)
    return summary
