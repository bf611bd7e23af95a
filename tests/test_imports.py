"""Imports: a part does not load the libraries that only another part, or an option, needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SETTINGS = ("pydantic", "pydantic_settings", "tokenpulse_mw.config")
METRICS = ("prometheus_client", "http.server", "tokenpulse_mw.metrics")
ALERTS = ("tokenpulse_mw.alerts",)
OPTIONS = (  # drivers and clients, and our modules that only an option uses
    *("limits", "coredis", "memcachio", "sqlalchemy", "aiosqlite", "httpx", "httpx2"),
    *("tokenpulse_mw.alerts.admin", "tokenpulse_mw.alerts.store.sql.database"),
    "tokenpulse_mw.ratelimit.shared",
)
ZONE, RATE_LIMITS = "tokenpulse_mw.ratelimit.zone", "tokenpulse_mw.ratelimit"

NOT_NEEDED = {
    "ExchangeMiddleware": (*OPTIONS, *SETTINGS, *METRICS, *ALERTS, RATE_LIMITS),
    "Limiter": (*OPTIONS, *SETTINGS, *METRICS, *ALERTS, ZONE),
    "RateLimitMiddleware": (*OPTIONS, *SETTINGS, *METRICS, *ALERTS, ZONE),
    "MetricsMiddleware": (*OPTIONS, *SETTINGS, *ALERTS, RATE_LIMITS),
    "AlertEngine": (*OPTIONS, *SETTINGS, *METRICS, RATE_LIMITS),
    "AlertMiddleware": (*OPTIONS, *SETTINGS, *METRICS, RATE_LIMITS),
    "HealthRouter": (*OPTIONS, *SETTINGS, *METRICS, *ALERTS, RATE_LIMITS),
    "TokenPulse": OPTIONS,
}


def modules_after(statement: str) -> set[str]:
    """Return the modules that a new interpreter has loaded after `statement`."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_NEEDED)
def test_import_of_a_name_loads_no_library_that_it_does_not_need(name: str) -> None:
    """Importing one part loads neither another part nor the drivers of an option."""
    loaded = modules_after(f"from tokenpulse_mw import {name}")

    assert loaded & set(NOT_NEEDED[name]) == set()


@pytest.mark.slow
def test_rate_in_memory_loads_no_driver_of_a_storage_of_ours() -> None:
    """A limit of requests in memory loads the parser of rates, and no shared limiter."""
    loaded = modules_after("from tokenpulse_mw import Policy; Policy('100/minute')")

    assert "limits" in loaded
    assert loaded & {"tokenpulse_mw.ratelimit.shared", ZONE} == set()
