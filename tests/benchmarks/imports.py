"""CPU time of imports in new interpreters, beside `import fastapi`, and of the command."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from statistics import median

from .report import Cell, Row, Summary, table

ROUNDS = 9
NAMES = (
    "Limiter",
    "ExchangeMiddleware",
    "RateLimitMiddleware",
    "MetricsMiddleware",
    "AlertMiddleware",
    "AlertEngine",
    "HealthRouter",
    "TokenPulse",
)
PEERS = {
    "instrumentator": "prometheus_fastapi_instrumentator",
    "slowapi": "slowapi, slowapi.middleware",
    "starlette_exporter": "starlette_exporter",
    "OpenTelemetry ASGI": "opentelemetry.instrumentation.asgi",
}
STATEMENTS = {
    **{name: f"from tokenpulse_mw import {name}" for name in NAMES},
    **{name: f"import {modules}" for name, modules in PEERS.items()},
}
# Prints the seconds of CPU time of `import fastapi`, and of a statement after it.
TIMED = """
import time
times = [time.process_time()]
import fastapi
times.append(time.process_time())
{statement}
times.append(time.process_time())
print(times[1] - times[0], times[2] - times[1])
"""


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Respond as `/health` does."""
        body = b'{"status": "ok"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@contextmanager
def caching_bytecode() -> Iterator[dict[str, str]]:
    """Yield an environment in which bytecode is cached, as after `pip install`."""
    with tempfile.TemporaryDirectory() as cache:
        # An empty value is no value: bytecode is written.
        options = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
        yield {**os.environ, **options}


def import_times(statement: str, environment: dict[str, str]) -> tuple[float, float] | None:
    """Return the milliseconds of `import fastapi` and of `statement`; None if that fails."""
    command = [sys.executable, "-c", TIMED.format(statement=statement)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    fastapi, more = map(float, done.stdout.split())
    return fastapi * 1000, more * 1000


def measure_imports() -> Summary:
    """Print the tables of imports and of the command."""
    times: dict[str, list[tuple[float, float]]] = {}
    with caching_bytecode() as environment:
        installed = {
            name: statement
            for name, statement in STATEMENTS.items()
            if import_times(statement, environment) is not None
        }
        for _ in range(ROUNDS):
            for name, statement in installed.items():
                result = import_times(statement, environment)
                assert result is not None
                times.setdefault(name, []).append(result)
    shares = {name: median(more / base for base, more in pairs) for name, pairs in times.items()}
    rows: list[list[Cell]] = [
        [name, median(more for _, more in pairs), shares[name]] for name, pairs in times.items()
    ]
    columns = ("after `import fastapi`", "CPU in ms", "share of `import fastapi`")
    table("imports in new interpreters, with cached bytecode", columns, rows)
    return [
        Row(f"import of {name}", f"{shares[name]:.2f}", "of `import fastapi`, after it")
        for name in ("RateLimitMiddleware", "MetricsMiddleware", "AlertMiddleware", "TokenPulse")
    ] + measure_command()


def cpu_time(arguments: list[str], environment: dict[str, str]) -> float:
    """Return the milliseconds of CPU time of an interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000


def process_times(commands: dict[str, list[str]]) -> dict[str, float]:
    """Return the median milliseconds of CPU time of each command."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    with caching_bytecode() as environment:
        for number in range(ROUNDS + 1):  # the first round fills the cache
            for name, command in commands.items():
                cost = cpu_time(command, environment)
                if number:
                    times[name].append(cost)
    return {name: median(costs) for name, costs in times.items()}


def measure_command() -> Summary:
    """Print the time of `tokenpulse-mw check health`."""
    with HTTPServer(("127.0.0.1", 0), _Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        check = ["-m", "tokenpulse_mw", "check", "health", url]
        try:
            costs = process_times(
                {"pass": ["-c", "pass"], "import json": ["-c", "import json"], "check": check}
            )
        finally:
            server.shutdown()
            thread.join()
    names = {"check": "tokenpulse-mw check health"}
    rows: list[list[Cell]] = [
        [names.get(name, f"python -c {name!r}"), cost, cost / costs["pass"]]
        for name, cost in costs.items()
    ]
    table("whole processes", ("command", "CPU in ms", "x pass"), rows)
    remark = f"{costs['check'] / costs['pass']:.1f} x `python -c pass`"
    return [Row("`tokenpulse-mw check health`", f"{costs['check']:.0f} ms", remark)]
