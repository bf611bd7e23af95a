"""Detection of several workers that do not share their state."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tokenpulse_mw import HttpMetrics, Settings, TokenPulse
from tokenpulse_mw.stack import token_pulse, workers
from tokenpulse_mw.stack.defaults import unshared
from tokenpulse_mw.stack.workers import warn_of_workers, workers_of_server

from .support.servers import Server
from .support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[1]
FOREIGN, CONNECTED, TCP, TCP_AGAIN, TCP6, UNIX = range(100, 106)  # inodes

V6 = "00000000000000000000000001000000:1F90"

_TCP_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid ..."
_UNIX_HEAD = "Num       RefCount Protocol Flags    Type St Inode Path"


def tcp_line(state: str, inode: int, address: str = "0100007F:1F90") -> str:
    """Return a line of `/proc/net/tcp`."""
    return (
        f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0"
        f"        0 {inode} 1 0000000000000000 100 0 0 10 0"
    )


class Proc:
    """Sample of `/proc` in a folder.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "sys").mkdir()

    def add(self, pid: int, parent: int, *sockets: int, program: str = "python") -> None:
        """Add a process with these sockets, and the tables of the network in its folder."""
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "net").mkdir()
        (folder / "stat").write_text(f"{pid} ({program}) S {parent} 1 1 0 -1 4194304\n")
        (folder / "fd" / "0").symlink_to("/dev/null")
        (folder / "fd" / "1").symlink_to("pipe:[7]")
        for number, inode in enumerate(sockets, 3):
            (folder / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
        tcp = [_TCP_HEAD, tcp_line("01", CONNECTED), tcp_line("0A", TCP), "torn line"]
        tcp.append(tcp_line("0A", TCP_AGAIN))  # with SO_REUSEPORT
        (folder / "net" / "tcp").write_text("\n".join(tcp))
        (folder / "net" / "tcp6").write_text(f"{_TCP_HEAD}\n{tcp_line('0A', TCP6, V6)}\n")
        listening = f"0000000000000000: 00000002 00000000 00010000 0001 01 {UNIX} /run/gateway.sock"
        other = f"0000000000000000: 00000003 00000000 00000000 0001 03 {FOREIGN}"
        (folder / "net" / "unix").write_text(f"{_UNIX_HEAD}\n{listening}\n{other}\ntorn\n")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    """Return an empty sample of `/proc`."""
    return Proc(tmp_path)


@pytest.mark.parametrize("inode", [TCP, TCP6, UNIX])
def test_siblings_with_one_listening_socket_are_workers(proc: Proc, inode: int) -> None:
    """The parent, other children of it, and other servers are not workers."""
    proc.add(10, 1, inode)  # the parent
    proc.add(12, 10, inode, CONNECTED)
    proc.add(11, 10, inode, program="name) of (two")
    proc.add(13, 10, FOREIGN)  # such as the resource tracker of multiprocessing
    proc.add(14, 1, inode)  # a child of another process
    proc.add(15, 12, inode)  # a child of a worker

    assert workers_of_server(proc.root, 12) == [11, 12]
    assert workers_of_server(proc.root, 11) == [11, 12]


def test_siblings_with_sockets_on_one_address_are_workers(proc: Proc) -> None:
    """Granian's workers have a socket each, with SO_REUSEPORT."""
    proc.add(11, 10, TCP)
    proc.add(12, 10, TCP_AGAIN)

    assert workers_of_server(proc.root, 12) == [11, 12]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((), (TCP,)),
        ((TCP,), ()),
        ((TCP,), (TCP6,)),
        ((CONNECTED,), (CONNECTED,)),
        ((TCP, CONNECTED), (CONNECTED,)),
        ((FOREIGN,), (FOREIGN,)),
    ],
)
def test_processes_without_a_common_listening_address_are_not_workers(
    proc: Proc, ours: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    """A connection that was inherited, and a socket of another port, are not enough."""
    proc.add(11, 10, *ours)
    proc.add(12, 10, *theirs)

    assert workers_of_server(proc.root, 11) == []


def test_unreadable_processes_are_not_workers(proc: Proc) -> None:
    """Processes that end meanwhile, or belong to other users, are left out."""
    proc.add(11, 10, TCP)
    proc.add(12, 10, TCP)
    (proc.root / "12" / "stat").unlink()
    proc.add(13, 10, TCP)
    (proc.root / "13" / "stat").write_text("")

    assert workers_of_server(proc.root, 11) == []
    assert workers_of_server(proc.root, 12) == []
    assert workers_of_server(proc.root / "missing", 11) == []


def test_descriptor_that_is_closed_meanwhile_is_left_out(proc: Proc) -> None:
    """The others of the same process are still compared."""
    proc.add(11, 10, TCP)
    (proc.root / "11" / "fd" / "9").write_text("")  # is not a link
    proc.add(12, 10, TCP)

    assert workers_of_server(proc.root, 11) == [11, 12]


def test_missing_tables_of_the_network_show_no_listening_socket(proc: Proc) -> None:
    """A system without them, such as a sandbox, has no warning."""
    proc.add(11, 10, TCP)
    proc.add(12, 10, TCP)
    for name in ("tcp", "tcp6", "unix"):
        (proc.root / "11" / "net" / name).unlink()

    assert workers_of_server(proc.root, 11) == []


@pytest.mark.anyio
@pytest.mark.parametrize(("first", "lines"), [(0, 1), (1, 0)], ids=["first", "second"])
async def test_first_of_several_workers_logs_a_warning(
    first: int,
    lines: int,
    proc: Proc,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other workers, and those that replace them, are silent."""
    monkeypatch.setattr(workers, "_START_SECONDS", 0)
    monkeypatch.setattr(workers, "_PROC", proc.root)
    proc.add(os.getpid(), 10, TCP)
    proc.add(os.getpid() + 1 - 2 * first, 10, TCP)

    await warn_of_workers(["limits are {workers} times as high", "alerts are sent by each"])

    expected = (
        "workers do not share their state: workers=2; limits are 2 times as high; alerts are sent "
        "by each; to share it, set TOKENPULSE_SHARED_DIR to a folder, such as /run/tokenpulse"
    )
    assert caplog.messages == [expected] * lines


@pytest.mark.anyio
async def test_single_process_logs_no_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process has siblings, but shares no listening socket with them."""
    monkeypatch.setattr(workers, "_START_SECONDS", 0)

    await warn_of_workers(["limits are {workers} times as high"])

    assert caplog.messages == []


def test_detection_ends_with_the_application(
    metrics: HttpMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application that ends early, as with a test client, does not wait for the detection."""
    monkeypatch.setattr(workers, "_START_SECONDS", 10 * PATIENCE)
    app = Starlette()
    TokenPulse(metrics=metrics).install(app)

    with TestClient(app) as client:
        assert client.get("/health").status_code == 200


LIMITS = "each limit is up to {workers} times as high"
ALERTS = "each worker sends alerts of its own, and has its own thresholds"
METRICS = "a scrape returns the metrics of one worker"


@pytest.mark.parametrize(
    ("settings", "effects"),
    [
        ({}, [LIMITS, ALERTS, METRICS]),
        ({"limit": None}, [ALERTS, METRICS]),
        ({"limit_storage": "async+redis://127.0.0.1:1"}, [ALERTS, METRICS]),
        ({"alerts": False}, [LIMITS, METRICS]),
        ({"alert_store": "sqlite+aiosqlite:///alerts.db"}, [LIMITS, METRICS]),
        ({"shared_dir": "shared"}, []),
    ],
    ids=str,
)
def test_warning_has_the_parts_that_are_not_shared(
    settings: dict[str, Any], effects: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is left out if a setting shares it, or if it is off."""
    monkeypatch.chdir(tmp_path)
    found: list[list[str]] = []

    async def record(effects: list[str]) -> None:
        found.append(effects)

    monkeypatch.setattr(token_pulse, "warn_of_workers", record)
    pulse = TokenPulse(settings=Settings(**settings))
    with TestClient(Starlette(lifespan=pulse.lifespan)):
        pass

    assert found == ([effects] if effects else [])


def test_metrics_in_a_folder_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `PROMETHEUS_MULTIPROC_DIR` are left out of the warning."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    pulse = TokenPulse()

    parts = (pulse.settings, pulse.policies, pulse.engine, pulse.metrics)
    assert unshared(*parts) == [LIMITS, ALERTS]


COMMANDS = {
    "uvicorn": ["uvicorn", "--port", "{port}", "--workers", "2"],
    "gunicorn": ["gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:{port}", "-w2"],
    "one worker": ["uvicorn", "--port", "{port}", "--workers", "1"],
    "reload": ["uvicorn", "--port", "{port}", "--reload"],
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("server", "warnings"), list(zip(COMMANDS, (1, 1, 0, 0), strict=True)))
def test_two_workers_of_a_server_log_one_warning(
    server: str, warnings: int, tmp_path: Path
) -> None:
    """It says what each of them counts alone; a single worker, also with reload, logs nothing."""
    program, *options = COMMANDS[server]
    pytest.importorskip(program)
    command = [sys.executable, "-m", program, *options, "tests.support.several_workers:app"]
    environment = {"PYTHONPATH": str(ROOT), "TOKENPULSE_LOG_LEVEL": "DEBUG"}
    process = Server(command, tmp_path, environment)
    process.start()
    try:
        wait_until(lambda: process.output.count("workers of this server") == 1 + warnings)
        lines = [line for line in process.output.splitlines() if "workers do not share" in line]
    finally:
        process.kill(signal.SIGTERM)

    assert len(lines) == warnings
    for line in lines:
        assert "[WARN]" in line
        assert "workers=2; each limit is up to 2 times as high; each worker sends alerts" in line
        assert "a scrape returns the metrics of one worker; to share it, set" in line
