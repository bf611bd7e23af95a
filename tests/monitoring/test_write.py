"""Writes the configuration files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import monitoring
from tokenpulse_mw.monitoring import write_files
from tokenpulse_mw.monitoring.write import Address, _command

from .files import DOCS, read

CONFIG = "prometheus/prometheus.yml"


def contents(directory: Path) -> dict[str, bytes]:
    """Return the content of each file of a directory by its path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def target(directory: Path) -> str:
    """Return the scrape target of Prometheus."""
    (job,) = read(directory / CONFIG)["scrape_configs"]
    (config,) = job["static_configs"]
    (address,) = config["targets"]
    return str(address)


def test_returned_paths_are_the_written_files(tmp_path: Path) -> None:
    """The paths are sorted, and the directory has no other files."""
    written = write_files(tmp_path / "new" / "folder")

    assert written == sorted(written)
    assert {path.relative_to(tmp_path / "new/folder").as_posix() for path in written} == set(
        contents(tmp_path / "new" / "folder")
    )
    assert {path.suffix for path in written} >= {".yml", ".json", ".alloy", ".crontab"}


def test_placeholders_are_replaced(written: Path) -> None:
    """No written file contains a placeholder."""
    for name, content in contents(written).items():
        assert not re.search(rb"__[A-Z_]+__", content), name


@pytest.mark.parametrize(
    ("gateway", "expected"),
    [
        ("localhost:3000", "host.docker.internal:3000"),
        ("LOCALHOST:3000", "host.docker.internal:3000"),
        ("127.0.0.1:8000", "host.docker.internal:8000"),
        ("0.0.0.0:8000", "host.docker.internal:8000"),
        ("[::1]:8000", "host.docker.internal:8000"),
        ("10.1.2.3:80", "10.1.2.3:80"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ("gateway:3000", "gateway:3000"),
        ("llm_gw.eu-1.example.com:65535", "llm_gw.eu-1.example.com:65535"),
    ],
)
def test_scrape_target_is_the_gateway_as_seen_from_a_container(
    tmp_path: Path, gateway: str, expected: str
) -> None:
    """In a container, localhost is the container itself."""
    write_files(tmp_path, gateway=gateway)

    assert target(tmp_path) == expected


@pytest.mark.parametrize(
    ("gateway", "expected"),
    [
        ("localhost:8000", "localhost:8000"),
        ("10.1.2.3:80", "10.1.2.3:80"),
        ("[::1]:8000", "[::1]:8000"),
        ("gateway:3000", "localhost:3000"),
        ("Host.docker.internal:3000", "localhost:3000"),
    ],
)
def test_crontab_has_the_gateway_as_seen_from_the_host(
    tmp_path: Path, gateway: str, expected: str
) -> None:
    """The host cannot resolve names of containers."""
    write_files(tmp_path, gateway=gateway)

    assert f"http://{expected})" in (tmp_path / "cron/tokenpulse.crontab").read_text()


def test_command_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may have spaces, and cron reads `%` as a newline; without a path PATH is set."""
    monkeypatch.setattr("sys.executable", "/opt/100% mine/bin/python")
    write_files(tmp_path)

    crontab = (tmp_path / "cron/tokenpulse.crontab").read_text()
    script = (tmp_path / "cron/check_credentials.sh").read_text()
    assert r"'/opt/100\% mine/bin/python' -Pm tokenpulse_mw check" in crontab
    assert "'/opt/100% mine/bin/python' -Pm tokenpulse_mw check" in script
    assert _command("") == "env PATH=/usr/local/bin:/usr/bin:/bin tokenpulse-mw"


def test_runbook_is_a_copy_of_the_documentation(written: Path) -> None:
    """Links to pages that are not written become text."""
    page = (DOCS / "monitoring.md").read_text()
    packed = Path(monitoring.__file__).parent / "files" / "monitoring.md"

    assert packed.read_text() == page, f"copy docs/monitoring.md to {packed}"
    runbook = (written / "monitoring.md").read_text()
    assert re.findall(r"\]\(([^)]*)\)", runbook) == re.findall(r"\]\((#[^)]*)\)", page)
    assert runbook.splitlines()[0] == "# Monitoring"


@pytest.mark.parametrize(
    "gateway",
    [
        "",
        "localhost",
        ":3000",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:+80",
        "localhost:\u0663",
        "http://localhost:3000",
        "localhost:3000/metrics",
        "::1:3000",
        "[nothing]:3000",
        "[fe80::1%eth0]:3000",
        'a"]:3000',
        "a\nb:3000",
        "-a:3000",
    ],
)
def test_invalid_gateway_is_rejected(tmp_path: Path, gateway: str) -> None:
    """The error states the format, and nothing is written."""
    with pytest.raises(ValueError, match=r"HOST:PORT, such as localhost:3000"):
        write_files(tmp_path, gateway=gateway)

    assert contents(tmp_path) == {}


@given(st.text())
def test_parsed_address_is_safe_in_yaml(text: str) -> None:
    """Any other text is rejected."""
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert int(str(address).rpartition(":")[2]) == address.port
    assert not set(address.host) & set("\"'\n\\ #")


def test_existing_file_is_not_replaced(tmp_path: Path) -> None:
    """The error names the file, and no other file is written."""
    (tmp_path / "prometheus").mkdir()
    (tmp_path / CONFIG).write_text("custom")

    with pytest.raises(FileExistsError, match=CONFIG):
        write_files(tmp_path)

    assert contents(tmp_path) == {CONFIG: b"custom"}


def test_force_replaces_existing_files(tmp_path: Path) -> None:
    """Other files are not touched, and no temporary file is left."""
    write_files(tmp_path, gateway="old:1")
    (tmp_path / "prometheus" / "custom.yml").write_text("custom")

    paths = write_files(tmp_path, gateway="new:2", force=True)

    assert target(tmp_path) == "new:2"
    assert len(contents(tmp_path)) == len(paths) + 1


def test_file_instead_of_a_directory_is_an_error(tmp_path: Path) -> None:
    """The error of the operating system is raised."""
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"):
        write_files(tmp_path / "file")


def test_failed_replacement_leaves_no_incomplete_file(tmp_path: Path) -> None:
    """Files that were written before are complete."""
    (tmp_path / CONFIG).mkdir(parents=True)

    with pytest.raises(OSError, match=r"prometheus\.yml"):
        write_files(tmp_path, force=True)

    assert "cron/tokenpulse.crontab" in contents(tmp_path)
    assert not [name for name in contents(tmp_path) if name.endswith(".new")]
