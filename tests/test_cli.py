"""The command `tokenpulse-mw`."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, make_archive
from sysconfig import get_path

import pytest
from starlette.applications import Starlette

import tokenpulse_mw
from tokenpulse_mw import HealthRouter
from tokenpulse_mw.cli import main
from tokenpulse_mw.demo.server import LocalServer

from .support.servers import free_port


def test_the_module_is_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m tokenpulse_mw --help` prints the usage of the command."""
    monkeypatch.setattr(sys, "argv", ["tokenpulse_mw", "--help"])

    path = Path(tokenpulse_mw.__file__).with_name("__main__.py")
    code = compile(path.read_text(), path, "exec")

    with pytest.raises(SystemExit) as caught:
        exec(code, {"__name__": "__main__", "__package__": "tokenpulse_mw"})

    assert caught.value.code == 0
    assert "usage: tokenpulse-mw" in capsys.readouterr().out


def test_version_option_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version printed is that of the package."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])

    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{tokenpulse_mw.__version__}\n"


@pytest.mark.parametrize("archive", [False, True], ids=["source", "zip"])
def test_package_without_distribution_metadata_runs(archive: bool, tmp_path: Path) -> None:
    """A vendored source tree or an archive needs no metadata of an installed distribution."""
    packages, source = tmp_path / "packages", tmp_path / "source"
    packages.mkdir()
    for entry in Path(get_path("purelib")).iterdir():
        if "tokenpulse" not in entry.name:
            (packages / entry.name).symlink_to(entry)
    copytree(Path(tokenpulse_mw.__file__).parent, source / "tokenpulse_mw")
    path = make_archive(str(tmp_path / "archive"), "zip", source) if archive else str(source)

    ran = subprocess.run(
        [sys.executable, "-S", "-m", "tokenpulse_mw", "--version"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{path}:{packages}"},
    )

    assert (ran.stderr, ran.stdout) == ("", f"{tokenpulse_mw.__version__}\n")


def test_check_imports_only_its_own_module() -> None:
    """Container runtimes run `check health` every few seconds."""
    code = (
        "import sys; from tokenpulse_mw.cli import main; main(['check', 'health', 'nowhere']); "
        "print(sorted(m for m in sys.modules if m.startswith('tokenpulse_mw.')), "
        "'pydantic' in sys.modules, 'starlette' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout == "['tokenpulse_mw.check', 'tokenpulse_mw.cli'] False False\n"


def test_check_config_prints_each_setting_and_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Secrets are masked; every other setting shows its default."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("TOKENPULSE_LIMIT=5/second\n")
    monkeypatch.setenv("TOKENPULSE_ADMIN_TOKEN", "hunter2hunter2hunter2")
    monkeypatch.setenv("TOKENPULSE_TRUSTED_PROXIES", "10.0.0.0/8,192.0.2.1")

    assert main(["check", "config"]) == 0

    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    printed = {name: " ".join(rest.split()) for name, rest in lines}
    assert printed["limit"] == "5/second TOKENPULSE_LIMIT (.env)"
    assert printed["max_keys"] == "5000 default"
    assert printed["admin_token"] == "********** TOKENPULSE_ADMIN_TOKEN"
    assert printed["trusted_proxies"] == "10.0.0.0/8, 192.0.2.1 TOKENPULSE_TRUSTED_PROXIES"


@pytest.mark.parametrize(
    ("name", "value"),
    [("LIMIT", "100"), ("MAX_KEYS", "many"), ("LIMITS", "5/minute"), ("LIMIT_PREFIX", "mine")],
)
def test_check_config_reports_an_invalid_setting(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Invalid, unknown and ineffective variables are named, and the exit code is 1."""
    monkeypatch.setenv(f"TOKENPULSE_{name}", value)

    assert main(["check", "config"]) == 1
    assert f"TOKENPULSE_{name}" in capsys.readouterr().err


def test_a_missing_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names what is missing, and the exit code is 2."""
    with pytest.raises(SystemExit) as caught:
        main([])

    assert caught.value.code == 2
    assert "command" in capsys.readouterr().err


def test_the_demo_without_its_extra_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the extra to install."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("tokenpulse_mw.demo")]:
        monkeypatch.delitem(sys.modules, name)

    assert main(["demo"]) == 2
    assert "pip install 'tokenpulse-mw[demo]'" in capsys.readouterr().err


def test_a_port_in_use_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the port, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 2

    assert capsys.readouterr().err.startswith(f"cannot listen on port {port}: ")


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_an_invalid_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the expected value and the value it got."""
    with pytest.raises(SystemExit):
        main(["demo", f"--port={port}"])

    assert f"expected a number from 0 to 65535, got '{port}'" in capsys.readouterr().err


@pytest.fixture
def gateway() -> Iterator[tuple[str, HealthRouter]]:
    """Yield the URL of a gateway, and its health router."""
    health = HealthRouter(credentials={"claude": True, "kiro": False})
    with LocalServer(Starlette(routes=health.routes)) as server:
        yield server.url, health


def test_check_health_reports_readiness(
    gateway: tuple[str, HealthRouter], capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints one line, and its exit code is the status."""
    url, health = gateway

    codes = [main(["check", "health", url])]
    health.draining = True
    codes += [main(["check", "health", url]), main(["check", "health", f"{url}/health/live"])]

    assert codes == [0, 1, 0]
    assert capsys.readouterr().out.splitlines() == [
        "OK: the status is ok",
        "WARNING: the service responded with 503, status error",
        "OK: the status is ok",
    ]


def test_check_credentials_names_inactive_providers(
    gateway: tuple[str, HealthRouter], capsys: pytest.CaptureFixture[str]
) -> None:
    """The line has the number and the names of the inactive providers."""
    assert main(["check", "credentials", gateway[0], "--timeout=4.5"]) == 1
    assert capsys.readouterr().out == "WARNING: 1 of 2 providers are inactive: kiro\n"


def test_check_of_a_gateway_that_is_down_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 3, not 0."""
    assert main(["check", "credentials", f"http://127.0.0.1:{free_port()}"]) == 3
    assert capsys.readouterr().out.startswith("UNKNOWN: no response: ")


def test_check_refuses_an_invalid_url(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 2."""
    assert main(["check", "health", "localhost:8000"]) == 2
    assert capsys.readouterr().err == (
        "expected a URL such as http://127.0.0.1:8000, got 'localhost:8000'\n"
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_an_invalid_timeout_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the expected value and the value it got."""
    with pytest.raises(SystemExit):
        main(["check", "health", "http://127.0.0.1", f"--timeout={seconds}"])

    assert f"expected a number of seconds above 0, got '{seconds}'" in capsys.readouterr().err


def test_monitoring_writes_files_and_prints_their_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Existing files are overwritten only with `--force`."""
    arguments = ["monitoring", str(tmp_path / "stack"), "--gateway", "gateway.example:8000"]

    assert main(arguments) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert written
    assert all(path.is_file() for path in written)
    assert main(arguments) == 2
    assert capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0


def test_monitoring_refuses_an_invalid_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file is written."""
    assert main(["monitoring", str(tmp_path / "stack"), "--gateway", "http://gateway/"]) == 2
    assert "http://gateway/" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_monitoring_reports_a_directory_that_is_not_writable(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is one line with what to do, and the exit code is 2."""
    (tmp_path / "file").write_text("")

    assert main(["monitoring", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cannot write to {tmp_path / name}: Not a directory (")
    assert line.endswith("; give a directory that exists, or can be created, and is writable")
