"""The command `tokenpulse-mw`."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from . import __version__

_MISSING = "the demo needs more packages; install them with: pip install 'tokenpulse-mw[demo]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: Arguments after the name of the command; those of the process if None.
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
            help="check a running gateway, or the configuration of one",
            description="Check a running gateway, or the configuration of one.",
        )
    )
    _add_monitoring(
        commands.add_parser(
            "monitoring",
            help="write the files of a monitoring system for the gateway",
            description="Write the Prometheus, Alertmanager, Grafana, Loki and Docker Compose "
            "files, cron and Kubernetes snippets, and the runbook of the alerts.",
        )
    )
    arguments = parser.parse_args(argv)
    return int(arguments.run(arguments))


def _add_demo(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--seconds",
        type=float,
        help="end after this time, with exit code 0 if every step of the demo succeeded "
        "(default: run until Ctrl-C)",
    )
    parser.add_argument(
        "--port", type=_port, default=0, help="port of the gateway (default: a free port)"
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
    subjects = parser.add_subparsers(dest="subject", required=True)
    for name, what in {"health": "ready", "credentials": "able to use all providers"}.items():
        subject = subjects.add_parser(
            name,
            help=f"check that a running gateway is {what}",
            description=f"Check that a running gateway is {what}. Exit code 0: yes; 1: no; "
            "2: the arguments are invalid; 3: the state cannot be determined.",
        )
        subject.add_argument("url", help="URL of the gateway, or of the endpoint to request")
        subject.add_argument(
            "--timeout", type=_seconds, default=6.0, help="seconds to wait (default: %(default)g)"
        )
        subject.set_defaults(run=_check)
    subjects.add_parser(
        "config",
        help="print the effective settings and the source of each",
        description="Print the effective settings and the source of each, with secrets masked. "
        "Exit code 0: they are valid; 1: one is invalid, unknown or without effect.",
    ).set_defaults(run=_check_config)


def _check(arguments: Namespace) -> int:
    from .check import SUBJECTS, check, endpoint

    subject = SUBJECTS[arguments.subject]
    try:
        url = endpoint(arguments.url, subject)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    status = check(subject, url, timeout=arguments.timeout)
    print(status.line)
    return status.code


def _check_config(_: Namespace) -> int:
    from . import Settings, TokenPulse
    from .stack.defaults import only_checking

    warnings = _Warnings(logging.WARNING)
    logging.getLogger("tokenpulse_mw").addHandler(warnings)
    try:
        settings = Settings()
        for name, value in settings.model_dump().items():
            text = ", ".join(value) if isinstance(value, tuple) else str(value)
            print(f"{name:24} {text:40} {settings.origins.get(name, 'default')}")
        with only_checking(settings) as settings:
            TokenPulse(settings=settings)  # checks rates, URLs and networks
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        logging.getLogger("tokenpulse_mw").removeHandler(warnings)
    return 1 if warnings.printed else 0


class _Warnings(logging.Handler):
    """Handler that prints the warnings of this library."""

    printed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning."""
        self.printed = True
        print(record.getMessage(), file=sys.stderr)


def _add_monitoring(parser: ArgumentParser) -> None:
    parser.add_argument("directory", help="directory to write to; created if missing")
    parser.add_argument(
        "--gateway",
        metavar="HOST:PORT",
        default="localhost:3000",
        help="address of the gateway, as seen from this machine (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite existing files")
    parser.set_defaults(run=_monitoring)


def _monitoring(arguments: Namespace) -> int:
    from pathlib import Path

    from .monitoring import write_files

    folder = Path(arguments.directory)
    try:
        written = write_files(folder, gateway=arguments.gateway, force=arguments.force)
    except (OSError, ValueError) as error:
        print(_write_error(error, folder), file=sys.stderr)
        return 2
    for path in written:
        print(path)
    return 0


def _write_error(error: OSError | ValueError, folder: object) -> str:
    """Return the error and its fix in one line."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    return (
        f"cannot write to {folder}: {error.strerror} ({error.filename}); give a directory that "
        "exists, or can be created, and is writable"
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
