"""The command `tokenpulse-mw`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

_MISSING = "the demo needs more packages; install them with: pip install 'tokenpulse-mw[demo]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code.

    Args:
        argv: The arguments after the command's name; those of the process when None.
    """
    parser = argparse.ArgumentParser(prog="tokenpulse-mw", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="run a vendor, a gateway and clients on this machine",
        description="Run a local vendor, a gateway with TokenPulse in front of it, and clients "
        "that send real traffic over HTTP; then report what was measured.",
    )
    demo.add_argument(
        "--seconds",
        type=float,
        help="end by itself once this time is over and the demo has run through; exit 0 only if "
        "all it promised has happened (default: go on until Ctrl-C)",
    )
    demo.add_argument("--port", type=_port, default=0, help="of the gateway (default: a free one)")
    arguments = parser.parse_args(argv)
    try:
        from .demo import PortError, run_demo
    except ModuleNotFoundError as error:
        print(f"{error}: {_MISSING}", file=sys.stderr)
        return 2
    try:
        return run_demo(seconds=arguments.seconds, port=arguments.port)
    except PortError as error:
        print(error, file=sys.stderr)
        return 2


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535, got {text!r}")
    return int(text)
