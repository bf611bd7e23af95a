"""Benchmarks: `python -m tests.benchmarks` runs all parts, with names only those.

The figures of a table are medians of interleaved rounds. Compare them only within one run.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

from .alerts import measure_alerts
from .clients import measure_clients
from .fleet import measure_fleet
from .imports import measure_imports
from .limiters import measure_limiters
from .parts import measure_parts
from .policies import measure_policies
from .report import Summary, table
from .scrapes import measure_scrapes
from .served.measure import measure_served
from .shared_limits import measure_shared_limits
from .stalls import measure_stalls

PARTS: dict[str, Callable[[], Summary]] = {
    "uvicorn": measure_served,
    "parts": measure_parts,
    "policies": measure_policies,
    "clients": measure_clients,
    "limiters": measure_limiters,
    "shared-limits": measure_shared_limits,
    "stalls": measure_stalls,
    "scrapes": measure_scrapes,
    "imports": measure_imports,
    "alerts": measure_alerts,
    "fleet": measure_fleet,
}


def main() -> None:
    """Run the parts that the arguments name, and print what a request costs."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; all if none is named")
    logging.getLogger("tokenpulse_mw").setLevel(logging.ERROR)
    names = parser.parse_args().part or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    summary = [row for name in names for row in PARTS[name]()]
    if summary:
        table("What a request costs", ("case", "figure", "compared"), summary)


if __name__ == "__main__":
    main()
