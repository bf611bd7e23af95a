"""The command `tokenpulse-mw`."""

from __future__ import annotations

import argparse
import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from . import __version__

_MISSING = "the demo needs more packages; install them with: pip install 'tokenpulse-mw[demo]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code.

    Args:
        argv: The arguments after the command's name; those of the process when None.
    """
    parser = ArgumentParser(prog="tokenpulse-mw", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_demo(
        commands.add_parser(
            "demo",
            help="run a vendor, a gateway and clients on this machine",
            description="Run a local vendor, a gateway with TokenPulse in front of it, and clients "
            "that send real traffic over HTTP; then report what was measured.",
        )
    )
    _add_check(
        commands.add_parser(
            "check",
            help="ask a running gateway whether it is ready, or its credentials active",
            description="Ask a running gateway, and say so in one line. Exit 0: all is fine; 1: it "
            "is not ready, or a provider is inactive; 3: that cannot be told.",
        )
    )
    _add_monitoring(
        commands.add_parser(
            "monitoring",
            help="write the files of a monitoring system around the gateway",
            description="Write the Prometheus, Alertmanager, Grafana, Loki and Docker Compose "
            "files, cron and Kubernetes snippets, and the page on what to do about each alert.",
        )
    )
    arguments = parser.parse_args(argv)
    return int(arguments.run(arguments))


def _add_demo(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--seconds",
        type=float,
        help="end by itself once this time is over and the demo has run through; exit 0 only if "
        "all it promised has happened (default: go on until Ctrl-C)",
    )
    parser.add_argument(
        "--port", type=_port, default=0, help="of the gateway (default: a free one)"
    )
    parser.set_defaults(run=_demo)


def _demo(arguments: Namespace) -> int:
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


def _add_check(parser: ArgumentParser) -> None:
    parser.add_argument("subject", choices=["health", "credentials"])
    parser.add_argument(
        "url",
        help="where: the whole URL, or one without a path, where /health/ready or "
        "/api/credentials/status is asked",
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=6.0, help="seconds to wait (default: %(default)g)"
    )
    parser.set_defaults(run=_check)


def _check(arguments: Namespace) -> int:
    from .check import SUBJECTS, check, endpoint

    subject = SUBJECTS[arguments.subject]
    try:
        url = endpoint(arguments.url, subject)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    verdict = check(subject, url, timeout=arguments.timeout)
    print(verdict.line)
    return verdict.code


def _add_monitoring(parser: ArgumentParser) -> None:
    parser.add_argument("directory", help="where to; made if it is not there")
    parser.add_argument(
        "--gateway",
        metavar="HOST:PORT",
        default="localhost:3000",
        help="where this machine reaches the gateway (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")
    parser.set_defaults(run=_monitoring)


def _monitoring(arguments: Namespace) -> int:
    from pathlib import Path

    from .monitoring import write_files

    folder = Path(arguments.directory)
    try:
        written = write_files(folder, gateway=arguments.gateway, force=arguments.force)
    except (OSError, ValueError) as error:
        print(_why_not_written(error, folder), file=sys.stderr)
        return 2
    for path in written:
        print(path)
    return 0


def _why_not_written(error: OSError | ValueError, folder: object) -> str:
    """In one line, with what to do; errors that are not the system's say that themselves."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    return (
        f"cannot write into {folder}: {error.strerror} ({error.filename}); give a folder that is "
        "there, or can be made, and that you may write to"
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text!r}")
    return seconds
