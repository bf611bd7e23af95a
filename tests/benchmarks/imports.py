"""CPU time of imports in new interpreters, beside `import fastapi`, and of the command."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from .report import Cell, Row, Summary, table

ROUNDS = 9
FASTAPI = "fastapi"
NAMES = (
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
    "nothing": "pass",
    FASTAPI: "import fastapi",
    **{name: f"import fastapi; from tokenpulse_mw import {name}" for name in NAMES},
    "Limiter, without fastapi": "from tokenpulse_mw import Limiter",
    **{name: f"import fastapi, {modules}" for name, modules in PEERS.items()},
}


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


def cpu_time(arguments: list[str], environment: dict[str, str]) -> float | None:
    """Return the milliseconds of CPU time of an interpreter; None if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return None if done.returncode else used * 1000


def times(commands: dict[str, list[str]]) -> dict[str, float]:
    """Return the least milliseconds of CPU time of each command, if it succeeds."""
    with tempfile.TemporaryDirectory() as cache:
        # An empty value is no value: bytecode is written, as `pip install` does.
        options = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
        environment = {**os.environ, **options}
        rounds: dict[str, list[float]] = {
            name: []
            for name, command in commands.items()
            if cpu_time(command, environment) is not None
        }
        for _ in range(ROUNDS):
            for name, values in rounds.items():
                values.append(cpu_time(commands[name], environment) or 0.0)
    return {name: min(values) for name, values in rounds.items()}


def measure_imports() -> Summary:
    """Print the tables of imports and of the command."""
    costs = times({name: ["-c", statement] for name, statement in STATEMENTS.items()})
    start, fastapi = costs.pop("nothing"), costs.pop(FASTAPI)
    rows: list[list[Cell]] = [[FASTAPI, fastapi - start, ""]]
    shares = {name: (cost - fastapi) / (fastapi - start) for name, cost in costs.items()}
    alone = costs["Limiter, without fastapi"] - start
    shares["Limiter, without fastapi"] = alone / (fastapi - start)
    for name, share in shares.items():
        more = alone if name.startswith("Limiter") else costs[name] - fastapi
        rows.append([name, more, share])
    columns = ("import, over `import fastapi`", "CPU in ms", "share of fastapi")
    table("imports in new interpreters, with cached bytecode", columns, rows)
    return [
        Row(f"import of {name}", f"{shares[name]:.2f}", "of `import fastapi`, on top of it")
        for name in ("RateLimitMiddleware", "MetricsMiddleware", "AlertMiddleware", "TokenPulse")
    ] + measure_command()


def measure_command() -> Summary:
    """Print the time of `tokenpulse-mw check health`."""
    with HTTPServer(("127.0.0.1", 0), _Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        check = ["-m", "tokenpulse_mw", "check", "health", url]
        try:
            costs = times(
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
