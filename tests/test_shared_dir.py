"""One setting for the workers of one machine."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tokenpulse_mw import (
    AlertEngine,
    Fleet,
    HttpMetrics,
    InFlight,
    Limiter,
    Policy,
    Settings,
    SharedLimiter,
    TokenPulse,
    ZoneInFlight,
    ZoneLimiter,
    filesystem,
)
from tokenpulse_mw.alerts.store import MemoryAlertStore, SQLAlertStore
from tokenpulse_mw.cli import main
from tokenpulse_mw.stack.shared_dir import SharedDir

STORAGE = "async+redis://127.0.0.1:1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the path of a folder that does not exist, in a private one."""
    return tmp_path / "shared"


def mode(path: Path) -> int:
    """Return the permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


def limiters(pulse: TokenPulse) -> list[type]:
    """Return the types of the limiters."""
    return [type(policy.limiter) for policy in pulse.policies]


def test_one_setting_shares_limits_metrics_and_alerts(folder: Path) -> None:
    """The folder is private, and has the files of all three."""
    pulse = TokenPulse(settings=Settings(shared_dir=str(folder)))
    pulse.limit("20/minute", name="Chat")

    assert mode(folder) == 0o700
    assert limiters(pulse) == [ZoneLimiter, ZoneLimiter]
    assert pulse.metrics.is_shared
    assert mode(folder / "metrics") == 0o700
    assert str(folder / "alerts.db") in repr(pulse.engine.store)
    names = sorted(path.name.rpartition("-")[0] for path in folder.glob("limit-*"))
    assert names == ["limit-chat", "limit-default"]


def test_gateways_of_one_folder_count_together(folder: Path) -> None:
    """Two instances, as of two workers, allow one limit, and a scrape of any has the sum."""

    def worker() -> tuple[TestClient, TokenPulse]:
        app = Starlette()
        pulse = TokenPulse(settings=Settings(shared_dir=str(folder), limit="3/hour"))
        pulse.install(app)
        return TestClient(app), pulse

    (first, _), (second, pulse) = worker(), worker()
    statuses = [client.get("/a").status_code for client in (first, second) * 2]
    pulse.reset()

    assert statuses == [404, 404, 404, 429]
    assert second.get("/a").status_code == 429
    text = first.get("/metrics").text
    assert 'tokenpulse_rate_limit_decisions_total{policy="default",decision="limited"} 2.0' in text
    assert "process_cpu_seconds" not in text


def test_changed_limit_starts_with_a_new_file(folder: Path) -> None:
    """A gateway with another limit starts, although the file of the former limit exists."""
    for limit in ("3/hour", "4/hour", "4/minute"):
        (policy,) = TokenPulse(settings=Settings(shared_dir=str(folder), limit=limit)).policies
        assert policy.limiter.limit == int(limit[0])

    assert len(list(folder.glob("limit-default-*"))) == 3


@pytest.mark.parametrize("name", ["a", "A", "a:b", "a-b", "..", ".", "x" * 64, "X" * 64])
def test_each_name_of_a_limit_has_a_safe_file_of_its_own(name: str, folder: Path) -> None:
    """Names that differ in case or punctuation differ in the lower-case name of their file."""
    shared = SharedDir(str(folder))
    names = ["a", "A", "a:b", "a-b", "..", ".", "x" * 64, "X" * 64]

    paths = {str(shared.limit(name, "shape")).lower() for name in names}
    assert len(paths) == len(names)
    assert shared.limit(name, "shape").parent == folder
    assert len(shared.limit(name, "shape").name) < 255
    assert ZoneLimiter("1/minute", path=shared.limit(name, "shape")).hit("k").allowed


def test_workers_that_start_at_once_do_not_race(folder: Path) -> None:
    """Each of them finds the folder that another one has created meanwhile."""

    async def start() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(anyio.to_thread.run_sync, SharedDir, str(folder))

    for _ in range(20):
        anyio.run(start)
        folder.rmdir()


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        ({"limit_storage": STORAGE}, SharedLimiter),
        ({"limit_strategy": "gcra"}, ZoneLimiter),
        ({}, ZoneLimiter),
    ],
)
def test_storage_of_limits_overrides_the_folder(
    settings: dict[str, Any], origin: type, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Limits count in the storage, and the other parts in the folder."""
    pulse = TokenPulse(settings=Settings(shared_dir=str(folder), **settings))
    pulse.limit("5/minute")

    assert limiters(pulse) == [origin, origin]
    assert pulse.metrics.is_shared
    assert caplog.messages == []


def test_alert_store_overrides_the_folder(folder: Path, tmp_path: Path) -> None:
    """Alerts are in the database that the operator has chosen."""
    url = f"sqlite+aiosqlite:///{tmp_path}/own.db"
    pulse = TokenPulse(settings=Settings(shared_dir=str(folder), alert_store=url))

    assert "own.db" in repr(pulse.engine.store)


def test_folder_of_prometheus_overrides_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`PROMETHEUS_MULTIPROC_DIR` is also that of the application's own metrics."""
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(own))
    pulse = TokenPulse(settings=Settings(shared_dir=str(folder)))
    pulse.metrics.on_open()

    assert list(own.glob("*-tokenpulse.db"))
    assert not (folder / "metrics").exists()


def test_gateway_without_alerts_needs_no_database(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra `sql` is not needed then."""
    monkeypatch.setitem(sys.modules, "tokenpulse_mw.alerts.store.sql.database", None)
    pulse = TokenPulse(settings=Settings(shared_dir=str(folder), alerts=False))

    assert isinstance(pulse.engine.store, MemoryAlertStore)


def test_missing_extra_is_reported_with_its_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable that needs the package."""
    monkeypatch.setenv("TOKENPULSE_SHARED_DIR", str(folder))
    for name in [name for name in sys.modules if "alerts.store.sql." in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)

    with pytest.raises(ValueError, match=r"\[sql\]' \(set by TOKENPULSE_SHARED_DIR\)$"):
        TokenPulse()


def test_leadership_settings_apply_to_the_database_of_the_folder(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They have an effect, because there is a store."""
    TokenPulse(settings=Settings(shared_dir=str(folder), alert_leads=False, alert_alone_after=60))

    assert caplog.messages == []


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"inner_policies": [Policy(Limiter("5/day"), name="own")]}, "give it a ZoneLimiter with"),
        ({"policies": [Policy("5/day", name="own")]}, "give it a ZoneLimiter with"),
        ({"policies": [Policy(InFlight(5), name="own")]}, "give it a ZoneInFlight with"),
        (
            {"policies": [Policy(lambda key: "5/day", name="own")]},
            "use a rate that is not a function of the key",
        ),
    ],
    ids=["inner", "outer", "in flight", "plan"],
)
def test_policy_with_a_limiter_of_its_own_logs_a_warning(
    options: dict[str, Any], fix: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays as it is, and the warning says how to share it."""
    pulse = TokenPulse(settings=Settings(shared_dir=str(folder)), **options)

    (message,) = caplog.messages
    assert message.startswith("policy counts in each process alone: policy=own; to share it, ")
    assert fix in message
    assert ZoneLimiter not in limiters(pulse)[-1:]


def test_limit_by_a_function_logs_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`limit()` warns as the policies do, and a rate next to it is shared."""
    pulse = TokenPulse(settings=Settings(shared_dir=str(folder)), limit=None)
    pulse.limit(lambda key: "5/day", name="plan")
    pulse.limit("5/day", name="all")

    assert [message.partition(";")[0] for message in caplog.messages] == [
        "policy counts in each process alone: policy=plan"
    ]


def test_sliding_window_logs_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The limit stays in the process, and the warning names the setting."""
    settings = Settings(shared_dir=str(folder), limit_strategy="sliding-window-counter")
    pulse = TokenPulse(settings=settings)

    assert limiters(pulse) == [Limiter]
    assert caplog.messages == [
        "policy counts in each process alone: policy=default; to share it, set limit_strategy to "
        "fixed-window or gcra, or use limit_storage"
    ]


def test_policies_in_the_folder_log_no_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`ZoneLimiter` and `ZoneInFlight` are shared already."""
    policies = [
        Policy(ZoneLimiter("5/day", path=tmp_path / "a"), name="rate"),
        Policy(ZoneInFlight(5, path=tmp_path / "b"), name="slots"),
    ]
    TokenPulse(settings=Settings(shared_dir=str(folder)), policies=policies)

    assert caplog.messages == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": HttpMetrics(CollectorRegistry())}, "metrics count in each process alone"),
        ({"engine": AlertEngine()}, "alerts are evaluated by each process alone"),
    ],
    ids=["metrics", "engine"],
)
def test_own_part_in_memory_logs_a_warning(
    options: dict[str, Any], message: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays as it is, and the warning says how to share it."""
    TokenPulse(settings=Settings(shared_dir=str(folder)), **options)

    (line,) = caplog.messages
    assert line.startswith(message)
    assert str(folder) in line


def test_own_parts_that_are_shared_log_no_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Metrics with a folder and an engine with a database are those of all workers."""
    folder.mkdir()
    store = SQLAlertStore(f"sqlite+aiosqlite:///{folder}/own.db")
    TokenPulse(
        settings=Settings(shared_dir=str(folder)),
        metrics=HttpMetrics(CollectorRegistry(), folder=folder / "own"),
        engine=AlertEngine(store=store, fleet=Fleet(leads=False)),
    )

    assert caplog.messages == []


def test_folder_that_replaced_settings_leave_unused_logs_a_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has no effect if each part is elsewhere."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    store = f"sqlite+aiosqlite:///{tmp_path}/own.db"
    TokenPulse(settings=Settings(shared_dir=str(folder), limit_storage=STORAGE, alert_store=store))

    assert caplog.messages == [
        "setting has no effect: name=shared_dir; limits, metrics and alerts are elsewhere"
    ]


def make_file(path: Path) -> None:
    """Create a file in place of the folder."""
    path.write_text("")


def make_open(path: Path) -> None:
    """Create a folder that everybody can write to, as /tmp."""
    path.mkdir()
    path.chmod(0o1777)


def make_group(path: Path) -> None:
    """Create a folder that a group can write to."""
    path.mkdir()
    path.chmod(0o770)


def make_loop(path: Path) -> None:
    """Create a symbolic link to itself."""
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (make_file, "which is not a folder"),
        (make_open, "with mode 1777: use a new folder in it, such as"),
        (make_group, "with mode 770: use a new folder in it, such as"),
        (
            make_loop,
            "which cannot be reached (Too many levels of symbolic links): create it with mode 700",
        ),
    ],
)
def test_unsafe_folder_is_rejected(
    prepare: Callable[[Path], None], problem: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable, and how to fix it."""
    prepare(folder)
    monkeypatch.setenv("TOKENPULSE_SHARED_DIR", str(folder))

    with pytest.raises(ValueError, match=r"^TOKENPULSE_SHARED_DIR must be a local folder") as error:
        TokenPulse()
    assert f"got {str(folder)!r}, {problem}" in str(error.value)


def test_folder_without_a_parent_is_rejected(tmp_path: Path) -> None:
    """Only the last folder of the path is created."""
    with pytest.raises(ValueError, match=r"which cannot be reached .*: create it with mode 700"):
        SharedDir(str(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


def test_folder_of_another_user_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That user could replace the files."""
    folder.mkdir()
    os.chown(folder, 12345, -1) if os.geteuid() == 0 else None
    monkeypatch.setattr(os, "geteuid", lambda: 54321)

    with pytest.raises(ValueError, match=r"which belongs to user \d+: create it with mode 700"):
        SharedDir(str(folder))


@pytest.mark.parametrize("is_there", [True, False])
def test_folder_that_cannot_be_written_to_is_rejected(
    is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only file system is one, also for the administrator."""
    folder = tmp_path / "shared"
    if is_there:
        folder.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)

    with pytest.raises(ValueError, match=r"which cannot be (written to|created): create it with"):
        SharedDir(str(folder))


def test_folder_that_is_lost_while_it_is_created_is_rejected(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the system is reported like any other."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", fail)

    with pytest.raises(ValueError, match=r"cannot be written to \(No space left on device\)$"):
        SharedDir(str(folder))


@pytest.mark.parametrize("path", ["", " ", "/run/a?b", "/run/a\0b"])
def test_malformed_path_is_rejected(path: str) -> None:
    """The error shows a valid one."""
    with pytest.raises(
        ValueError, match=r"^shared_dir must be the path of a folder, such as '/run"
    ):
        TokenPulse(settings=Settings(shared_dir=path))


def test_network_file_system_is_rejected(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locks and mapped memory are not reliable there."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"36 35 98:0 / {tmp_path} rw shared:1 - nfs4 server:/x rw\n")
    monkeypatch.setattr(filesystem, "_MOUNTS", mounts)

    with pytest.raises(ValueError, match="which is on 'nfs4': use a local file system, such as a"):
        SharedDir(str(folder))


def test_system_without_file_locks_is_rejected(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has none."""
    monkeypatch.setitem(sys.modules, "fcntl", None)

    with pytest.raises(ValueError, match=r"^shared_dir must not be set on a system without fcntl"):
        SharedDir(str(folder))


def test_limit_that_the_folder_cannot_have_names_the_setting(folder: Path) -> None:
    """The error of the limiter says which file is wrong, and where the folder was set."""
    settings = Settings(shared_dir=str(folder))
    (policy,) = TokenPulse(settings=settings).policies
    assert isinstance(policy.limiter, ZoneLimiter)
    policy.limiter.path.write_text("something else")

    with pytest.raises(ValueError, match=r"delete the file, .* \(set by shared_dir\)$"):
        TokenPulse(settings=settings)


def test_metrics_folder_that_cannot_be_created_is_rejected(folder: Path) -> None:
    """The error has the path."""
    with pytest.raises(ValueError, match=r"^folder must be a folder that exists or can be created"):
        HttpMetrics(CollectorRegistry(), folder=folder / "metrics")


def test_check_config_creates_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command may run as another user than the gateway."""
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("TOKENPULSE_SHARED_DIR", str(folder))

    assert main(["check", "config"]) == 0
    assert not folder.exists()
    assert f"{folder}" in capsys.readouterr().out


def test_check_config_rejects_an_unsafe_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1, and the error names the variable."""
    make_open(folder)
    monkeypatch.setenv("TOKENPULSE_SHARED_DIR", str(folder))

    assert main(["check", "config"]) == 1
    assert "TOKENPULSE_SHARED_DIR must be a local folder" in capsys.readouterr().err
