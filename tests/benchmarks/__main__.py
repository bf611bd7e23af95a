"""Benchmarks: `python -m tests.benchmarks` runs all parts, with names only those.

The figures of a table are medians of interleaved rounds. Compare them only within one run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from .alerts import measure_alerts
from .fleet import measure_fleet
from .report import Summary, table
from .requests import measure_parts
from .served.measure import measure_served

PARTS: dict[str, Callable[[], Summary]] = {
    "uvicorn": measure_served,
    "parts": measure_parts,
    "alerts": measure_alerts,
    "fleet": measure_fleet,
}


def main() -> None:
    """Run the parts that the arguments name, and print what a request costs."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; all if none is named")
    names = parser.parse_args().part or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    summary = [row for name in names for row in PARTS[name]()]
    table("What a request costs", ("case", "figure", "compared"), summary)


if __name__ == "__main__":
    main()
